"""What long work tells whoever watches: how far it is, and each epoch's figures.

The library calls a :class:`Listener`; what becomes of it (a progress bar, log lines, MLflow
metrics) is the caller's business. The default listens to nothing.
"""

from __future__ import annotations

from collections.abc import Mapping


class Listener:
    """Hears of progress and of epochs; does nothing with it. Override what you need."""

    def progress(self, done: float, total: float, **figures: float) -> None:
        """Hear that `done` of `total` units of work are done; `figures` are shown beside."""

    def epoch(self, epoch: int, metrics: Mapping[str, float]) -> None:
        """Hear the metrics of a finished epoch, counted from 1; keys are ``split/metric``."""


SILENT = Listener()


class Within(Listener):
    """Passes on the progress of a part of the work, as its share of the whole.

    Args:
        listener: Hears it.
        start: Share of the whole that is done when the part begins.
        end: The same when it ends.
    """

    def __init__(self, listener: Listener, start: float, end: float) -> None:
        self._listener, self._start, self._end = listener, start, end

    def progress(self, done: float, total: float, **figures: float) -> None:
        """Pass on, as a share of 1."""
        share = done / total if total else 1.0
        whole = self._start + (self._end - self._start) * share
        self._listener.progress(whole, 1.0, **figures)


class After(Listener):
    """Passes on what it hears of a second attempt, its epochs counted on from the first's."""

    def __init__(self, listener: Listener, epochs: int) -> None:
        self._listener, self._epochs = listener, epochs

    def progress(self, done: float, total: float, **figures: float) -> None:
        """Pass on."""
        self._listener.progress(done, total, **figures)

    def epoch(self, epoch: int, metrics: Mapping[str, float]) -> None:
        """Pass on, counted on."""
        self._listener.epoch(self._epochs + epoch, metrics)
