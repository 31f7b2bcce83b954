"""How a rank says what happens in it: to whoever typed ``torchrun``, or to the process above."""

from __future__ import annotations

import json
import logging
import os
import sys
from collections.abc import Callable, Mapping
from typing import Any

from vaesc.errors import VaescError
from vaesc.progress import Listener
from vaesc.training.devices import Me

logger = logging.getLogger(__name__)

_LONGEST = 2000
"""Characters of an event's text: a line below the 4,096 bytes that a pipe takes in one piece."""


class Speaker(Listener):
    """Says what happens in this rank."""

    def __init__(self, me: Me) -> None:
        self.me = me

    def begins(self, *, checkpoints: bool) -> None:
        """Say that this rank begins, or does so again; and whether there may be a checkpoint."""

    def error(self, error: VaescError) -> None:
        """Say what the user can act on."""

    def failed(self, text: str) -> None:
        """Say what else has ended this rank, such as the death of another one."""

    def summary(self, summary: Mapping[str, Any]) -> None:
        """Say what has come out."""


class Words(Speaker):
    """For whoever typed ``torchrun``: words on standard error, the summary on standard output."""

    def __init__(self, me: Me) -> None:
        super().__init__(me)
        level = logging.INFO if me.rank == 0 else logging.ERROR
        logging.basicConfig(level=level, format=f"rank {me.rank}: %(message)s")

    def begins(self, *, checkpoints: bool) -> None:
        """Warn of what a restart costs."""
        if self.me.restarts and self.me.rank == 0 and not checkpoints:
            logger.warning(
                "restart %d: this training begins at epoch 1 again, since it has no --checkpoints",
                self.me.restarts,
            )

    def epoch(self, epoch: int, metrics: Mapping[str, float]) -> None:
        """Log an epoch."""
        logger.info(
            "epoch %d: negative ELBO %.2f (train), %.2f (validation) nats per image", epoch,
            metrics["train/negative_elbo"], metrics["validation/negative_elbo"],
        )  # fmt: skip

    def error(self, error: VaescError) -> None:
        """Log the sentence."""
        logger.error("%s", error)

    def summary(self, summary: Mapping[str, Any]) -> None:
        """Print it."""
        sys.stdout.write(f"{json.dumps(summary)}\n")


class _Handler(logging.Handler):
    """Hands what is logged on to a function."""

    def __init__(self, take: Callable[[logging.LogRecord], None]) -> None:
        super().__init__(logging.INFO)
        self._take = take

    def emit(self, record: logging.LogRecord) -> None:
        """Hand it on."""
        self._take(record)


class Events(Speaker):
    """For :mod:`vaesc.training.launch`: a JSON object a line, and nothing else on that pipe."""

    def __init__(self, me: Me) -> None:
        super().__init__(me)
        self._pipe = os.dup(1)
        os.dup2(2, 1)  # what libraries print is none of it
        if me.rank == 0:
            logging.getLogger("vaesc").addHandler(_Handler(self._log))
            logging.getLogger("vaesc").setLevel(logging.INFO)

    def _say(self, event: str, **facts: Any) -> None:  # noqa: ANN401
        me = {"rank": self.me.rank, "restarts": self.me.restarts}
        line = json.dumps({"event": event, **me, **facts})
        os.write(self._pipe, f"{line}\n".encode())

    def _log(self, record: logging.LogRecord) -> None:
        self._say(
            "log", name=record.name, level=record.levelno, text=record.getMessage()[:_LONGEST]
        )

    def begins(self, *, checkpoints: bool) -> None:
        """See :class:`Speaker`."""
        self._say("begins", checkpoints=checkpoints)

    def progress(self, done: float, total: float, **figures: float) -> None:
        """Pass on."""
        self._say("progress", done=done, total=total, figures=figures)

    def epoch(self, epoch: int, metrics: Mapping[str, float]) -> None:
        """Pass on."""
        self._say("epoch", epoch=epoch, metrics=metrics)

    def error(self, error: VaescError) -> None:
        """See :class:`Speaker`."""
        self._say("error", kind=type(error).__name__, text=str(error)[:_LONGEST])

    def failed(self, text: str) -> None:
        """See :class:`Speaker`."""
        self._say("failed", text=text[:_LONGEST])

    def summary(self, summary: Mapping[str, Any]) -> None:
        """See :class:`Speaker`."""
        self._say("summary", summary=summary)
