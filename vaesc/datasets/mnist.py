"""MNIST and its kin: 28x28 bytes in four IDX files, with a test split of their own.

EMNIST is its split `balanced`: 112,800 + 18,800 images of 47 classes (digits and letters, cases
merged where they look alike) in equal numbers. Its files hold images transposed; here they are
upright, like MNIST's.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vaesc.config import DatasetConfig
from vaesc.datasets.base import ImageSource, Part, RawImages, checked_labels
from vaesc.datasets.files import digest_of
from vaesc.datasets.idx import read_idx
from vaesc.datasets.places import Wanted, fetch, find, missing
from vaesc.errors import DataError


@dataclass(frozen=True, kw_only=True)
class IdxSource(ImageSource):
    """One member of the family."""

    name: str
    torchvision_name: str
    licence: str
    classes: tuple[str, ...]
    prefixes: tuple[str, str] = ("train", "t10k")
    """What the names of the train and test files begin with."""
    arguments: tuple[tuple[str, str], ...] = ()
    """Further arguments of torchvision's class."""
    transposed: bool = False

    @property
    def wanted(self) -> Wanted:
        """The four files: images and labels of train, then of test."""
        kinds = ("images-idx3-ubyte", "labels-idx1-ubyte")
        return Wanted(
            source=self.name,
            layout=f"{self.torchvision_name}/raw",
            files=tuple(f"{prefix}-{kind}" for prefix in self.prefixes for kind in kinds),
        )

    def is_present(self, config: DatasetConfig) -> bool:
        """Return whether one place has all four files."""
        return find(self.wanted, config) is not None

    def download(self, config: DatasetConfig) -> None:
        """Have torchvision download and verify the files."""
        import torchvision.datasets

        make = getattr(torchvision.datasets, self.torchvision_name)
        fetch(self.wanted, config, lambda root: make(root, download=True, **dict(self.arguments)))

    def fingerprint(self, config: DatasetConfig) -> str:
        """SHA-256 of the four files."""
        found = self._found(config)
        return digest_of((name, found[name]) for name in self.wanted.files)

    def load(self, config: DatasetConfig, seed: int) -> RawImages:
        """Read both splits into memory."""
        found = self._found(config)
        paths = [found[name] for name in self.wanted.files]
        parts = {"train": self._part(*paths[:2]), "test": self._part(*paths[2:])}
        return RawImages(parts=parts, licence=self.licence, classes=self.classes)

    def _found(self, config: DatasetConfig) -> dict[str, Path]:
        found = find(self.wanted, config)
        if found is None:
            raise missing(self.wanted, config)
        return dict(found)

    def _part(self, images_path: Path, labels_path: Path) -> Part:
        images: NDArray[Any] = read_idx(images_path)
        if images.ndim != 3 or images.dtype != np.uint8:
            raise DataError(
                f"{images_path} must hold bytes of shape (n, h, w), got {images.dtype} of shape "
                f"{images.shape}; it is another file, fetch it again"
            )
        labels = checked_labels(read_idx(labels_path), len(images), str(labels_path))
        if self.transposed:
            images = images.transpose(0, 2, 1)
        return Part(images=images, labels=labels, origin=str(images_path))


_CLOTHES = (
    "T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag",
    "Ankle boot",
)  # fmt: skip
MNIST = IdxSource(
    name="mnist", torchvision_name="MNIST", licence="CC BY-SA 3.0", classes=tuple("0123456789")
)
FASHION_MNIST = IdxSource(
    name="fashion-mnist", torchvision_name="FashionMNIST", licence="MIT", classes=_CLOTHES
)
KMNIST = IdxSource(
    name="kmnist", torchvision_name="KMNIST", licence="CC BY-SA 4.0",
    classes=("o", "ki", "su", "tsu", "na", "ha", "ma", "ya", "re", "wo"),
)  # fmt: skip
EMNIST = IdxSource(
    name="emnist", torchvision_name="EMNIST", licence="not stated (from NIST Special Database 19)",
    classes=tuple("0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabdefghnqrt"),
    prefixes=("emnist-balanced-train", "emnist-balanced-test"),
    arguments=(("split", "balanced"),), transposed=True,
)  # fmt: skip
