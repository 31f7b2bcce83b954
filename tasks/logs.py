"""What people read while a run goes on: Prefect's log lines, and a progress bar on a terminal.

Errors written for the user (:class:`vaesc.errors.VaescError`) are one sentence; their traceback is
shown with ``--debug`` only. Everything else keeps its traceback: it is a defect.
"""

from __future__ import annotations

import logging
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from vaesc.errors import VaescError, told

LOG_EVERY_SECONDS = 10.0


class _OnlyOnce(logging.Filter):
    """Keep off the console what the command line says itself, as its last line: a user's error."""

    def __init__(self) -> None:
        super().__init__()
        self._sentences: set[str] = set()

    def filter(self, record: logging.LogRecord) -> bool:
        if os.environ.get("VAESC_DEBUG") or not os.environ.get("VAESC_CLI"):
            return True
        error = getattr(record, "users_error", None)
        if error is not None:
            # Prefect repeats the beginning of the sentence in the names of states.
            self._sentences.add(str(error)[:40])
            return False
        text = record.getMessage()
        return not any(sentence in text for sentence in self._sentences)


class _Sentences(logging.Filter):
    """Keep out tracebacks of users' errors, and of a disk or memory that refuses.

    And Prefect's remark that it cannot pickle them.
    """

    def filter(self, record: logging.LogRecord) -> bool:
        if os.environ.get("VAESC_DEBUG"):
            return True
        error = record.exc_info[1] if record.exc_info else None
        if isinstance(error, VaescError):
            record.users_error = error
            record.exc_info = record.exc_text = None
        elif isinstance(error, Exception) and (sentence := told(error)) is not error:
            # The disk or the memory refused Prefect itself, as it wrote a result.
            record.msg, record.args = f"{record.getMessage()}: {sentence}", ()
            record.exc_info = record.exc_text = None
        return not record.getMessage().startswith("Failed to write result: Failed to serialize")


def install() -> None:
    """Set the level of our loggers and the filter on Prefect's; safe to call again."""
    for name in ("vaesc", "tasks", "flows"):
        logging.getLogger(name).setLevel(logging.INFO)
    for name in ("prefect.flow_runs", "prefect.task_runs", "prefect.task_engine"):
        logger = logging.getLogger(name)
        if not any(isinstance(f, _Sentences) for f in logger.filters):
            logger.addFilter(_Sentences())
    for handler in logging.getLogger().handlers:
        if not any(isinstance(f, _OnlyOnce) for f in handler.filters):
            handler.addFilter(_OnlyOnce())


class ProgressReporter:
    """Shows how far a step is: a bar on a terminal, else a log line every ten seconds."""

    def __init__(self, step: str, logger: logging.Logger | logging.LoggerAdapter[Any]) -> None:
        self._step, self._logger, self._said = step, logger, time.monotonic()
        self._bar = _bar() if sys.stderr.isatty() else None
        self._task = self._bar.add_task(step, total=None, figures="") if self._bar else None

    def __call__(self, done: float, total: float, **figures: float) -> None:
        """Show `done` of `total`, with `figures` beside."""
        text = ", ".join(
            f"{name.replace('_', ' ')} {value:,.4g}" for name, value in figures.items()
        )
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, completed=done, total=total, figures=text)
        elif time.monotonic() - self._said >= LOG_EVERY_SECONDS:
            self._said = time.monotonic()
            self._logger.info("%s: %.0f %%  %s", self._step, 100 * done / max(total, 1), text)

    @contextmanager
    def shown(self) -> Iterator[None]:
        """Show the bar for the time of the block."""
        if self._bar is None:
            yield
            return
        with self._bar:
            yield


def _bar() -> Progress:
    return Progress(
        TextColumn("{task.description:>9}"), BarColumn(), TextColumn("{task.percentage:>3.0f} %"),
        TimeRemainingColumn(), TextColumn("{task.fields[figures]}"),
        console=Console(stderr=True), transient=True,
    )  # fmt: skip
