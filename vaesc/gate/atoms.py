r"""Atoms keep their number through retraining: they are matched by what they do to images.

A retrained VAE has another latent space, in which the directions of the old one mean nothing: the
cosine of two atoms says nothing across models. What an atom *does* can be compared, since both
models draw in the same pixels. With :math:`\hat z_i = m + s D^\top a_i` the coded latent of image
i and g the decoder, the effect of atom j is

.. math:: e_j = \frac{1}{|U_j|} \sum_{i \in U_j} \mathrm{sign}(a_{ij})
          \bigl( g(\hat z_i) - g(\hat z_i - s\, a_{ij} d_j) \bigr) ,

over images :math:`U_j` that use it; an atom that none uses is drawn once, at the mean latent. The
pairing of old and new atoms that maximises the sum of :math:`|\cos(e_j, e'_{j'})|` (the sign of an
atom is arbitrary) is found by the Hungarian method. A pair above :data:`SAME` is one atom, which
keeps its number; its drift is one minus that cosine. What is left has died, or was born and gets a
number that was never used.

References:
    Kuhn, "The Hungarian Method for the Assignment Problem", 1955.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from vaesc.bundle import SparseVAE

if TYPE_CHECKING:
    from scipy.sparse import csr_array

SAME = 0.5
"""Absolute cosine of their effects from which on two atoms are one."""
DRIFTED = 0.2
"""Drift from which on the report names a persisting atom."""
_USERS = 16
"""Images an effect is averaged over: those with the largest coefficients."""

Floats = NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class AtomIds:
    """The lasting number of every atom of a dictionary."""

    ids: tuple[int, ...]
    """By row of the dictionary."""
    next_id: int
    """The next atom that is born gets this one."""

    @classmethod
    def first(cls, n_atoms: int) -> AtomIds:
        """Number the atoms of a first champion by their rows."""
        return cls(ids=tuple(range(n_atoms)), next_id=n_atoms)


@dataclass(frozen=True, kw_only=True)
class Lineage:
    """What became of the champion's atoms in the candidate."""

    ids: AtomIds
    """Of the candidate's atoms."""
    similarity: tuple[float, ...]
    """Of each of the candidate's atoms with the one it continues; 0 if it was born."""
    born: tuple[int, ...]
    died: tuple[int, ...]

    @property
    def drifted(self) -> tuple[tuple[int, float], ...]:
        """Number and drift of the atoms that persist but changed, most first."""
        moved = [
            (number, 1 - s)
            for number, s in zip(self.ids.ids, self.similarity, strict=True)
            if 0 < s <= 1 - DRIFTED
        ]
        return tuple(sorted(moved, key=lambda each: (-each[1], each[0])))

    def to_json(self) -> dict[str, Any]:
        """Return it as plain JSON values."""
        return {
            "n_persisted": len(self.ids.ids) - len(self.born),
            "born": list(self.born),
            "died": list(self.died),
            "drifted": [{"atom": number, "drift": round(d, 4)} for number, d in self.drifted],
            "ids": list(self.ids.ids),
            "next_id": self.ids.next_id,
        }


def effects(model: SparseVAE, codes: csr_array) -> Floats:
    """Return what every atom adds to the images that use it, shape (K, n_pixels).

    Args:
        model: VAE and dictionary.
        codes: Its codes of some images, shape (n, K).
    """
    columns = codes.tocsc()
    mean_size = float(np.abs(codes.data).mean()) if codes.nnz else 1.0
    found = np.empty((model.n_atoms, int(np.prod(model.shape))), np.float32)
    for j in range(model.n_atoms):
        span = slice(columns.indptr[j], columns.indptr[j + 1])
        rows, amounts = columns.indices[span], columns.data[span]
        if not len(rows):
            found[j] = _effect_of_unused(model, j, mean_size)
            continue
        chosen = np.argsort(-np.abs(amounts), kind="stable")[:_USERS]
        latents, amounts = model.dictionary.decode(codes[rows[chosen]]), amounts[chosen]
        without = latents - _moved(model, j, amounts)
        change = model.unit_images(latents) - model.unit_images(without)
        found[j] = (change.reshape(len(change), -1) * np.sign(amounts)[:, None]).mean(axis=0)
    return found


def _effect_of_unused(model: SparseVAE, atom: int, size: float) -> Floats:
    """Return half the way from minus to plus the mean amount: it turns round with the atom."""
    step = _moved(model, atom, np.array([size, -size], np.float32))
    more, less = model.unit_images(model.dictionary.mean + step)
    return np.asarray((more - less).ravel() / 2, np.float32)


def match(new: Floats, old: Floats) -> list[tuple[int, int, float]]:
    """Pair new and old atoms by their effects.

    Args:
        new: Effects of the new atoms, shape (K', n_pixels).
        old: Those of the old ones, shape (K, n_pixels).

    Returns:
        (new, old, absolute cosine) of min(K', K) pairs, by new atom.
    """
    from scipy.optimize import linear_sum_assignment

    similarity = np.abs(_normed(new) @ _normed(old).T)
    # Two atoms that change no pixel are alike in that; a cosine would say nothing of them.
    similarity[np.ix_(~new.any(axis=1), ~old.any(axis=1))] = 1
    rows, columns = linear_sum_assignment(similarity, maximize=True)
    return [
        (int(i), int(j), float(min(similarity[i, j], 1.0)))
        for i, j in zip(rows, columns, strict=True)
    ]


def inherit(new: Floats, old: Floats, ids: AtomIds) -> Lineage:
    """Give new atoms the numbers of the old ones they continue, and fresh numbers to the rest.

    Args:
        new: Effects of the new atoms, shape (K', n_pixels).
        old: Those of the old ones, shape (K, n_pixels).
        ids: Numbers of the old ones.

    Raises:
        ValueError: `ids` are not those of K atoms.
    """
    if len(ids.ids) != len(old):
        raise ValueError(f"there are {len(old)} old atoms, and numbers for {len(ids.ids)}")
    kept = {i: (ids.ids[j], s) for i, j, s in match(new, old) if s >= SAME}
    numbers, similarity, born = [], [], []
    next_id = ids.next_id
    for i in range(len(new)):
        if i in kept:
            numbers.append(kept[i][0])
            similarity.append(kept[i][1])
            continue
        numbers.append(next_id)
        similarity.append(0.0)
        born.append(next_id)
        next_id += 1
    died = sorted(set(ids.ids) - set(numbers))
    return Lineage(
        ids=AtomIds(ids=tuple(numbers), next_id=next_id), similarity=tuple(similarity),
        born=tuple(born), died=tuple(died),
    )  # fmt: skip


def _moved(model: SparseVAE, atom: int, amounts: NDArray[Any]) -> Floats:
    """Return what amounts of one atom are in latent space, shape (m, d)."""
    d = model.dictionary
    return np.asarray(amounts[:, None] * (d.scale * d.dictionary[atom]), np.float32)


def _normed(effects: Floats) -> Floats:
    lengths = np.linalg.norm(effects, axis=1, keepdims=True)
    return np.asarray(effects / np.maximum(lengths, 1e-12), np.float32)
