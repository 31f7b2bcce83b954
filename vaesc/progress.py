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
