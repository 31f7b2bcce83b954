"""What must stay in the store: what a registered version came from, what somebody works with."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from vaesc.config import home
from vaesc.errors import ConfigError
from vaesc.scratch import owner_at_work
from vaesc.store import MANIFEST, Store

if TYPE_CHECKING:
    from vaesc.registry.tracking import Tracking


def work_in_progress(store: Store) -> list[str]:
    """Say who works now, as far as can be seen; what they need must stay.

    That is every MLflow run of ours whose process is not known to be dead, in any experiment, and
    every process of this machine that makes an artifact without one.
    """
    return [*(f"run {run}" for run in _runs()), *_makers(store)]


def _runs() -> list[str]:
    from vaesc.registry.entries import PROCESS_TAG
    from vaesc.registry.tracking import every_tracking

    found: list[str] = []
    for tracking in every_tracking():
        tracking.close_stale_runs(everywhere=True)
        running = tracking.find_runs("attributes.status = 'RUNNING'", everywhere=True)
        found += [run.info.run_id for run in running if PROCESS_TAG in run.data.tags]
    return found


def _makers(store: Store) -> list[str]:
    folders = [p for root in (store.root, home()) for p in sorted(root.glob("tmp/*.*.*"))]
    return [f"the making of {p.name.partition('.')[0]}" for p in folders if owner_at_work(p)]


def registered_addresses() -> set[str]:
    """Return the address of every artifact that a registered model version was made from.

    The dataset whose test split is frozen for comparisons is one of them, whatever became of the
    version that was made from it.
    """
    from vaesc.registry.tracking import every_tracking

    return {address for tracking in every_tracking() for address in _registered(tracking)}


def require_shared_registry() -> None:
    """Refuse to go on unless a server answers that can know of other machines' models.

    Raises:
        ConfigError: ``MLFLOW_TRACKING_URI`` names none, or one where nothing is registered.
        RegistryError: It does not answer.
    """
    from vaesc.registry.connection import is_server, registry_uri, tracking_uri
    from vaesc.registry.tracking import connect

    whose = "the MLflow server of everybody who shares the bucket"
    if not (is_server(tracking_uri()) and is_server(registry_uri())):
        raise ConfigError(
            f"--shared needs MLFLOW_TRACKING_URI=http://..., {whose}: without it, what others "
            "have registered is not known, and would be deleted"
        )
    if not any(_registered(connect(create=False))):
        raise ConfigError(
            f"--shared needs MLFLOW_TRACKING_URI to be {whose}, but no model of ours is "
            "registered there; correct it, or register one"
        )


def _registered(tracking: Tracking) -> Iterator[str]:
    from vaesc.registry.candidates import SEEN_TAG
    from vaesc.registry.files import DIGEST_TAG
    from vaesc.registry.freezing import frozen_dataset
    from vaesc.registry.lookup import find_versions

    versions = [v for v in find_versions(tracking) if DIGEST_TAG in v.tags]
    for version in versions:
        yield from (v for key, v in version.tags.items() if key.startswith("vaesc.digest."))
        # What a warm start's ancestors have seen is asked for at the next decision.
        yield from version.tags.get(SEEN_TAG, "").split()
    for name in {version.name for version in versions}:
        if frozen := frozen_dataset(tracking, name):
            yield frozen


def with_lineage(store: Store, addresses: set[str]) -> set[str]:
    """Return `addresses` and those of everything that they were made from."""
    return followed({folder.name: _parents(folder) for folder in store.folders()}, addresses)


def followed(parents: Mapping[str, Sequence[str]], addresses: set[str]) -> set[str]:
    """Return `addresses` and all that their `parents` lead to."""
    kept: set[str] = set()
    waiting = list(addresses)
    while waiting:
        address = waiting.pop()
        if address not in kept:
            kept.add(address)
            waiting += parents.get(address, ())
    return kept


def _parents(folder: Path) -> list[str]:
    try:
        return list(json.loads((folder / MANIFEST).read_text())["parents"].values())
    except (OSError, ValueError, KeyError):
        return []  # damaged: `verify` says so; what it came from cannot be known
