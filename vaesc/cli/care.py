"""``vaesc verify|gc|doctor``: check every artifact, reclaim space, say what is misconfigured."""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import sys
from collections.abc import Iterable
from importlib import metadata
from importlib.util import find_spec
from itertools import chain
from typing import TYPE_CHECKING, Any

from vaesc.config import home
from vaesc.errors import ConfigError, VaescError

if TYPE_CHECKING:
    from vaesc.remote_care import RemoteGarbage


def add_commands(
    commands: argparse._SubParsersAction[argparse.ArgumentParser], common: argparse.ArgumentParser
) -> None:
    """Add this module's commands to the parser."""
    parser = commands.add_parser("verify", parents=[common], help="check every artifact")
    parser.add_argument("--json", action="store_true", help="print one JSON object, nothing else")
    parser.set_defaults(function=verify)

    parser = commands.add_parser(
        "gc", parents=[common], help="reclaim space; only says what it would do, unless --yes"
    )
    parser.add_argument("--yes", action="store_true", help="really delete")
    parser.add_argument(
        "--keep-days", type=float, default=30.0, metavar="N",
        help="keep what was made in the last N days (default: 30)",
    )  # fmt: skip
    parser.add_argument("--quarantine", action="store_true", help="delete damaged evidence too")
    parser.add_argument(
        "--shared", action="store_true",
        help="collect in the bucket of VAESC_STORE too, where all stays that is registered at "
        "MLFLOW_TRACKING_URI: the server of everybody who shares the bucket",
    )  # fmt: skip
    parser.set_defaults(function=gc)

    parser = commands.add_parser(
        "doctor", parents=[common], help="what is installed, reachable, misconfigured"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object, nothing else")
    parser.set_defaults(function=doctor)


def verify(options: argparse.Namespace) -> int:
    """Check every artifact and every registered model; exit 1 if one is damaged.

    What was found is told as it is found, also if a later part cannot be looked at.
    """
    from vaesc import remote_care
    from vaesc.housekeeping import verify_models, verify_store
    from vaesc.remote import remote_store
    from vaesc.store import Store

    remote = remote_store()
    parts = {
        "artifacts": verify_store(Store()), "models": verify_models(),
        "shared": remote_care.verify(remote) if remote else iter(()),
    }  # fmt: skip
    found: dict[str, list[dict[str, Any]]] = {part: [] for part in parts}
    failures: list[VaescError] = []
    for part, checks in parts.items():
        try:
            for check in checks:
                found[part].append(check)
                if not options.json:
                    print(_told(part, check))
        except VaescError as error:
            failures.append(error)
    damaged = sum(not check["whole"] for checks in found.values() for check in checks)
    n = {part: len(checks) for part, checks in found.items()}
    if options.json:
        print(json.dumps({**found, "damaged": damaged, "unread": [str(f) for f in failures]}))
    else:
        where = f" here, {n['shared']} in {remote.bucket}" if remote else ""
        print(f"{n['artifacts']} artifacts{where} and {n['models']} models, {damaged} damaged")
    if failures:
        raise failures[0]
    return 1 if damaged else 0


def _told(part: str, check: dict[str, Any]) -> str:
    state = "whole" if check["whole"] else f"DAMAGED: {check['problem']}"
    if part == "models":
        name = f"{check['name']} {check['version']}"
        return f"{'model':<12}{name:<14}{check['digest'][:12]:<12}  {state}"
    where = " (in the bucket)" if part == "shared" else ""
    name = f"{check['kind']:<12}{check['digest'][:12]}"
    return f"{name}  {check['content'][:12]:<12}  {state}{where}"


def gc(options: argparse.Namespace) -> int:
    """Delete what no registered model and no recent run refers to.

    A bucket that machines share is left out unless it is asked for: what the others registered is
    known only where all register.
    """
    from vaesc.housekeeping import collect_garbage, last_uses
    from vaesc.needed import registered_addresses, require_shared_registry, work_in_progress
    from vaesc.remote import STORE, remote_store
    from vaesc.remote_care import remote_garbage, remove
    from vaesc.store import Store

    remote = remote_store()
    if options.shared and remote is None:
        raise ConfigError(f"--shared is about the bucket of {STORE}, which is not set")
    store = Store()
    seen = last_uses(store)  # before all else: see collect_garbage
    if options.yes and (working := work_in_progress(store)):
        raise VaescError(f"{working[0]} is in progress; wait for its end, then collect")
    roots = registered_addresses()
    keep, also = options.keep_days, options.quarantine
    there: Iterable[RemoteGarbage] = ()
    if options.shared and remote:
        # Before anything is deleted here, so that what cannot be done there ends it.
        require_shared_registry()
        there = remote_garbage(remote, roots, keep_days=keep, quarantine=also)
    here = collect_garbage(
        store, roots, keep_days=keep, quarantine=also, delete=options.yes, seen=seen
    )
    gone: Iterable[Any] = remove(remote, there) if options.yes and remote else there
    n, n_bytes = 0, 0
    for item in chain(here, gone):
        print(f"{item.bytes / 1e6:>9.1f} MB  {item.reason:<28}{item.path}", flush=True)
        n, n_bytes = n + 1, n_bytes + item.bytes
    verb = "deleted" if options.yes else "would delete (say --yes to do it)"
    print(f"{verb}: {n} items, {n_bytes / 1e6:.1f} MB")
    if remote and not options.shared:
        print(f"left out: {remote.bucket}; --shared collects there too")
    return 0


def doctor(options: argparse.Namespace) -> int:
    """Say what is installed, reachable and misconfigured; exit 1 if a run could not work."""
    findings = [*_versions(), *_places()]
    bad = [f for f in findings if not f["ok"]]
    if options.json:
        print(json.dumps({"findings": findings, "problems": len(bad)}))
    else:
        for f in findings:
            print(f"{'ok' if f['ok'] else 'PROBLEM':<9}{f['what']:<18}{f['found']}")
            if not f["ok"]:
                print(f"{'':9}{'':18}-> {f['advice']}")
    return 1 if bad else 0


def _versions() -> list[dict[str, Any]]:
    found = [
        _finding("python", platform.python_version(), sys.version_info >= (3, 11), "use 3.11+")
    ]
    for name in ("torch", "numpy", "scikit-learn", "zarr", "prefect", "mlflow"):
        try:
            found.append(_finding(name, metadata.version(name), True, ""))
        except metadata.PackageNotFoundError:
            found.append(_finding(name, "missing", False, f"pip install {name}"))
    found.append(_bounded("fastapi", (0, 139), (0, 151), "else Prefect does not start"))
    found.append(_bounded("sqlalchemy", (2, 0), (2, 1), "with another, schedules never run"))
    backport = find_spec("dataclasses")
    shadowed = "site-packages" in str(backport and backport.origin)
    found.append(
        _finding(
            "dataclasses", "a backport shadows Python's own" if shadowed else "Python's own",
            not shadowed, "pip uninstall dataclasses: it stops Prefect's server from starting",
        )
    )  # fmt: skip
    return found


def _bounded(name: str, low: tuple[int, ...], high: tuple[int, ...], why: str) -> dict[str, Any]:
    try:
        version = metadata.version(name)
    except metadata.PackageNotFoundError:
        return _finding(name, "missing", False, f"pip install {name}")
    numbers = tuple(int(p) for p in version.split(".")[:2] if p.isdigit())
    bounds = f">={'.'.join(map(str, low))},<{'.'.join(map(str, high))}"
    return _finding(name, version, low <= numbers < high, f'pip install "{name}{bounds}": {why}')


def _places() -> list[dict[str, Any]]:
    from importlib import import_module

    from vaesc.registry.failures import shown

    folder = home()
    existing = next(p for p in [folder, *folder.parents] if p.exists())
    free = shutil.disk_usage(existing).free / 1e9
    server = import_module("tasks.server")
    api = server.configured()
    reachable = api is None or server.answers(api)
    welcome = not reachable or api is None or not server.refuses(api)
    tracking = os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{folder / 'mlflow.db'}"
    return [
        _finding("home", str(folder), os.access(existing, os.W_OK), "make it writable"),
        _finding("free disk", f"{free:.1f} GB", free > 2, "free at least 2 GB"),
        _finding(
            "prefect api",
            shown(api) if api else server.status() or "none yet: the next run starts a local one",
            reachable and welcome,
            "start that server, or correct or unset PREFECT_API_URL (or the profile)"
            if welcome else "it refuses our credentials: set PREFECT_API_AUTH_STRING",
        ),
        _finding("mlflow", shown(tracking), *_mlflow_answers(tracking)),
        *_shared_store(),
    ]  # fmt: skip


def _shared_store() -> list[dict[str, Any]]:
    """Return whether the bucket that this machine shares answers; nothing, if it shares none."""
    from vaesc.remote import STORE, remote_store

    try:
        remote = remote_store()
        if remote is None:
            return []
        remote.bucket.has()
    except VaescError as error:
        url = os.environ[STORE]
        shown = "" if "@" in url else url if url.isprintable() else repr(url)
        return [_finding("shared store", shown, False, str(error))]
    return [_finding("shared store", f"{remote.bucket} answers", True, "")]


def _mlflow_answers(uri: str) -> tuple[bool, str]:
    """Return whether an MLflow server answers; a local file needs none."""
    if not uri.startswith("http"):
        return True, ""
    import urllib.error
    import urllib.request

    try:
        with urllib.request.urlopen(f"{uri.rstrip('/')}/health", timeout=3) as answer:
            return bool(answer.status == 200), f"it answers with status {answer.status}"
    except (urllib.error.URLError, OSError, ValueError) as error:
        return False, f"start the MLflow server, or unset MLFLOW_TRACKING_URI ({error})"


def _finding(what: str, found: str, ok: bool, advice: str) -> dict[str, Any]:
    return {"what": what, "found": found, "ok": ok, "advice": advice}
