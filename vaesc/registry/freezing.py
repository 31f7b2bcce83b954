"""Which images candidates are judged on: the test split of one dataset artifact, kept frozen.

It is the first champion's, until somebody says otherwise by hand. Once the world has changed, a
split of old images would keep out every candidate that has learned the new ones; but a split that
moved by itself would let a model win on other questions than its rival was asked. Every choice
stays on record as tags of the registered model, and every decision names the split it was made on.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from vaesc.errors import RegistryError
from vaesc.registry.entries import user_name
from vaesc.registry.files import shown_version
from vaesc.registry.lookup import find_version
from vaesc.registry.mutex import promoting

if TYPE_CHECKING:
    from mlflow.entities.model_registry import ModelVersion

    from vaesc.registry.tracking import Tracking

FROZEN_TAG = "vaesc.frozen_dataset"
"""Tag of a registered model: address of the dataset whose test split is frozen."""
_RECORD = "vaesc.freeze."
_INGEST = "vaesc.digest.ingest"


@dataclass(frozen=True, kw_only=True)
class Freeze:
    """One choice of the split that candidates are judged on."""

    address: str
    """Address of the dataset in the store."""
    previous: str | None
    """The one before."""
    version: int
    """The version whose data it is."""
    reason: str
    by: str
    at: str
    """UTC time, ISO 8601."""

    def to_json(self) -> dict[str, Any]:
        """Return the choice as plain JSON values; its ``kind`` tells it from a champion's move."""
        return {"kind": "freeze", **asdict(self)}


def dataset_of(version: ModelVersion) -> str:
    """Return the address of the dataset that a version was made from.

    Raises:
        RegistryError: It does not say.
    """
    address = version.tags.get(_INGEST)
    if address is None:
        raise RegistryError(
            f"{shown_version(version)} does not say which data it was trained on: it was not "
            "registered by a pipeline run, and cannot be compared"
        )
    return str(address)


def frozen_dataset(tracking: Tracking, name: str) -> str | None:
    """Return the address of the dataset whose test split is frozen, once it is named."""
    address = _tags(tracking, name).get(FROZEN_TAG)
    return None if address is None else str(address)


def freezes(tracking: Tracking, name: str) -> list[Freeze]:
    """Return every choice of a split, oldest first."""
    tags = sorted(_tags(tracking, name).items())
    return [Freeze(**json.loads(text)) for key, text in tags if key.startswith(_RECORD)]


def freeze_first(tracking: Tracking, champion: int, name: str) -> None:
    """Freeze the test split of a champion's data, unless one is frozen already."""
    if frozen_dataset(tracking, name) is None:
        version = find_version(tracking, champion, name)
        freeze(tracking, version, None, "the data of the first champion that was held against one")


def freeze(tracking: Tracking, version: ModelVersion, previous: str | None, reason: str) -> Freeze:
    """Judge candidates on the test split of a version's data from now on.

    Args:
        tracking: Which MLflow.
        version: The version whose data it is.
        previous: The address that was frozen until now, as the caller has seen it.
        reason: One sentence, kept for ever.

    Raises:
        RegistryError: Another one was frozen meanwhile, or a champion is being promoted.
    """
    choice = Freeze(
        address=dataset_of(version), previous=previous, version=int(version.version),
        reason=reason, by=user_name(), at=datetime.now(UTC).isoformat(timespec="seconds"),
    )  # fmt: skip
    with promoting(tracking, version.name) as still_ours:
        tags = _tags(tracking, version.name)
        if tags.get(FROZEN_TAG) != previous:
            raise RegistryError(
                f"another split was frozen for {version.name!r} at the same time; look at "
                "`vaesc models history`, and freeze again if need be"
            )
        number = 1 + sum(key.startswith(_RECORD) for key in tags)
        still_ours()
        with tracking.explained(f"freeze a split for {version.name!r}"):
            for key, value in (
                (f"{_RECORD}{number:06d}", json.dumps(asdict(choice))),
                (FROZEN_TAG, choice.address),
            ):
                tracking.client.set_registered_model_tag(version.name, key, value)
    return choice


def _tags(tracking: Tracking, name: str) -> dict[str, str]:
    with tracking.explained(f"look up the frozen split of {name!r}"):
        return dict(tracking.client.get_registered_model(name).tags)
