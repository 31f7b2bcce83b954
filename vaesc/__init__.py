"""Sparse coding in the latent space of a variational autoencoder, as a reproducible pipeline.

The article's four steps are rooms of this package: train a VAE (:mod:`vaesc.training`), encode
every image to its latent (:mod:`vaesc.latents`), sparse-code the latents (:mod:`vaesc.sparse`),
and reconstruct from the codes (:mod:`vaesc.bundle`, :mod:`vaesc.evaluation`).

Importing this package is cheap on purpose: torch, mlflow and prefect are loaded by what needs
them.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

# Torch's matrix products (MKL's) end in other last bits where an array happens to lie at another
# offset from 64 bytes, unless MKL is told otherwise before its first product. Costs 2 %.
os.environ.setdefault("MKL_CBWR", "AUTO")

if TYPE_CHECKING:
    from vaesc.bundle import SparseVAE
    from vaesc.registry import load_model

__all__ = ["SparseVAE", "__version__", "load_model"]

__version__ = "0.1.0"

_HOMES = {"load_model": "vaesc.registry", "SparseVAE": "vaesc.bundle"}


def __getattr__(name: str) -> Any:  # noqa: ANN401
    """Import the heavy public names only when they are first used."""
    if name in _HOMES:
        from importlib import import_module

        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'vaesc' has no attribute {name!r}")
