"""The champion alias: moved once, last, by one process at a time, and never on stale grounds.

Whoever promotes says which version it was compared with. If another one is champion by then, the
grounds are stale: :class:`StaleError`, and the candidate is to be compared anew. What becomes
champion is fetched and checked by its SHA-256 first, as any user would; and every move is written
down (:mod:`.history`), so that a rollback knows where to.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

from vaesc.errors import RegistryError
from vaesc.registry import freezing
from vaesc.registry.entries import user_name
from vaesc.registry.failures import UnreachableError
from vaesc.registry.files import DIGEST_TAG, fault, fetched, shown_version
from vaesc.registry.history import (
    CHALLENGER,
    CHAMPION,
    Kind,
    Move,
    line_of_champions,
    make_move,
    moves,
    next_move,
    write_move,
)
from vaesc.registry.lookup import aliases_of, find_version
from vaesc.registry.mutex import promoting
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
    judged_on: str | None = None,
    reason: str,
    by: str = "",
    kind: Kind = "promote",
) -> Move:
    """Make a version champion.

    Args:
        tracking: Which MLflow.
        version: The one.
        expected: The champion it was compared with, or None if there was none.
        judged_on: Address of the dataset on whose test split, if that matters.
        reason: One sentence, kept for ever.
        by: Who decided; default: the user.
        kind: How it came to it.

    Raises:
        StaleError: Another version is champion by now, or another split frozen: compare anew.
        RegistryError: The version's files are damaged, or MLflow cannot be reached.
    """
    name, number = str(version.name), int(version.version)
    _check_files(tracking, version)  # before the lock: it may have to be fetched
    with promoting(tracking, name) as still_ours:
        now = champion_of(tracking, name)
        if now != expected:
            raise StaleError(
                f"version {now} of {name!r} has become champion since version {number} was "
                f"compared with {expected}; compare it with version {now}"
            )
        frozen = freezing.frozen_dataset(tracking, name)
        if judged_on is not None and frozen not in (None, judged_on):
            raise StaleError(
                f"candidates of {name!r} are judged on another split since version {number} was; "
                "compare it anew"
            )
        return _move(tracking, version, now, kind, reason, by, still_ours)


def roll_back(tracking: Tracking, name: str = "vaesc", *, reason: str = "", by: str = "") -> Move:
    """Make the version champion again that was so before the current one.

    Rolling back twice goes back two champions.

    Raises:
        RegistryError: There was none before, its files are damaged, or MLflow cannot be reached.
    """
    with promoting(tracking, name) as still_ours:
        now = champion_of(tracking, name)
        version = _before(tracking, name, now)
        why = reason or "rolled back by hand"
        return _move(tracking, version, now, "rollback", why, by, still_ours)


def history(tracking: Tracking, name: str = "vaesc") -> list[Move]:
    """Return every move of the champion alias, oldest first."""
    return moves(tracking, name, champion_of(tracking, name))


def tagged(tracking: Tracking, name: str, tag: str, value: str) -> ModelVersion | None:
    """Return the newest version that has this tag, if there is one.

    Raises:
        AbsentError: There is no such registered model.
    """
    aliases_of(tracking, name)  # says so if the model is not there
    with tracking.explained(f"look for versions of {name!r}"):
        found = tracking.client.search_model_versions(
            f"name = '{name}' and tags.`{tag}` = '{value}'"
        )
    return max(found, key=lambda version: int(version.version), default=None)


def were_champion(tracking: Tracking, name: str) -> set[int]:
    """Return every version that is champion or ever was."""
    now = champion_of(tracking, name)
    found = {move.version for move in moves(tracking, name, now) if move.carried_out}
    return found if now is None else found | {now}


def _move(
    tracking: Tracking,
    version: ModelVersion,
    now: int | None,
    kind: Kind,
    reason: str,
    by: str,
    still_ours: Callable[[], None],
) -> Move:
    name, number = str(version.name), int(version.version)
    if number == now:
        raise RegistryError(f"version {number} of {name!r} is the champion already")
    move = next_move(tracking, name, number, now, kind, reason, by or user_name())
    challenges = aliases_of(tracking, name).get(CHALLENGER) == number
    make_move(tracking, name, move, still_ours, CHALLENGER if challenges else None)
    if (seen := champion_of(tracking, name)) != number:
        raise RegistryError(
            f"version {number} of {name!r} was named champion, and MLflow says it is {seen}: "
            "something else than vaesc moves that alias; look who does, and promote again"
        )
    done = replace(move, carried_out=True)
    write_move(tracking, name, done)
    return done


def _before(tracking: Tracking, name: str, now: int | None) -> ModelVersion:
    """Return the last champion before the current one that is still registered, and whole."""
    line = line_of_champions(moves(tracking, name, now), now)
    for number in reversed(line[:-1] if now is not None else line):
        try:
            version = find_version(tracking, number, name)
            _check_files(tracking, version)
        except UnreachableError:
            raise
        except RegistryError as error:
            logger.warning("version %d of %s was champion before: %s", number, name, error)
        else:
            return version
    current = "there is no champion" if now is None else f"version {now} is champion"
    raise RegistryError(
        f"{current} of {name!r}, and no earlier champion on record that is whole: promote a "
        "version by its number"
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
