"""What must stay in the store: what a registered version came from, what somebody works with."""

from __future__ import annotations

import json
from pathlib import Path

from vaesc.config import home
from vaesc.scratch import owner_at_work
from vaesc.store import MANIFEST, Store


def work_in_progress(store: Store) -> list[str]:
    """Say who works now, as far as can be seen; what they need must stay.

    That is every MLflow run of ours whose process is not known to be dead, in any experiment, and
    every process of this machine that makes an artifact without one.
    """
    return [*(f"run {run}" for run in _runs()), *_makers(store)]


def _runs() -> list[str]:
    from vaesc.registry import connect
    from vaesc.registry.entries import PROCESS_TAG
    from vaesc.registry.failures import AbsentError

    try:
        tracking = connect(create=False)
        tracking.close_stale_runs(everywhere=True)
        found = tracking.find_runs("attributes.status = 'RUNNING'", everywhere=True)
        return [run.info.run_id for run in found if PROCESS_TAG in run.data.tags]
    except AbsentError:
        return []


def _makers(store: Store) -> list[str]:
    folders = [p for root in (store.root, home()) for p in sorted(root.glob("tmp/*.*.*"))]
    return [f"the making of {p.name.partition('.')[0]}" for p in folders if owner_at_work(p)]


def registered_addresses() -> set[str]:
    """Return the address of every artifact that a registered model version was made from.

    The dataset whose test split is frozen for comparisons is one of them, whatever became of the
    version that was made from it.
    """
    from vaesc.registry import connect
    from vaesc.registry.candidates import SEEN_TAG
    from vaesc.registry.failures import AbsentError
    from vaesc.registry.files import DIGEST_TAG
    from vaesc.registry.freezing import frozen_dataset
    from vaesc.registry.lookup import find_versions

    try:
        tracking = connect(create=False)
    except AbsentError:
        return set()  # no registry yet, so nothing is registered
    versions = [v for v in find_versions(tracking) if DIGEST_TAG in v.tags]
    tags = [v.tags for v in versions]
    made_from = {
        value for some in tags for key, value in some.items() if key.startswith("vaesc.digest.")
    }
    for some in tags:  # what a warm start's ancestors have seen is asked for at the next decision
        made_from |= set(some.get(SEEN_TAG, "").split())
    frozen = {frozen_dataset(tracking, name) for name in {v.name for v in versions}}
    return made_from | {address for address in frozen if address}


def with_lineage(store: Store, addresses: set[str]) -> set[str]:
    """Return `addresses` and those of everything that they were made from."""
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
