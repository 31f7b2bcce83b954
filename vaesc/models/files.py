"""A VAE on disk: ``vae.safetensors`` (weights) and ``vae.json`` (what they are weights of)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from vaesc.config import VAEConfig, settings
from vaesc.errors import DataError
from vaesc.models.vae import VAE

WEIGHTS = "vae.safetensors"
DESCRIPTION = "vae.json"
_FORMAT = 1


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
    except (OSError, SafetensorError) as error:
        raise DataError(
            f"the weights {folder / WEIGHTS} cannot be read ({error}); train again"
        ) from error
    _check(weights, vae, folder)
    vae.load_state_dict(weights)
    return vae.to(device).eval().requires_grad_(False)


def _empty_vae(path: Path) -> VAE:
    try:
        facts: dict[str, Any] = json.loads(path.read_bytes())
        if facts["format"] != _FORMAT:
            raise ValueError(f"format {facts['format']!r}, this version reads {_FORMAT}")
        lists = {k: tuple(v) for k, v in facts["config"].items() if isinstance(v, list)}
        values = {**facts["config"], **lists}
        return VAE(VAEConfig(**values), tuple(int(side) for side in facts["shape"]))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"the VAE's description {path} cannot be read ({error}); train again"
        ) from error


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
