"""Who was champion, from when, and why: one tag of the registered model for each move.

A move is written down *before* the alias is moved, so that none happens through us that nobody
wrote down, and marked as carried out after it. One whose process was killed between the two is
recognised by what the alias names, now or when the next move found it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from typing import Any, Literal

from vaesc.registry.tracking import Tracking

CHAMPION, CHALLENGER = "champion", "challenger"
PREFIX = "vaesc.move."
Kind = Literal["first", "promote", "force", "rollback", "repair"]


@dataclass(frozen=True, kw_only=True)
class Move:
    """One move of the champion alias."""

    number: int
    """From 1 on."""
    kind: Kind
    """``first``: the only version there was; ``promote``: the gate's word; ``force``: by hand,
    against it; ``rollback``; ``repair``: a whole copy in the place of a damaged version."""
    version: int
    """Champion from then on."""
    previous: int | None
    """Champion until then."""
    reason: str
    by: str
    """Who moved it: a user, or the MLflow run that decided."""
    at: str
    """UTC time, ISO 8601."""
    carried_out: bool = False
    """Whether the alias followed."""

    def to_json(self) -> dict[str, Any]:
        """Return the move as plain JSON values."""
        return asdict(self)


def moves(tracking: Tracking, name: str, champion: int | None) -> list[Move]:
    """Return every move of a registered model's champion, oldest first.

    Args:
        tracking: Which MLflow.
        name: The registered model.
        champion: The version that its alias names now.
    """
    with tracking.explained(f"read the history of {name!r}"):
        tags: Mapping[str, str] = tracking.client.get_registered_model(name).tags
    written = [Move(**json.loads(v)) for k, v in tags.items() if k.startswith(PREFIX)]
    written.sort(key=lambda move: move.number)
    led_to = [*(move.previous for move in written[1:]), champion]
    return [
        replace(move, carried_out=move.carried_out or move.version == after)
        for move, after in zip(written, led_to, strict=False)
    ]


def line_of_champions(history: list[Move], champion: int | None) -> list[int]:
    """Return the versions one can roll back through, the current champion last, if there is one.

    A promotion adds to the line, a rollback takes its last away; a champion that was named by
    other means than ours is added at the end.
    """
    line: list[int] = []
    for move in history:
        if not move.carried_out:
            continue
        if move.previous is not None and (not line or line[-1] != move.previous):
            line.append(move.previous)
        if move.kind == "repair" and line[-1:] == [move.previous]:
            line[-1] = move.version
        elif move.kind == "rollback" and move.version in line:
            del line[len(line) - line[::-1].index(move.version) :]
        else:
            line.append(move.version)
    if champion is not None and (not line or line[-1] != champion):
        line.append(champion)
    return line


def next_move(
    tracking: Tracking,
    name: str,
    version: int,
    champion: int | None,
    kind: Kind,
    reason: str,
    by: str,
) -> Move:
    """Return the move from `champion`, whom the alias names now, to `version`, not yet made."""
    last = max((move.number for move in moves(tracking, name, champion)), default=0)
    at = datetime.now(UTC).isoformat(timespec="seconds")
    return Move(
        number=last + 1, kind=kind, version=version, previous=champion, reason=reason, by=by, at=at
    )


def make_move(
    tracking: Tracking,
    name: str,
    move: Move,
    still_ours: Callable[[], None],
    leaves: str | None = None,
) -> None:
    """Write a move down, and make it; that it was made is the caller's to write.

    Args:
        tracking: Which MLflow.
        name: The registered model.
        move: The move.
        still_ours: Of :func:`vaesc.registry.mutex.promoting`; asked last.
        leaves: An alias that the version has, and loses.
    """
    write_move(tracking, name, move)
    still_ours()
    with tracking.explained(f"name version {move.version} of {name!r}"):
        if leaves is not None:
            tracking.client.delete_registered_model_alias(name, leaves)
        tracking.client.set_registered_model_alias(name, CHAMPION, str(move.version))


def write_move(tracking: Tracking, name: str, move: Move) -> None:
    """Write a move down, or what became of it."""
    with tracking.explained(f"write the history of {name!r}"):
        tracking.client.set_registered_model_tag(
            name, f"{PREFIX}{move.number:06d}", json.dumps(move.to_json())
        )
