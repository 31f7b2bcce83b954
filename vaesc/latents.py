r"""The step *extract*: every image's latent, in Zarr.

The latent of an image is its posterior mean :math:`\mu(x)`, never a sample; beside it lies the
posterior standard deviation :math:`\sigma(x)`. Images stream through the encoder, so a split may
be larger than memory.

``latents.zarr`` holds, for each split, ``<split>/latents`` and ``<split>/latent_std``, float32 of
shape (n, d), rows in the order of the dataset's; its attributes say which dataset and which VAE
they come from.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from vaesc.arrays import adopt_shards, create_array, create_group, open_group, shard_blocks
from vaesc.errors import DataError
from vaesc.metrics import count_active
from vaesc.progress import SILENT, Listener
from vaesc.shards import HERE, Runner, Shard, in_order, name_of, parts_folder
from vaesc.store import file_digest
from vaesc.windows import WINDOW_BYTES

if TYPE_CHECKING:
    import zarr

    from vaesc.datasets.reader import ImageDataset
    from vaesc.models import VAE

Array = np.ndarray[Any, Any]

SPLITS = ("train", "validation", "test")
_NAME = "latents.zarr"
_PART = "part.zarr"
_ARRAYS = ("latents", "latent_std")


def extract(
    dataset_folder: Path,
    vae_folder: Path,
    folder: Path,
    *,
    device: str = "auto",
    block_size: int = 8192,
    listener: Listener = SILENT,
    checkpoints: Path | None = None,
    runner: Runner = HERE,
) -> dict[str, Any]:
    """Encode every split and write ``latents.zarr``.

    Each shard of the arrays is one of :mod:`vaesc.shards`: written once, by whoever encodes it,
    and moved into its place, or linked where its part is kept.

    Args:
        dataset_folder: Folder of the dataset's artifact.
        vae_folder: Folder of the VAE's artifact.
        folder: Where to write.
        device: Where to compute, see :func:`vaesc.models.resolve_device`; ``auto`` is what this
            process finds, for whoever computes.
        block_size: Images in memory at once; no part of the result.
        listener: Hears of progress.
        checkpoints: Keeps shards that are done, for a killed call's successor; to be deleted by
            the caller once what was written is safe. On the disk of `folder` they take no room
            of their own. Default: none are kept.
        runner: Who encodes the shards; no part of the result.

    Returns:
        The summary: latent_dim, n_samples (of all splits), metrics (``<split>/active_units``).

    Raises:
        DataError: The VAE was trained on images of another shape, or a latent is not finite.
    """
    from vaesc.datasets.reader import open_dataset
    from vaesc.models import load_vae, same_everywhere

    dataset = open_dataset(dataset_folder)
    vae = load_vae(vae_folder, "cpu")
    if vae.shape != tuple(dataset.shape):
        raise DataError(
            f"the VAE encodes images of shape {vae.shape}, but the dataset's have shape "
            f"{tuple(dataset.shape)}; train it on this dataset"
        )
    counts = {split: dataset.n(split) for split in SPLITS}
    group = create_group(folder / _NAME, _origin(dataset_folder, vae_folder, vae, counts))
    inputs = {"dataset": str(dataset_folder.resolve()), "vae": str(vae_folder.resolve())}
    how = {"device": same_everywhere(device), "block_size": block_size}
    spreads = {split: Spread() for split in SPLITS}
    total = sum(counts.values())

    def adopt(shard: Shard, found: dict[str, Any]) -> None:
        """Make a shard's files the arrays' own; add its rows to the split's spread, in order."""
        split, keep = shard.arguments["split"], checkpoints is not None
        for name in _ARRAYS:
            adopt_shards(
                shard.part / _PART / name, folder / _NAME / split / name, keep=keep
            )  # fmt: skip
        spreads[split].merge(found["n"], np.array(found["mean"]), np.array(found["squares"]))
        listener.progress(sum(spread.n for spread in spreads.values()), total)

    with parts_folder(checkpoints, folder) as parts:
        shards = [
            Shard(
                name=(name := f"extract {split}/{number}"), function=f"{__name__}:extract_shard",
                part=parts / name_of(name),
                arguments={**inputs, "split": split, "start": rows.start, "stop": rows.stop},
                how=how,
            )
            for split in SPLITS
            for number, rows in enumerate(_shard_rows(group, split, counts[split], vae.latent_dim))
        ]  # fmt: skip
        runner.map(shards, adopt)
    active = {s: float(count_active(spreads[s].variance())) for s in SPLITS if counts[s]}
    metrics = {f"{s}/active_units": v for s, v in active.items()}
    return {"latent_dim": vae.latent_dim, "n_samples": total, "metrics": metrics}


def extract_shard(
    folder: Path,
    *,
    dataset: str,
    vae: str,
    split: str,
    start: int,
    stop: int,
    device: str,
    block_size: int,
) -> dict[str, Any]:
    """Encode the rows of one shard of the arrays and write that shard alone.

    Returns:
        ``n``, and ``mean`` and ``squares`` (about that mean) of each latent dimension.

    Raises:
        DataError: A latent is not finite.
    """
    from vaesc.datasets.reader import open_dataset
    from vaesc.models import load_vae, resolve_device

    images, model = open_dataset(Path(dataset)), load_vae(Path(vae), resolve_device(device))
    blocks = list(_encode(model, images, split, slice(start, stop), block_size))
    mean, std = (np.concatenate(part) for part in zip(*blocks, strict=True))
    if not (np.isfinite(mean).all() and np.isfinite(std).all()):
        raise DataError(f"a latent of the {split} split is not finite; train the VAE again")
    group = create_group(folder / _PART)
    for name, values in zip(_ARRAYS, (mean, std), strict=True):
        _array(group, name, images.n(split), model.latent_dim)[start:stop] = values
    n, centre, squares = moments(mean)
    return {"n": n, "mean": centre.tolist(), "squares": squares.tolist()}


@dataclass(frozen=True)
class LatentStore:
    """The latents of one artifact, read on demand."""

    group: zarr.Group
    window_bytes: int = WINDOW_BYTES
    """Of a window, half of which is held at once, see :mod:`vaesc.windows`."""

    @property
    def attributes(self) -> dict[str, Any]:
        """Where they come from: digests of dataset and VAE, latent_dim, counts."""
        return dict(self.group.attrs)

    @property
    def latent_dim(self) -> int:
        """Number of latent dimensions, d."""
        return int(self.group.attrs["latent_dim"])

    def n(self, split: str) -> int:
        """Return the number of rows of a split."""
        return int(self.group[f"{split}/latents"].shape[0])

    def array(self, split: str) -> zarr.Array:
        """Return the array of posterior means as it lies on disk, float32, shape (n, d)."""
        array: zarr.Array = self.group[f"{split}/latents"]
        return array

    def latents(self, split: str, rows: slice = slice(None)) -> Array:
        """Return posterior means, float32, shape (n, d)."""
        return np.asarray(self.group[f"{split}/latents"][rows])

    def latent_std(self, split: str, rows: slice = slice(None)) -> Array:
        """Return posterior standard deviations, float32, shape (n, d); positive."""
        return np.asarray(self.group[f"{split}/latent_std"][rows])


def open_latents(folder: Path, *, window_bytes: int = WINDOW_BYTES) -> LatentStore:
    """Open what :func:`extract` wrote into `folder`, to hold no more than a window of it."""
    return LatentStore(open_group(folder / _NAME), window_bytes)


def _origin(
    dataset_folder: Path, vae_folder: Path, vae: VAE, counts: dict[str, int]
) -> dict[str, Any]:
    """Return the attributes that say what these latents are latents of."""
    from vaesc.models.files import DESCRIPTION, WEIGHTS

    return {
        "dataset_sha256": dict(open_group(dataset_folder / "dataset.zarr").attrs)["sha256"],
        "vae_sha256": {name: file_digest(vae_folder / name) for name in (WEIGHTS, DESCRIPTION)},
        "latent_dim": vae.latent_dim,
        "counts": counts,
    }


def _shard_rows(group: zarr.Group, split: str, n: int, latent_dim: int) -> list[slice]:
    """Create both arrays of a split and return the rows of each of their shards."""
    means, _ = (_array(group, f"{split}/{name}", n, latent_dim) for name in _ARRAYS)
    return list(shard_blocks(means, 1))


def _array(group: zarr.Group, name: str, n: int, latent_dim: int) -> zarr.Array:
    return create_array(group, name, (n, latent_dim), np.float32, ("sample", "latent"))


def _encode(
    vae: VAE, dataset: ImageDataset, split: str, rows: slice, block_size: int
) -> Iterator[tuple[Array, Array]]:
    """Yield posterior mean and standard deviation of `rows`, group by group.

    Groups are computed side by side, each on one thread: their bytes are those of any machine.
    """
    import torch

    from vaesc.models.elbo import group_images
    from vaesc.sparse._blocks import resolve_threads
    from vaesc.training.threads import one_thread

    def encoded(x: torch.Tensor) -> tuple[Array, Array]:
        with torch.inference_mode():
            mean, log_var = vae.encode(x.to(vae.device))
            return mean.cpu().numpy(), torch.exp(log_var / 2).cpu().numpy()

    n_threads = resolve_threads(None) if vae.device.type == "cpu" else 1
    with one_thread():
        yield from in_order(encoded, group_images(dataset, split, rows, block_size), n_threads)


@dataclass
class Spread:
    """Variance of each dimension over rows that arrive in blocks (Chan et al. 1979)."""

    n: int = 0
    mean: Array | float = 0.0
    squares: Array | float = 0.0

    def merge(self, n: int, mean: Array, squares: Array) -> None:
        """Add the :func:`moments` of the next rows."""
        total = self.n + n
        shift = mean - self.mean
        self.squares += squares + shift**2 * (self.n * n / total)
        self.mean += shift * (n / total)
        self.n = total

    def variance(self) -> Array:
        """Return the variance of all rows, shape (d,)."""
        return np.asarray(self.squares / max(self.n, 1))


def moments(block: Array) -> tuple[int, Array, Array]:
    """Return the number of rows, their mean and their squared distances to it, shape (d,) each."""
    values = block.astype(np.float64)
    mean = values.mean(axis=0)
    return len(values), mean, ((values - mean) ** 2).sum(axis=0)
