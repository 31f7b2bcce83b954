r"""From levels to bits and back: every decision that spells a code, through a range coder.

A code is spelled as its model does (:mod:`vaesc.applications.code_model`): class, which atoms,
which signs, whose level exceeds 1, whose exceeds 2, and so on; each for all codes of a block at
once, as what is asked next depends on the answers. Every probability is k / 65536 with a whole k,
which a float64 holds exactly, so that coder and decoder agree to the last bit on any machine.

References:
    Martin, "Range encoding: an algorithm for removing redundancy from a digitised message", 1979.
    Bamler, "Understanding Entropy Coding With Asymmetric Numeral Systems (ANS): a Statistician's
    Perspective", 2022. https://arxiv.org/abs/2201.01741 (the library `constriction`)
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from vaesc.applications.code_model import MOST, ONE, CodeModel
from vaesc.errors import DataError

if TYPE_CHECKING:
    from scipy.sparse import csr_array

Ints = NDArray[np.int64]


class Writer:
    """Collects decisions; :meth:`finish` returns their bits."""

    def __init__(self) -> None:
        from constriction import stream

        self._coder = stream.queue.RangeEncoder()
        self._model = stream.model.Bernoulli(perfect=False)

    def decisions(self, probability: NDArray[Any], yes: NDArray[Any]) -> NDArray[np.bool_]:
        """Write decisions, shape (n,), of which each is yes with `probability` in 65536ths."""
        if len(yes):
            self._coder.encode(yes.astype(np.int32), self._model, _exact(probability))
        return yes

    def finish(self) -> bytes:
        """Return all that was written."""
        return bytes(self._coder.get_compressed().astype("<u4").tobytes())


class Reader:
    """Gives the decisions that a :class:`Writer` wrote, if asked in the same order.

    Past its end, bits make decisions too: who wants to know of damage keeps a checksum.

    Raises:
        DataError: The bits are not in whole words.
    """

    def __init__(self, data: bytes) -> None:
        from constriction import stream

        if len(data) % 4:
            raise DataError("it is damaged: a block is not in whole words; fetch it again")
        words = np.frombuffer(data, "<u4").astype(np.uint32)
        self._coder = stream.queue.RangeDecoder(words)
        self._model = stream.model.Bernoulli(perfect=False)

    def decisions(self, probability: NDArray[Any]) -> NDArray[np.bool_]:
        """Read decisions, shape (n,), of which each is yes with `probability` in 65536ths.

        Raises:
            DataError: No coder can have written these bits.
        """
        if not len(probability):
            return np.zeros(0, bool)
        try:
            found = self._coder.decode(self._model, _exact(probability))
        except AssertionError as error:  # what constriction raises, and nothing else
            raise DataError("it is damaged: no coder writes such bits; fetch it again") from error
        return np.asarray(found != 0)


def write_choices(writer: Writer, chosen: NDArray[Any], shares: NDArray[Any]) -> None:
    """Write one of M choices each, shape (n,), by halving what may still be chosen.

    Args:
        writer: Where to.
        chosen: From 0 to M - 1.
        shares: How likely each is, whole numbers, shape (n, M).
    """
    first, width = np.zeros(len(chosen), np.int64), _power(shares.shape[1])
    while width > 1:
        width //= 2
        upper = chosen >= first + width
        writer.decisions(_upper(shares, first, width), upper)
        first = first + width * upper


def read_choices(reader: Reader, shares: NDArray[Any]) -> Ints:
    """Return what :func:`write_choices` wrote, given the same shares (n, M).

    Raises:
        DataError: A choice is none of the M.
    """
    first, width = np.zeros(len(shares), np.int64), _power(shares.shape[1])
    while width > 1:
        width //= 2
        first += width * reader.decisions(_upper(shares, first, width))
    if (first >= shares.shape[1]).any():
        raise DataError("it is damaged: it names a class that does not exist; fetch it again")
    return first


def write_levels(
    writer: Writer, model: CodeModel, levels: csr_array, classes: NDArray[Any]
) -> None:
    """Write levels, shape (n, K), each row by its class, and not the classes themselves."""
    dense = levels.toarray()
    rows, atoms = np.nonzero(dense)
    writer.decisions(model.used[classes].ravel(), (dense != 0).ravel())
    c, values = classes[rows], dense[rows, atoms].astype(np.int64)
    writer.decisions(model.negative[c, atoms], values < 0)
    asked, t = np.arange(len(values)), 1
    while len(asked) and t < MOST:
        more = np.abs(values[asked]) > t
        writer.decisions(_larger(model, t, c[asked], atoms[asked]), more)
        asked, t = asked[more], t + 1


def read_levels(reader: Reader, model: CodeModel, classes: NDArray[Any]) -> csr_array:
    """Return what :func:`write_levels` wrote, given the same classes, shape (n,)."""
    from scipy.sparse import csr_array as csr

    used = reader.decisions(model.used[classes].ravel()).reshape(len(classes), model.n_atoms)
    rows, atoms = np.nonzero(used)
    c = classes[rows]
    negative = reader.decisions(model.negative[c, atoms])
    size = np.ones(len(atoms), np.int16)
    asked, t = np.arange(len(atoms)), 1
    while len(asked) and t < MOST:
        asked = asked[reader.decisions(_larger(model, t, c[asked], atoms[asked]))]
        size[asked] += 1
        t += 1
    indptr = np.concatenate([[0], np.cumsum(used.sum(axis=1))]).astype(np.int32)
    return csr((np.where(negative, -size, size), atoms.astype(np.int32), indptr), used.shape)


def _larger(model: CodeModel, t: int, classes: NDArray[Any], atoms: NDArray[Any]) -> NDArray[Any]:
    return np.asarray(model.larger[min(t, len(model.larger)) - 1, classes, atoms])


def _exact(probability: NDArray[Any]) -> NDArray[np.float64]:
    return np.asarray(probability, np.float64) / ONE


def _power(n: int) -> int:
    """Return the smallest power of 2 that is at least n."""
    return 1 << (n - 1).bit_length()


def _upper(shares: NDArray[Any], first: Ints, width: int) -> Ints:
    """Return the share of the upper half of choices first ... first + 2 width - 1, in 65536ths."""
    m = shares.shape[1]
    total = np.zeros((len(shares), m + 1), np.int64)
    np.cumsum(shares, axis=1, out=total[:, 1:])
    low, middle, high = (
        np.take_along_axis(total, np.minimum(first + at * width, m)[:, None], 1)[:, 0]
        for at in (0, 1, 2)
    )
    whole = np.maximum(high - low, 1)
    return np.asarray(np.clip((ONE * (high - middle) + whole // 2) // whole, 1, ONE - 1))
