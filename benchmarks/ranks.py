"""A training shared by processes: its curve against one process's, and one of them killed.

A preset's VAE is trained with the same settings by one process; by several, which torchrun starts
and gloo connects (on the CPU); and by as many again, one of which is killed in the middle. Told
are how far the losses of one and of several are apart, whether the training that was disturbed
wrote the same bytes, and the rates, start-up left out. Two processes on few cores win nothing.

A step differs in the order of its sums only, by a relative 1e-7 or so. As in every training of a
network such differences grow from step to step, so the curves are held against that of another
seed, too: all as shares of what the loss falls by from the first epoch to its lowest.

::

    .venv/bin/python -m benchmarks.ranks [--preset digits] [--ranks 2]

The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import logging
import os
import signal
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from vaesc.progress import Listener

_CURVE = ("train/negative_elbo", "validation/negative_elbo")


def main() -> int:
    """Print what :func:`measure` finds as one JSON object."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.ranks", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--preset", default="digits")
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--epochs", type=int, help="default: the preset's")
    options = parser.parse_args()
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    with tempfile.TemporaryDirectory() as name:
        found = measure(Path(name), options.preset, ranks=options.ranks, epochs=options.epochs)
    print(json.dumps(found))
    return 0


def measure(
    folder: Path, preset: str = "digits", *, ranks: int = 2, epochs: int | None = None
) -> dict[str, Any]:
    """Train alone, in ranks, and in ranks of which one is killed; compare.

    Args:
        folder: Empty; what is made stays there.
        preset: Whose data set, VAE and training.
        ranks: Processes that share a training.
        epochs: Instead of the preset's.

    Returns:
        ``curve``: largest difference of an epoch's training or validation loss, in the ``first``
        five epochs and in the ``whole`` training, and for another seed (``seeds``), in shares of
        the loss's fall; ``best_epochs`` of one process and of several; ``killed``: after which
        epoch, and whether the bytes are ``identical``; ``images_per_second``.
    """
    from vaesc.config_files import load_config
    from vaesc.datasets import ingest
    from vaesc.progress import SILENT
    from vaesc.training import train

    config = load_config(preset)
    training = replace(config.training, epochs=epochs or config.training.epochs)
    (folder / "data").mkdir()
    ingest(config.dataset, folder / "data", seed=config.seed, block_size=8192, listener=SILENT)
    killer = Killer(max(1, training.epochs // 4))
    watches = {"alone": Watch(), "seed": Watch(), "shared": Watch(), "killed": killer}
    summaries = {}
    for name, watch in watches.items():
        (folder / name).mkdir()
        summaries[name] = train(
            config.vae, training, folder / "data", folder / name, device="cpu",
            seed=config.seed + (name == "seed"), ranks=1 if name in ("alone", "seed") else ranks,
            checkpoints=folder / "checkpoints" / name, checkpoint_batches=7, listener=watch,
        )  # fmt: skip
    return {
        "preset": preset, "ranks": ranks, "epochs": summaries["shared"]["epochs"],
        "curve": {
            "first": curve_difference(folder / "alone", folder / "shared", epochs=5),
            "whole": curve_difference(folder / "alone", folder / "shared"),
            "seeds": curve_difference(folder / "alone", folder / "seed"),
        },
        "best_epochs": [summaries[name]["best_epoch"] for name in ("alone", "shared")],
        "killed": {"after_epoch": killer.at, "processes": len(killer.seen) - 1,
                   "identical": _digest(folder / "killed") == _digest(folder / "shared")},
        "images_per_second": {name: watches[name].rate() for name in ("alone", "shared")},
    }  # fmt: skip


class Watch(Listener):
    """Takes the time of progress, from the first epoch's end on."""

    def __init__(self) -> None:
        self.first: tuple[float, float] | None = None
        self.last = (0.0, 0.0)
        self.epochs: list[int] = []

    def progress(self, done: float, total: float, **figures: float) -> None:
        """Note the time."""
        self.last = time.perf_counter(), done
        if self.epochs and self.first is None:
            self.first = self.last

    def epoch(self, epoch: int, metrics: Mapping[str, float]) -> None:
        """Note the epoch."""
        self.epochs.append(epoch)

    def rate(self) -> float:
        """Return the images per second, validation included."""
        assert self.first is not None
        seconds, images = (b - a for a, b in zip(self.first, self.last, strict=True))
        return round(images / seconds)


class Killer(Watch):
    """Kills the last rank of this process's training after an epoch, in the middle of another."""

    def __init__(self, epoch: int) -> None:
        super().__init__()
        self.at = epoch
        self.seen: list[int] = []
        """Process ids: of torchrun, and of its ranks in their order."""

    def epoch(self, epoch: int, metrics: Mapping[str, float]) -> None:
        """Kill, once."""
        super().epoch(epoch, metrics)
        if epoch == self.at and not self.seen:
            self.seen = ranks_below(os.getpid())
            os.kill(self.seen[-1], signal.SIGKILL)


def ranks_below(pid: int) -> list[int]:
    """Return the torchrun that a process has started, and its ranks in order; as in Linux."""
    for torchrun in _children(pid):
        with contextlib.suppress(OSError):
            if b"torch.distributed.run" in Path(f"/proc/{torchrun}/cmdline").read_bytes():
                return [torchrun, *sorted(_children(torchrun), key=_local_rank)]
    return []


def _children(pid: int) -> list[int]:
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            # After the command in parentheses: the state, and the parent.
            if int(path.read_text().rpartition(")")[2].split()[1]) == pid:
                found.append(int(path.parent.name))
    return found


def _local_rank(pid: int) -> int:
    for entry in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0"):
        name, _, value = entry.partition(b"=")
        if name == b"LOCAL_RANK":
            return int(value)
    return -1


def curve_difference(one: Path, other: Path, *, epochs: int | None = None) -> float:
    """Return how far two trainings' losses are apart at most, as a share of the first one's fall.

    Args:
        one: Folder of a VAE.
        other: Another one.
        epochs: How many epochs to look at; default: all that both have.
    """
    a, b = (json.loads((folder / "history.json").read_text()) for folder in (one, other))
    largest = 0.0
    for name in _CURVE:
        mine = [epoch[name] for epoch in a]
        apart = (abs(x - y[name]) for x, y in zip(mine[:epochs], b, strict=False))
        largest = max(largest, max(apart) / (mine[0] - min(mine)))
    return float(f"{largest:.2g}")


def _digest(folder: Path) -> str:
    digest = hashlib.sha256()
    for path in sorted(folder.iterdir()):
        digest.update(path.name.encode() + path.read_bytes())
    return digest.hexdigest()


if __name__ == "__main__":
    sys.exit(main())
