"""Which injections there are: made from the points of an undisturbed run."""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence

from tests.faults.injector import FILLED, MIDST, Injection, Point
from vaesc.steps import APPLICATIONS, STEPS

STEP_OF = {step.kind: step.name for step in (*STEPS, *APPLICATIONS.values())}
"""The step that makes each kind of artifact."""
_REFUSALS = ("full disk", "disk error", "read-only store")
_STOPS = (MIDST, "SIGTERM", "SIGINT")
_REST = ("out of memory", "clock a year ahead", "clock a day back", FILLED)
_MOST_PASSINGS = {"mkdir": 1, "open": 2, "rename": 2, "remove": 1, "rmdir": 1, "sql": 3}
_EVERY_COMMIT = 6


def steps_of(points: Iterable[Point]) -> list[str]:
    """Say for each point which step was going on: a step begins by opening its lock."""
    found, now = [], "start"
    for point in points:
        if point.place.startswith("~/store/locks/"):
            now = STEP_OF.get(point.place.removeprefix("~/store/locks/").partition("-")[0], now)
        elif point.place.startswith("~/locks/register"):
            now = "register"
        elif point.place.endswith("report.html"):
            now = "publish"
        found.append(now)
    return found


def catalogue(points: Sequence[Point]) -> list[tuple[Injection, str]]:
    """Return every injection with its step: what is repeated often is broken thrice at most.

    Every point is killed at; the gentler faults are dealt out over the points, so that each step
    meets each of them several times.
    """
    kept = [
        (point, step)
        for point, step in zip(points, steps_of(points), strict=True)
        if _counts(point)
    ]
    found = [(Injection("SIGKILL", point), step) for point, step in kept]
    on_disk = [pair for pair in kept if pair[0].event not in ("sql", "commit")]
    for fault, among, every in (
        *((fault, on_disk, 8) for fault in _REFUSALS),
        *((fault, kept, 8) for fault in _STOPS),
        *((fault, kept, 16) for fault in _REST),
    ):
        offset = sum(map(ord, fault)) % every
        found += [(Injection(fault, point), step) for point, step in among[offset::every]]
    return found


def _counts(point: Point) -> bool:
    if point.event == "commit":
        return point.nth % _EVERY_COMMIT == 1
    return point.nth <= _MOST_PASSINGS[point.event]


def sample(injections: Sequence[tuple[Injection, str]], n: int) -> list[tuple[Injection, str]]:
    """Return `n` of them, always the same, of every fault and step in turn."""
    rng = random.Random(0)
    groups: dict[tuple[str, str], list[tuple[Injection, str]]] = {}
    for each in injections:
        groups.setdefault((each[0].fault, each[1]), []).append(each)
    order = [rng.sample(group, len(group)) for group in groups.values()]
    rng.shuffle(order)
    dealt = [group[i] for i in range(max(map(len, order))) for group in order if i < len(group)]
    return dealt[:n]
