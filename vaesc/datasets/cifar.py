"""CIFAR-10: 60,000 colour images of 32x32, with a test split of its own.

Two layouts are read: the binary version (``cifar-10-batches-bin``: rows of one label byte and
3,072 pixel bytes, red, green, blue) by ourselves; torchvision's (``cifar-10-batches-py``, which
is pickled) by torchvision, which checks each file's known MD5 before it opens it.
Source: Krizhevsky, "Learning Multiple Layers of Features from Tiny Images", 2009.
https://www.cs.toronto.edu/~kriz/cifar.html
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vaesc.config import DatasetConfig
from vaesc.datasets.base import ImageSource, Part, RawImages, checked_labels
from vaesc.datasets.files import digest_of, reading
from vaesc.datasets.places import Wanted, fetch, find, missing
from vaesc.errors import DataError

_SHAPE = (3, 32, 32)
_ROW = 1 + 3 * 32 * 32
_TRAIN = tuple(f"data_batch_{i}" for i in range(1, 6))
BINARY = Wanted(
    source="cifar10", layout="cifar-10-batches-bin",
    files=tuple(f"{name}.bin" for name in (*_TRAIN, "test_batch")),
)  # fmt: skip
PYTHON = Wanted(
    source="cifar10", layout="cifar-10-batches-py", files=(*_TRAIN, "test_batch", "batches.meta")
)
_CLASSES = (
    "airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck",
)  # fmt: skip


class Cifar10(ImageSource):
    """CIFAR-10 in either layout; the binary one is preferred."""

    def is_present(self, config: DatasetConfig) -> bool:
        """Return whether one place has all files of one layout."""
        return bool(find(BINARY, config) or find(PYTHON, config))

    def download(self, config: DatasetConfig) -> None:
        """Have torchvision download and verify the files."""
        from torchvision.datasets import CIFAR10

        fetch(PYTHON, config, lambda root: CIFAR10(root, download=True))

    def fingerprint(self, config: DatasetConfig) -> str:
        """SHA-256 of the batches."""
        return digest_of(sorted(self._found(config).items()))

    def load(self, config: DatasetConfig, seed: int) -> RawImages:
        """Read both splits into memory."""
        found = self._found(config)
        if BINARY.files[0] in found:
            paths = [found[name] for name in BINARY.files]
            parts = {"train": _read_binary(paths[:-1]), "test": _read_binary(paths[-1:])}
        else:
            folder = found["test_batch"].parent
            parts = {split: _read_python(folder, split == "train") for split in ("train", "test")}
        return RawImages(parts=parts, licence="not stated by its authors", classes=_CLASSES)

    def _found(self, config: DatasetConfig) -> Mapping[str, Path]:
        found = find(BINARY, config) or find(PYTHON, config)
        if not found:
            raise missing(PYTHON, config)
        return found


def _read_binary(paths: list[Path]) -> Part:
    for path in paths:
        if not path.stat().st_size or path.stat().st_size % _ROW:
            raise DataError(
                f"{path} must hold rows of {_ROW} bytes, got {path.stat().st_size} bytes; it is "
                "cut short, fetch it again"
            )
    rows = np.concatenate([np.fromfile(path, np.uint8).reshape(-1, _ROW) for path in paths])
    return _part(rows[:, 1:].reshape(-1, *_SHAPE), rows[:, 0], paths[0])


def _read_python(folder: Path, train: bool) -> Part:
    from torchvision.datasets import CIFAR10

    if folder.name != CIFAR10.base_folder:
        raise DataError(f"{folder} must be called {CIFAR10.base_folder}; rename it")
    with reading(folder, "torchvision's CIFAR-10"):
        loaded = CIFAR10(folder.parent, train=train, download=False)
    return _part(np.moveaxis(np.asarray(loaded.data), -1, 1), np.array(loaded.targets), folder)


def _part(images: NDArray[Any], labels: NDArray[Any], path: Path) -> Part:
    return Part(
        images=images, labels=checked_labels(labels, len(images), str(path)), origin=str(path)
    )
