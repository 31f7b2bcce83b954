"""How far a run of dictionary learning is: kept in memory, and in a file to resume from."""

import copy
import hashlib
import json
import logging
import os
import zipfile
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vaesc.memory import ran_out
from vaesc.scratch import own_name, sweep
from vaesc.sparse._online import OnlineState

logger = logging.getLogger(__name__)

_UNREADABLE = (
    OSError, EOFError, ValueError, KeyError, TypeError, OverflowError, zipfile.BadZipFile,
)  # fmt: skip

_ARRAYS = ("dictionary", "gram", "products", "usage")
_COUNTS = ("n_steps", "n_revived")


@dataclass(kw_only=True)
class Progress:
    """Everything the next pass depends on, and the best dictionary so far."""

    state: OnlineState
    rng: np.random.Generator
    history: list[dict[str, float]] = field(default_factory=list)
    best: NDArray[np.float32] | None = None
    best_epoch: int = 0
    lowest: float = float("inf")

    def note(self, row: dict[str, float], error: float) -> None:
        """Record a finished pass; the dictionary is kept if its error is the lowest."""
        self.history.append(row)
        if error < self.lowest:
            self.best, self.best_epoch = self.state.dictionary.copy(), len(self.history)
            self.lowest = error

    def save(self, path: Path, settings: str) -> None:
        """Write to `path`: beside it first, then renamed, so a file that exists is whole.

        A disk that refuses costs the checkpoint, not the learning.
        """
        notes = {
            "settings": settings,
            "rng": self.rng.bit_generator.state,
            "history": self.history,
            "best_epoch": self.best_epoch,
            "lowest": self.lowest,
            "counts": {name: getattr(self.state, name) for name in _COUNTS},
        }
        arrays = {name: getattr(self.state, name) for name in _ARRAYS}
        best = self.state.dictionary if self.best is None else self.best
        beside = path.with_name(own_name(path.name.partition(".")[0]))
        try:
            with beside.open("wb") as file:
                np.savez(file, notes=np.array(json.dumps(notes)), best=best, **arrays)
                file.flush()
                os.fsync(file.fileno())
            beside.replace(path)
        except OSError as error:
            logger.warning("no checkpoint was written to %s: %s", path, error)
            with suppress(OSError):
                beside.unlink(missing_ok=True)

    def load(self, path: Path, settings: str) -> None:
        """Go back to where `path` was written; stay at the start if it is damaged, and say so.

        Raises:
            ValueError: The file is of a run with other settings or other data.
        """
        sweep(path.parent)
        if not path.exists():
            return
        try:
            # A zip archive keeps a checksum of each array, which is looked at as it is read.
            with np.load(path, allow_pickle=False) as stored:
                notes = json.loads(str(stored["notes"]))
                arrays = {n: np.ascontiguousarray(stored[n]) for n in (*_ARRAYS, "best")}
            theirs = notes["settings"]
            self._check_arrays(arrays)
            counts = {name: notes["counts"][name] for name in _COUNTS}
            if any(type(count) is not int or count < 0 for count in counts.values()):
                raise ValueError(f"it counts {counts}")
            history, best_epoch, lowest = notes["history"], notes["best_epoch"], notes["lowest"]
            rng = copy.deepcopy(self.rng)
            rng.bit_generator.state = notes["rng"]
        except _UNREADABLE as error:
            if ran_out(error):
                raise  # it is as good as before: starting anew would write over it
            logger.warning("the checkpoint %s cannot be read (%s): starting anew", path, error)
            return
        if theirs != settings:
            raise ValueError(
                f"checkpoint {path.name} belongs to other settings or samples; remove it to "
                "start afresh"
            )
        self.best = arrays.pop("best")
        for name, value in {**arrays, **counts}.items():
            setattr(self.state, name, value)
        self.rng.bit_generator.state = rng.bit_generator.state
        self.history, self.best_epoch, self.lowest = history, best_epoch, lowest

    def _check_arrays(self, arrays: dict[str, NDArray[Any]]) -> None:
        for name, array in arrays.items():
            kept = getattr(self.state, "dictionary" if name == "best" else name)
            if array.shape != kept.shape or array.dtype != kept.dtype:
                raise ValueError(f"{name} has shape {array.shape} and type {array.dtype}")
            if not np.isfinite(array).all():
                raise ValueError(f"{name} is not finite")


def fingerprint(X: Any, settings: dict[str, Any]) -> str:  # noqa: ANN401 - an array or lazy
    """Digest of what a run depends on: its settings, and a few samples for all of them."""
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode())
    n = X.shape[0]
    digest.update(repr((tuple(X.shape), str(np.dtype(X.dtype)))).encode())
    for start in (0, max(0, n // 2), max(0, n - 64)):
        digest.update(np.ascontiguousarray(X[start : start + 64]).tobytes())
    return digest.hexdigest()
