"""A million new images through a model: images per second, and memory that does not grow.

Images are Fashion-MNIST's, shifted by up to two pixels and with noise, streamed into a Zarr array;
a brief training makes the model, and a process of its own scores them, whose peak memory is
looked at. The last line is one JSON object.

::

    .venv/bin/python -m benchmarks.scoring --images 1000000 --kind article
    .venv/bin/python -m benchmarks.scoring --images 100000 --kind refined
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.models import KINDS, briefly, make_model
from benchmarks.streaming import _status
from vaesc.progress import Listener

if TYPE_CHECKING:
    from vaesc.bundle import SparseVAE

_BLOCK = 20_000
_WARM = 2000
_SHIFT = 2
_NOISE = 8.0


def main() -> int:
    """Make images and model, score, and print what it took."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scoring", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--images", type=int, default=1_000_000)
    parser.add_argument("--kind", choices=KINDS, default="article")
    parser.add_argument("--preset", default="fashion-mnist")
    parser.add_argument("--model", type=Path, help="a saved model, instead of training one")
    parser.add_argument("--block-size", type=int, default=8192)
    parser.add_argument("--workers", type=int)
    parser.add_argument("--tries", type=int, default=1, help="how often; the fastest counts")
    parser.add_argument("--folder", type=Path, help="where to put the files for the while")
    parser.add_argument("--score", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.score:
        print(json.dumps(_score(options)))
        return 0
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        folder, started = Path(name), time.perf_counter()
        model = options.model or make_model(briefly(options.preset, options.kind), folder)
        trained = time.perf_counter()
        synthesise(options.preset, options.images, folder / "images.zarr")
        made = time.perf_counter()
        print(f"model in {trained - started:.0f} s, {options.images:,} images made in "
              f"{made - trained:.0f} s")  # fmt: skip
        found = score_apart(
            model, folder, kind=options.kind, block_size=options.block_size,
            workers=options.workers, tries=options.tries,
        )  # fmt: skip
    print(f"{found['images_per_second']:,.0f} images/s, peak {found['peak_rss_mb']:,.0f} MB")
    print(found["drift"]["reason"])
    print(json.dumps(found))
    return 0


def synthesise(preset: str, n: int, path: Path) -> None:
    """Write `n` images, each one of the data set's shifted and with noise, to a Zarr array."""
    import zarr

    from vaesc.arrays import shard_blocks
    from vaesc.config_files import load_config
    from vaesc.datasets.sources import source_of

    config = load_config(preset).dataset
    few = np.asarray(source_of(config).load(config, seed=0).parts["train"].images)
    array = zarr.create_array(
        str(path), shape=(n, *few.shape[1:]), dtype=np.uint8, chunks=(500, *few.shape[1:]),
        shards=(_BLOCK, *few.shape[1:]), config={"write_empty_chunks": True},
    )  # fmt: skip
    for i, rows in enumerate(shard_blocks(array, _BLOCK)):
        rng = np.random.default_rng([0, i])
        chosen = few[rng.integers(len(few), size=rows.stop - rows.start)]
        array[rows] = _varied(chosen, rng)


def _varied(images: NDArray[np.uint8], rng: np.random.Generator) -> NDArray[np.uint8]:
    """Return images shifted by up to `_SHIFT` pixels each way, black moving in, with noise."""
    n, height, width = images.shape
    wide = np.pad(images, ((0, 0), (_SHIFT, _SHIFT), (_SHIFT, _SHIFT)))
    shifts = rng.integers(2 * _SHIFT + 1, size=(n, 2))
    moved = np.empty_like(images)
    for down in range(2 * _SHIFT + 1):
        for right in range(2 * _SHIFT + 1):
            these = (shifts == (down, right)).all(axis=1)
            moved[these] = wide[these, down : down + height, right : right + width]
    noise = rng.standard_normal(moved.shape, np.float32) * np.float32(_NOISE)
    return np.clip(np.rint(moved + noise), 0, 255).astype(np.uint8)


def score_apart(
    model: Path,
    folder: Path,
    *,
    kind: str = "article",
    block_size: int = 8192,
    workers: int | None = None,
    tries: int = 1,
) -> dict[str, Any]:
    """Score ``images.zarr`` of `folder` in a process of its own, and return what it took.

    Of several `tries` the one of the least CPU time counts; memory is the largest of all.
    """
    command = [
        sys.executable, "-m", "benchmarks.scoring", "--score", folder, "--model", model,
        "--block-size", str(block_size), "--kind", kind, "--tries", str(tries),
    ]  # fmt: skip
    command += ["--workers", str(workers)] if workers else []
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return answer


class _Ear(Listener):
    """Notes memory as images are done, and both clocks at the last."""

    def __init__(self) -> None:
        self.memory = list[float]()
        self.clocks = (0.0, 0.0)

    def progress(self, done: float, total: float, **figures: float) -> None:
        self.memory.append(_status("VmRSS"))
        self.clocks = _clocks()


def _clocks() -> tuple[float, float]:
    return time.perf_counter(), time.process_time()


def _score(options: argparse.Namespace) -> dict[str, Any]:
    """Score what lies in the folder, noting how memory grows."""
    import zarr

    from vaesc.bundle import SparseVAE
    from vaesc.scoring import score_images

    model, folder = SparseVAE.load(options.model, "cpu"), options.score
    images = zarr.open_array(str(folder / "images.zarr"), mode="r")
    # What is loaded, compiled and decoded at the first image only is no part of the rate.
    zarr.save_array(str(folder / "warm.zarr"), np.asarray(images[:_WARM]))
    score_images(model, folder / "warm.zarr", folder / "warm", block_size=options.block_size)
    before, tries = _status("VmRSS"), []
    for i in range(options.tries):
        tries.append(_one_score(model, folder, folder / f"scores{i}", options))
    return {
        "kind": options.kind,
        **min(tries, key=lambda each: float(each["cpu_seconds"])),
        "peak_rss_mb": round(_status("VmHWM"), 1),
        "rss_before_mb": round(before, 1),
    }


def _one_score(
    model: SparseVAE, folder: Path, out: Path, options: argparse.Namespace
) -> dict[str, Any]:
    from vaesc.scoring import score_images

    ear, started = _Ear(), _clocks()
    summary = score_images(
        model, folder / "images.zarr", out,
        block_size=options.block_size, workers=options.workers, listener=ear,
    )  # fmt: skip
    whole = time.perf_counter() - started[0]
    # Until the last image is done: what follows, the thresholds of drift, does not grow with n.
    seconds, cpu = (ear.clocks[i] - started[i] for i in (0, 1))
    half = len(ear.memory) // 2
    halves = ear.memory[:half], ear.memory[half:]
    files = [p for p in out.rglob("*") if p.is_file()]
    return {
        "images": summary["n_images"],
        "seconds": round(whole, 1),
        "cpu_seconds": round(cpu, 3),
        "images_per_second": round(summary["n_images"] / seconds, 1),
        "images_per_cpu_second": round(summary["n_images"] / cpu, 1),
        "largest_rss_mb_by_half": [max(m, default=0) for m in halves],
        "mb_written": round(sum(f.stat().st_size for f in files) / 1e6, 1),
        "mse": summary["mse"],
        "l0": summary["l0"],
        "drift": summary["drift"],
    }


if __name__ == "__main__":
    sys.exit(main())
