"""Check the store and reclaim its space, without ever removing what somebody needs.

Needed is: what a registered model version was made from, what was made lately, and everything
those were made from in turn (the lineage in the manifests).
"""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vaesc.config import home
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
        keep_days: What was made in the last so many days stays too.
        quarantine: List the quarantined evidence as well.
        delete: Really delete what is listed.
    """
    kept = _with_lineage(store, roots | _recent(store, keep_days))
    found = [
        _garbage(folder, "no model or recent run uses it")
        for folder in store.folders()
        if folder.name not in kept
    ]
    found += [_garbage(p, "left by a dead process") for p in _orphans(store)]
    if quarantine:
        found += [_garbage(p, "quarantined") for p in sorted(store.root.glob("quarantine/*"))]
    doomed = {item.path.name for item in found}
    found += [_garbage(p, "cache record of nothing") for p in _stale_results(store, doomed)]
    if delete:
        for item in found:
            _remove(item.path)
    return found


def registered_addresses() -> set[str]:
    """Return the address of every artifact that a registered model version was made from."""
    from vaesc.registry import list_models, show_model
    from vaesc.registry.connection import AbsentError

    try:
        versions = list_models()
    except AbsentError:
        return set()  # no registry yet, so nothing is registered
    tags = [show_model(v["version"], name=v["name"])["tags"] for v in versions]
    return {
        value for some in tags for key, value in some.items() if key.startswith("vaesc.digest.")
    }


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
    oldest = time.time() - days * _DAY
    return {f.name for f in store.folders() if _made(f) >= oldest}


def _made(folder: Path) -> float:
    marks = [p for p in (folder / PROVENANCE, folder) if p.exists()]
    return max(p.stat().st_mtime for p in marks)


def _orphans(store: Store) -> list[Path]:
    """Return unfinished artifacts whose maker is dead; the maker's pid is in the name."""
    return [p for p in sorted(store.root.glob("tmp/*")) if not _alive(p.name.split(".")[1:2])]


def _alive(pid: list[str]) -> bool:
    try:
        os.kill(int(pid[0]), 0)
    except (IndexError, ValueError, ProcessLookupError):
        return False
    except PermissionError:
        return True
    return True


def _stale_results(store: Store, doomed: set[str]) -> list[Path]:
    """Return Prefect's cache records whose artifact is gone or about to go."""
    addresses = {f.name for f in store.folders()} - doomed
    records = sorted(p for p in (home() / "results").glob("*-*") if p.is_file())
    return [
        p
        for p in records
        if not p.name.startswith("register-") and p.name.rpartition("-")[2] not in addresses
    ]


def _garbage(path: Path, reason: str) -> Garbage:
    files = [path] if path.is_file() else [p for p in path.rglob("*") if p.is_file()]
    return Garbage(path=path, reason=reason, bytes=sum(f.stat().st_size for f in files))


def _remove(path: Path) -> None:
    """Delete; an artifact is renamed away first, so that no reader ever sees half of it."""
    if path.is_file():
        path.unlink()
        return
    grave = path.with_name(f".deleted-{path.name}-{os.getpid()}")
    path.rename(grave)
    shutil.rmtree(grave)
