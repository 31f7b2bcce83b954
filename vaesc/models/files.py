"""A VAE on disk: ``vae.safetensors`` (weights) and ``vae.json`` (what they are weights of)."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from vaesc.config import VAEConfig, settings
from vaesc.config_files import config_from_mapping
from vaesc.errors import DataError
from vaesc.models.networks import build_networks
from vaesc.models.vae import VAE
from vaesc.untrusted import read_json

WEIGHTS = "vae.safetensors"
DESCRIPTION = "vae.json"
_FORMAT = 1
_MOST_LAYERS, _MOST_PIXELS = 1000, 2**31


def save_vae(vae: VAE, folder: Path) -> None:
    """Write a VAE's two files into `folder`; equal weights give equal bytes."""
    weights = {name: value.contiguous().cpu() for name, value in vae.state_dict().items()}
    save_file(weights, folder / WEIGHTS)
    facts = {"format": _FORMAT, "config": settings(vae.config), "shape": list(vae.shape)}
    text = json.dumps(facts, indent=1, sort_keys=True, allow_nan=False)
    (folder / DESCRIPTION).write_text(text + "\n")


def load_vae(folder: Path, device: str | torch.device = "cpu") -> VAE:
    """Read a VAE that :func:`save_vae` wrote, ready to encode and decode (eval mode).

    Args:
        folder: Where its two files lie.
        device: Where to put it.

    Raises:
        DataError: A file is missing or damaged, or the weights are not those of the description.
    """
    vae = _empty_vae(folder / DESCRIPTION)
    try:
        weights = load_file(folder / WEIGHTS)
    except (OSError, ValueError, SafetensorError) as error:
        raise DataError(
            f"the weights {folder / WEIGHTS} cannot be read ({error}); train again"
        ) from error
    _check(weights, vae, folder)
    vae.load_state_dict(weights)
    return vae.to(device).eval().requires_grad_(False)


def _empty_vae(path: Path) -> VAE:
    try:
        config, shape = _described(path)
        # Without memory first: a few words can describe a network of terabytes.
        parts = build_networks(config, shape)
        n_numbers = sum(each.numel() for part in parts for each in part.parameters())
        if 4 * n_numbers > (held := path.with_name(WEIGHTS).stat().st_size):
            raise ValueError(f"it is of {n_numbers} weights, {WEIGHTS} has {held} bytes")
        return VAE(config, shape)
    except (OSError, ValueError, KeyError, TypeError, OverflowError, RuntimeError) as error:
        raise DataError(
            f"the VAE's description {path} cannot be read ({error}); train again"
        ) from error


def _described(path: Path) -> tuple[VAEConfig, tuple[int, ...]]:
    facts: dict[str, Any] = read_json(path)
    if facts["format"] != _FORMAT:
        raise ValueError(f"format {facts['format']!r}, this version reads {_FORMAT}")
    config = config_from_mapping({"vae": facts["config"]}).vae
    shape = facts["shape"]
    if not isinstance(shape, list) or not all(type(n) is int and n > 0 for n in shape):
        raise ValueError(f"shape must be that of an image, got {str(shape)[:80]}")
    if not 1 <= len(shape) <= 3 or math.prod(shape) > _MOST_PIXELS:
        raise ValueError(f"shape must have 1 to 3 axes, {_MOST_PIXELS} pixels at most")
    if len(config.hidden) + len(config.channels) > _MOST_LAYERS:
        raise ValueError(f"it has more than {_MOST_LAYERS} layers")
    return config, tuple(shape)


def _check(weights: dict[str, torch.Tensor], vae: VAE, folder: Path) -> None:
    """Refuse weights that are not exactly those the description asks for."""
    given = {name: (tuple(value.shape), value.dtype) for name, value in weights.items()}
    wanted = {name: (tuple(value.shape), value.dtype) for name, value in vae.state_dict().items()}
    for name in sorted(given.keys() | wanted.keys()):
        if given.get(name) != wanted.get(name):
            raise DataError(
                f"{folder / WEIGHTS} does not fit {DESCRIPTION}: {name} must be "
                f"{wanted.get(name, 'absent')}, got {given.get(name, 'nothing')}; train again"
            )
