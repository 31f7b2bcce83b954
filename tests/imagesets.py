"""Small datasets on disk, in the layout that the dataset step writes; used by several tests."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
from sklearn.datasets import load_digits

from vaesc.arrays import create_group, write_array


def write_dataset(folder: Path, **splits: np.ndarray) -> Path:
    """Write a dataset artifact without labels; missing splits are empty."""
    shape = next(iter(splits.values())).shape[1:]
    dtype = next(iter(splits.values())).dtype
    full = {
        name: splits.get(name, np.empty((0, *shape), dtype))
        for name in ("train", "validation", "test")
    }
    attributes = {
        "source": "arrays", "licence": "none", "shape": list(shape), "classes": None,
        "low": 0, "high": 255 if dtype == np.uint8 else 1, "clip": True,
        "counts": {name: len(images) for name, images in full.items()},
        "sha256": {name: hashlib.sha256(images.tobytes()).hexdigest()
                   for name, images in full.items()},
    }  # fmt: skip
    folder.mkdir(parents=True, exist_ok=True)
    group = create_group(folder / "dataset.zarr", attributes)
    axes = ("sample", *(f"axis{i}" for i in range(len(shape))))
    for name, images in full.items():
        write_array(group, f"{name}/images", images, axes)
    return folder


def digits() -> np.ndarray:
    """Return scikit-learn's digits as bytes, shape (1797, 8, 8), in a fixed random order."""
    images = np.round(load_digits().images * (255 / 16)).astype(np.uint8)
    return images[np.random.default_rng(0).permutation(len(images))]


def coloured_digits() -> np.ndarray:
    """Return the same digits, each in a tint of its own: channels first, (1797, 3, 8, 6)."""
    grey = digits()[:, None, :, 1:7]
    tints = np.random.default_rng(1).uniform(0.2, 1, (len(grey), 3, 1, 1))
    return np.round(grey * tints).astype(np.uint8)


def write_digits(folder: Path) -> Path:
    """Write digits split into 1200, 200 and 397 images."""
    images = digits()
    return write_dataset(
        folder, train=images[:1200], validation=images[1200:1400], test=images[1400:]
    )
