"""Where a killed training goes on: one safetensors file, written beside and renamed.

The file holds every number that training changes and, in its header, everything else as JSON
(position, best epoch, history, and a fingerprint of what is being trained). Streams of random
numbers are named after epoch and batch, so there is no generator to save: a resumed training is
byte for byte the uninterrupted one.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from vaesc.config import canonical_json

logger = logging.getLogger(__name__)

_NAME = "training.safetensors"


@dataclass
class Checkpoints:
    """The checkpoint of one training.

    Args:
        folder: Where it lies; None keeps none.
        fingerprint: What is being trained; a checkpoint of anything else is left alone.
        seconds: Least time between two; 0 for no such rule.
        batches: Gradient steps between two; 0 for no such rule.
    """

    folder: Path | None
    fingerprint: str
    seconds: float = 30.0
    batches: int = 0

    def __post_init__(self) -> None:
        self._last, self._steps = time.perf_counter(), 0

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
        header = canonical_json({**facts, "fingerprint": self.fingerprint})
        path = self.folder / _NAME
        beside = path.with_suffix(f".{os.getpid()}.tmp")
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            contiguous = {name: value.detach().cpu() for name, value in tensors.items()}
            save_file(contiguous, beside, metadata={"vaesc": header})
            with beside.open("rb") as stream:
                os.fsync(stream.fileno())
            beside.replace(path)
        except (OSError, SafetensorError) as error:
            logger.warning("no checkpoint was written to %s: %s", self.folder, error)

    def load(self) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
        """Return the tensors and facts of the checkpoint, if there is one of this training."""
        path = self.folder / _NAME if self.folder else None
        if path is None or not path.exists():
            return None
        try:
            with safe_open(path, "pt") as file:
                facts = json.loads((file.metadata() or {})["vaesc"])
                if facts["fingerprint"] != self.fingerprint:
                    logger.info("the checkpoint %s is of another training: starting anew", path)
                    return None
                return {name: file.get_tensor(name) for name in file.keys()}, facts  # noqa: SIM118
        except (OSError, SafetensorError, ValueError, KeyError) as error:
            logger.warning("the checkpoint %s cannot be read (%s): starting anew", path, error)
            return None

    def remove(self) -> None:
        """Delete what is no longer needed."""
        if self.folder is not None:
            shutil.rmtree(self.folder, ignore_errors=True)
