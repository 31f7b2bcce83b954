r"""A VAE with a linear path beside its perceptrons, and the same VAE as a plain perceptron.

.. math::
    \mu(x) = Q (x - m) + e(x), \qquad y(z) = R^\top z + b + g(z),

with Q = R an orthonormal basis of the span of a pixel dictionary, and e, g perceptrons with one
hidden layer whose outputs start at zero. As Q is an isometry of that span, coding
:math:`\mu(x)` in the dictionary's coordinates is coding x in the dictionary itself, and
:math:`y(\hat z)`, clipped, is the dictionary's own reconstruction.

A linear path needs no network of its own kind to be kept: a ReLU unit with a large bias is linear
on all that ever reaches it. :meth:`LinearPathVAE.export` writes the whole as a
:class:`vaesc.models.VAE` with d such units in each hidden layer.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from vaesc.config import VAEConfig
from vaesc.models import VAE

_START_LOG_VAR = -4.0
"""Log-variance of the posterior at the start, in squared units of pixels."""
_LOG_VAR_BOUND = 20.0
_MARGIN = 4.0
"""How much farther than any training latent a linear unit stays linear."""


class LinearPathVAE(nn.Module):
    """Linear start, perceptrons beside it; the posterior's variance is one number a dimension.

    Args:
        atoms: Pixel dictionary, unit rows, shape (K, n_pixels).
        mean: Mean training image, shape (n_pixels,).
        n_hidden: Hidden units of each perceptron.
        generator: Source of the perceptrons' first weights.
    """

    def __init__(
        self, atoms: Tensor, mean: Tensor, n_hidden: int, generator: torch.Generator
    ) -> None:
        super().__init__()
        basis = span(atoms)
        d, n_pixels = basis.shape
        self.register_buffer("mean", mean.clone())
        self.mean: Tensor
        self.into = nn.Parameter(basis.clone())
        self.out = nn.Parameter(basis.clone())
        self.bias = nn.Parameter(mean.clone())
        self.log_var = nn.Parameter(torch.full((d,), _START_LOG_VAR))
        self.encoder = _perceptron(n_pixels, n_hidden, d, generator)
        self.decoder = _perceptron(d, n_hidden, n_pixels, generator)
        self.unit = 1.0
        """Length by which inputs are divided before the perceptrons see them."""

    @property
    def latent_dim(self) -> int:
        """Dimensions of the span of the atoms, d."""
        return len(self.into)

    def encode(self, x: Tensor) -> Tensor:
        """Return the posterior means of flat images, shape (n, d)."""
        centred = x - self.mean
        mean: Tensor = centred @ self.into.T + self.encoder(centred / self.unit)
        return mean

    def decode(self, z: Tensor) -> Tensor:
        """Return pixels, not yet clipped to [0, 1], shape (n, n_pixels)."""
        y: Tensor = z @ self.out + self.bias + self.decoder(z / self.unit)
        return y

    @torch.no_grad()
    def export(self, shape: tuple[int, ...], beta: float, reach: float) -> VAE:
        """Return the same function as a plain VAE with a gaussian likelihood.

        Args:
            shape: Shape of one image.
            beta: Weight of the KL term it was trained with.
            reach: Largest absolute latent coordinate met; linear units stay linear well beyond.
        """
        d, n_hidden = self.latent_dim, _linears(self.encoder)[0].out_features
        config = VAEConfig(hidden=(d + n_hidden,), latent_dim=d, likelihood="gaussian", beta=beta)
        vae = VAE(config, shape)
        # No image is farther from the mean image than this, whatever it shows.
        far = float(torch.maximum(self.mean, 1 - self.mean).norm())
        _write_linear_units(vae.encoder, self.into, self.mean, far, self.encoder, self.unit)
        last, learned = _linears(vae.encoder)[-1], _linears(self.encoder)[-1]
        last.weight[:d, :d], last.weight[d:] = torch.eye(d), 0
        last.weight[:d, d:] = learned.weight
        last.bias[:d] = learned.bias - far
        last.bias[d:] = _LOG_VAR_BOUND * torch.atanh(self.log_var / _LOG_VAR_BOUND)
        shift = _MARGIN * max(reach, 1.0)
        eye, zero = torch.eye(d), torch.zeros(d)
        _write_linear_units(vae.decoder, eye, zero, shift, self.decoder, self.unit)
        last, learned = _linears(vae.decoder)[-1], _linears(self.decoder)[-1]
        last.weight[:, :d], last.weight[:, d:] = self.out.T, learned.weight
        last.bias[:] = self.bias + learned.bias - shift * self.out.sum(0)
        vae.eval()
        vae.requires_grad_(False)
        return vae


def span(atoms: Tensor) -> Tensor:
    """Return an orthonormal basis of the span of `atoms`, rows, largest singular values first."""
    _, values, basis = torch.linalg.svd(atoms.double(), full_matrices=False)
    rank = int((values > values[0] * 1e-6).sum())
    found: Tensor = basis[:rank].float().contiguous()
    return found


def _write_linear_units(
    network: nn.Module, rows: Tensor, centre: Tensor, shift: float, learned: nn.Module, unit: float
) -> None:
    """Fill a hidden layer: linear units for `rows`, shifted above zero, then the learned ones."""
    d, to, source = len(rows), _linears(network)[0], _linears(learned)[0]
    to.weight[:d], to.bias[:d] = rows, shift - rows @ centre
    to.weight[d:] = source.weight / unit
    to.bias[d:] = source.bias - source.weight @ centre / unit


def _linears(network: nn.Module) -> list[nn.Linear]:
    return [layer for layer in network.modules() if isinstance(layer, nn.Linear)]


def _perceptron(n_in: int, n_hidden: int, n_out: int, generator: torch.Generator) -> nn.Sequential:
    """One hidden layer, drawn as torch draws them; the output layer is zero: nothing added yet."""
    first = nn.Linear(n_in, n_hidden, device="meta").to_empty(device="cpu")
    last = nn.Linear(n_hidden, n_out, device="meta").to_empty(device="cpu")
    bound = 1 / math.sqrt(n_in)
    nn.init.uniform_(first.weight, -bound, bound, generator=generator)
    nn.init.uniform_(first.bias, -bound, bound, generator=generator)
    nn.init.zeros_(last.weight)
    nn.init.zeros_(last.bias)
    return nn.Sequential(first, nn.ReLU(), last)
