r"""A pixel dictionary written as a VAE: where refinement starts.

.. math::
    \mu(x) = Q (x - m) + e(x), \qquad g(z) = \mathrm{correct}(R^\top z + m + h(z)),

with Q = R an orthonormal basis of the span of the dictionary's atoms, and with e, h (perceptrons
of one hidden layer) and the correction (a few convolutions) whose outputs start at zero. As Q is
an isometry of that span, coding :math:`\mu(x)` in the atoms' coordinates is coding x in the pixel
dictionary itself, and :math:`g(D^\top a)`, clipped, is the pixel dictionary's own reconstruction.
"""

from __future__ import annotations

import math
from typing import cast

import torch
from torch import Tensor, nn

from vaesc.config import RefineConfig, VAEConfig
from vaesc.models import VAE
from vaesc.models.networks import Parallel

OBSERVATION_STD, BETA = 0.1, 0.005
"""2 BETA OBSERVATION_STD^2 is the weight of the KL term beside the squared error: 1e-4 a nat."""
_START_LOG_VAR = -4.0
"""Log-variance of the posterior at the start, in squared units of pixels."""
_LOG_VAR_BOUND = 20.0
"""See :class:`vaesc.models.VAE`."""


def linear_vae(
    atoms: Tensor,
    mean: Tensor,
    shape: tuple[int, ...],
    config: RefineConfig,
    *,
    spread: float,
    generator: torch.Generator,
) -> VAE:
    """Return a VAE that does what a pixel dictionary does, with branches that add nothing yet.

    Args:
        atoms: Pixel dictionary, unit rows, shape (K, n_pixels).
        mean: Mean training image, shape (n_pixels,).
        shape: Shape of one image; one that is no picture gets no convolutions.
        config: Widths of the branches.
        spread: Standard deviation of the latents, by which the branches' inputs are divided.
        generator: Source of the branches' first weights.
    """
    basis = span(atoms)
    d = len(basis)
    settings = VAEConfig(
        architecture="linear-path", hidden=config.hidden, latent_dim=d, likelihood="gaussian",
        channels=config.channels if len(shape) in (2, 3) else (),
        observation_std=OBSERVATION_STD, beta=BETA,
    )  # fmt: skip
    vae = VAE(settings, shape, generator=generator)
    with torch.no_grad():
        into, out = both_paths(vae.encoder), both_paths(vae.decoder)
        _fill(into.straight, torch.cat([basis, torch.zeros_like(basis)]))
        bias = cast(nn.Linear, into.straight).bias
        bias[:d] = (basis @ mean).neg()
        bias[d:] = _LOG_VAR_BOUND * math.atanh(_START_LOG_VAR / _LOG_VAR_BOUND)
        _fill(out.straight, basis.T)
        cast(nn.Linear, out.straight).bias.copy_(mean)
        first = _linears(into.branch)[0]
        first.weight /= spread
        first.bias.sub_(first.weight @ mean)
        _linears(out.branch)[0].weight.div_(spread)
        for last in _last_layers(vae):
            last.weight.zero_()
            last.bias.zero_()  # type: ignore[union-attr]
    return vae


def span(atoms: Tensor) -> Tensor:
    """Return an orthonormal basis of the span of `atoms`, rows, largest singular values first."""
    _, values, basis = torch.linalg.svd(atoms.double(), full_matrices=False)
    rank = int((values > values[0] * 1e-6).sum())
    found: Tensor = basis[:rank].float().contiguous()
    return found


def both_paths(network: nn.Sequential) -> Parallel:
    """Return the linear layer and the perceptron beside it of an encoder or a decoder."""
    return cast(Parallel, network[0])


def corrections(decoder: nn.Sequential) -> list[nn.Parameter]:
    """Return the weights of the convolutions that end a decoder; none for what is no picture."""
    return [p for layer in list(decoder)[1:] for p in layer.parameters()]


def _last_layers(vae: VAE) -> list[nn.Linear | nn.Conv2d]:
    branches = [both_paths(vae.encoder).branch, both_paths(vae.decoder).branch]
    ends: list[nn.Linear | nn.Conv2d] = [_linears(branch)[-1] for branch in branches]
    return ends + [m for m in vae.decoder.modules() if isinstance(m, nn.Conv2d)][-1:]


def _linears(network: nn.Module) -> list[nn.Linear]:
    return [layer for layer in network.modules() if isinstance(layer, nn.Linear)]


def _fill(layer: nn.Module, weight: Tensor) -> None:
    linear = cast(nn.Linear, layer)
    linear.weight.copy_(weight)
    linear.bias.zero_()
