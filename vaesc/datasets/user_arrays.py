"""The user's own images in one file: .npy, .npz, .zarr or IDX; Zarr in a bucket too.

===== ================================================================= =====================
file  holds                                                             labels
===== ================================================================= =====================
.npy  one array                                                         ``dataset.labels``
IDX   one array; plain or gzipped, "idx" or "ubyte" in its name         ``dataset.labels``
.npz  ``x``, or ``x_train`` and ``x_test``                              ``y``, or ``y_train`` ...
.zarr an array, a group with the names of .npz, or one laid out like    as .npz; ``train/labels``
      our own data sets (``train/images``, ``test/images``)             and so on
===== ================================================================= =====================

Images are (n, d), (n, h, w) or (n, c, h, w); bool, integers in 0..255, or floats in [0, 1].
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from pathlib import Path

from vaesc.bucket import is_remote
from vaesc.config import DatasetConfig, expanded
from vaesc.datasets.base import (
    SPLITS,
    WHOLE,
    ImageSource,
    Part,
    RawImages,
    Rows,
    checked_labels,
)
from vaesc.datasets.files import digest_of_parts, reading, require_file
from vaesc.datasets.idx import read_idx
from vaesc.datasets.npy import npz_names, open_npy, read_npz
from vaesc.datasets.zarr_places import LocalFile, ZarrFolder, ZarrPlace, zarr_in_bucket
from vaesc.datasets.zarr_rows import is_zarr, open_zarr
from vaesc.errors import DataError
from vaesc.untrusted import check_all_inside

Layout = Mapping[str, tuple[str, str]]
"""Names of images and labels for each part."""
_NAMED: Layout = {"train": ("x_train", "y_train"), "test": ("x_test", "y_test")}
_LAYOUTS: tuple[Layout, ...] = (
    {WHOLE: ("x", "y")},
    _NAMED,
    {split: (f"{split}/images", f"{split}/labels") for split in SPLITS},
    {split: (f"{split}/images", f"{split}/labels") for split in ("train", "test")},
)


class UserArrays(ImageSource):
    """The file at ``dataset.path``."""

    def check(self, config: DatasetConfig) -> None:
        """Refuse a path or file of labels that is not there, or has a name we cannot read."""
        _check_path(config)
        if config.labels is not None:
            _labels_file(config.labels)

    def is_present(self, config: DatasetConfig) -> bool:
        """Return whether there is anything at the path; a bucket is asked by :meth:`check`."""
        return is_remote(config.path) or _path(config).exists()

    def download(self, config: DatasetConfig) -> None:
        """Say that nothing can be fetched if the file is not there."""
        _check_path(config)

    def fingerprint(self, config: DatasetConfig) -> str:
        """SHA-256 of the file, or of every file of the Zarr store, and of the labels' file."""
        store = _zarr(config)
        if store is not None:
            files = store.files()
            digests = store.each(lambda file: file.digest(), [file for _, file in files])
            found = [(name, digest) for (name, _), digest in zip(files, digests, strict=True)]
        else:
            _check_path(config)
            found = [("images", LocalFile(_path(config)).digest())]
        if config.labels is not None:
            found.append(("labels", LocalFile(_labels_file(config.labels)).digest()))
        return digest_of_parts(found)

    def load(self, config: DatasetConfig, seed: int) -> RawImages:
        """Open the file; .npy and .zarr are read block by block later."""
        store = _zarr(config)
        if store is not None:
            parts = _load_zarr(store)
        else:
            path = _path(config)
            parts = _LOADERS[_kind(path)](path)
        if config.labels is not None:
            parts = {WHOLE: _labelled(parts, _labels_file(config.labels))}
        return RawImages(parts=parts, licence="the user's own")


def _path(config: DatasetConfig) -> Path:
    return expanded(config.path or "")


def _labels_file(name: str) -> Path:
    return require_file(expanded(name))


def _zarr(config: DatasetConfig) -> ZarrPlace | None:
    """Return the Zarr store at the path; None if a file is meant."""
    if config.path is not None and is_remote(config.path):
        return zarr_in_bucket(config.path)
    path = _path(config)
    if not is_zarr(path):
        return None
    with reading(path, "a Zarr array or group"):
        check_all_inside(path)
    return ZarrFolder(path)


def _check_path(config: DatasetConfig) -> None:
    if _zarr(config) is None:
        _kind(_path(config))


def _kind(path: Path) -> str:
    """Return which loader reads the file, judged by its name."""
    if path.is_dir():
        raise DataError(
            f"{path} is a folder, not a file or a Zarr store; for a folder of image files set "
            "dataset.source=folder"
        )
    name = require_file(path).name.lower()
    if path.suffix.lower() in (".npy", ".npz"):
        return path.suffix.lower()[1:]
    if "idx" in name or "ubyte" in name:
        return "idx"
    raise DataError(
        f"{path} must end in .npy, .npz or .zarr, or have idx or ubyte in its name, got "
        f"{path.suffix or 'no extension'}; save the images in one of these formats"
    )


def _labelled(parts: Mapping[str, Part], path: Path) -> Part:
    part = parts.get(WHOLE)
    if part is None or part.labels is not None:
        raise DataError(
            f"dataset.labels is only read for one array without labels of its own, got {path}; "
            "put all labels into the images' file, or leave dataset.labels out"
        )
    values = open_npy(path) if path.suffix.lower() == ".npy" else read_idx(path)
    labels = checked_labels(values, _count(part.images), str(path))
    return Part(images=part.images, labels=labels, origin=part.origin)


def _load_npy(path: Path) -> dict[str, Part]:
    return {WHOLE: Part(images=open_npy(path), origin=str(path))}


def _load_idx(path: Path) -> dict[str, Part]:
    return {WHOLE: Part(images=read_idx(path), origin=str(path))}


def _load_npz(path: Path) -> dict[str, Part]:
    names = npz_names(path)
    layout = _layout(names, path)
    wanted = [name for pair in layout.values() for name in pair if name in names]
    arrays = read_npz(path, wanted)
    return _parts(layout, names, arrays.__getitem__, path)


def _load_zarr(store: ZarrPlace) -> dict[str, Part]:
    arrays = open_zarr(store)
    if "" in arrays:
        return {WHOLE: Part(images=arrays[""], origin=str(store))}
    return _parts(_layout(arrays, store), arrays, arrays.__getitem__, store)


_LOADERS: dict[str, Callable[[Path], dict[str, Part]]] = {
    "npy": _load_npy, "npz": _load_npz, "idx": _load_idx,
}  # fmt: skip


def _layout(names: Collection[str], path: Path | ZarrPlace) -> Layout:
    fitting = [
        layout for layout in _LAYOUTS if all(images in names for images, _ in layout.values())
    ]
    if not fitting:
        raise DataError(
            f"{path} must hold x (and perhaps y), or x_train and x_test (and y_train, y_test), "
            f"got {', '.join(sorted(names)) or 'no arrays'}; rename the arrays"
        )
    return fitting[0]


def _parts(
    layout: Layout,
    names: Collection[str],
    read: Callable[[str], Rows],
    path: Path | ZarrPlace,
) -> dict[str, Part]:
    labelled = {split for split, (_, labels) in layout.items() if labels in names}
    if labelled and labelled != set(layout):
        lacking = next(labels for _, labels in layout.values() if labels not in names)
        raise DataError(f"{path} has labels for some splits only; add {lacking} or leave all out")
    parts = {}
    for split, (images_name, labels_name) in layout.items():
        images, labels = read(images_name), None
        if labelled:
            origin = f"{path}[{labels_name}]"
            labels = checked_labels(read(labels_name), _count(images), origin)
        parts[split] = Part(images=images, labels=labels, origin=f"{path}[{images_name}]")
    return parts


def _count(images: Rows) -> int:
    return images.shape[0] if images.shape else 0
