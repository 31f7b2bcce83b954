"""Every source by its name, and the questions that can be asked before anything is read."""

from __future__ import annotations

from vaesc.config import DatasetConfig
from vaesc.datasets.base import ImageSource
from vaesc.datasets.cifar import Cifar10
from vaesc.datasets.digits import Digits
from vaesc.datasets.image_folder import ImageFolder
from vaesc.datasets.mnist import EMNIST, FASHION_MNIST, KMNIST, MNIST
from vaesc.datasets.patches import Patches
from vaesc.datasets.user_arrays import UserArrays

SOURCES: dict[str, ImageSource] = {
    "digits": Digits(),
    "mnist": MNIST,
    "fashion-mnist": FASHION_MNIST,
    "kmnist": KMNIST,
    "emnist": EMNIST,
    "cifar10": Cifar10(),
    "patches": Patches(),
    "arrays": UserArrays(),
    "folder": ImageFolder(),
}


def source_of(config: DatasetConfig) -> ImageSource:
    """Return the source a config names."""
    return SOURCES[config.source]


def check(config: DatasetConfig) -> None:
    """Refuse files of the user that are not there, without reading any.

    Raises:
        DataError: What the config names is not there, or is not of the kind that is needed.
    """
    source_of(config).check(config)


def is_present(config: DatasetConfig) -> bool:
    """Return whether the images are on this machine, so that nothing need be downloaded."""
    return source_of(config).is_present(config)


def download(config: DatasetConfig) -> None:
    """Download the images with torchvision into ``downloads`` in :func:`vaesc.config.home`.

    Does nothing for a source that is on this machine already.

    Raises:
        DataError: The source cannot be downloaded, or must not be.
        DownloadError: The download failed; another try may succeed.
    """
    if not is_present(config):
        source_of(config).download(config)


def fingerprint(config: DatasetConfig) -> str:
    """SHA-256 of what the source's files hold, whatever folder they lie in.

    Raises:
        DataError: The files are not there.
    """
    return source_of(config).fingerprint(config)
