"""The pipeline's three heavy steps against the loops people write first.

Ours and the naive form take turns, round after round, on the same images in the same process, so
that a machine whose speed drifts does not decide; the ratio is taken round by round. The naive
forms: torchvision-style ``Dataset`` + ``DataLoader`` training and encoding (the article's, and
pytorch/examples'), and scikit-learn's ``sparse_encode``.

::

    make bench                         # Fashion-MNIST if it is on this machine, else digits
    make bench ARGS="--preset mnist --rounds 5 --json"

On digits (1,294 training images) files and start-up outweigh the work in the first two steps.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

Timed = Callable[[], Any]


def main(arguments: list[str] | None = None) -> int:
    """Time everything and print a table, or one JSON object."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks", description=__doc__.split("\n")[0]
    )
    parser.add_argument("--preset", default=None, help="default: fashion-mnist, else digits")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args(arguments)
    import torch

    torch.set_num_threads(options.threads)
    with tempfile.TemporaryDirectory() as folder:
        preset = options.preset or _biggest_at_hand()
        rows = [_race(*case, options.rounds) for case in _cases(preset, Path(folder))]
    if options.json:
        print(json.dumps({"preset": preset, "threads": options.threads, "rows": rows}))
        return 0
    print(f"{preset}, {options.threads} thread(s)")
    print(f"{'step':<10}{'ratio (min; max)':>24}{'ours /s':>12}{'naive /s':>12}  against")
    for r in rows:
        ratio = f"{r['ratio']:.2f} ({r['ratio_min']:.2f}; {r['ratio_max']:.2f})"
        rates = f"{r['ours_per_second']:>12,.0f}{r['naive_per_second']:>12,.0f}"
        print(f"{r['step']:<10}{ratio:>24}{rates}  {r['against']}")
    return 0


def _race(
    step: str, against: str, n: int, ours: Timed, naive: Timed, rounds: int
) -> dict[str, Any]:
    """Run both in turn and compare round by round; the first, uncounted, warms both up."""
    pairs = [(_seconds(ours), _seconds(naive)) for _ in range(rounds + 1)][1:]
    ratios = [b / a for a, b in pairs]
    return {
        "step": step, "against": against, "n": n, "ratio": statistics.median(ratios),
        "ratio_min": min(ratios), "ratio_max": max(ratios),
        "ours_per_second": n / statistics.median(a for a, _ in pairs),
        "naive_per_second": n / statistics.median(b for _, b in pairs),
    }  # fmt: skip


def _biggest_at_hand() -> str:
    from vaesc.config_files import load_config
    from vaesc.datasets import is_present

    there = is_present(load_config("fashion-mnist").dataset)
    return "fashion-mnist" if there else "digits"


def _seconds(work: Timed) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def _cases(preset: str, folder: Path) -> list[tuple[str, str, int, Timed, Timed]]:
    """Return (step, peer, samples, ours, naive) with one model and one dataset for all."""
    from vaesc.config_files import load_config
    from vaesc.datasets import ingest
    from vaesc.datasets.reader import open_dataset
    from vaesc.latents import extract, open_latents
    from vaesc.models import load_vae
    from vaesc.progress import SILENT
    from vaesc.sparse import learn_dictionary, orthogonal_matching_pursuit
    from vaesc.training import train

    config = load_config(preset, assignments=["training.epochs=1"])
    data, vae_folder, latents_folder = (folder / name for name in ("data", "vae", "latents"))
    for each in (data, vae_folder, latents_folder):
        each.mkdir()
    ingest(config.dataset, data, seed=0, block_size=8192, listener=SILENT)
    dataset = open_dataset(data)
    n = dataset.n("train")

    def our_epoch() -> None:
        with tempfile.TemporaryDirectory() as place:
            train(config.vae, config.training, data, Path(place), seed=0)

    train(config.vae, config.training, data, vae_folder, seed=0)
    vae, images = load_vae(vae_folder), dataset.floats("train", slice(0, n))
    splits = ("train", "validation", "test")
    every = np.concatenate([dataset.floats(s, slice(0, dataset.n(s))) for s in splits])
    extract(data, vae_folder, latents_folder, device="cpu", block_size=8192, listener=SILENT)
    z = open_latents(latents_folder).latents("train")
    z = np.asarray((z - z.mean(0)) / z.std(), np.float32)
    settings = {"n_atoms": config.dictionary.n_atoms, "n_nonzero_coefs": 4, "seed": 0}
    atoms = learn_dictionary(z, **settings, batch_size=512, max_epochs=2).dictionary
    few = z[:2000]

    def our_encoding() -> None:
        with tempfile.TemporaryDirectory() as place:
            extract(data, vae_folder, Path(place), device="cpu", block_size=8192, listener=SILENT)

    return [
        ("train", "DataLoader loop, one epoch", n, our_epoch,
         lambda: _naive_epoch(config, images)),
        ("extract", "DataLoader loop, in memory only", len(every), our_encoding,
         lambda: _naive_encoding(vae, every)),
        ("code", "scikit-learn sparse_encode(omp), k=4", len(few),
         lambda: orthogonal_matching_pursuit(few, atoms, 4), lambda: _naive_codes(few, atoms)),
    ]  # fmt: skip


class _Images:
    """A dataset as people write it: one image at a time, as torch's DataLoader wants it."""

    def __init__(self, images: Any) -> None:
        self.images = images

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, i: int) -> Any:
        import torch

        return torch.from_numpy(self.images[i])


def _naive_epoch(config: Any, images: Any) -> None:
    import torch
    from torch.nn import functional

    from vaesc.models import VAE

    vae = VAE(config.vae, images.shape[1:])
    adam = torch.optim.Adam(vae.parameters(), lr=1e-3)
    for x in torch.utils.data.DataLoader(_Images(images), batch_size=128, shuffle=True):
        adam.zero_grad()
        mean, log_var = vae.encode(x)
        z = mean + torch.exp(0.5 * log_var) * torch.randn_like(mean)
        again = torch.sigmoid(vae.decode_logits(z)).view_as(x)
        distortion = functional.binary_cross_entropy(again, x, reduction="sum")
        kl = -0.5 * torch.sum(1 + log_var - mean.pow(2) - log_var.exp())
        ((distortion + kl) / len(x)).backward()
        adam.step()


def _naive_encoding(vae: Any, images: Any) -> None:
    import torch

    with torch.no_grad():
        loader = torch.utils.data.DataLoader(_Images(images), batch_size=128)
        torch.cat([vae.encode(x)[0] for x in loader])


def _naive_codes(z: Any, atoms: Any) -> None:
    from sklearn.decomposition import sparse_encode

    sparse_encode(z, atoms, algorithm="omp", n_nonzero_coefs=4)
