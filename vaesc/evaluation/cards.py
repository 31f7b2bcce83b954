r"""What single atoms mean: a card for each of those that carry most of the codes' energy.

An atom is understood by what it does, by where it is used and by what is lost without it. All is
measured on the test split, at the model's own sparsity level, with :math:`\hat z = m + s D^\top a`
the coded latent of an image whose coefficient of atom j is :math:`a_j \neq 0` (a *user* of it).

effect
    :math:`g(\hat z_{-j} + t\, s\, d_j) - g(\hat z_{-j})`, averaged over users, where g is the
    decoder, :math:`\hat z_{-j}` the user's coded latent without the atom, and t the mean
    :math:`|a_j|` of all users, with either sign. A decoder is not linear: what an atom adds
    depends on what it is added to. At the mean latent, which is no image's, one would see what the
    atom does where nobody uses it.
purity
    The share of the atom's energy :math:`\sum_i a_{ij}^2` that falls on the class on which most of
    it falls. Weighted so, an image that has hardly anything of the atom counts hardly anything. It
    says something only beside the base rate, the share of that class among all test images, and
    beside chance, what shuffled labels give.
ablation
    The increase of a user's squared error per pixel when :math:`a_j` is set to 0 and every other
    coefficient stays, averaged over users; also as a share of the users' mean error.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from vaesc.bundle import SparseVAE, squared_errors
from vaesc.evaluation.batches import Floats, Split
from vaesc.evaluation.excerpt import Excerpt

if TYPE_CHECKING:
    from scipy.sparse import csc_array, csr_array

CARDS = "cards.json"
N_CARDS = 24
N_USERS = 6
"""Images shown on a card: those with the largest coefficients, of either sign."""
N_EFFECT = 512
"""Users, the first of the split, that an effect is averaged over: more change nothing visible."""
N_SHUFFLES = 200
"""Shuffles of the labels that chance is estimated from."""
_FORMAT = 1


@dataclass(frozen=True)
class Cards:
    """The cards' numbers and pictures, the atom with most energy first."""

    facts: Mapping[str, Any]
    """Content of ``cards.json``."""
    effects: Floats
    """Effect of +t and of -t, shape (n, 2, *shape)."""
    users: list[Floats]
    """For each card the images with the largest coefficients, in [0, 1], shape (m, *shape)."""


def atom_cards(model: SparseVAE, test: Split, *, name: str, n_cards: int = N_CARDS) -> Cards:
    """Measure the atoms that carry most energy on the test split, at the model's own level.

    Codes are kept, k numbers an image; images and decoded ones come and go in batches. Of a large
    split the cards are of an excerpt (:mod:`vaesc.evaluation.excerpt`); the facts say of how many.

    Args:
        model: VAE and dictionary.
        test: Test images.
        name: Name of the method that the model belongs to.
        n_cards: Largest number of cards; atoms that nobody uses get none.
    """
    excerpt = Excerpt(test)
    codes = _codes(model, excerpt)
    energy = np.bincount(
        codes.indices, np.square(codes.data, dtype=np.float64), minlength=model.n_atoms
    )
    columns, n_users = codes.tocsc(), np.bincount(codes.indices, minlength=model.n_atoms)
    order = np.argsort(-energy, kind="stable")
    chosen = [int(j) for j in order[:n_cards] if n_users[j]]
    sizes = {j: float(np.abs(_column(columns, j)[1]).mean(dtype=np.float64)) for j in chosen}
    losses, effects = _pass(model, excerpt, codes, sizes)
    labels = excerpt.labels()
    cards = [
        {
            "atom": j,
            "energy_share": float(energy[j] / energy.sum()),
            **_usage(*_column(columns, j), excerpt),
            **({} if labels is None else _purity(*_column(columns, j), labels)),
            "ablation": _ablation(losses[j]),
            "effect_limit": float(np.abs(effects[i]).max()),
        }
        for i, j in enumerate(chosen)
    ]
    facts = {
        "format": _FORMAT,
        "method": name,
        "k": model.n_nonzero_coefs,
        "n_atoms": model.n_atoms,
        "n_used": int(np.count_nonzero(n_users)),
        "n_test": len(excerpt),
        "shape": list(model.shape),
        "classes": None if excerpt.classes is None else list(excerpt.classes),
        "cards": cards,
    }
    users = [test.pick(card["images"]).reshape(-1, *model.shape) for card in cards]
    return Cards(facts, effects, users)


def write_cards(cards: Cards, folder: Path) -> None:
    """Write ``cards.json`` and the sheets of :func:`vaesc.report.sprites.draw_cards`."""
    from vaesc.report.sprites import draw_cards

    tiles = draw_cards(cards.effects, cards.users, folder) if cards.users else {}
    text = json.dumps({**cards.facts, "tiles": tiles}, indent=1, sort_keys=True, allow_nan=False)
    (folder / CARDS).write_text(text + "\n")


def _batches(model: SparseVAE, test: Excerpt) -> Iterator[tuple[slice, Floats]]:
    for rows, images in test.batches():
        yield rows, images.reshape(-1, *model.shape)


def _codes(model: SparseVAE, test: Excerpt) -> csr_array:
    """Return the codes of the split at the model's own level, shape (n, K), without stored 0."""
    from scipy.sparse import csr_array, vstack

    parts = [model.codes_of_unit(images) for _, images in _batches(model, test)]
    codes = csr_array(vstack(parts, format="csr"))
    codes.eliminate_zeros()
    codes.sort_indices()
    return codes


def _column(columns: csc_array, atom: int) -> tuple[NDArray[np.int64], Floats]:
    """Return an atom's users, increasing row numbers, and their coefficients of it."""
    part = slice(columns.indptr[atom], columns.indptr[atom + 1])
    return np.asarray(columns.indices[part], np.int64), np.asarray(columns.data[part], np.float32)


def _usage(rows: NDArray[np.int64], values: Floats, test: Excerpt) -> dict[str, Any]:
    """How often and how much an atom is used, and by which images most."""
    largest = np.argsort(-np.abs(values), kind="stable")[:N_USERS]
    return {
        "n_users": len(rows),
        "usage": len(rows) / len(test),
        "coefficient": float(np.abs(values).mean(dtype=np.float64)),
        "positive_share": float((values > 0).mean()),
        "images": [test.row_of(int(rows[i])) for i in largest],
        "coefficients": [float(values[i]) for i in largest],
    }


def _purity(rows: NDArray[np.int64], values: Floats, labels: NDArray[np.int64]) -> dict[str, Any]:
    """Return the class that most of an atom's energy falls on, that share, and what to expect.

    ``chance`` is the mean purity with shuffled labels. It exceeds every base rate, since the
    largest class is picked after looking, and the more so the fewer images carry the energy.
    """
    weights = np.square(values, dtype=np.float64)
    by_class = np.bincount(labels[rows], weights)
    label = int(np.argmax(by_class))
    rng = np.random.default_rng(0)
    shuffled = [
        np.bincount(rng.permutation(labels)[: len(rows)], weights).max() for _ in range(N_SHUFFLES)
    ]
    return {
        "label": label,
        "purity": float(by_class[label] / weights.sum()),
        "base_rate": float((labels == label).mean()),
        "chance": float(np.mean(shuffled) / weights.sum()),
    }


@dataclass
class _Loss:
    """Sums over an atom's users."""

    n: int = 0
    error: float = 0.0
    """Squared errors per pixel with the atom."""
    without: float = 0.0
    """The same with its coefficient set to 0."""


def _ablation(loss: _Loss) -> dict[str, float | None]:
    error, increase = loss.error / loss.n, (loss.without - loss.error) / loss.n
    # Users without any error have no share of it to lose.
    percent = 100 * increase / error if error > 0 else None
    return {"error": error, "increase": increase, "percent": percent}


def _pass(
    model: SparseVAE, test: Excerpt, codes: csr_array, sizes: Mapping[int, float]
) -> tuple[dict[int, _Loss], Floats]:
    """Pass over the split once: what each atom's users lose without it, and its mean effect."""
    losses = {j: _Loss() for j in sizes}
    sums = {j: np.zeros((2, *model.shape)) for j in sizes}
    for rows, images in _batches(model, test):
        part = codes[rows]
        latents = model.dictionary.decode(part)
        errors = squared_errors(images, model.unit_images(latents))
        columns = part.tocsc()
        for j, size in sizes.items():
            at, values = _column(columns, j)
            if not len(at):
                continue
            step = model.dictionary.dictionary[j] * model.dictionary.scale
            bare = latents[at] - values[:, None] * step
            base = model.unit_images(bare)
            loss = losses[j]
            few = slice(max(0, N_EFFECT - loss.n))
            for sign, total in zip((1, -1), sums[j], strict=True):
                moved = model.unit_images(bare[few] + np.float32(sign * size) * step)
                total += (moved - base[few]).sum(axis=0, dtype=np.float64)
            loss.n += len(at)
            loss.error += float(errors[at].sum(dtype=np.float64))
            loss.without += float(squared_errors(images[at], base).sum(dtype=np.float64))
    effects = [total / min(losses[j].n, N_EFFECT) for j, total in sums.items()]
    return losses, np.asarray(effects, np.float32).reshape(len(sums), 2, *model.shape)
