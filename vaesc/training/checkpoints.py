"""Where a killed training goes on: one safetensors file, written beside and renamed.

The file holds every number that training changes and, in its header, everything else as JSON
(position, best epoch, history, a fingerprint of what is being trained, a digest of the numbers).
Streams of random numbers are named after epoch and batch, so there is no generator to save: a
resumed training is byte for byte the uninterrupted one.
"""

from __future__ import annotations

import hashlib
import logging
import os
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from vaesc.config import canonical_json
from vaesc.memory import ran_out
from vaesc.scratch import own_name, sweep
from vaesc.training.ranks import ALONE, Ranks
from vaesc.untrusted import parse_json

logger = logging.getLogger(__name__)

_NAME, _BESIDE = "training.safetensors", "training"


@dataclass
class Checkpoints:
    """The checkpoint of one training.

    Args:
        folder: Where it lies; None keeps none.
        fingerprint: What is being trained; a checkpoint of anything else is not gone on from.
        seconds: Least time between two; 0 for no such rule.
        batches: Gradient steps between two; 0 for no such rule.
        task: What is being trained, however and wherever.
        parts: Into how many parts each batch is cut: by ranks, and by each of them.
    """

    folder: Path | None
    fingerprint: str
    seconds: float = 30.0
    batches: int = 0
    task: str = ""
    parts: tuple[int, int] = (1, 1)

    def __post_init__(self) -> None:
        self._last, self._steps = time.perf_counter(), 0
        self._is_mine = False

    def is_due(self) -> bool:
        """Count a gradient step, and say whether to save after it."""
        if self.folder is None:
            return False
        self._steps += 1
        if self.batches and self._steps >= self.batches:
            return True
        return bool(self.seconds) and time.perf_counter() - self._last >= self.seconds

    def save(self, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> None:
        """Write a checkpoint; at every moment there is the old one or the new one, whole.

        A disk that refuses costs the checkpoint, not the training.
        """
        assert self.folder is not None
        self._last, self._steps = time.perf_counter(), 0
        contiguous = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
        sums = {"fingerprint": self.fingerprint, "content": _content(contiguous),
                "task": self.task, "parts": list(self.parts)}  # fmt: skip
        header = canonical_json({**facts, **sums})
        path = self.folder / _NAME
        beside = path.with_name(own_name(_BESIDE))
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            save_file(contiguous, beside, metadata={"vaesc": header})
            with beside.open("rb") as stream:
                os.fsync(stream.fileno())
            beside.replace(path)
            self._is_mine = True
        except (OSError, SafetensorError) as error:
            logger.warning("no checkpoint was written to %s: %s", self.folder, error)
            with suppress(OSError):
                beside.unlink(missing_ok=True)

    def load(self) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
        """Return the tensors and facts of the checkpoint, if there is one of this training."""
        if self.folder is None:
            return None
        sweep(self.folder)
        path = self.folder / _NAME
        if not path.exists():
            return None
        try:
            with safe_open(path, "pt") as file:
                facts = parse_json((file.metadata() or {})["vaesc"])
                if not self._is_of_this(facts):
                    logger.info("the checkpoint %s is of another training: starting anew", path)
                    return None
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            if _content(tensors) != facts["content"]:
                raise ValueError("its bytes are not those that were written")
            self._is_mine = True
            return tensors, facts
        except (OSError, SafetensorError, ValueError, KeyError, TypeError) as error:
            if ran_out(error):
                raise  # it is as good as before: starting anew would write over it
            logger.warning("the checkpoint %s cannot be read (%s): starting anew", path, error)
            return None

    def _is_of_this(self, facts: Mapping[str, Any]) -> bool:
        """Tell whether to go on from a checkpoint, given what it says of itself.

        Cut into as many parts as before, a training goes on only where its bits are the same. Into
        other parts it is cut because a machine was lost, or added: it goes on from there.
        """
        if facts["fingerprint"] == self.fingerprint:
            return True
        then = tuple(facts.get("parts", ()))
        if not self.task or facts.get("task") != self.task or then == self.parts:
            return False
        logger.warning(
            "the checkpoint's batches were cut into %s parts (ranks, micro-batches of each), now "
            "it is %s: training goes on from it, with other last bits", then, self.parts,
        )  # fmt: skip
        return True

    def remove(self) -> None:
        """Delete the checkpoint, and the folder if it is empty then."""
        if self.folder is None or not (self._is_mine or _is_empty(self.folder)):
            return
        with suppress(OSError):  # what it was for is done: what stays is swept up by `vaesc gc`
            (self.folder / _NAME).unlink(missing_ok=True)
            self.folder.rmdir()


@dataclass
class SharedCheckpoints(Checkpoints):
    """The checkpoint of a training that ranks share: the first one writes it and reads it.

    All ranks hold the same numbers, so there is nothing to write in shards: with weights, two
    moments and average, now and at the epoch's start, and the best weights, it is 9 numbers per
    weight, 40 MB for the article's 1.1 million. Shards pay once one rank cannot hold that:
    above 10^9 weights (36 GB). And since it says nothing of ranks, any number of them goes on.
    """

    ranks: Ranks = ALONE

    def is_due(self) -> bool:
        """Count a gradient step, and say whether this rank is to save after it."""
        return self.ranks.rank == 0 and super().is_due()

    def load(self) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
        """Return in every rank what the first one has found."""
        found = super().load() if self.ranks.rank == 0 else None
        shapes = {k: [*v.shape] for k, v in found[0].items()} if found else None
        told = self.ranks.first([shapes, found[1]] if found else None)
        if told is None:
            return None
        tensors = found[0] if found else {k: torch.zeros(shape) for k, shape in told[0].items()}
        self.ranks.copy_first(tensors.values())
        return tensors, told[1]


def _is_empty(folder: Path) -> bool:
    return folder.is_dir() and not any(folder.iterdir())


def _content(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 of the tensors' names and bytes."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        digest.update(name.encode())
        digest.update(tensors[name].contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
