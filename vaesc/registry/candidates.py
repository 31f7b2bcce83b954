"""A candidate against the champion: both opened, measured on the frozen split, and decided on.

What the gate needs to know of a version stands in its tags: the artifacts it was made from
(``vaesc.digest.*``), and the lasting numbers of its atoms (``vaesc.atoms``). Which split is frozen
is a tag of the registered model, see :mod:`vaesc.registry.freezing`.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vaesc.config import GateConfig, derive_seed
from vaesc.datasets.reader import open_dataset
from vaesc.errors import DataError, RegistryError, StoreError
from vaesc.gate.atoms import AtomIds, Lineage, effects, inherit
from vaesc.gate.decision import Decision, decide, health, illness
from vaesc.gate.frozen import FrozenSplit, open_frozen
from vaesc.gate.measurement import Measurement, broken, encode_seconds, measure
from vaesc.registry.files import shown_version
from vaesc.registry.freezing import Freeze, dataset_of, freeze, frozen_dataset
from vaesc.registry.loading import load_model
from vaesc.registry.lookup import ATOMS_TAG, find_version, find_versions
from vaesc.registry.promotion import champion_of, were_champion
from vaesc.registry.tracking import Tracking
from vaesc.shared import this_store

if TYPE_CHECKING:
    from mlflow.entities.model_registry import ModelVersion

    from vaesc.bundle import SparseVAE

logger = logging.getLogger(__name__)

SEEN_TAG = "vaesc.seen"
"""Tag of a version: addresses of the datasets that its weights have seen, a warm start's too."""
_MOST_IMAGES = 10_000


@dataclass(frozen=True, kw_only=True)
class Weighed:
    """A candidate that was compared with the champion of that moment."""

    candidate: ModelVersion
    champion: int | None
    """The version it was compared with; None if there was none."""
    decision: Decision
    frozen: str
    """Address of the dataset on whose test split both were measured."""
    lineage: Lineage | None
    """What became of the champion's atoms; None without a champion."""
    atoms: AtomIds
    """Lasting numbers of the candidate's atoms."""
    pictures: dict[str, Any]
    """Effects of the ``new`` and the ``old`` atoms, (K, n_pixels), and the old atoms' numbers."""

    def to_json(self) -> dict[str, Any]:
        """Return decision and lineage as plain JSON values."""
        return {
            "model": self.candidate.name,
            "candidate": int(self.candidate.version),
            "champion": self.champion,
            "frozen_dataset": self.frozen,
            **self.decision.to_json(),
            "atoms": None if self.lineage is None else self.lineage.to_json(),
        }


def weigh(
    tracking: Tracking,
    ref: str | int,
    *,
    against: str | int | None,
    name: str = "vaesc",
    policy: GateConfig | None = None,
    device: str = "auto",
) -> Weighed:
    """Compare a version with another on the frozen split; nothing is changed.

    Args:
        tracking: Which MLflow.
        ref: The candidate, as for :func:`vaesc.registry.load_model`, folders excepted.
        against: What it is compared with; None: nothing, its health alone is judged.
        name: The registered model.
        policy: Margins and limits; default: those of :class:`vaesc.config.GateConfig`.
        device: Where torch computes.

    Raises:
        RegistryError: A version cannot be loaded, the frozen split is not in this store, or both
            are one version.
    """
    policy = policy or GateConfig()
    candidate = find_version(tracking, ref, name)
    champion = None if against is None else find_version(tracking, against, candidate.name)
    if champion is not None and int(champion.version) == int(candidate.version):
        raise RegistryError(
            f"version {candidate.version} of {candidate.name!r} is the one it would be compared "
            "with; name another"
        )
    ours = load_model(shown_version(candidate), device=device)
    split = _frozen(tracking, candidate, champion, ours)
    if champion is None:
        return _first(candidate, ours, split, policy)
    theirs = load_model(shown_version(champion), device=device)
    if theirs.shape != ours.shape:
        raise RegistryError(
            f"{shown_version(candidate)} takes images of shape {ours.shape}, "
            f"{shown_version(champion)} of {theirs.shape}; register it under another name "
            "(registry.model_name)"
        )
    return _compared(tracking, candidate, champion, (ours, theirs), split, policy)


def check_comparable(tracking: Tracking, name: str) -> None:
    """See that what a candidate will be compared on is in this store, before it is trained.

    Raises:
        RegistryError: The frozen split, or data that the champion has seen, is not.
    """
    number = champion_of(tracking, name)
    if number is None:
        return
    champion = find_version(tracking, number, name)
    try:
        for address in (_frozen_address(tracking, champion), *_seen(champion)):
            _folder(address)
    except StoreError as error:
        raise RegistryError(
            f"no candidate could be compared with {shown_version(champion)}: {error}; retrain "
            "where it was trained, or share that store (VAESC_HOME)"
        ) from error


def short(decision: Mapping[str, Any]) -> dict[str, Any]:
    """Return a decision as a version's tag holds it: without the number of every atom."""
    atoms = decision["atoms"]
    counts = None if atoms is None else {
        "n_persisted": atoms["n_persisted"],
        **{name: len(atoms[name]) for name in ("born", "died", "drifted")},
    }  # fmt: skip
    return {**decision, "atoms": counts}


def metrics_of(decision: Mapping[str, Any]) -> dict[str, float]:
    """Return a decision's numbers as metrics of the run, ``gate/...``."""
    found = {"gate/promoted": float(decision["outcome"] == "promoted")}
    for c in decision["comparisons"]:
        for part in ("ratio", "low", "high"):
            found[f"gate/{c['metric']}_{part}"] = c[part]
    found |= {f"gate/{check['name']}": check["value"] for check in decision["checks"]}
    if decision["atoms"] is not None:
        found |= {f"gate/atoms_{k}": float(n) for k, n in short(decision)["atoms"].items()}
    return found


def atom_ids(version: ModelVersion, n_atoms: int) -> AtomIds:
    """Return the lasting numbers of a version's atoms; by row if none were ever given."""
    text = version.tags.get(ATOMS_TAG)
    if text is None:
        return AtomIds.first(n_atoms)
    facts = json.loads(text)
    return AtomIds(ids=tuple(facts["ids"]), next_id=facts["next_id"])


def atoms_text(ids: AtomIds) -> str:
    """Return the text of :data:`ATOMS_TAG`."""
    return json.dumps({"ids": list(ids.ids), "next_id": ids.next_id}, separators=(",", ":"))


def _compared(
    tracking: Tracking,
    candidate: ModelVersion,
    champion: ModelVersion,
    models: tuple[SparseVAE, SparseVAE],
    split: FrozenSplit,
    policy: GateConfig,
) -> Weighed:
    ours = _measured(models[0], split, candidate)
    theirs = _measured(models[1], split, champion)
    finite = ours.is_finite and theirs.is_finite
    decision = decide(
        ours, theirs, policy=policy,
        seconds=encode_seconds(models, split.images) if finite else (),
        labels=split.labels, n_seen=split.n_seen, seed=derive_seed(0, "gate"),
    )  # fmt: skip
    lineage, pictures = None, dict[str, Any]()
    atoms = atom_ids(candidate, models[0].n_atoms)
    if finite:
        new, old = effects(models[0], ours.codes), effects(models[1], theirs.codes)
        known = atom_ids(champion, models[1].n_atoms)
        lineage = inherit(new, old, replace(known, next_id=_next_atom(tracking, champion, known)))
        pictures = {"new": new, "old": old, "old_ids": known.ids, "shape": models[0].shape}
        # Numbers that were ever the champion's are published: they stand.
        kept = int(candidate.version) in were_champion(tracking, candidate.name)
        atoms = atoms if kept and ATOMS_TAG in candidate.tags else lineage.ids
    return Weighed(
        candidate=candidate, champion=int(champion.version), decision=decision,
        frozen=split.address, lineage=lineage, atoms=atoms, pictures=pictures,
    )  # fmt: skip


def _next_atom(tracking: Tracking, champion: ModelVersion, known: AtomIds) -> int:
    """Return the first number that no atom of any version has."""
    texts = [v.tags.get(ATOMS_TAG) for v in find_versions(tracking, champion.name)]
    return max(known.next_id, *(int(json.loads(text)["next_id"]) for text in texts if text), 0)


def _first(
    candidate: ModelVersion, model: SparseVAE, split: FrozenSplit, policy: GateConfig
) -> Weighed:
    """Judge a candidate that has nothing to be compared with by its health alone."""
    checks = health(_measured(model, split, candidate), policy, [])
    ill = illness(checks)
    decision = Decision(
        outcome="rejected" if ill else "promoted",
        reason=ill or "healthy, and there is no other champion",
        policy=policy.policy, n_images=len(split.images), n_seen=split.n_seen, comparisons=(),
        checks=checks,
    )  # fmt: skip
    return Weighed(
        candidate=candidate, champion=None, decision=decision, frozen=split.address,
        lineage=None, atoms=atom_ids(candidate, model.n_atoms), pictures={},
    )  # fmt: skip


def _measured(model: SparseVAE, split: FrozenSplit, version: ModelVersion) -> Measurement:
    _check_any(split, version)
    try:
        return measure(model, split.images)
    except ValueError as error:
        # Weights that are no numbers are no reason to end without a decision.
        logger.warning("%s cannot code the frozen split: %s", shown_version(version), error)
        return broken(len(split.images), model.n_atoms)


def _check_any(split: FrozenSplit, version: ModelVersion) -> None:
    if not len(split.images):
        raise RegistryError(
            f"no image of the frozen split is new to {shown_version(version)}: all were in "
            "training; keep test images apart in the data"
        )


def _frozen(
    tracking: Tracking, candidate: ModelVersion, champion: ModelVersion | None, model: SparseVAE
) -> FrozenSplit:
    """Open the frozen split of a registered model, or that which would be frozen now."""
    address = _frozen_address(tracking, champion or candidate)
    seen = {each for version in (candidate, champion) if version for each in _seen(version)}
    try:
        folder, *others = (_folder(each) for each in (address, *sorted(seen)))
        return open_frozen(folder, others, model.shape, _MOST_IMAGES)
    except (DataError, StoreError) as error:
        raise RegistryError(
            f"{shown_version(candidate)} cannot be compared on the frozen split: {error}"
        ) from error


def _frozen_address(tracking: Tracking, version: ModelVersion) -> str:
    return frozen_dataset(tracking, version.name) or dataset_of(version)


def freeze_anew(tracking: Tracking, ref: str | int, name: str, reason: str) -> Freeze:
    """Judge candidates on the test split of another version's data from now on.

    Args:
        tracking: Which MLflow.
        ref: The version whose data it is, as for :func:`vaesc.registry.load_model`.
        name: The registered model.
        reason: One sentence, kept for ever.

    Raises:
        RegistryError: The version says nothing of its data, the champion cannot be judged on it
            (another shape or range, or it has seen every image), or it is frozen already.
    """
    version = find_version(tracking, ref, name)
    address, previous = dataset_of(version), frozen_dataset(tracking, version.name)
    if address == previous:
        raise RegistryError(
            f"candidates of {version.name!r} are judged on the test split of "
            f"{shown_version(version)}'s data already"
        )
    number = champion_of(tracking, version.name)
    judged = version if number is None else find_version(tracking, number, version.name)
    model = load_model(shown_version(judged), device="cpu")
    try:
        folder, *seen = (_folder(each) for each in (address, *_seen(judged)))
        split = open_frozen(folder, seen, model.shape, _MOST_IMAGES)
    except (DataError, StoreError) as error:
        raise RegistryError(
            f"the data of {shown_version(version)} cannot be frozen: {error}"
        ) from error
    _check_any(split, judged)
    return freeze(tracking, version, previous, reason)


def check_fits(tracking: Tracking, name: str, dataset: Path) -> None:
    """See that a model of these images could be held against the champion, before it is trained.

    Raises:
        RegistryError: They have another shape or range than those of the frozen split.
    """
    number = champion_of(tracking, name)
    if number is None:
        return
    champion = find_version(tracking, number, name)
    frozen = open_dataset(_folder(_frozen_address(tracking, champion)))
    ours = open_dataset(dataset)
    mine, theirs = ((d.shape, d.low, d.high) for d in (ours, frozen))
    if mine != theirs:
        raise RegistryError(
            f"a model of images of shape {ours.shape} from {ours.low:g} to {ours.high:g} cannot "
            f"be compared with {shown_version(champion)}, which is judged on images of shape "
            f"{frozen.shape} from {frozen.low:g} to {frozen.high:g}; register it under another "
            "name: --set registry.model_name=NAME"
        )


def note_ancestry(tracking: Tracking, version: ModelVersion, start: int | None) -> None:
    """Note on a version which data its weights have seen, those it started from included."""
    seen = {dataset_of(version)}
    if start is not None:
        seen |= set(_seen(find_version(tracking, start, version.name)))
    with tracking.explained(f"tag {shown_version(version)}"):
        tracking.client.set_model_version_tag(
            version.name, str(version.version), SEEN_TAG, " ".join(sorted(seen))
        )


def _seen(version: ModelVersion) -> list[str]:
    return str(version.tags.get(SEEN_TAG) or dataset_of(version)).split()


def _folder(address: str) -> Path:
    return this_store().open("dataset", address).path
