"""The 1,797 handwritten digits that come with scikit-learn: 8x8, 17 grey levels, no split.

The embedded default: real data that needs no download.
Source: Alpaydin and Kaynak, "Optical Recognition of Handwritten Digits", UCI, 1998.
https://doi.org/10.24432/C50P49
"""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np

from vaesc.config import DatasetConfig
from vaesc.datasets.base import WHOLE, ImageSource, Part, RawImages
from vaesc.datasets.files import digest_of
from vaesc.errors import DataError


class Digits(ImageSource):
    """scikit-learn's digits."""

    def fingerprint(self, config: DatasetConfig) -> str:
        """SHA-256 of the file inside scikit-learn; scikit-learn itself is not imported."""
        return digest_of([("digits", inside_sklearn("datasets/data/digits.csv.gz"))])

    def load(self, config: DatasetConfig, seed: int) -> RawImages:
        """Load all images; a white pixel is 16."""
        from sklearn.datasets import load_digits

        bunch = load_digits()
        part = Part(
            images=np.asarray(bunch.images), labels=np.asarray(bunch.target, np.int64),
            origin="scikit-learn's digits",
        )  # fmt: skip
        return RawImages(
            parts={WHOLE: part}, licence="CC BY 4.0 (UCI Machine Learning Repository)",
            classes=tuple("0123456789"), high=16.0,
        )  # fmt: skip


def inside_sklearn(name: str) -> Path:
    """Return a file that is shipped with scikit-learn, without importing it.

    Raises:
        DataError: scikit-learn or the file is not installed.
    """
    spec = importlib.util.find_spec("sklearn")
    path = Path(spec.origin).parent / name if spec and spec.origin else None
    if path is None or not path.is_file():
        raise DataError(f"scikit-learn's {name} is not installed; install scikit-learn again")
    return path
