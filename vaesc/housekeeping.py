"""Check the store and reclaim its space, without ever removing what somebody needs.

Needed is: what a registered model version was made from, what was made or used lately, and
everything those were made from in turn (:mod:`vaesc.needed`).
"""

from __future__ import annotations

import os
import shutil
import stat
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from vaesc.config import home
from vaesc.errors import ConfigError
from vaesc.needed import with_lineage
from vaesc.scratch import is_abandoned, own_name
from vaesc.store import DamagedError, Store, last_use, read_artifact

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
            if not folder.is_dir():  # removed while it was read
                continue
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


def last_uses(store: Store) -> dict[Path, float]:
    """Return when each artifact was last made or used: what is used after this stays."""
    uses = {folder: last_use(folder) for folder in store.folders()}
    return {folder: used for folder, used in uses.items() if used}  # another collection is quick


def collect_garbage(
    store: Store,
    roots: set[str],
    *,
    keep_days: float,
    quarantine: bool = False,
    delete: bool = False,
    seen: Mapping[Path, float] | None = None,
) -> list[Garbage]:
    """List, and on request delete, what nobody needs.

    Runs may begin while this goes on. To lose nothing of theirs, ask in this order:
    :func:`last_uses`, then :func:`vaesc.needed.work_in_progress` (a run that began before has
    ended, or is seen there), then the roots, and then this. What a run uses that began later is
    not as it was `seen`, and stays.

    Args:
        store: The store.
        roots: Addresses that must stay, see :func:`vaesc.needed.registered_addresses`.
        keep_days: What was made or used in the last so many days stays too.
        quarantine: List the quarantined evidence as well.
        delete: Really delete what is listed.
        seen: Artifacts that may go, with their last use then; default: as they are now.

    Returns:
        What may go; once deleted, what went.

    Raises:
        ConfigError: `keep_days` is negative or not a number.
    """
    if not keep_days >= 0:
        raise ConfigError(f"--keep-days must be 0 or more, got {keep_days}")
    seen = last_uses(store) if seen is None else seen
    oldest = time.time() - keep_days * _DAY
    recent = {folder.name for folder, used in seen.items() if used >= oldest}
    kept = with_lineage(store, roots | recent)
    found = [
        _garbage(folder, "no model or recent run uses it")
        for folder in seen
        if folder.name not in kept
    ]
    if delete:
        found = [item for item in found if store.remove(item.path, seen[item.path])]
    rest = [_garbage(p, "left by a dead process") for p in _orphans(store)]
    if quarantine:
        damaged = [
            *store.root.glob("quarantine/*"), *(home() / "models").glob("quarantine/*"),
            *(home() / "backups").glob("damaged-*"),
        ]  # fmt: skip
        rest += [_garbage(p, "quarantined") for p in sorted(damaged)]
    rest += [_garbage(p, "lock that nobody holds") for p in _old_locks(store)]
    doomed = {item.path.name for item in found}
    rest += [_garbage(p, "cache record of nothing") for p in _stale_results(store, doomed)]
    rest += [_garbage(p, "of a training nobody resumed") for p in _checkpoints(oldest)]
    if delete:
        rest = [item for item in rest if _remove(store, item.path)]
    return found + rest


def _orphans(store: Store) -> list[Path]:
    """Return what was never finished, since its maker is dead; the name says who that was."""
    folders = (store.root / "tmp", home() / "tmp")
    return [p for folder in folders for p in sorted(folder.glob("*")) if is_abandoned(p)]


def _checkpoints(oldest: float) -> list[Path]:
    """Return the checkpoints that were last written before a moment."""
    folders = [p for p in sorted((home() / "checkpoints").glob("*")) if p.is_dir()]
    return [p for p in folders if 0 < _newest(p) < oldest]


def _newest(folder: Path) -> float:
    return max((facts.st_mtime for facts in _facts(folder)), default=0.0)


def _facts(path: Path) -> Iterator[os.stat_result]:
    """Yield what the system knows of a file or folder and all in it that is still there.

    Runs write beside and rename, and other collections remove, while this looks.
    """
    inside = (Path(at, name) for at, *names in os.walk(path) for name in chain(*names))
    for each in (path, *inside):
        with suppress(FileNotFoundError):
            yield os.lstat(each)


def _stale_results(store: Store, doomed: set[str]) -> list[Path]:
    """Return Prefect's cache records whose artifact is gone or about to go."""
    # Records first: an artifact is there before its record is.
    records = sorted(p for p in (home() / "results").glob("*-*") if p.is_file())
    addresses = {f.name for f in store.folders()} - doomed
    return [
        p
        for p in records
        if not p.name.startswith("register-") and p.name.rpartition("-")[2] not in addresses
    ]


def _old_locks(store: Store) -> list[Path]:
    """Return lock files untouched for a day; whoever needs one makes it again."""
    oldest = time.time() - _DAY
    return [p for p in sorted(store.root.glob("locks/*")) if 0 < _newest(p) < oldest]


def _garbage(path: Path, reason: str) -> Garbage:
    size = sum(facts.st_size for facts in _facts(path) if not stat.S_ISDIR(facts.st_mode))
    return Garbage(path=path, reason=reason, bytes=size)


def _remove(store: Store, path: Path) -> bool:
    """Delete what is no artifact, unless somebody holds its lock; say whether it is gone.

    A step holds the lock of what it makes for as long as that takes: a long training's lock, and
    its checkpoint, may be old.
    """
    with ExitStack() as stack:
        locks = (
            [path] if path.parent.name == "locks" else store.root.glob(f"locks/*-{path.name}.*")
        )
        try:
            for lock in locks:
                stack.enter_context(FileLock(lock, timeout=0))
            if path.is_file():
                path.unlink()
                return True
            grave = store.root / "tmp" / own_name("deleted")
            grave.parent.mkdir(parents=True, exist_ok=True)
            path.rename(grave)
        except (Timeout, FileNotFoundError):
            return False
    shutil.rmtree(grave)
    return True
