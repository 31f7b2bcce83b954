"""Images to bytes and back: the codec of a registered model.

What is written is exact: no decision of the range coder depends on a float that a machine might
round otherwise. Pixels come from a network, in blocks of fixed size and on one thread: the same
bits in every process of a machine; another machine may round a gray level otherwise, and no image
after it suffers.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import IO, TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from vaesc.applications.code_model import CodeModel
from vaesc.applications.compression.entropy import (
    Reader,
    Writer,
    read_choices,
    read_levels,
    write_choices,
    write_levels,
)  # fmt: skip
from vaesc.applications.compression.files import BLOCK, Header, block_of, pack, unpack
from vaesc.applications.compression.layers import (
    Coded,
    Layers,
    Prepared,
    arrays_of,
    code,
    decode,
    layers_from,
    prepare,
)  # fmt: skip
from vaesc.applications.compression.transforms import Transforms
from vaesc.applications.threads import one_thread_everywhere
from vaesc.datasets.scaling import from_unit, is_integer_range
from vaesc.errors import ConfigError, DataError
from vaesc.parts import Part

if TYPE_CHECKING:
    from vaesc.bundle import SparseVAE

QUALITIES = 9
DEFAULT_QUALITY = 5
_SLACK = 64
"""Bits by which a coder may end before what its decisions are worth."""
_ALL = slice(None)

Images = NDArray[Any]


@dataclass(frozen=True)
class Codec:
    """Compresses images with a model, and only with it: a file names the codec that wrote it.

    Raises:
        DataError: Transforms or layers are not those of such a model.
    """

    model: SparseVAE
    transforms: Transforms
    qualities: tuple[Layers, ...]

    def __post_init__(self) -> None:
        n_pixels = int(np.prod(self.model.shape))
        fits = self.transforms.mean.shape[1] == n_pixels and len(self.qualities) > 0
        for each in self.qualities:
            fits &= each.base.n_atoms == self.model.n_atoms
            fits &= each.detail.n_atoms == self.transforms.n_details
            fits &= each.kinds.shape[1] == self.transforms.n_kinds
        if not fits:
            raise DataError(
                "this model's part for compression is of another model; register the model again"
            )

    @classmethod
    def of(cls, model: SparseVAE) -> Codec:
        """Return the codec that a registered model carries.

        Raises:
            DataError: It carries none, or one that is damaged.
        """
        part = model.part("compression")
        try:
            n = part.facts["qualities"]
            if type(n) is not int or not 1 <= n <= QUALITIES:
                raise ValueError(f"it has {str(n)[:80]} qualities, not 1 to {QUALITIES}")
            layers = tuple(layers_from(part.arrays, f"{q + 1}/") for q in range(n))
            transforms = Transforms.from_arrays(part.arrays)
        except (KeyError, ValueError, TypeError) as error:
            if isinstance(error, DataError):
                raise
            raise DataError(
                f"this model's part for compression is damaged ({error}); register the model again"
            ) from error
        return cls(model, transforms, layers)

    def part(self) -> Part:
        """Return what the model is to carry."""
        arrays = dict(self.transforms.arrays())
        for q, layers in enumerate(self.qualities):
            arrays |= arrays_of(layers, f"{q + 1}/")
        return Part(arrays=arrays, facts={"qualities": len(self.qualities)})

    @cached_property
    def digest(self) -> bytes:
        """SHA-256 of every number that decoding depends on, 32 bytes."""
        found = hashlib.sha256()
        dictionary = self.model.dictionary
        arrays = dict(self.part().arrays)
        arrays |= {f"vae/{n}": t.cpu().numpy() for n, t in self.model.vae.state_dict().items()}
        arrays |= {
            f"dictionary/{n}": getattr(dictionary, n) for n in ("dictionary", "mean", "scale")
        }
        arrays["range"] = np.array([self.model.low, self.model.high])
        for name in sorted(arrays):
            array = np.ascontiguousarray(arrays[name])
            found.update(f"{name} {array.dtype.str} {array.shape}\n".encode())
            found.update(array.tobytes())
        return found.digest()

    def compress(self, images: Images, quality: int = DEFAULT_QUALITY) -> bytes:
        """Return images as one file.

        Args:
            images: As :meth:`.SparseVAE.encode` takes them, (n, *shape) or (n, prod(shape)).
            quality: From 1, fewest bytes, to the number of qualities (9), least error.

        Raises:
            DataError: The images have the wrong shape, dtype or range, or are not finite.
            ConfigError: There is no such quality.
        """
        layers = self._layers(quality)
        blocks = []
        unit = self.model.to_unit(images)  # all at once: what their range is, only all can say
        for rows in _blocks(len(unit)):
            prepared = self.prepare(unit[rows])
            blocks.append(self.written(self.coded(prepared, layers), layers))
        return self.packed(blocks, quality, len(unit))

    def decompress(self, data: bytes | IO[bytes], rows: slice = _ALL) -> Images:
        """Return the images of a file, or some of them.

        Only the blocks that hold them are decoded, each whole, so that some images are to the last
        bit those that all would hold.

        Args:
            data: The file, whole or open; of an open one only what is needed is read.
            rows: Which images, a plain range.

        Returns:
            As :meth:`dtype` says, shape (n, *shape).

        Raises:
            DataError: The file is damaged, of another model, or claims what cannot be.
        """
        file = io.BytesIO(data) if isinstance(data, bytes) else data
        header = self.header(file)
        first, last, _ = _plain(rows).indices(header.n_images)
        made = np.empty((max(last - first, 0), *self.model.shape), self.dtype)
        done = 0
        for part in self.parts(file, header, slice(first, last)):
            made[done : done + len(part)] = part
            done += len(part)
        return made

    @property
    def dtype(self) -> type[np.generic]:
        """Type of decoded images: uint8 for data of whole gray levels up to 255, else float32.

        Float images are in the range of :meth:`.SparseVAE.decode`.
        """
        low, high = self.model.low, self.model.high
        return np.uint8 if is_integer_range(low, high) and high <= 255 else np.float32

    @property
    def descr(self) -> str:
        """How a .npy file names :attr:`dtype`, little-endian."""
        return "|u1" if self.dtype == np.uint8 else "<f4"

    def header(self, file: IO[bytes]) -> Header:
        """Return an open file's header once all of it is found to be true of this codec.

        Raises:
            DataError: It is not.
        """
        header = unpack(file)
        if header.digest != self.digest:
            raise DataError(
                "it was compressed with another model than this one; name that model with --model"
            )
        if header.shape != self.model.shape or not 1 <= header.quality <= len(self.qualities):
            raise DataError("its header contradicts the model that it names; fetch it again")
        layers = self.qualities[header.quality - 1]
        bits, n = 8 * np.diff(header.bounds), header.n_images
        images = np.minimum(BLOCK, n - BLOCK * np.arange(len(bits)))
        if (bits + _SLACK < images * layers.least_bits).any():
            raise DataError("it claims more images than its bytes can hold; fetch it again")
        if (bits - _SLACK > images * layers.most_bits).any():
            raise DataError("it claims more bytes than its images can take; fetch it again")
        return header

    def parts(self, file: IO[bytes], header: Header, rows: slice) -> Iterator[Images]:
        """Yield the images from ``rows.start`` to ``rows.stop``, block by block.

        Raises:
            DataError: A block is damaged.
        """
        if rows.stop <= rows.start:
            return
        layers = self.qualities[header.quality - 1]
        for b in range(rows.start // BLOCK, -(-rows.stop // BLOCK)):
            here = header.images_of(b)
            made = self.decoded(block_of(file, header, b), layers, here.stop - here.start)
            yield made[max(rows.start - here.start, 0) : rows.stop - here.start]

    @one_thread_everywhere()
    def prepare(self, unit: NDArray[np.float32]) -> Prepared:
        """Return images in [0, 1], shape (n, *shape), ready for :meth:`coded`."""
        return prepare(self.model, unit)

    @one_thread_everywhere()
    def coded(self, prepared: Prepared, layers: Layers) -> Coded:
        """Return what is to be written of at most :data:`.BLOCK` images."""
        return code(self.model, self.transforms, layers, prepared)

    def written(self, coded: Coded, layers: Layers) -> bytes:
        """Return it as the bytes of a block."""
        writer, n = Writer(), len(coded.kinds)
        write_choices(writer, coded.base_classes, _shares(layers.base, n))
        write_levels(writer, layers.base, coded.base, coded.base_classes)
        write_choices(writer, coded.kinds, layers.kinds[coded.base_classes])
        write_choices(writer, coded.detail_classes, _shares(layers.detail, n))
        write_levels(writer, layers.detail, coded.detail, coded.detail_classes)
        return writer.finish()

    @one_thread_everywhere()
    def decoded(self, block: bytes, layers: Layers, n_images: int) -> Images:
        """Return the images of a block, shape (n, *shape).

        Raises:
            DataError: It is damaged.
        """
        reader = Reader(block)
        base_classes = read_choices(reader, _shares(layers.base, n_images))
        base = read_levels(reader, layers.base, base_classes)
        kinds = read_choices(reader, layers.kinds[base_classes])
        detail_classes = read_choices(reader, _shares(layers.detail, n_images))
        detail = read_levels(reader, layers.detail, detail_classes)
        coded = Coded(
            base_classes=base_classes, base=base, kinds=kinds, detail=detail,
            detail_classes=detail_classes,
        )  # fmt: skip
        unit = decode(self.model, self.transforms, layers, coded)
        return self.in_range(unit.reshape(n_images, *self.model.shape))

    def packed(self, blocks: list[bytes], quality: int, n_images: int) -> bytes:
        """Return blocks, each of :data:`.BLOCK` images but the last, as one file."""
        return pack(
            blocks, digest=self.digest, quality=quality, shape=self.model.shape, n_images=n_images
        )

    def _layers(self, quality: int) -> Layers:
        if not 1 <= quality <= len(self.qualities):
            raise ConfigError(f"quality must be from 1 to {len(self.qualities)}, got {quality}")
        return self.qualities[quality - 1]

    def in_range(self, unit: NDArray[np.float32]) -> Images:
        """Return images in [0, 1] as they are given back, rounded as :attr:`dtype` asks."""
        if self.dtype == np.uint8:
            return np.asarray(np.rint(unit * np.float32(self.model.high)), np.uint8)
        return from_unit(unit, low=self.model.low, high=self.model.high)


def _blocks(n: int) -> Iterator[slice]:
    return (slice(start, min(start + BLOCK, n)) for start in range(0, n, BLOCK))


def _plain(rows: slice) -> slice:
    if rows.step not in (None, 1):
        raise ConfigError(f"rows must be a plain range such as 100:200, got a step of {rows.step}")
    return rows


def _shares(model: CodeModel, n: int) -> NDArray[np.uint32]:
    return np.broadcast_to(model.classes, (n, model.n_classes))
