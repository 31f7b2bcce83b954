"""Check the store and reclaim its space, without ever removing what somebody needs.

Needed is: what a registered model version was made from, what was made lately, and everything
those were made from in turn (the lineage in the manifests).
"""

from __future__ import annotations

import json
import os
import shutil
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vaesc.config import home
from vaesc.errors import ConfigError
from vaesc.scratch import is_abandoned
from vaesc.store import MANIFEST, PROVENANCE, DamagedError, Store, read_artifact

_DAY = 86_400.0


@dataclass(frozen=True, kw_only=True)
class Garbage:
    """Something that may go."""

    path: Path
    reason: str
    bytes: int


def verify_store(store: Store) -> Iterator[dict[str, Any]]:
    """Check every artifact against its manifest; nothing is moved or changed.

    Yields:
        kind, digest, content, whole (bool), problem (empty when whole).
    """
    for folder in store.folders():
        facts = {"kind": folder.parents[1].name, "digest": folder.name}
        try:
            artifact = read_artifact(folder)
        except DamagedError as error:
            yield {**facts, "content": "", "whole": False, "problem": str(error)}
        else:
            yield {**facts, "content": artifact.content, "whole": True, "problem": ""}


def verify_models() -> Iterator[dict[str, Any]]:
    """Check every registered version: all of its files, by the digest that was registered.

    Yields:
        name, version, digest, whole (bool), problem (empty when whole).

    Raises:
        RegistryError: The registry cannot be asked.
    """
    from vaesc.registry import connect
    from vaesc.registry.failures import AbsentError
    from vaesc.registry.files import DIGEST_TAG, damage_of
    from vaesc.registry.lookup import find_versions

    try:
        tracking = connect(create=False)
    except AbsentError:
        return
    for version in find_versions(tracking):
        digest = version.tags.get(DIGEST_TAG)
        if digest is None:
            continue  # somebody else's
        wrong = damage_of(tracking, version, digest) or ""
        yield {
            "name": version.name, "version": int(version.version), "digest": digest,
            "whole": not wrong, "problem": wrong,
        }  # fmt: skip


def collect_garbage(
    store: Store,
    roots: set[str],
    *,
    keep_days: float,
    quarantine: bool = False,
    delete: bool = False,
) -> list[Garbage]:
    """List, and on request delete, what nobody needs.

    Args:
        store: The store.
        roots: Addresses that must stay, see :func:`registered_addresses`.
        keep_days: What was made or used in the last so many days stays too.
        quarantine: List the quarantined evidence as well.
        delete: Really delete what is listed.

    Raises:
        ConfigError: `keep_days` is negative or not a number.
    """
    if not keep_days >= 0:
        raise ConfigError(f"--keep-days must be 0 or more, got {keep_days}")
    kept = _with_lineage(store, roots | _recent(store, keep_days))
    found = [
        _garbage(folder, "no model or recent run uses it")
        for folder in store.folders()
        if folder.name not in kept
    ]
    found += [_garbage(p, "left by a dead process") for p in _orphans(store)]
    if quarantine:
        damaged = [*store.root.glob("quarantine/*"), *(home() / "models").glob("quarantine/*")]
        found += [_garbage(p, "quarantined") for p in sorted(damaged)]
    found += [_garbage(p, "lock that nobody holds") for p in _old_locks(store)]
    doomed = {item.path.name for item in found}
    found += [_garbage(p, "cache record of nothing") for p in _stale_results(store, doomed)]
    found += [_garbage(p, "of a training nobody resumed") for p in _checkpoints(keep_days)]
    if delete:
        for item in found:
            _remove(store, item.path)
    return found


def runs_in_progress() -> list[str]:
    """Return the MLflow runs whose process still works; artifacts they need must stay."""
    from vaesc.registry import connect
    from vaesc.registry.failures import AbsentError

    try:
        tracking = connect(create=False)
        tracking.close_stale_runs()
        return [run.info.run_id for run in tracking.find_runs("attributes.status = 'RUNNING'")]
    except AbsentError:
        return []


def registered_addresses() -> set[str]:
    """Return the address of every artifact that a registered model version was made from.

    The dataset whose test split is frozen for comparisons is one of them, whatever became of the
    version that was made from it.
    """
    from vaesc.registry import connect, list_models, show_model
    from vaesc.registry.candidates import SEEN_TAG
    from vaesc.registry.failures import AbsentError
    from vaesc.registry.freezing import frozen_dataset

    try:
        versions = list_models()
    except AbsentError:
        return set()  # no registry yet, so nothing is registered
    tags = [show_model(v["version"], name=v["name"])["tags"] for v in versions]
    made_from = {
        value for some in tags for key, value in some.items() if key.startswith("vaesc.digest.")
    }
    for some in tags:  # what a warm start's ancestors have seen is asked for at the next decision
        made_from |= set(some.get(SEEN_TAG, "").split())
    tracking = connect(create=False)
    frozen = {frozen_dataset(tracking, name) for name in {v["name"] for v in versions}}
    return made_from | {address for address in frozen if address}


def _with_lineage(store: Store, addresses: set[str]) -> set[str]:
    parents = {folder.name: _parents(folder) for folder in store.folders()}
    kept: set[str] = set()
    waiting = list(addresses)
    while waiting:
        address = waiting.pop()
        if address not in kept:
            kept.add(address)
            waiting += parents.get(address, [])
    return kept


def _parents(folder: Path) -> list[str]:
    try:
        return list(json.loads((folder / MANIFEST).read_text())["parents"].values())
    except (OSError, ValueError, KeyError):
        return []  # damaged: `verify` says so; what it came from cannot be known


def _recent(store: Store, days: float) -> set[str]:
    """Return what was made or used lately: a use touches the artifact's provenance file."""
    oldest = time.time() - days * _DAY
    return {f.name for f in store.folders() if _made(f) >= oldest}


def _made(folder: Path) -> float:
    marks = [p for p in (folder / PROVENANCE, folder) if p.exists()]
    return max(p.stat().st_mtime for p in marks)


def _orphans(store: Store) -> list[Path]:
    """Return what was never finished, since its maker is dead; the name says who that was."""
    folders = (store.root / "tmp", home() / "tmp")
    return [p for folder in folders for p in sorted(folder.glob("*")) if is_abandoned(p)]


def _checkpoints(keep_days: float) -> list[Path]:
    """Return the checkpoints that were last written more than so many days ago."""
    oldest = time.time() - keep_days * _DAY
    folders = [p for p in sorted((home() / "checkpoints").glob("*")) if p.is_dir()]
    return [p for p in folders if max(f.stat().st_mtime for f in (p, *p.iterdir())) < oldest]


def _stale_results(store: Store, doomed: set[str]) -> list[Path]:
    """Return Prefect's cache records whose artifact is gone or about to go."""
    addresses = {f.name for f in store.folders()} - doomed
    records = sorted(p for p in (home() / "results").glob("*-*") if p.is_file())
    return [
        p
        for p in records
        if not p.name.startswith("register-") and p.name.rpartition("-")[2] not in addresses
    ]


def _old_locks(store: Store) -> list[Path]:
    """Return lock files untouched for a day; whoever needs one makes it again."""
    oldest = time.time() - _DAY
    return [p for p in sorted(store.root.glob("locks/*")) if p.stat().st_mtime < oldest]


def _garbage(path: Path, reason: str) -> Garbage:
    files = [path] if path.is_file() else [p for p in path.rglob("*") if p.is_file()]
    return Garbage(path=path, reason=reason, bytes=sum(f.stat().st_size for f in files))


def _remove(store: Store, path: Path) -> None:
    """Delete; an artifact is renamed away first, so that no reader ever sees half of it."""
    if path.is_file():
        path.unlink()
        return
    grave = store.root / "tmp" / f"deleted-{path.name}.{os.getpid()}.{uuid.uuid4().hex[:8]}"
    grave.parent.mkdir(parents=True, exist_ok=True)
    path.rename(grave)
    shutil.rmtree(grave)
