"""From wherever images lie to one Zarr group that every later step reads.

Each source has a file of its own: :mod:`digits <vaesc.datasets.digits>` and :mod:`patches
<vaesc.datasets.patches>` come with scikit-learn, :mod:`mnist <vaesc.datasets.mnist>` reads the
IDX family (MNIST, Fashion-MNIST, KMNIST, EMNIST), :mod:`cifar <vaesc.datasets.cifar>` CIFAR-10,
:mod:`user_arrays <vaesc.datasets.user_arrays>` the user's own file and :mod:`image_folder
<vaesc.datasets.image_folder>` a folder of pictures. :mod:`ingestion <vaesc.datasets.ingestion>`
checks, splits and writes; :mod:`reader <vaesc.datasets.reader>` reads what it wrote. Steps that
only read should import from the reader: its source is then all that their cache key depends on.

Whatever its range was, an image ends up as float32 in [0, 1].
"""

from __future__ import annotations

from vaesc.datasets.ingestion import ingest
from vaesc.datasets.npy import read_npy
from vaesc.datasets.places import DownloadError
from vaesc.datasets.reader import ImageDataset, open_dataset
from vaesc.datasets.scaling import to_unit
from vaesc.datasets.sources import check, download, fingerprint, is_present

__all__ = [
    "DownloadError",
    "ImageDataset",
    "check",
    "download",
    "fingerprint",
    "ingest",
    "is_present",
    "open_dataset",
    "read_npy",
    "to_unit",
]
