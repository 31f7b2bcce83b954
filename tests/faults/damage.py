"""What a finished run left, damaged on the disk: every file of every kind, in three ways.

The next run must notice, set the evidence aside, and make the same thing again.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from tests.faults.catalogue import STEP_OF
from tests.faults.injector import Injection, Point, placeless
from tests.faults.lane import Lane
from tests.faults.trial import Trial, Truth, recover


def _flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0xFF
    path.write_bytes(data)


def _truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


WAYS: dict[str, Callable[[Path], None]] = {
    "flipped byte": _flip, "truncated": _truncate, "deleted": Path.unlink,
}  # fmt: skip
_STEP = {**STEP_OF, "results": "records", "mlartifacts": "register", "mlflow.db": "records"}


def victims(home: Path) -> Iterator[tuple[str, Path]]:
    """Yield one file of each name of each artifact, the records, and the registered files."""
    seen = set()
    for path in sorted(home.rglob("*")):
        parts = path.relative_to(home).parts
        room = parts[1] if parts[0] == "store" and len(parts) > 1 else parts[0]
        if not path.is_file() or room not in _STEP or path.stat().st_size == 0:
            continue
        if room == "results" or (room, path.name) not in seen:
            seen.add((room, path.name))
            yield _STEP[room], path


class Damage:
    """A finished home, restored before each damage.

    Args:
        lane: Where it is.
        truth: What an undisturbed run leaves; the lane's home is one.
    """

    def __init__(self, lane: Lane, truth: Truth) -> None:
        self._lane, self._truth = lane, truth
        self._copy = lane.folder / "finished"
        shutil.rmtree(self._copy, ignore_errors=True)
        shutil.copytree(lane.home, self._copy, symlinks=True)

    def plan(self) -> list[tuple[str, str, Path]]:
        """Return every way, step and file, relative to the home."""
        return [
            (way, step, path.relative_to(self._copy))
            for step, path in victims(self._copy)
            for way in WAYS
        ]

    def _here(self, name: Path) -> Path:
        """Return the file of this lane that goes by `name` in another: MLflow's ids are drawn."""
        if (self._copy / name).exists():
            return name
        like = placeless(str(name))
        found = (path.relative_to(self._copy) for _, path in victims(self._copy))
        return next(path for path in found if placeless(str(path)) == like)

    def of_checkpoints(self, points: Sequence[Point]) -> list[tuple[str, Point]]:
        """Return every way, and a point at which each kind of checkpoint lies there whole."""
        written = [p for p in points if p.event == "rename" and "/checkpoints/" in p.place]
        second = [p for p in written if p.nth == 2]
        return [(way, point) for point in second for way in WAYS]

    def attempt_checkpoint(self, way: str, point: Point) -> Trial:
        """Kill a run, damage the checkpoint it has left, run again, and say all that is wrong."""
        trial = Trial(Injection(f"checkpoint, {way}", point), "checkpoint")
        self._lane.empty()
        self._lane.run(Injection("SIGKILL", point))
        left = [p for p in (self._lane.home / "checkpoints").rglob("*.*") if p.is_file()]
        if not left:
            trial.wrong.append("no checkpoint was there to be damaged")
        for path in left:
            WAYS[way](path)
        recover(self._lane, trial, self._truth, self._lane.look().contents())
        return trial

    def attempt(self, way: str, step: str, name: Path) -> Trial:
        """Damage a file of the finished run, run again, and say all that is wrong."""
        shutil.rmtree(self._lane.home)
        shutil.copytree(self._copy, self._lane.home, symlinks=True)
        trial = Trial(Injection(way, Point("file", str(name))), step)
        WAYS[way](self._lane.home / self._here(name))
        finished = self._lane.look().contents()  # without what is damaged now
        recover(self._lane, trial, self._truth, finished, damaged=step == "register")
        return trial
