r"""A probability model of sparse codes: which atoms go together, and with what coefficients.

Coefficients are quantised: a code is a row of whole numbers, its *levels* :math:`v_j`, mostly
zero. Codes fall into M classes; within a class c the atoms are independent,

.. math:: p(v) = \sum_c \pi_c \prod_j p_{cj}(v_j) ,

and a level is spelled in binary decisions, each with a probability of its own:

======================  =================================  ===========
decision                probability                        kept for
======================  =================================  ===========
is the atom used?       ``used[c, j]``                     each c, j
if so, negatively?      ``negative[c, j]``                 each c, j
is :math:`|v_j| > t`?   ``larger[min(t, T) - 1, c, j]``    each c, j
======================  =================================  ===========

so that sizes beyond T fall off geometrically. Mixtures of products over categories are
Lazarsfeld's latent classes; they are fitted by EM in :mod:`vaesc.applications.code_fit`.

Every probability is a whole number of 65536ths: what an entropy coder does with them is exact
arithmetic, the same on every machine.

Products of independent decisions say too little about *how many* atoms a code uses: pursuit gives
most codes exactly k. Where that matters (likelihood, samples), the number n comes first, from its
histogram, and the support is that of the class given that it has n atoms. That is the conditional
Bernoulli distribution, whose normaliser :math:`P_c(n)` is Poisson's binomial one.

References:
    Lazarsfeld and Henry, "Latent Structure Analysis", 1968.
    Chen and Liu, "Statistical Applications of the Poisson-Binomial and Conditional Bernoulli
    Distributions", 1997. https://www3.stat.sinica.edu.tw/statistica/j7n4/j7n44/j7n44.htm
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from vaesc.errors import DataError
from vaesc.untrusted import MOST as MOST_NUMBER
from vaesc.untrusted import is_moderate

if TYPE_CHECKING:
    from scipy.sparse import csr_array

ONE = 1 << 16
"""Probability 1; every probability is from 1 to ``ONE - 1`` of it."""
MOST = 255
"""Largest level."""
MOST_CLASSES = ONE // 16

Floats = NDArray[np.float64]
Words = NDArray[np.uint16]


@dataclass(frozen=True, kw_only=True)
class CodeModel:
    """Latent classes of sparse codes; make one with :meth:`fit` or :meth:`from_arrays`.

    Raises:
        DataError: The arrays do not belong together, or hold what is no probability.
    """

    step: NDArray[np.float32]
    """Width of a quantiser's cell for each atom, shape (K,)."""
    amount: NDArray[np.float32]
    """What levels 1, 2, ... stand for, in steps, increasing, shape (A,); later ones themselves."""
    classes: NDArray[np.uint32]
    """Probability of each class, shape (M,); they sum to 1."""
    used: Words
    """Shape (M, K)."""
    negative: Words
    """Shape (M, K)."""
    larger: Words
    """Shape (T, M, K)."""
    counts: NDArray[np.uint32]
    """Fitted codes that use 0, 1, ... atoms, shape (K + 1,) or shorter."""

    def __post_init__(self) -> None:
        if fault := _fault(self):
            raise DataError(f"a model of codes {fault}; make the model again")

    @property
    def n_atoms(self) -> int:
        """Number of atoms, K."""
        return int(self.used.shape[1])

    @property
    def n_classes(self) -> int:
        """Number of classes, M."""
        return len(self.classes)

    @classmethod
    def fit(
        cls,
        codes: csr_array,
        *,
        step: float | Floats,
        n_classes: int = 32,
        rng: np.random.Generator,
    ) -> CodeModel:
        """Fit to codes, shape (n, K), quantised in steps of `step`; see :mod:`.code_fit`."""
        from vaesc.applications.code_fit import fit_codes

        return fit_codes(codes, step=step, n_classes=n_classes, rng=rng)

    def quantise(self, codes: csr_array) -> csr_array:
        """Return the levels of `codes`, shape (n, K), int16; what rounds to zero is no use."""
        return quantised(codes, self.step)

    def values(self, levels: csr_array) -> csr_array:
        """Return what `levels` stand for: codes, shape (n, K), float32."""
        size = np.abs(levels.data.astype(np.int64))
        steps = np.arange(MOST + 1, dtype=np.float32)
        steps[1 : 1 + len(self.amount)] = self.amount
        made = np.sign(levels.data) * steps[size] * self.step[levels.indices]
        return _like(levels, made.astype(np.float32))

    def bits(self, levels: csr_array) -> Floats:
        """Return what a coder spends on `levels` in each class, the class included, (n, M)."""
        return class_bits(levels, self.classes, self.used, self.negative, self.larger)

    def log_likelihood(self, codes: csr_array) -> Floats:
        """Return ln p of each code, quantised and with its number of atoms, shape (n,).

        A number of atoms that no fitted code had counts as half a code of the fitted ones.
        """
        levels = self.quantise(codes)
        n_used = np.diff(levels.indptr)
        share = np.zeros(self.n_atoms + 1)
        share[: len(self.counts)] = self.counts
        counts = np.log((share + 0.5) / (share + 0.5).sum())
        given = -np.log(2) * self.bits(levels) - self._log_counts[:, n_used].T
        top = given.max(axis=1, keepdims=True)
        found = counts[n_used] + top[:, 0] + np.log(np.exp(given - top).sum(axis=1))
        return np.asarray(found, np.float64)

    def sample(
        self,
        n: int,
        rng: np.random.Generator,
        *,
        banned: Sequence[int] = (),
        forced: Sequence[int] = (),
    ) -> csr_array:
        """Draw codes, shape (n, K), float32; atoms can be switched off and on.

        A class is drawn by how well it goes with what is switched; then the number of atoms, the
        support of that size (more where more are forced, fewer where fewer are left), and the
        coefficients, uniformly within their cells.

        Args:
            n: Number of codes.
            rng: Where chance comes from.
            banned: Atoms that no code may use.
            forced: Atoms that every code uses.

        Raises:
            DataError: An atom does not exist, or is switched both on and off.
        """
        from vaesc.applications.code_sampling import sample

        return sample(self, n, rng, banned=banned, forced=forced)

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Return everything, by name."""
        return {f.name: getattr(self, f.name) for f in fields(self)}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[Any]]) -> CodeModel:
        """Return the model whose :meth:`arrays` these are.

        Raises:
            DataError: They are none.
        """
        missing = [f.name for f in fields(cls) if f.name not in arrays]
        if missing:
            raise DataError(f"a model of codes lacks {', '.join(missing)}; make the model again")
        return cls(**{f.name: arrays[f.name] for f in fields(cls)})

    @cached_property
    def _log_counts(self) -> Floats:
        """Log of each class's own probability of n atoms, shape (M, K + 1)."""
        probability = self.used / ONE
        found = np.zeros((self.n_classes, self.n_atoms + 1))
        found[:, 0] = 1
        for p in probability.T[..., None]:
            found[:, 1:] = found[:, 1:] * (1 - p) + found[:, :-1] * p
            found[:, :1] *= 1 - p
        return np.asarray(np.log(np.maximum(found, 1e-300)))


def quantised(codes: csr_array, step: NDArray[Any]) -> csr_array:
    """Round `codes`, shape (n, K), to whole steps of each atom, at most :data:`MOST`; int16."""
    levels = np.rint(codes.data / step[codes.indices])
    found = _like(codes, np.clip(levels, -MOST, MOST).astype(np.int16)).copy()
    found.eliminate_zeros()  # in place, hence the copy: the indices are those of `codes`
    return found


def class_bits(
    levels: csr_array, classes: NDArray[Any], used: NDArray[Any], negative: NDArray[Any],
    larger: NDArray[Any],
) -> Floats:  # fmt: skip
    """Return the bits of each row of `levels` (n, K) in each class, shape (n, M).

    Args:
        levels: Whole numbers.
        classes: Probabilities in 65536ths, shape (M,), and so are the others:
        used: Shape (M, K).
        negative: Shape (M, K).
        larger: Shape (T, M, K).
    """
    (no, yes), (plus, minus), (stop, go) = (_costs(p) for p in (used, negative, larger))
    size = np.abs(levels.data.astype(np.int64))
    last = len(larger)
    bits = -np.log2(classes / ONE) + no.sum(axis=1)
    bits = bits + _like(levels, np.ones(len(size))) @ (yes - no + plus + stop[0]).T
    bits += where(levels, levels.data < 0) @ (minus - plus).T
    for t in range(1, last):
        bits += where(levels, size > t) @ (go[t - 1] - stop[t - 1] + stop[t]).T
    bits += where(levels, np.maximum(size - last, 0)) @ go[-1].T
    return np.asarray(bits, np.float64)


def where(codes: csr_array, data: NDArray[Any]) -> csr_array:
    """Return `data` at the entries of `codes`, float64, its zeros left out."""
    from scipy.sparse import csr_array as csr

    there = data != 0
    kept = np.concatenate([[0], np.cumsum(there)])[codes.indptr]
    return csr((data[there].astype(np.float64), codes.indices[there], kept), shape=codes.shape)


def _costs(probability: NDArray[Any]) -> tuple[Floats, Floats]:
    """Return the bits of no and of yes."""
    p = probability / ONE
    return -np.log2(1 - p), -np.log2(p)


def _like(codes: csr_array, data: NDArray[Any]) -> csr_array:
    from scipy.sparse import csr_array as csr

    return csr((data, codes.indices, codes.indptr), shape=codes.shape)


def _fault(model: CodeModel) -> str | None:
    """Say what is wrong with arrays that may come from any file; None if nothing is."""
    shapes = {f.name: getattr(model, f.name).shape for f in fields(model)}
    words = ("classes", "used", "negative", "larger")
    kinds: dict[str, type[np.generic]] = {
        "step": np.float32, "amount": np.float32, "classes": np.uint32, "used": np.uint16,
        "negative": np.uint16, "larger": np.uint16, "counts": np.uint32,
    }  # fmt: skip
    for name, kind in kinds.items():
        if getattr(model, name).dtype != kind:
            return f"must keep {name} as {kind.__name__}, got {getattr(model, name).dtype}"
    m, k = shapes["used"] if len(shapes["used"]) == 2 else (0, 0)
    n_counts, n_larger = (s[0] if s else 0 for s in (shapes["counts"], shapes["larger"]))
    expected = {
        "step": (k,), "amount": (len(model.amount) if shapes["amount"] else 0,), "classes": (m,),
        "negative": (m, k), "larger": (n_larger, m, k), "counts": (n_counts,),
    }  # fmt: skip
    for name, shape in expected.items():
        if shapes[name] != shape or not all(shape):
            return f"must have {name} of shape {shape} and none of it 0, got {shapes[name]}"
    if len(model.counts) > k + 1 or len(model.amount) > MOST:
        return f"counts {len(model.counts)} numbers of {k} atoms, {len(model.amount)} amounts"
    if m > MOST_CLASSES or n_larger > MOST:
        return f"must have at most {MOST_CLASSES} classes and {MOST} sizes, got {m}, {n_larger}"
    if any((getattr(model, name) == 0).any() for name in words):
        return "must hold probabilities above 0"
    if not model.counts.any():
        return "must have counted codes"
    if int(model.classes.sum(dtype=np.int64)) != ONE:
        return "must have classes whose probabilities sum to 1"
    for name in ("step", "amount"):
        values = getattr(model, name)
        if not (is_moderate(values) and (values >= 1 / MOST_NUMBER).all()):
            return f"must have {name}s above 0, and at most {MOST_NUMBER:g}"
    return None
