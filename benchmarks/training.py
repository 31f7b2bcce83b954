"""VAE training: ours against the loops people use, in one run, taking turns, one thread each.

Every contender trains the article's network (784-512-256-2x32, Adam 1e-3, batch 128) in a process
of its own (:mod:`benchmarks.contenders`). They take turns, slice by slice, and ratios are taken
round by round: a machine whose speed drifts decides nothing. Rates are per CPU second. The *roof*
is the step's matrix products alone, in the same run. The time to the first step, imports and
compilation included, is told apart.

::

    make bench-training ARGS="--setup"     # once: the peers, in a virtualenv of their own
    make bench-training                    # Fashion-MNIST if it is on this machine
    make bench-training ARGS="--epochs 5 --seeds 3 --json"     # and the test ELBO

Contenders whose libraries are missing are left out, and said to be.
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

ROOT = Path(__file__).parent.parent
PEERS = ROOT / ".venv-peers"
OURS = ("vaesc float32 eager", "vaesc float32", "vaesc bf16 eager", "vaesc bf16")
ROOFS = ("roof float32", "roof bf16")
INSTALLED = ("article", "lightning", "pythae")
BATCH = 128
LONG = 600_000
"""Images of ten epochs: how long these take with imports and compilation is told as well."""


def main(arguments: list[str] | None = None) -> int:
    """Run the race and print a table, or one JSON object."""
    options = _options(arguments)
    if options.setup:
        return _set_up(options.peers)
    with tempfile.TemporaryDirectory() as folder:
        train, test = _images(options.preset, Path(folder))
        result = {"preset": options.preset, "batch": BATCH, "threads": 1,
                  "rows": _race(train, options)}  # fmt: skip
        if options.epochs:
            result["quality"] = _quality(train, test, Path(folder), options)
    print(json.dumps(result) if options.json else _table(result))
    return 0


def _options(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.training", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--preset", default="fashion-mnist", help="28x28 images of bytes")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=60, help="gradient steps of one slice")
    parser.add_argument("--epochs", type=int, default=0, help="train so long for the test ELBO")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--peers", type=Path, default=PEERS, help="virtualenv of the peers")
    parser.add_argument("--setup", action="store_true", help="make that virtualenv, and stop")
    parser.add_argument("--only", nargs="*", help="names of contenders")
    parser.add_argument("--json", action="store_true")
    return parser.parse_args(arguments)


def _set_up(folder: Path) -> int:
    import torch

    subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
    version = torch.__version__.partition("+")[0]
    packages = [f"torch=={version}", "torchvision", "pythae", "pytorch-lightning"]
    return subprocess.run([folder / "bin" / "pip", "install", "--quiet", *packages]).returncode


def _images(preset: str, folder: Path) -> tuple[Path, Any]:
    """Write the training images as one file; return it, and the test images in [0, 1]."""
    from vaesc.config_files import load_config
    from vaesc.datasets import ingest
    from vaesc.datasets.reader import open_dataset
    from vaesc.progress import SILENT

    config = load_config(preset)
    (folder / "data").mkdir()
    ingest(config.dataset, folder / "data", seed=0, block_size=8192, listener=SILENT)
    dataset = open_dataset(folder / "data")
    np.save(folder / "train.npy", dataset.images("train"))
    return folder / "train.npy", dataset.floats("test")


class Contender:
    """A process that trains on order."""

    def __init__(self, name: str, images: Path, peers: Path, seed: int = 0) -> None:
        self.name, start = name, time.perf_counter()
        python = peers / "bin" / "python" if name in INSTALLED else Path(sys.executable)
        self.process = subprocess.Popen(
            [python, Path(__file__).with_name("contenders.py"), name, images, str(seed)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            stderr=subprocess.DEVNULL, env={**os.environ, "PYTHONPATH": str(ROOT)},
        )  # fmt: skip
        self.answers: list[dict[str, Any]] = []
        self._answer()
        self.seconds_to_first_step = time.perf_counter() - start

    def order(self, text: str) -> dict[str, Any]:
        """Give an order and return the answer."""
        assert self.process.stdin is not None
        self.process.stdin.write(text + "\n")
        self.process.stdin.flush()
        return self._answer()

    def _answer(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if line.startswith("{"):  # libraries print too
                answer: dict[str, Any] = json.loads(line)
                return answer
        raise RuntimeError(f"{self.name} does not run here; see --setup")

    def quit(self) -> None:
        """End the process."""
        self.process.kill()
        self.process.wait()


def _started(names: list[str], images: Path, peers: Path, seed: int = 0) -> list[Contender]:
    found = []
    for name in names:
        try:
            found.append(Contender(name, images, peers, seed))
        except (OSError, RuntimeError) as error:
            print(f"left out: {name} ({error})", file=sys.stderr)
    return found


def _race(images: Path, options: argparse.Namespace) -> list[dict[str, Any]]:
    names = options.only or [*INSTALLED, *OURS, *ROOFS]
    field = _started(names, images, options.peers)
    rates: dict[str, list[float]] = {c.name: [] for c in field}
    for _ in range(options.rounds + 1):  # the first round warms up
        for contender in field:
            cpu = contender.order(f"go {options.steps}")["cpu"]
            rates[contender.name].append(options.steps * BATCH / cpu)
    for contender in field:
        contender.quit()
    rates = {name: values[1:] for name, values in rates.items()}
    return [_row(c, rates, options.steps) for c in field]


def _row(contender: Contender, rates: dict[str, list[float]], steps: int) -> dict[str, Any]:
    own = rates[contender.name]
    row: dict[str, Any] = {
        "name": contender.name, "images_per_second": statistics.median(own),
        "seconds_to_first_step": contender.seconds_to_first_step,
        "seconds_of_ten_epochs": contender.seconds_to_first_step
        + LONG / statistics.median(own),
    }  # fmt: skip
    for against in ("article", "pythae", "lightning", *ROOFS):
        if against in rates:
            ratios = [a / b for a, b in zip(own, rates[against], strict=True)]
            row[f"to {against}"] = [statistics.median(ratios), min(ratios), max(ratios)]
    return row


def _quality(
    images: Path, test: Any, folder: Path, options: argparse.Namespace
) -> list[dict[str, Any]]:
    """Train each contender for the same epochs and measure all by the same test ELBO."""
    n_batches = -(-len(np.load(images, mmap_mode="r")) // BATCH)
    rows = []
    for name in [n for n in options.only or [*INSTALLED, *OURS] if n not in ROOFS]:
        for seed in range(options.seeds):
            for contender in _started([name], images, options.peers, seed):
                # The first step was taken before the first order.
                cpu = contender.order(f"go {options.epochs * n_batches - 1}")["cpu"]
                contender.order(f"dump {folder / 'weights.npz'}")
                contender.quit()
                elbo = _test_elbo(np.load(folder / "weights.npz"), test)
                rows.append({"name": name, "seed": seed, "epochs": options.epochs,
                             "cpu_seconds": cpu, "test_negative_elbo": elbo})  # fmt: skip
    return rows


def _test_elbo(arrays: Any, test: Any) -> float:
    import torch

    from vaesc.config import VAEConfig
    from vaesc.models import VAE, mean_elbo

    w = [torch.from_numpy(arrays[f"arr_{i}"]) for i in range(14)]
    head = [torch.cat([w[4], w[6]]), torch.cat([w[5], w[7]])]
    vae = VAE(VAEConfig(), (28, 28))
    with torch.no_grad():
        for weight, value in zip(vae.parameters(), [*w[:4], *head, *w[8:]], strict=True):
            weight.copy_(value)
    groups = torch.from_numpy(test).split(1000)
    return mean_elbo(vae, groups, n_samples=4, seed=0, stream="bench")["negative_elbo"]


def _table(result: dict[str, Any]) -> str:
    columns = ("to article", "to pythae", "to lightning", *(f"to {r}" for r in ROOFS))
    lines = [f"{result['preset']}, batch {BATCH}, one thread; ratios: median (min; max)"]
    lines.append(
        f"{'':<22}"
        + "".join(f"{c:>22}" for c in columns)
        + "   images/s   1st step  10 epochs, all in"
    )
    for row in result["rows"]:
        cells = (row.get(c) for c in columns)
        text = "".join(
            f"{f'{c[0]:.2f} ({c[1]:.2f}; {c[2]:.2f})' if c else '-':>22}" for c in cells
        )
        tail = f"{row['images_per_second']:>11,.0f}{row['seconds_to_first_step']:>9.1f} s"
        tail += f"{row['seconds_of_ten_epochs']:>17.0f} s"
        lines.append(f"{row['name']:<22}{text}{tail}")
    for row in result.get("quality", []):
        lines.append(
            f"{row['name']:<22} seed {row['seed']}, {row['epochs']} epochs: test negative ELBO "
            f"{row['test_negative_elbo']:.2f} nats, {row['cpu_seconds']:.0f} CPU s"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
