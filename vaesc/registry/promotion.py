"""The champion alias: moved once, last, by one process at a time, and never on stale grounds.

Whoever promotes says which version it was compared with. If another one is champion by then, the
grounds are stale: :class:`StaleError`, and the candidate is to be compared anew. What becomes
champion is fetched and checked by its SHA-256 first, as any user would; and every move is written
down (:mod:`.history`), so that a rollback knows where to.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from vaesc.errors import RegistryError
from vaesc.registry.connection import AbsentError
from vaesc.registry.entries import user_name
from vaesc.registry.files import DIGEST_TAG, fault, fetched, shown_version
from vaesc.registry.history import Kind, Move, line_of_champions, moves, next_move, write_move
from vaesc.registry.lookup import DECISION_TAG, aliases_of, find_version
from vaesc.registry.mutex import promoting
from vaesc.registry.registration import CHALLENGER, CHAMPION
from vaesc.registry.tracking import Tracking

if TYPE_CHECKING:
    from mlflow.entities.model_registry import ModelVersion

logger = logging.getLogger(__name__)


class StaleError(RegistryError):
    """Another version has become champion since the comparison."""


def champion_of(tracking: Tracking, name: str) -> int | None:
    """Return the version that is champion now, if any."""
    return aliases_of(tracking, name).get(CHAMPION)


def promote(
    tracking: Tracking,
    version: ModelVersion,
    *,
    expected: int | None,
    reason: str,
    by: str = "",
    kind: Kind = "promote",
) -> Move:
    """Make a version champion.

    Args:
        tracking: Which MLflow.
        version: The one.
        expected: The champion it was compared with, or None if there was none.
        reason: One sentence, kept for ever.
        by: Who decided; default: the user.
        kind: How it came to it.

    Raises:
        StaleError: Another version is champion by now; compare with that one.
        RegistryError: The version's files are damaged, or MLflow cannot be reached.
    """
    name, number = str(version.name), int(version.version)
    with promoting(tracking, name):
        now = champion_of(tracking, name)
        if now != expected:
            raise StaleError(
                f"version {now} of {name!r} has become champion since version {number} was "
                f"compared with {expected}; compare it with version {now}"
            )
        return _move(tracking, version, now, kind, reason, by)


def roll_back(tracking: Tracking, name: str = "vaesc", *, reason: str = "", by: str = "") -> Move:
    """Make the version champion again that was so before the current one.

    Rolling back twice goes back two champions.

    Raises:
        RegistryError: There was none before, its files are damaged, or MLflow cannot be reached.
    """
    with promoting(tracking, name):
        now = champion_of(tracking, name)
        if now is None:
            raise RegistryError(f"model {name!r} has no champion; promote a version")
        version = _before(tracking, name, now)
        return _move(tracking, version, now, "rollback", reason or "rolled back by hand", by)


def withdraw(tracking: Tracking, name: str, number: int, *, reason: str, by: str = "") -> Move:
    """Leave a registered model without a champion: its only one, named unseen, proved ill.

    Raises:
        StaleError: Another version is champion by now.
    """
    with promoting(tracking, name):
        if (now := champion_of(tracking, name)) != number:
            raise StaleError(f"version {now} of {name!r} is champion, not {number}")
        move = next_move(tracking, name, None, number, "withdraw", reason, by or user_name())
        write_move(tracking, name, move)
        with tracking.explained(f"withdraw version {number} of {name!r}"):
            tracking.client.delete_registered_model_alias(name, CHAMPION)
        done = replace(move, carried_out=True)
        write_move(tracking, name, done)
        return done


def history(tracking: Tracking, name: str = "vaesc") -> list[Move]:
    """Return every move of the champion alias, oldest first."""
    return moves(tracking, name, champion_of(tracking, name))


def keep_decision(
    tracking: Tracking, version: ModelVersion, decision: Mapping[str, Any], tags: Mapping[str, str]
) -> None:
    """Store the gate's decision on a version, with more tags."""
    every = {**tags, DECISION_TAG: json.dumps(dict(decision), sort_keys=True)}
    with tracking.explained(f"keep the decision on {shown_version(version)}"):
        for key, value in every.items():
            tracking.client.set_model_version_tag(version.name, str(version.version), key, value)


def decided(tracking: Tracking, name: str, tag: str, value: str) -> ModelVersion | None:
    """Return the newest version with a decision and this tag, if there is one.

    Raises:
        AbsentError: There is no such registered model.
    """
    aliases_of(tracking, name)  # says so if the model is not there
    with tracking.explained(f"look for versions of {name!r}"):
        found = tracking.client.search_model_versions(
            f"name = '{name}' and tags.`{tag}` = '{value}'"
        )
    known = [version for version in found if DECISION_TAG in version.tags]
    return max(known, key=lambda version: int(version.version), default=None)


def _move(
    tracking: Tracking, version: ModelVersion, now: int | None, kind: Kind, reason: str, by: str
) -> Move:
    name, number = str(version.name), int(version.version)
    if number == now:
        raise RegistryError(f"version {number} of {name!r} is the champion already")
    _check_files(tracking, version)
    move = next_move(tracking, name, number, now, kind, reason, by or user_name())
    write_move(tracking, name, move)
    with tracking.explained(f"name version {number} of {name!r}"):
        if aliases_of(tracking, name).get(CHALLENGER) == number:
            tracking.client.delete_registered_model_alias(name, CHALLENGER)
        tracking.client.set_registered_model_alias(name, CHAMPION, str(number))
    if (seen := champion_of(tracking, name)) != number:
        raise RegistryError(
            f"version {number} of {name!r} was named champion, and MLflow says it is {seen}: "
            "something else than vaesc moves that alias; look who does, and promote again"
        )
    done = replace(move, carried_out=True)
    write_move(tracking, name, done)
    return done


def _before(tracking: Tracking, name: str, now: int) -> ModelVersion:
    """Return the last champion before the current one that is still registered."""
    for number in reversed(line_of_champions(moves(tracking, name, now), now)[:-1]):
        try:
            return find_version(tracking, number, name)
        except AbsentError:
            logger.warning("version %d of %s was champion before, and was deleted", number, name)
    raise RegistryError(
        f"version {now} of {name!r} is the first champion on record: there is none to roll back "
        "to; promote another version by its number"
    )


def _check_files(tracking: Tracking, version: ModelVersion) -> None:
    digest = version.tags.get(DIGEST_TAG)
    if digest is None:
        raise RegistryError(f"{shown_version(version)} is not a model that vaesc registered")
    with fetched(tracking, version) as folder:
        wrong = fault(folder, digest)
    if wrong:
        raise RegistryError(
            f"{shown_version(version)} is damaged ({wrong}) and cannot become champion; run the "
            "pipeline again, which registers it anew"
        )
