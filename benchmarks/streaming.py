"""A data set larger than memory: training from disk against training from memory, and extraction.

One epoch of the article's network over images that lie in Zarr, once held in memory and once read
window by window, each in a process of its own; then every image's latent, beside the encoder's
matrix products alone (the roof). Rates are images per second of wall time, one thread each.

::

    .venv/bin/python -m benchmarks.streaming --images 2000000 [--json]

Images are Fashion-MNIST's if `vaesc` finds it, else noise, drawn again and again.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

MODES = ("resident", "streamed", "extraction")


def main() -> int:
    """Run every mode and print a table, or one JSON object."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.streaming", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--images", type=int, default=2_000_000)
    parser.add_argument("--folder", type=Path, help="where to put the images for the while")
    parser.add_argument("--mode", choices=MODES, help=argparse.SUPPRESS)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    if options.mode:
        print(json.dumps(_measure(options.mode, options.folder)))
        return 0
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        folder = Path(name)
        _make(options.images, folder)
        found: dict[str, Any] = {"images": options.images}
        found |= {mode: _child(mode, folder) for mode in MODES}
    rates = [found[mode]["images_per_second"] for mode in MODES[:2]]
    found["streamed to resident"] = rates[1] / rates[0]
    print(json.dumps(found) if options.json else _table(found))
    return 0


def _make(n: int, folder: Path) -> None:
    """Write `n` images as one data set's artifact."""
    from vaesc.config import DatasetConfig
    from vaesc.datasets import ingest, is_present
    from vaesc.datasets.sources import source_of
    from vaesc.progress import SILENT

    config = DatasetConfig(source="fashion-mnist")
    rng = np.random.default_rng(0)
    if is_present(config):
        few = np.asarray(source_of(config).load(config, seed=0).parts["train"].images)
    else:
        few = rng.integers(0, 256, (60_000, 28, 28), np.uint8)
    images = np.lib.format.open_memmap(folder / "all.npy", "w+", np.uint8, (n, 28, 28))
    for start in range(0, n, 50_000):
        stop = min(start + 50_000, n)
        images[start:stop] = few[rng.integers(0, len(few), stop - start)]
    images.flush()
    (folder / "data").mkdir()
    config = DatasetConfig(
        source="arrays", path=str(folder / "all.npy"), validation_fraction=0.001,
        test_fraction=0.001,
    )  # fmt: skip
    ingest(config, folder / "data", seed=0, block_size=8192, listener=SILENT)
    (folder / "all.npy").unlink()


def _child(mode: str, folder: Path) -> dict[str, Any]:
    command = [sys.executable, "-m", "benchmarks.streaming", "--mode", mode, "--folder", folder]
    done = subprocess.run(command, check=True, capture_output=True, text=True, env={
        **os.environ, "OMP_NUM_THREADS": "1",
    })  # fmt: skip
    answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return answer


def _measure(mode: str, folder: Path) -> dict[str, Any]:
    found = _extraction(folder) if mode == "extraction" else _training(mode, folder)
    return {**found, "peak_rss_mb": _status("VmHWM")}


def _status(name: str) -> float:
    """Read a size of this process in megabytes; getrusage's would be the parent's too."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return float(next(line for line in lines if line.startswith(name)).split()[1]) / 1024


def _training(mode: str, folder: Path) -> dict[str, Any]:
    """One epoch; memory in use is looked at along the way."""
    from vaesc.config import TrainingConfig, VAEConfig
    from vaesc.progress import Listener
    from vaesc.training import streamed, train

    if mode == "streamed":
        streamed.free_bytes = lambda device: 0

    class Ear(Listener):
        def __init__(self) -> None:
            self.rates, self.memory = list[float](), list[float]()

        def progress(self, done: float, total: float, **figures: float) -> None:
            self.rates.append(figures["images_per_second"])
            self.memory.append(_status("VmRSS"))

    ear = Ear()
    (folder / mode).mkdir()
    train(
        VAEConfig(), TrainingConfig(epochs=1, precision="bf16"), folder / "data", folder / mode,
        seed=0, compile="never", listener=ear,
    )  # fmt: skip
    half = len(ear.memory) // 2
    return {
        "images_per_second": ear.rates[-1],
        "largest_rss_mb_by_half": [max(ear.memory[:half]), max(ear.memory[half:])],
    }


def _extraction(folder: Path, rounds: int = 3) -> dict[str, Any]:
    """Latents of every image, and the encoder's products alone on as many rows."""
    import torch

    from vaesc.datasets.reader import open_dataset
    from vaesc.latents import extract
    from vaesc.models import load_vae

    vae = load_vae(folder / "resident", torch.device("cpu"))
    weights = [p.detach().T.contiguous() for p in vae.encoder.parameters() if p.ndim == 2]
    dataset = open_dataset(folder / "data")
    n = sum(dataset.n(split) for split in ("train", "validation", "test"))
    ratios, rates = [], []
    for number in range(rounds):
        start = time.perf_counter()
        place = folder / f"latents-{number}"
        place.mkdir()
        extract(folder / "data", folder / "resident", place)
        rates.append(n / (time.perf_counter() - start))
        ratios.append(rates[-1] / _roof(weights, min(n, 200_000)))
    return {"images_per_second": statistics.median(rates), "to roof": sorted(ratios)}


def _roof(weights: list[Any], n: int) -> float:
    import torch

    x = torch.rand(8192, weights[0].shape[0])
    start = time.perf_counter()
    for _ in range(-(-n // 8192)):
        h = x
        for w in weights:
            h = h @ w
    return -(-n // 8192) * 8192 / (time.perf_counter() - start)


def _table(found: dict[str, Any]) -> str:
    lines = [f"{found['images']:,} images of 28x28"]
    for mode in MODES:
        row = ", ".join(f"{name} {value}" for name, value in found[mode].items())
        lines.append(f"{mode:<12}{row}")
    lines.append(f"streamed to resident: {found['streamed to resident']:.2f}")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
