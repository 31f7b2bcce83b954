"""Generation: new images from priors that are fitted to the latents of a trained model.

A refined model codes its images well because its latents are free: hardly any KL term pulls them
to N(0, I), and samples of N(0, I) decode to nothing. What the latents are like is therefore
learned afterwards, in several ways (:mod:`.sampler`), fitted to the training latents of the model
that is registered (:mod:`.fitting`) and kept in it.

Which is best is chosen on validation images, before a test image is looked at. All are scored
(:mod:`.scoring`) against the test images on features of a small classifier that is trained here
(:mod:`.features`), between a floor, training images, and baselines: the article's own VAE with
its own prior, and a Gaussian of the pixels. The likelihood, which only a model that is trained
for its bound has, is that of the article's VAE on binarised images (:mod:`.likelihood`).
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

__all__ = ["PRIORS", "Prior", "Sampler", "apply"]

_HOME = {"apply": "application", "Sampler": "sampler", "PRIORS": "sampler", "Prior": "sampler"}


def __getattr__(name: str) -> Any:  # noqa: ANN401 - whatever the module defines
    """Load a name when it is first asked for (PEP 562): the application imports torch."""
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
