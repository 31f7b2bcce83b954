r"""Variational Sparse Coding as a baseline: sparsity by a spike-and-slab prior, no dictionary.

The encoder says of every latent dimension how probably it is used, :math:`\gamma_j(x)`, and with
which Gaussian; prior and posterior are mixtures of that Gaussian and of zero,

.. math:: q(z_j|x) = \gamma_j N(\mu_j, \sigma_j^2) + (1 - \gamma_j)\,\delta_0, \qquad
          p(z_j) = \alpha N(0, 1) + (1 - \alpha)\,\delta_0,

so that the network itself codes an image in few nonzero numbers. At sparsity level k the k
coordinates with the largest :math:`|\gamma_j \mu_j|` are kept and decoded, and the error is held
against that of a pixel dictionary with as many atoms as VSC has dimensions, on validation images:
one network for every alpha, the best alpha for each k (which favours VSC).

::

    python -m benchmarks.variational_sparse_coding [--preset digits] [--epochs N] [--json]

References:
    Tonolini, Jensen and Murray-Smith, "Variational Sparse Coding", UAI 2020: equations 5 to 9,
    with the fixed prior of its section 3.1.
"""

from __future__ import annotations

import argparse
import json
import math
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.openings import _pixel_error
from vaesc import datasets
from vaesc.config import PipelineConfig, derive_seed
from vaesc.config_files import load_config
from vaesc.datasets.reader import open_dataset
from vaesc.evaluation.batches import Split
from vaesc.steps import INGEST, run_step

ALPHAS = (0.01, 0.05, 0.2, 0.5)
N_IMAGES = 2048
_STEEP = 50.0
"""Steepness of the sigmoid that stands in for the spike's step while gradients are taken."""


def main() -> int:
    """Train one network for every alpha, and print each level's best ratio."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.variational_sparse_coding")
    parser.add_argument("--preset", default="digits")
    parser.add_argument("--set", action="append", default=[], metavar="a.b=c")
    parser.add_argument("--epochs", type=int, default=100)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    found = measure(load_config(options.preset, None, options.set), options.epochs)
    if options.json:
        print(json.dumps(found))
        return 0
    print(f"{'validation MSE over pixels':<28}", *(f"k = {k:<5}" for k in found["levels"]))
    for alpha, ratios in found["ratio"].items():
        print(f"{'alpha = ' + alpha:<28}", *(f"{r:<9.3f}" for r in ratios))
    print(f"{'the best alpha':<28}", *(f"{r:<9.3f}" for r in found["best"]))
    return 0


def measure(config: PipelineConfig, epochs: int) -> dict[str, Any]:
    """Return each alpha's validation error over that of pixels, by level."""
    artifact = run_step(INGEST, config, {"source": datasets.fingerprint(config.dataset)})
    dataset = open_dataset(artifact.path)
    splits = {name: Split(dataset, name, 8192) for name in ("train", "validation")}
    train = torch.from_numpy(np.concatenate(list(splits["train"].images())))
    few = splits["validation"].pick(list(range(min(N_IMAGES, dataset.n("validation")))))
    levels = config.evaluation.sparsity_levels
    pixel = [_pixel_error(config, dataset, few, k) for k in levels]
    images = torch.from_numpy(few)
    ratio = {}
    for alpha in ALPHAS:
        net = fit(config, train, alpha, epochs)
        ratio[str(alpha)] = [net.error(images, k) / p for k, p in zip(levels, pixel, strict=True)]
    return {
        "preset": config.preset, "epochs": epochs, "images": len(images), "levels": list(levels),
        "ratio": ratio, "best": [min(column) for column in zip(*ratio.values(), strict=True)],
    }  # fmt: skip


class VSC(nn.Module):
    """An encoder of spikes and slabs, and a decoder, as wide as the config's VAE."""

    def __init__(self, config: PipelineConfig, n_pixels: int, alpha: float) -> None:
        super().__init__()
        self.d, self.alpha = config.dictionary.n_atoms, alpha
        self.noise = config.vae.observation_std
        widths = (n_pixels, *config.vae.hidden)
        self.encoder = _mlp(widths, 3 * self.d)
        self.decoder = _mlp((self.d, *reversed(config.vae.hidden)), n_pixels)

    def posterior(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return gamma, mu and sigma, each (n, d)."""
        spike, mu, log_sigma = self.encoder(x).chunk(3, dim=1)
        return spike.sigmoid().clamp(1e-6, 1 - 1e-6), mu, log_sigma.clamp(-7, 2).exp()

    def loss(self, x: Tensor, generator: torch.Generator, kl_weight: float) -> Tensor:
        """Return the negative ELBO, nats per image; a Gaussian likelihood as the config's."""
        gamma, mu, sigma = self.posterior(x)
        eps = torch.randn(mu.shape, generator=generator)
        eta = torch.rand(mu.shape, generator=generator)
        z = torch.sigmoid(_STEEP * (eta - 1 + gamma)) * (mu + sigma * eps)
        error = (self.decoder(z).sigmoid() - x).square().sum(1) / (2 * self.noise**2)
        slab = gamma * (0.5 * (mu.square() + sigma.square() - 1) - sigma.log())
        spike = (
            gamma * (gamma / self.alpha).log()
            + (1 - gamma) * ((1 - gamma) / (1 - self.alpha)).log()
        )
        return (error + kl_weight * (slab + spike).sum(1)).mean()

    @torch.no_grad()
    def error(self, x: Tensor, k: int) -> float:
        """Return the squared error per pixel with k coordinates kept."""
        gamma, mu, _ = self.posterior(x)
        code = gamma * mu
        kept = code.abs().topk(min(k, self.d), dim=1).indices
        sparse = torch.zeros_like(mu).scatter(1, kept, mu.gather(1, kept))
        return float((self.decoder(sparse).sigmoid() - x).square().mean())


def fit(config: PipelineConfig, train: Tensor, alpha: float, epochs: int) -> VSC:
    """Train by Adam, the KL rising over the first fifth, as the paper does against collapse."""
    seed = derive_seed(config.seed, f"vsc/{alpha}")
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        net = VSC(config, train.shape[1], alpha)
    generator = torch.Generator().manual_seed(seed)
    optimiser = torch.optim.Adam(net.parameters(), lr=1e-3)
    size = config.training.batch_size
    n_steps = epochs * math.ceil(len(train) / size)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, n_steps)
    step = 0
    for _ in range(epochs):
        for rows in torch.randperm(len(train), generator=generator).split(size):
            loss = net.loss(train[rows], generator, min(1.0, 5 * step / n_steps))
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            optimiser.step()
            schedule.step()
            step += 1
    return net.eval()


def _mlp(widths: tuple[int, ...], out: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for a, b in pairwise(widths):
        layers += [nn.Linear(a, b), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(widths[-1], out))


if __name__ == "__main__":
    raise SystemExit(main())
