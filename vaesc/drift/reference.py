r"""What a model makes of its own data: the yardstick for whatever it is given later.

The reference is taken on the *validation* split. The training split would be optimistic: its
images were fitted, so their errors are smaller than those of new images of the very same kind, and
every new batch would seem to have drifted. (Validation images chose the epoch at which training
stopped, which is one choice among a few; the test split is left to the evaluation.)

Of each image the error and the atoms it uses are kept, not just their histograms: what batches of
the same data show by chance can then be had by drawing images again, whole, with atoms that go
together staying together.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from vaesc.config import canonical_json, derive_seed
from vaesc.errors import DataError
from vaesc.untrusted import is_moderate, read_json

if TYPE_CHECKING:
    from scipy.sparse import csr_array

    from vaesc.bundle import SparseVAE

REFERENCE = "reference.json"
LIMIT = 4096
"""Most images of a reference; their number bounds the smallest p-value, 1 / (n + 1)."""
_FORMAT = 1

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class Reference:
    """Errors and atoms of images that are like those a model was trained on.

    Raises:
        DataError: The numbers contradict each other.
    """

    n_atoms: int
    """Number of atoms of the model, K."""
    mse: tuple[float, ...]
    """Each image's mean squared error, pixels in [0, 1]."""
    l0: tuple[int, ...]
    """Number of atoms that each image uses."""
    atoms: tuple[int, ...]
    """The atoms of the first image, then of the second, and so on; each image's increase."""
    energy: tuple[float, ...]
    """Sum of the squared coefficients of each atom, shape (K,)."""

    def __post_init__(self) -> None:
        if fault := _fault(self):
            raise DataError(f"a model's reference {fault}; register the model again")

    @property
    def n_images(self) -> int:
        """Number of images."""
        return len(self.mse)

    @cached_property
    def sorted_mse(self) -> Floats:
        """The errors in increasing order, shape (n,)."""
        return np.sort(np.asarray(self.mse, np.float64))

    @cached_property
    def uses(self) -> Ints:
        """Number of images that use each atom, shape (K,)."""
        return np.bincount(np.asarray(self.atoms, np.int64), minlength=self.n_atoms)

    def quantiles(self, levels: tuple[float, ...] = (0.05, 0.5, 0.95)) -> dict[str, list[float]]:
        """Return quantiles of the errors (``mse``) and of the numbers of atoms (``l0``)."""
        return {
            "mse": np.quantile(self.sorted_mse, levels).tolist(),
            "l0": np.quantile(np.asarray(self.l0), levels).tolist(),
        }

    def p_values(self, mse: NDArray[Any]) -> NDArray[np.float32]:
        """Return how unusually large each error is: its conformal p-value.

        Args:
            mse: Errors, shape (m,).

        Returns:
            Shape (m,), see :func:`conformal_p_values`.
        """
        return conformal_p_values(self.sorted_mse, mse)


def conformal_p_values(reference: Floats, scores: NDArray[Any]) -> NDArray[np.float32]:
    r"""Return how unusually large each score is among those of a reference.

    .. math:: p = \frac{1 + \#\{i : e_i \ge e\}}{n + 1}

    For an image that is exchangeable with the n reference images, :math:`P(p \le a) \le a`
    for every a, whatever the model and the distribution of scores. That holds on average over
    references: given this one, the share of such images with :math:`p \le a` lies around a by
    about :math:`\sqrt{a (1 - a) / n}`. The p-values of a batch share their reference and
    depend positively on one another, a dependence under which Benjamini and Hochberg's
    procedure still keeps its rate of false discoveries (Bates et al. 2023).

    Args:
        reference: Scores of the reference images, increasing, shape (n,).
        scores: Shape (m,).

    Returns:
        float32 in [1 / (n + 1), 1], shape (m,); small marks images unlike the reference.

    References:
        Vovk, Gammerman, Shafer, "Algorithmic Learning in a Random World", 2005.
        Bates, Candès, Lei, Romano, Sesia, "Testing for Outliers with Conformal p-values",
        2023. https://doi.org/10.1214/22-AOS2244
    """
    below = np.searchsorted(reference, np.asarray(scores, np.float64), side="left")
    n = len(reference)
    return np.asarray((1 + n - below) / (n + 1), np.float32)


def reference_of(
    model: SparseVAE, dataset_folder: Path, *, seed: int, limit: int = LIMIT
) -> Reference:
    """Return the reference of a model: its own encode of images of the validation split.

    The same model, data and seed give the same numbers to the last bit on the same machine.

    Args:
        model: The model.
        dataset_folder: Artifact of the dataset it was trained on.
        seed: The run's seed; it chooses the images where there are more than `limit`.
        limit: Most images.
    """
    from vaesc.bundle import squared_errors
    from vaesc.datasets.reader import open_dataset
    from vaesc.training.threads import one_thread

    dataset = open_dataset(dataset_folder)
    n = dataset.n("validation")
    rng = np.random.default_rng(derive_seed(seed, "register/reference"))
    rows = np.sort(rng.choice(n, min(n, limit), replace=False))
    parts = []
    for block in dataset.blocks("validation", limit):
        mine = rows[(rows >= block.start) & (rows < block.stop)] - block.start
        parts.append(dataset.floats("validation", block)[mine])
    unit = np.concatenate(parts)
    with one_thread():
        codes = model.codes_of_unit(unit)
        made = model.unit_images(model.dictionary.decode(codes))
    return described(codes, squared_errors(unit, made))


def described(codes: csr_array, mse: NDArray[Any]) -> Reference:
    """Return the reference that consists of these codes, shape (n, K), and errors, shape (n,)."""
    rows, atoms, values = used(codes)
    order = np.lexsort((atoms, rows))
    n, n_atoms = codes.shape
    energy = np.bincount(atoms[order], weights=np.square(values[order]), minlength=n_atoms)
    return Reference(
        n_atoms=int(n_atoms),
        mse=tuple(np.asarray(mse, np.float64).tolist()),
        l0=tuple(np.bincount(rows, minlength=n).tolist()),
        atoms=tuple(atoms[order].tolist()),
        energy=tuple(energy.tolist()),
    )


def used(codes: csr_array) -> tuple[Ints, Ints, Floats]:
    """Return row, atom and value of every coefficient that is not zero: a stored zero is no use.

    Args:
        codes: Shape (n, K).
    """
    there = codes.data != 0
    rows = np.repeat(np.arange(codes.shape[0]), np.diff(codes.indptr))[there]
    return rows, codes.indices[there].astype(np.int64), codes.data[there].astype(np.float64)


def save_reference(reference: Reference, folder: Path) -> None:
    """Write ``reference.json`` into `folder`; equal references, equal bytes."""
    text = canonical_json({"format": _FORMAT, **asdict(reference)})
    (folder / REFERENCE).write_text(text + "\n")


def load_reference(folder: Path) -> Reference:
    """Read what :func:`save_reference` wrote.

    Raises:
        DataError: It is not there, or is no reference.
    """
    path = folder / REFERENCE
    try:
        found = read_json(path)
        if found["format"] != _FORMAT:
            raise DataError(f"{path} has format {found['format']!r}, this vaesc reads {_FORMAT}")
        facts = {f.name: found[f.name] for f in fields(Reference)}
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise DataError(f"{path} holds no readable reference: {error}") from error
    make: Callable[..., Reference] = Reference
    return make(**{k: tuple(v) if isinstance(v, list) else v for k, v in facts.items()})


def _fault(found: Reference) -> str | None:
    """Say what is wrong with a reference, which may come from any file; None if nothing is."""
    try:
        mse, energy = (np.asarray(v, np.float64) for v in (found.mse, found.energy))
        l0, atoms = (np.asarray(v or np.empty(0, np.int64)) for v in (found.l0, found.atoms))
        k = found.n_atoms
        plain = all(type(v) in (int, float) for v in (*found.mse, *found.energy))
    except (TypeError, ValueError, OverflowError) as error:
        return f"must hold numbers ({error})"
    if l0.dtype.kind != "i" or atoms.dtype.kind != "i":
        return f"must count atoms in whole numbers, got {l0.dtype} and {atoms.dtype}"
    if not mse.ndim == energy.ndim == l0.ndim == atoms.ndim == 1 or not len(mse) == len(l0) > 0:
        shapes = f"{mse.shape} and {l0.shape}"
        return f"must hold an error and a number of atoms for each image, got shapes {shapes}"
    if type(k) is not int or not plain:
        return "must hold numbers, and count its atoms in a whole one"
    if len(energy) != k or not (energy >= 0).all() or not is_moderate(energy):
        return f"must hold an energy of at least 0 for each of the {k} atoms"
    if not (mse >= 0).all() or not is_moderate(mse):
        return "must hold errors of at least 0"
    # Each by itself before their sum, which may overflow to what it should be: compiled code
    # would follow these numbers.
    counted = ((l0 >= 0) & (l0 <= min(k, len(atoms)))).all() and l0.sum() == len(atoms)
    if not counted or not ((atoms >= 0) & (atoms < k)).all():
        return f"must name the atoms of each image, from 0 to {k - 1}"
    rows = np.repeat(np.arange(len(l0)), l0)
    if not (np.diff(rows * k + atoms) > 0).all():
        return "must name each image's atoms in increasing order"
    return None
