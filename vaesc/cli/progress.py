"""How far a long command is: a bar on a terminal, else a line every ten seconds; on stderr."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from vaesc.progress import Listener

if TYPE_CHECKING:
    from rich.progress import Progress

SAY_EVERY_SECONDS = 10.0


@contextmanager
def shown(words: str) -> Iterator[Listener]:
    """Provide a listener whose progress is shown for the time of the block.

    Args:
        words: What is being done, in a word or two.
    """
    if not sys.stderr.isatty():
        yield _Lines(words)
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    with Progress(
        TextColumn("{task.description}"), BarColumn(), TextColumn("{task.percentage:>3.0f} %"),
        TimeRemainingColumn(), console=Console(stderr=True), transient=True,
    ) as bar:  # fmt: skip
        yield _Bar(words, bar)


class _Bar(Listener):
    def __init__(self, words: str, bar: Progress) -> None:
        self._bar, self._task = bar, bar.add_task(words, total=None)

    def progress(self, done: float, total: float, **figures: float) -> None:
        self._bar.update(self._task, completed=done, total=total)


class _Lines(Listener):
    def __init__(self, words: str) -> None:
        self._words, self._said = words, time.monotonic()

    def progress(self, done: float, total: float, **figures: float) -> None:
        if time.monotonic() - self._said >= SAY_EVERY_SECONDS:
            self._said = time.monotonic()
            print(f"{self._words}: {100 * done / max(total, 1e-9):.0f} %", file=sys.stderr)
