"""Killed at any moment, learning resumes to the same bytes: ``python -m tests.faults.kills``.

A real process trains a VAE, saves checkpoints, and is killed at a random moment of its training,
every third one two or three times in a row; then it is resumed to its end. All that it leaves
(weights, history, posterior) must be, byte for byte, what an undisturbed training leaves, and
nothing else may stay. Dictionary learning is killed in the same way.

The last line is JSON: how many were killed and how many came out identical, and where they were.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import statistics
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.faults.learning import WORKS, Work, prepare
from tests.faults.victims import End, Told, learn

_ROWS = (1, 1, 2, 1, 1, 3)
"""How many times in a row each training is killed, in turn."""


@dataclass
class Victim:
    """One that was killed, and what it came to."""

    work: str
    where: list[int] = field(default_factory=list)
    """Steps done when it was killed, each time."""
    moments: list[float] = field(default_factory=list)
    wrong: str = ""


def main() -> int:
    """Kill, resume, compare; print what differs, and last one JSON line."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults.kills", description=__doc__)
    parser.add_argument("--times", type=int, default=50, help="trainings killed (default: 50)")
    parser.add_argument("--dictionaries", type=int, default=10, help="the same (default: 10)")
    parser.add_argument("--seed", type=int, default=0, help="of the random moments")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="kills-") as name:
        folder = Path(name)
        prepare(folder)
        vaes = _all(folder, "train", options.times, options.seed)
        dictionaries = _all(folder, "learn", options.dictionaries, options.seed)
    figures = {
            **figures_of(vaes, "batches"), "dictionaries": figures_of(dictionaries, "passes"),
        }  # fmt: skip
    print(json.dumps(figures))
    return 0 if all(not victim.wrong for victim in (*vaes, *dictionaries)) else 1


def figures_of(victims: Sequence[Victim], counted: str) -> dict[str, Any]:
    """Return how many were killed, how often, how many came out identical, and where they were."""
    where = [steps for victim in victims for steps in victim.where]
    return {
        "kills": sum(bool(victim.where) for victim in victims),
        "identical": sum(not victim.wrong for victim in victims),
        "signals": len(where),
        f"{counted}_done_when_killed": {
            "distinct": len(set(where)), "least": min(where, default=0),
            "median": statistics.median(where) if where else 0, "most": max(where, default=0),
        },
        "works": sorted({victim.work for victim in victims}),
    }  # fmt: skip


def _all(folder: Path, step: str, times: int, seed: int) -> list[Victim]:
    works = [work for work in WORKS if work.step == step]
    truths: dict[str, tuple[dict[str, bytes], End]] = {}
    victims = []
    for number in range(times):
        work = works[number % len(works)]
        if work.same_as not in truths:
            truths[work.same_as] = _undisturbed(folder, folder / "truth" / work.same_as, work)
        truth, end = truths[work.same_as]
        rng = random.Random(f"{seed}/{step}/{number}")
        place = folder / f"{step}-{number}"
        victim = _kill(folder, place, work, end, _ROWS[number % len(_ROWS)], rng)
        victim.wrong = victim.wrong or _difference(place, truth)
        shutil.rmtree(place)
        _tell(number, victim, end)
        victims.append(victim)
    return victims


def _undisturbed(data: Path, place: Path, work: Work) -> tuple[dict[str, bytes], End]:
    end = learn(_job(data, place, work, keeps=False), _log(place))
    if end.code:
        raise RuntimeError(f"undisturbed {work.name} failed: {_log(place).read_text()[-2000:]}")
    return _bytes(place / "made"), end


def _kill(data: Path, place: Path, work: Work, whole: End, row: int, rng: random.Random) -> Victim:
    """Kill it `row` times in a row, then let it end.

    Each moment is one of what is left to do. One that ends before its first moment has not been
    killed at all: it begins anew, and another moment is drawn.
    """
    victim = Victim(work.name)
    while len(victim.where) < row:
        left = 1 - (victim.where[-1] / whole.steps if victim.where else 0)
        moment = rng.uniform(0, whole.seconds * left)
        end = learn(_job(data, place, work), _log(place), strike_after=moment)
        if end.killed:
            # None yet: it was killed before it had gone a step beyond its checkpoint.
            victim.where.append(end.steps or (victim.where or [0])[-1])
            victim.moments.append(moment)
        elif end.code:
            victim.wrong = f"it failed: {_log(place).read_text()[-2000:]}"
            return victim
        elif victim.where:
            return victim  # it came to its end before it could be killed once more
        else:
            shutil.rmtree(place)
    end = learn(_job(data, place, work), _log(place))
    if end.code:
        victim.wrong = f"resuming failed: {_log(place).read_text()[-2000:]}"
    return victim


def _job(data: Path, place: Path, work: Work, *, keeps: bool = True) -> Callable[[Told], None]:
    """Return what a child does: a new folder, as in the store, and the checkpoints of the last."""

    def job(told: Told) -> None:
        made = place / "made"
        shutil.rmtree(made, ignore_errors=True)
        made.mkdir(parents=True)
        work.run(data, made, place / "kept" if keeps else None, told)

    return job


def _log(place: Path) -> Path:
    place.mkdir(parents=True, exist_ok=True)
    return place / "log"


def _bytes(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def _difference(place: Path, truth: dict[str, bytes]) -> str:
    """Say in what it differs from what an undisturbed one leaves; empty if in nothing."""
    found = _bytes(place / "made")
    odd = [name for name in sorted({*truth, *found}) if truth.get(name) != found.get(name)]
    if odd:
        return f"{', '.join(odd)} differ"
    # The checkpoint is deleted by whoever publishes what was made; anything else was left behind.
    kept = sorted(p.name for p in (place / "kept").glob("*.*.*"))
    return f"left behind: {', '.join(kept)}" if kept else ""


def _tell(number: int, victim: Victim, whole: End) -> None:
    where = ", ".join(
        f"{steps} ({moment:.2f} s)"
        for steps, moment in zip(victim.where, victim.moments, strict=True)
    )
    print(
        f"{number + 1:>3}  {'WRONG' if victim.wrong else 'identical':<10}{victim.work:<22}"
        f"killed at {where} of {whole.steps} ({whole.seconds:.2f} s)  {victim.wrong}",
        file=sys.stderr, flush=True,
    )  # fmt: skip


if __name__ == "__main__":
    raise SystemExit(main())
