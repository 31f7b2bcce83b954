"""The long form: ``python -m tests.faults [--few N | --all] [--lanes 2] [--write FILE.md]``.

Runs are broken in the six steps of every run; then others, with every application, in the steps
of these (``--applications``: these alone).
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import sys
import tempfile
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from tests.faults import together
from tests.faults.catalogue import catalogue, sample
from tests.faults.damage import Damage
from tests.faults.injector import FILLED, Injection, Point
from tests.faults.lane import NAMES, Lane
from tests.faults.outages import SERVERS, Outages
from tests.faults.proxy import FAULTS
from tests.faults.trial import Trial, Truth, attempt

AT_ONCE = (2, 4, 8)
"""How many identical runs are started at once."""
Job = Callable[["_Worker"], Trial]


def main() -> int:
    """Break runs, print what became of them, and last one JSON line of figures."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__)
    parser.add_argument(
        "--few", type=int, metavar="N", default=300,
        help="injections at points, of every fault and step in turn (default: 300)",
    )  # fmt: skip
    parser.add_argument(
        "--only", metavar="WORD", default="", help="only faults whose name has this in it"
    )
    parser.add_argument("--all", action="store_true", help="every injection there is")
    parser.add_argument(
        "--applications", action="store_true", help="break runs in the steps of applications"
    )
    parser.add_argument("--lanes", type=int, default=2, help="runs side by side (default: 2)")
    parser.add_argument("--write", type=Path, metavar="FILE.md", help="write the table there, too")
    parser.add_argument("--keep", type=Path, metavar="DIR", help="work in DIR, and leave it there")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="faults-") as made:
        base = (options.keep or Path(made)).resolve()
        few = None if options.all else options.few
        plans = [_Plan(few, options.only, options.applications)]
        if not options.only and not options.applications:
            plans.append(_Plan(few and few // 10, applied=True))
        trials: list[Trial] = []
        try:
            for plan in plans:
                folder = base / ("applied" if plan.applied else "plain")
                _all(folder, options.lanes, plan, trials)
        finally:  # what was done is told, whatever stops the suite
            _report(trials, options.write)
    if not trials:
        parser.error(f"--only {options.only!r} is part of no fault's name")
    return 0 if all(trial.survived for trial in trials) else 1


def _report(trials: Sequence[Trial], write: Path | None) -> None:
    table = table_of(trials)
    print(table)
    for trial in trials:
        if not trial.survived:
            print(json.dumps(trial.to_json()))
    if write:
        write.write_text(table)
    print(json.dumps(figures_of(trials)), flush=True)


@dataclass(frozen=True)
class _Plan:
    """What is to be done."""

    few: int | None = None
    """How many injections at points; None takes all."""
    only: str = ""
    """A word that the fault's name must have in it."""
    applied: bool = False
    """In the steps of applications, and nowhere else."""


class _Worker:
    """A lane with everything that can be done to it."""

    def __init__(self, lane: Lane) -> None:
        self.lane = lane
        self.points = lane.trace()
        self.truth = Truth.of(lane)
        self.damage, self.outages = Damage(lane, self.truth), Outages(lane)

    def jobs(self, plan: _Plan) -> list[Job]:
        """Return what there is to be done, for any worker."""
        if not self.lane.fillable:
            print("no disk is filled: that takes the right to mount one", file=sys.stderr)
        wanted = [
            pair for pair in catalogue(self.points)
            if plan.only in pair[0].fault and (self.lane.fillable or pair[0].fault != FILLED)
            and (not plan.applied or pair[1] in NAMES)
        ]  # fmt: skip
        few = plan.few
        at_points = wanted if few is None or not wanted else sample(wanted, few)
        jobs: list[Job] = [partial(_strike, *each) for each in at_points]
        if plan.applied:
            return jobs
        damage = [job for fault, job in self._damaged() if plan.only in fault]
        rest = list(self._around(plan.only))
        if few is None or plan.only:
            return jobs + damage + [job for _, job in rest]
        # Not every n-th: three ways of damage follow one another for each file.
        drawn = random.Random(0).sample(damage, min(len(damage), few // 2))
        return jobs + drawn + list(dict(rest).values())  # of each outage one

    def _damaged(self) -> Iterator[tuple[str, Job]]:
        """Yield every file that can be damaged, by its fault."""
        for each in self.damage.plan():
            yield each[0], partial(_damage, *each)
        for spoiled in self.damage.of_checkpoints(self.points):
            yield f"checkpoint, {spoiled[0]}", partial(_checkpoint, *spoiled)

    def _around(self, only: str) -> Iterator[tuple[str, Job]]:
        """Yield what is wrong around a run, by its fault: servers away, others like it."""
        if any(only in f"{server}: {fault}" for server in SERVERS for fault in FAULTS):
            self.outages.count()
            for fault, server, nth in self.outages.plan():
                if only in (name := f"{server}: {fault}"):
                    yield name, partial(_outage, fault, server, nth)
        for n in AT_ONCE:
            if only in (name := f"{n} runs at once"):
                yield name, partial(_together, n)


def _strike(injection: Injection, step: str, worker: _Worker) -> Trial:
    return attempt(worker.lane, injection, step, worker.truth)


def _damage(way: str, step: str, name: Path, worker: _Worker) -> Trial:
    return worker.damage.attempt(way, step, name)


def _checkpoint(way: str, point: Point, worker: _Worker) -> Trial:
    return worker.damage.attempt_checkpoint(way, point)


def _outage(fault: str, server: str, nth: int, worker: _Worker) -> Trial:
    return worker.outages.attempt(fault, server, nth, worker.truth)


def _together(n: int, worker: _Worker) -> Trial:
    return together.attempt(worker.lane, n, worker.truth)


def _all(base: Path, n_lanes: int, plan: _Plan, trials: list[Trial]) -> None:
    """Do all that is planned, on some lanes side by side; `trials` gets what became of each."""
    jobs: list[Job] = []
    filled, lock = threading.Event(), threading.Lock()

    def work(number: int) -> None:
        with Lane(base / f"lane-{number}", applied=plan.applied) as lane:
            try:
                worker = _Worker(lane)
                if number == 0:
                    jobs.extend(worker.jobs(plan))
            finally:
                if number == 0:
                    filled.set()
            filled.wait()
            while job := _next(jobs, lock):
                trial = job(worker)
                with lock:
                    trials.append(trial)
                    _tell(trial, len(trials), len(jobs))

    with ThreadPoolExecutor(n_lanes) as pool:
        for done in [pool.submit(work, n) for n in range(n_lanes)]:
            done.result()


def _next(jobs: list[Job], lock: threading.Lock) -> Job | None:
    with lock:
        return jobs.pop(0) if jobs else None


def _tell(trial: Trial, done: int, left: int) -> None:
    word = "survived" if trial.survived else "WRONG"
    print(
        f"{done:>4} ({left} left)  {word:<9}{trial.injection.fault:<20}{trial.step:<10}"
        f"{trial.injection.point}  [{trial.code}] {trial.seconds:.1f} s",
        file=sys.stderr, flush=True,
    )  # fmt: skip
    for what in trial.wrong:
        print(f"        {what}", file=sys.stderr, flush=True)


def table_of(trials: Sequence[Trial]) -> str:
    """Return faults by steps, survived of tried, as Markdown."""
    steps = list(dict.fromkeys(trial.step for trial in trials))
    tried = Counter((t.injection.fault, t.step) for t in trials)
    alive = Counter((t.injection.fault, t.step) for t in trials if t.survived)
    rows = [["fault", *steps], ["---"] * (len(steps) + 1)]
    for fault in dict.fromkeys(t.injection.fault for t in trials):
        pairs = [(alive[fault, step], tried[fault, step]) for step in steps]
        rows.append([fault, *(f"{a}/{n}" if n else "" for a, n in pairs)])
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


def figures_of(trials: Sequence[Trial]) -> dict[str, Any]:
    """Return the figures: how many, how many survived, what was lost, how fast it recovered."""
    seconds = [t.seconds for t in trials if t.seconds]
    return {
        "injections": len(trials),
        "distinct": len({(t.injection.fault, str(t.injection.point)) for t in trials}),
        "survived": sum(t.survived for t in trials),
        "steps_lost": sum(t.lost for t in trials),
        "seconds_to_recover_median": round(statistics.median(seconds), 2) if seconds else None,
        "seconds_to_recover_max": max(seconds, default=None),
    }


if __name__ == "__main__":
    raise SystemExit(main())
