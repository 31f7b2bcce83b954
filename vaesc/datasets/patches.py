r"""Patches of scikit-learn's two photographs: the classic input of sparse coding.

A patch p of a photograph in grey (luma, in [0, 1]) is contrast-normalised,

.. math:: v = \mathrm{clip}\left(\frac{p - \bar p}{\mathrm{std}(p) + 0.01}, -3, 3\right),

and stored as 0.5 + v / 6, in [0, 1]. The constant keeps the noise of flat patches (sky) from
being blown up to full contrast. Splits come from disjoint columns of the photographs, from left
to right train, validation, test: no pixel of a test patch was ever seen in training. Within a
split, no two patches are the same.

Source: Olshausen and Field, "Emergence of simple-cell receptive field properties by learning a
sparse code for natural images", 1996. https://doi.org/10.1038/381607a0
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from vaesc.config import DatasetConfig, derive_seed
from vaesc.datasets.base import SPLITS, ImageSource, Part, RawImages
from vaesc.datasets.digits import inside_sklearn
from vaesc.datasets.files import digest_of
from vaesc.errors import DataError

_LUMA = np.array([0.299, 0.587, 0.114])
"""Weights of red, green and blue in grey (ITU-R BT.601)."""
_FLAT = 0.01
_LARGEST = 3.0
_PHOTOGRAPHS = ("china.jpg", "flower.jpg")


class Patches(ImageSource):
    """Contrast-normalised patches of china.jpg and flower.jpg."""

    def fingerprint(self, config: DatasetConfig) -> str:
        """SHA-256 of the two photographs inside scikit-learn."""
        return digest_of((n, inside_sklearn(f"datasets/images/{n}")) for n in _PHOTOGRAPHS)

    def load(self, config: DatasetConfig, seed: int) -> RawImages:
        """Cut the patches of each split."""
        from sklearn.datasets import load_sample_images

        grey = np.stack([np.asarray(p) / 255 @ _LUMA for p in load_sample_images().images])
        columns = _columns(grey.shape[2], config)
        parts = {}
        for split, count in _counts(config).items():
            stream = derive_seed(seed, f"dataset/patches/{split}")
            cut = _cut(grey[:, :, columns[split]], config.patch_size, count, stream)
            parts[split] = Part(images=normalised(cut), origin=f"the {split} patches")
        return RawImages(parts=parts, licence="CC BY 2.0 (the two photographs)")


def normalised(patches: NDArray[Any]) -> NDArray[np.float32]:
    """Normalise the contrast of each patch, and map it to [0, 1].

    Args:
        patches: (n, h, w), in [0, 1].

    Returns:
        (n, h, w) in [0, 1]; 0.5 is the patch's own mean.
    """
    centred = patches - patches.mean(axis=(1, 2), keepdims=True)
    values = centred / (centred.std(axis=(1, 2), keepdims=True) + _FLAT)
    unit: NDArray[np.float64] = 0.5 + np.clip(values, -_LARGEST, _LARGEST) / (2 * _LARGEST)
    return unit.astype(np.float32)


def _counts(config: DatasetConfig) -> dict[str, int]:
    test = max(1, round(config.test_fraction * config.n_patches))
    validation = max(1, round(config.validation_fraction * (config.n_patches - test)))
    train = config.n_patches - test - validation
    return {"train": train, "validation": validation, "test": test}


def _columns(width: int, config: DatasetConfig) -> dict[str, slice]:
    """Share out the columns like the patches, but leave each split room for some patches."""
    room = 2 * config.patch_size
    test = max(room, round(config.test_fraction * width))
    validation = max(room, round(config.validation_fraction * (width - test)))
    ends = (0, width - test - validation, width - test, width)
    return {split: slice(ends[i], ends[i + 1]) for i, split in enumerate(SPLITS)}


def _cut(regions: NDArray[Any], size: int, count: int, seed: int) -> NDArray[Any]:
    """Cut `count` different patches at random places; regions is (photographs, h, w)."""
    windows = np.lib.stride_tricks.sliding_window_view(regions, (size, size), axis=(1, 2))
    places = windows.shape[:3]
    if count > np.prod(places):
        raise DataError(
            f"the photographs hold {np.prod(places)} patches of size {size} for one split, but "
            f"{count} are asked for; lower dataset.n_patches"
        )
    chosen = np.random.default_rng(seed).choice(int(np.prod(places)), count, replace=False)
    cut: NDArray[Any] = windows[np.unravel_index(chosen, places)]
    return cut
