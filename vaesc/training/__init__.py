"""Fitting a VAE: the data on the device, the loop, early stopping, what is written.

The entry is :func:`vaesc.training.train`; everything it does follows from the config, the data
and the seed.
"""

from __future__ import annotations

from vaesc.training.step import train

__all__ = ["train"]
