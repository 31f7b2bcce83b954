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
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from vaesc.arrays import create_array, create_group, open_group, shard_blocks
from vaesc.errors import DataError
from vaesc.metrics import count_active
from vaesc.progress import SILENT, Listener
from vaesc.store import file_digest

if TYPE_CHECKING:
    import zarr

    from vaesc.datasets.reader import ImageDataset
    from vaesc.models import VAE

Array = np.ndarray[Any, Any]

SPLITS = ("train", "validation", "test")
_NAME = "latents.zarr"


def extract(
    dataset_folder: Path,
    vae_folder: Path,
    folder: Path,
    *,
    device: str = "auto",
    block_size: int = 8192,
    listener: Listener = SILENT,
) -> dict[str, Any]:
    """Encode every split and write ``latents.zarr``.

    Args:
        dataset_folder: Folder of the dataset's artifact.
        vae_folder: Folder of the VAE's artifact.
        folder: Where to write.
        device: Where to compute, see :func:`vaesc.models.resolve_device`.
        block_size: Images in memory at once; no part of the result.
        listener: Hears of progress.

    Returns:
        The summary: latent_dim, n_samples (of all splits), metrics (``<split>/active_units``).

    Raises:
        DataError: The VAE was trained on images of another shape, or a latent is not finite.
    """
    from vaesc.datasets.reader import open_dataset
    from vaesc.models import load_vae, resolve_device

    dataset = open_dataset(dataset_folder)
    vae = load_vae(vae_folder, resolve_device(device))
    if vae.shape != tuple(dataset.shape):
        raise DataError(
            f"the VAE encodes images of shape {vae.shape}, but the dataset's have shape "
            f"{tuple(dataset.shape)}; train it on this dataset"
        )
    counts = {split: dataset.n(split) for split in SPLITS}
    group = create_group(folder / _NAME, _origin(dataset_folder, vae_folder, vae, counts))
    heard = _Counted(listener, sum(counts.values()))
    active = {s: _extract_split(vae, dataset, s, group, block_size, heard) for s in SPLITS}
    metrics = {f"{s}/active_units": v for s, v in active.items() if counts[s]}
    return {"latent_dim": vae.latent_dim, "n_samples": heard.total, "metrics": metrics}


@dataclass(frozen=True)
class LatentStore:
    """The latents of one artifact, read on demand."""

    group: zarr.Group

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

    def latents(self, split: str, rows: slice = slice(None)) -> Array:
        """Return posterior means, float32, shape (n, d)."""
        return np.asarray(self.group[f"{split}/latents"][rows])

    def latent_std(self, split: str, rows: slice = slice(None)) -> Array:
        """Return posterior standard deviations, float32, shape (n, d); positive."""
        return np.asarray(self.group[f"{split}/latent_std"][rows])


def open_latents(folder: Path) -> LatentStore:
    """Open what :func:`extract` wrote into `folder`."""
    return LatentStore(open_group(folder / _NAME))


@dataclass
class _Counted:
    """Tells a listener how many images are done, over all splits."""

    listener: Listener
    total: int
    done: int = 0

    def add(self, n: int) -> None:
        self.done += n
        self.listener.progress(self.done, self.total)


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


def _extract_split(
    vae: VAE,
    dataset: ImageDataset,
    split: str,
    group: zarr.Group,
    block_size: int,
    heard: _Counted,
) -> float:
    """Write one split, a shard at a time, and return its number of active units."""
    shape = (dataset.n(split), vae.latent_dim)
    means, stds = (
        create_array(group, f"{split}/{name}", shape, np.float32, ("sample", "latent"))
        for name in ("latents", "latent_std")
    )
    spread, written = _Spread(), list[Future[None]]()
    # One shard at a time: two writers inside one shard would lose data. It is written while the
    # next one is encoded.
    with ThreadPoolExecutor(1, "vaesc-write") as writer:
        for rows in shard_blocks(means, 1):
            blocks = list(_encode(vae, dataset, split, rows, block_size, heard))
            mean, std = (np.concatenate(part) for part in zip(*blocks, strict=True))
            if not (np.isfinite(mean).all() and np.isfinite(std).all()):
                raise DataError(
                    f"a latent of the {split} split is not finite; train the VAE again"
                )
            for done in written:
                done.result()
            written = [
                writer.submit(array.__setitem__, rows, values)
                for array, values in ((means, mean), (stds, std))
            ]
            spread.add(mean)
        for done in written:
            done.result()
    return float(count_active(spread.variance()))


def _encode(
    vae: VAE, dataset: ImageDataset, split: str, rows: slice, block_size: int, heard: _Counted
) -> Iterator[tuple[Array, Array]]:
    """Yield posterior mean and standard deviation of `rows`, group by group."""
    import torch

    from vaesc.models.elbo import group_images

    for x in group_images(dataset, split, rows, block_size):
        with torch.inference_mode():
            mean, log_var = vae.encode(x.to(vae.device))
        yield mean.cpu().numpy(), torch.exp(log_var / 2).cpu().numpy()
        heard.add(len(x))


@dataclass
class _Spread:
    """Variance of each dimension over rows that arrive in blocks (Chan et al. 1979)."""

    n: int = 0
    mean: Array | float = 0.0
    squares: Array | float = 0.0

    def add(self, block: Array) -> None:
        values = block.astype(np.float64)
        n, mean = len(values), values.mean(axis=0)
        total = self.n + n
        shift = mean - self.mean
        self.squares += ((values - mean) ** 2).sum(axis=0) + shift**2 * (self.n * n / total)
        self.mean += shift * (n / total)
        self.n = total

    def variance(self) -> Array:
        return np.asarray(self.squares / max(self.n, 1))
