"""The model a user holds: VAE, scaling, dictionary and coder in one piece.

Two files that are versioned apart can be combined wrongly: a dictionary learned on one VAE's
latents decodes to noise under another. :class:`SparseVAE` refuses that (the dictionary names the
VAE it belongs to), and on disk it is one folder whose every file is checked by its SHA-256 before
a byte of it is believed. Weights are safetensors, settings JSON; nothing is ever unpickled.

The four steps of the article, in both directions::

    images --encode--> latents --pursuit--> codes (n, K), CSR
    images <--decode-- latents <--D a------ codes
"""

from __future__ import annotations

import json
import math
import tempfile
from collections.abc import Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from vaesc.bucket import Bucket, is_remote
from vaesc.bucket_folders import publish_folder
from vaesc.config import Application, check_local
from vaesc.dictionary import LatentDictionary
from vaesc.dictionary_files import SETTINGS, WEIGHTS, load_dictionary, save_dictionary
from vaesc.drift.reference import REFERENCE, Reference, load_reference, save_reference
from vaesc.errors import DataError, StoreError
from vaesc.origin import Origin
from vaesc.parts import NAMES, Part, load_part, part_file, save_part
from vaesc.store import file_digest
from vaesc.untrusted import MOST, check_inside, is_moderate, read_json

if TYPE_CHECKING:
    from scipy.sparse import csr_array

    from vaesc.decoder_coding import DecoderCoder
    from vaesc.models import VAE

MANIFEST = "bundle.json"
FILES = ("vae.safetensors", "vae.json", WEIGHTS, SETTINGS)
OPTIONAL = (REFERENCE, *map(part_file, NAMES))
"""Files that a model may have: what it makes of its own data, see :mod:`vaesc.drift`, and what
applications add, see :mod:`vaesc.parts`."""
GROUP = 1024
"""Images per pass through the network: the last bits of a product depend on its size."""
_FORMAT = 1

Floats = NDArray[np.float32]


class SparseVAE:
    """A VAE and a dictionary of its latents: turns images into sparse codes and back.

    Every method takes images of shape (n, *shape) or flat, (n, prod(shape)), in the range of the
    dataset the model was trained on (`low` to `high`). Where that is one of integers (0..255 of
    bytes, 0..16 of digits), floats may also be in [0, 1]: a batch of floats that never exceeds 1
    is taken so (:mod:`vaesc.datasets.scaling` says why that is safe).

    Images that come back are float32, and every method takes them again: in [0, 1] for data of
    that range or of integers, in `low` to `high` for any other. Errors are always in [0, 1] units.

    Args:
        vae: The network, on the device where it is to compute.
        dictionary: Atoms, scaling and coder.
        low: What the dataset's black was before it was mapped to 0.
        high: What the dataset's white was before it was mapped to 1.
        reference: What the model makes of its own data; None where nobody has looked.
        parts: What applications added, by their names.

    Raises:
        DataError: VAE and dictionary have different numbers of latent dimensions, or dictionary
            and reference different numbers of atoms.
    """

    def __init__(
        self,
        vae: VAE,
        dictionary: LatentDictionary,
        *,
        low: float = 0.0,
        high: float = 1.0,
        reference: Reference | None = None,
        parts: Mapping[str, Part] | None = None,
    ) -> None:
        if vae.latent_dim != dictionary.latent_dim:
            raise DataError(
                f"the VAE has {vae.latent_dim} latent dimensions, the dictionary "
                f"{dictionary.latent_dim}; learn the dictionary on this VAE's latents"
            )
        if reference is not None and reference.n_atoms != dictionary.n_atoms:
            raise DataError(
                f"the reference is of a model of {reference.n_atoms} atoms, the dictionary has "
                f"{dictionary.n_atoms}; register the model again"
            )
        self.vae, self.dictionary = vae, dictionary
        self.low, self.high = float(low), float(high)
        self.reference = reference
        self.parts: dict[str, Part] = dict(parts or {})
        self.digest: str | None = None
        """SHA-256 of the ``bundle.json`` that the model was loaded from; None if it was not."""
        self.atom_ids: tuple[int, ...] | None = None
        """Lasting number of each atom (column of a code), which it keeps through retraining; None
        where the registry has given none (:mod:`vaesc.gate.atoms`)."""
        self.origin: Origin | None = None
        """Where :func:`vaesc.load_model` found it; None for a model that was put together."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one image."""
        return self.vae.shape

    @property
    def latent_dim(self) -> int:
        """Number of latent dimensions, d."""
        return self.dictionary.latent_dim

    @property
    def n_atoms(self) -> int:
        """Number of atoms, K."""
        return self.dictionary.n_atoms

    @property
    def n_nonzero_coefs(self) -> int:
        """Sparsity level at which images are coded unless told otherwise, k."""
        return self.dictionary.n_nonzero_coefs

    def __repr__(self) -> str:
        return (
            f"SparseVAE(shape={self.shape}, latent_dim={self.latent_dim}, "
            f"n_atoms={self.n_atoms}, n_nonzero_coefs={self.n_nonzero_coefs})"
        )

    def latents(self, images: NDArray[Any]) -> Floats:
        """Return the posterior means of `images`, shape (n, d)."""
        return self.latents_of_unit(self.to_unit(images))

    def latents_of_unit(self, unit: Floats) -> Floats:
        """Return :meth:`latents` of images that are in [0, 1] already, shape (n, *shape)."""
        import torch

        latents = np.empty((len(unit), self.latent_dim), np.float32)
        with torch.inference_mode():
            for rows in _groups(len(unit)):
                x = torch.from_numpy(np.ascontiguousarray(unit[rows]))
                latents[rows] = self.vae.encode(x.to(self.vae.device))[0].cpu().numpy()
        if not is_moderate(latents):
            raise DataError(
                "the model's encoder gives latents that are not finite, or absurdly large: its "
                "weights are damaged, or it was never trained; fetch it again"
            )
        return latents

    def encode(self, images: NDArray[Any], n_nonzero_coefs: int | None = None) -> csr_array:
        """Return the sparse codes of `images`.

        Args:
            images: Shape (n, *shape) or (n, prod(shape)).
            n_nonzero_coefs: Sparsity level, from 1 to K; default: the model's own.

        Returns:
            Shape (n, K), float32, at most `n_nonzero_coefs` entries a row.

        Raises:
            DataError: The images have the wrong shape, dtype or range, or are not finite.
        """
        self._check_level(n_nonzero_coefs)
        return self.codes_of_unit(self.to_unit(images), n_nonzero_coefs)

    def decode(self, codes: csr_array) -> Floats:
        """Return the images that `codes`, shape (n, K), stand for.

        Returns:
            float32, shape (n, *shape), in a range that :meth:`encode` takes: [0, 1], or `low` to
            `high` where that is neither [0, 1] nor a range of integers.

        Raises:
            DataError: The codes are damaged, not real numbers, do not have K columns, or are not
                finite.
        """
        codes = self._checked_codes(codes)
        return self.decode_latents(self.dictionary.decode(codes))

    def reconstruct(self, images: NDArray[Any], n_nonzero_coefs: int | None = None) -> Floats:
        """Return ``decode(encode(images))``, shape (n, *shape), in the range of :meth:`decode`."""
        return self.decode(self.encode(images, n_nonzero_coefs))

    def score(self, images: NDArray[Any], n_nonzero_coefs: int | None = None) -> Floats:
        """Return each image's mean squared error of reconstruction, pixels in [0, 1], shape (n,).

        Large scores mark images unlike those the model was trained on.
        """
        self._check_level(n_nonzero_coefs)
        unit = self.to_unit(images)
        return squared_errors(unit, self.unit_reconstructions(unit, n_nonzero_coefs))

    def unit_reconstructions(self, unit: Floats, n_nonzero_coefs: int | None = None) -> Floats:
        """Return :meth:`reconstruct` of images that are in [0, 1] already, in [0, 1] too.

        Args:
            unit: Shape (n, *shape).
            n_nonzero_coefs: Sparsity level; default: the model's own.
        """
        codes = self.codes_of_unit(unit, n_nonzero_coefs)
        return self.unit_images(self.dictionary.decode(codes))

    def codes_of_unit(self, unit: Floats, n_nonzero_coefs: int | None = None) -> csr_array:
        """Return :meth:`encode` of images that are in [0, 1] already, shape (n, K).

        A dictionary that was refined with its decoder is coded in with it
        (:mod:`vaesc.decoder_coding`), any other by the latents alone.

        Args:
            unit: Shape (n, *shape).
            n_nonzero_coefs: Sparsity level; default: the model's own.
        """
        dictionary = self.dictionary
        level = self.n_nonzero_coefs if n_nonzero_coefs is None else n_nonzero_coefs
        if dictionary.amounts is None and not dictionary.descent_steps:
            return dictionary.encode(self.latents_of_unit(unit), level)
        coder = self._decoder_coder
        if level == 1 and dictionary.amounts is not None:
            return coder.nearest(unit)
        return coder.descended(unit, dictionary.encode(self.latents_of_unit(unit), level))

    @cached_property
    def _decoder_coder(self) -> DecoderCoder:
        """What codes by decoded error; it keeps its decoded atoms, so the weights must rest."""
        from vaesc.decoder_coding import DecoderCoder

        return DecoderCoder(self.vae, self.dictionary)

    def decode_latents(self, latents: NDArray[Any]) -> Floats:
        """Return the images that `latents`, shape (n, d), stand for, in :meth:`decode`'s range."""
        from vaesc.datasets.scaling import from_unit

        return from_unit(self.unit_images(latents), low=self.low, high=self.high)

    def unit_images(self, latents: NDArray[Any]) -> Floats:
        """Return the images that `latents`, shape (n, d), stand for: float32 in [0, 1] always.

        Raises:
            DataError: They are not finite: the weights are damaged, or the latents.
        """
        import torch

        images = np.empty((len(latents), *self.shape), np.float32)
        with torch.inference_mode():
            for rows in _groups(len(latents)):
                z = torch.from_numpy(np.ascontiguousarray(latents[rows], np.float32))
                images[rows] = self.vae.decode(z.to(self.vae.device)).cpu().numpy()
        if not np.isfinite(images).all():
            raise DataError(
                "the model's decoder gives images that are not finite: its weights are damaged, "
                "or these latents are not its own; fetch it again"
            )
        return images

    def to_unit(self, images: NDArray[Any]) -> Floats:
        """Return a user's images as float32 in [0, 1], shape (n, *shape).

        Raises:
            DataError: The images have the wrong shape, dtype or range, or are not finite.
        """
        from vaesc.datasets.scaling import to_unit

        images = np.asarray(images)
        n_pixels = math.prod(self.shape)
        if images.shape[1:] not in (self.shape, (n_pixels,)):
            raise DataError(
                f"images must have shape (n, {', '.join(map(str, self.shape))}) or "
                f"(n, {n_pixels}), got {images.shape}; a single image needs a leading axis of 1"
            )
        unit = to_unit(images, low=self.low, high=self.high)
        return np.asarray(unit, np.float32).reshape(len(images), *self.shape)

    @classmethod
    def from_artifacts(
        cls,
        dataset_folder: Path,
        vae_folder: Path,
        dictionary_folder: Path,
        *,
        device: str = "auto",
    ) -> SparseVAE:
        """Put a model together from the artifacts of the steps ingest, train and learn.

        Raises:
            DataError: The dictionary was learned on the latents of another VAE.
        """
        from vaesc.datasets.reader import open_dataset
        from vaesc.models import load_vae, resolve_device

        dataset = open_dataset(dataset_folder)
        dictionary = load_dictionary(dictionary_folder)
        _check_pair(dictionary, vae_folder)
        vae = load_vae(vae_folder, resolve_device(device))
        return cls(vae, dictionary, low=dataset.low, high=dataset.high)

    def save(self, folder: Path | str) -> None:
        """Write the model into `folder`, which is created if need be; equal models, equal bytes.

        Args:
            folder: Where to; may be in a bucket (``s3://bucket/prefix``), from where
                :func:`vaesc.load_model` takes it: nobody ever finds half of it there.

        Raises:
            ConfigError: It is another URL than one of S3.
            StoreError: There is a model in `folder` already, or the bucket cannot be written.
        """
        from vaesc.models import save_vae

        if is_remote(folder):
            with tempfile.TemporaryDirectory(prefix="vaesc-") as draft:
                self.save(Path(draft))
                publish_folder(Path(draft), Bucket(str(folder)), MANIFEST)
            return
        check_local(folder)
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        if (folder / MANIFEST).exists():
            raise StoreError(f"{folder} holds a model already; save into an empty folder")
        save_vae(self.vae, folder)
        save_dictionary(self.dictionary, folder)
        files = [*FILES]
        if self.reference is not None:
            save_reference(self.reference, folder)
            files.append(REFERENCE)
        for name, part in self.parts.items():
            save_part(part, folder / part_file(name))
            files.append(part_file(name))
        facts = {
            "format": _FORMAT,
            "low": self.low,
            "high": self.high,
            "files": {name: file_digest(folder / name) for name in files},
        }
        # Last: a folder with a manifest is whole.
        text = json.dumps(facts, indent=1, sort_keys=True, allow_nan=False)
        (folder / MANIFEST).write_text(text + "\n")

    @classmethod
    def load(cls, folder: Path | str, device: str = "auto") -> SparseVAE:
        """Read a model that :meth:`save` wrote, after checking the SHA-256 of each of its files.

        Args:
            folder: Where it lies.
            device: Where torch is to compute, see :func:`vaesc.models.resolve_device`.

        Raises:
            StoreError: A file is missing, or is not the one that was saved.
            DataError: The files are whole, but not those of a model.
        """
        from vaesc.models import load_vae, resolve_device

        folder = Path(folder)
        facts = _read_manifest(folder)
        _check_files(folder, facts["files"])
        dictionary = load_dictionary(folder)
        _check_pair(dictionary, folder)
        vae = load_vae(folder, resolve_device(device))
        reference = load_reference(folder) if REFERENCE in facts["files"] else None
        parts: dict[str, Part] = {
            n: load_part(folder / part_file(n)) for n in NAMES if part_file(n) in facts["files"]
        }
        model = cls(
            vae, dictionary, low=facts["low"], high=facts["high"], reference=reference, parts=parts
        )
        model.digest = file_digest(folder / MANIFEST)
        return model

    def part(self, application: Application) -> Part:
        """Return what an application added to the model.

        Raises:
            DataError: It added nothing: the run that made the model did not name it.
        """
        if application not in self.parts:
            raise DataError(
                f"this model was registered without {application}; name it when the model is "
                f"made, such as `vaesc run --set 'applications=[\"{application}\"]'`"
            )
        return self.parts[application]

    def _check_level(self, level: int | None) -> None:
        if level is not None and not 1 <= level <= self.n_atoms:
            raise DataError(
                f"n_nonzero_coefs must be between 1 and the number of atoms, {self.n_atoms}, "
                f"got {level}"
            )

    def _checked_codes(self, codes: Any) -> csr_array:  # noqa: ANN401 - any sparse or dense array
        codes = whole_csr(codes)
        if codes.ndim != 2 or codes.shape[1] != self.n_atoms:
            raise DataError(
                f"codes must have shape (n, {self.n_atoms}), one column per atom, "
                f"got {codes.shape}"
            )
        if not np.isfinite(codes.data).all():
            raise DataError("codes must be finite, got NaN or infinity; encode the images again")
        return codes


def whole_csr(codes: Any) -> csr_array:  # noqa: ANN401 - any sparse or dense array
    """Return `codes` as a CSR matrix whose every index was checked.

    Compiled code follows these indices without asking: one that is out of range, as a damaged
    file may hold, would end the process.

    Raises:
        DataError: They are no matrix of real numbers, or an index is out of range.
    """
    from scipy.sparse import csr_array

    try:
        # Before it becomes CSR: the way there trusts the indices too.
        if hasattr(codes, "check_format"):
            codes.check_format(full_check=True)
            _check_row_starts(codes.indptr, len(codes.indices))
        if not hasattr(codes, "dtype"):
            codes = np.asarray(codes)
        if codes.dtype.kind not in "buif":
            raise TypeError(f"its numbers must be bool, integers or floats, not {codes.dtype}")
        if codes.dtype == np.float16:  # scipy multiplies none
            codes = codes.astype(np.float32)
        codes = csr_array(codes)
        codes.check_format(full_check=True)
    except (ValueError, TypeError, IndexError, MemoryError) as error:
        reason = str(error) or type(error).__name__
        raise DataError(
            f"codes are not a whole CSR matrix ({reason}); encode the images again"
        ) from error
    return codes


def _check_row_starts(indptr: NDArray[np.integer[Any]], n_values: int) -> None:
    """Hold the starts of rows to their order.

    scipy looks at their differences, which overflow, and at none where the matrix holds nothing.
    """
    if indptr[0] != 0 or (indptr[1:] < indptr[:-1]).any() or indptr[-1] > n_values:
        raise ValueError(f"its rows' starts do not rise from 0 to {n_values}")


def squared_errors(images: Floats, reconstructions: Floats) -> Floats:
    """Return each image's squared error, averaged over its pixels, shape (n,)."""
    difference = (images - reconstructions).reshape(len(images), math.prod(images.shape[1:]))
    means = np.square(difference).mean(axis=1, dtype=np.float64)
    return np.asarray(means, np.float32)


def _groups(n: int) -> Iterator[slice]:
    return (slice(start, min(start + GROUP, n)) for start in range(0, n, GROUP))


def _check_pair(dictionary: LatentDictionary, vae_folder: Path) -> None:
    """Refuse a dictionary that was learned on the latents of another VAE."""
    for name, digest in dictionary.vae_sha256.items():
        path = vae_folder / name
        if name not in FILES or not path.is_file() or file_digest(path) != digest:
            raise DataError(
                f"the dictionary was learned on the latents of another VAE than the one in "
                f"{vae_folder} ({name} differs); learn it again on this VAE's latents"
            )


def _read_manifest(folder: Path) -> dict[str, Any]:
    try:
        facts: dict[str, Any] = read_json(folder / MANIFEST)
        if facts["format"] != _FORMAT:
            raise DataError(
                f"{folder / MANIFEST} has format {facts['format']!r}, this vaesc reads {_FORMAT}"
            )
        low, high = float(facts["low"]), float(facts["high"])
        if not (low < high and high - low >= 1 / MOST and max(-low, high) <= MOST):
            raise ValueError(
                f"black and white must be two numbers in order, of at most {MOST:g}, got {low}, "
                f"{high}"
            )
        if not isinstance(facts["files"], dict):
            raise TypeError("files must be named with their digests")
        return {"files": facts["files"], "low": low, "high": high}
    except DataError:
        raise
    except (OSError, KeyError, TypeError, ValueError, OverflowError) as error:
        raise StoreError(
            f"{folder} holds no model: {MANIFEST} cannot be read ({type(error).__name__}: {error})"
        ) from error


def _check_files(folder: Path, listed: dict[str, str]) -> None:
    """Refuse files that are not the ones the manifest lists."""
    if not set(FILES) <= set(listed) <= {*FILES, *OPTIONAL}:
        raise StoreError(
            f"{folder / MANIFEST} must list {sorted(FILES)}, and may list {sorted(OPTIONAL)}, "
            f"got {sorted(listed)}"
        )
    for name, digest in listed.items():
        path = folder / name
        try:
            check_inside(path, folder)
            is_there = path.is_file()
        except (ValueError, OSError) as error:
            raise StoreError(f"the model in {folder} is not taken: {error}") from error
        if not is_there:
            raise StoreError(f"the model in {folder} lacks {name}; fetch it again")
        if file_digest(path) != digest:
            raise StoreError(
                f"{path} is not the file that was saved (its SHA-256 differs); fetch it again"
            )
