r"""Dictionary learning by passes over all samples at once: K-SVD, approximate K-SVD and MOD.

These are the classical methods, for comparison and for polishing: each round codes every sample
greedily and then refits the dictionary to the codes. K-SVD refits one atom and its coefficients at
a time, by the best rank-one matrix; MOD all atoms at once, by least squares,
:math:`D = (Z^\top Z)^{-1} Z^\top X`. Online learning
(:func:`~vaesc.sparse.dictionary.learn_dictionary`) gets further in the same time.
"""

from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from vaesc.sparse._batches import Batches
from vaesc.sparse._blocks import DEFAULT_BLOCK_BYTES, BlockRunner
from vaesc.sparse._coder import GreedyCoder, Slots
from vaesc.sparse._start import start_dictionary, unit_rows
from vaesc.sparse._validation import Selection, as_samples, check_level, check_selection
from vaesc.sparse.dictionary import LearnedDictionary, OnEpoch

Method = Literal["ksvd", "aksvd", "mod"]
_POWERS = {"ksvd": 8, "aksvd": 1}
"""Method -> power steps towards the best rank-one matrix."""


def learn_dictionary_full(
    X: ArrayLike,
    *,
    n_atoms: int,
    n_nonzero_coefs: int,
    seed: int,
    method: Method = "aksvd",
    selection: Selection = "ols",
    max_epochs: int = 20,
    init: ArrayLike | None = None,
    on_epoch: OnEpoch | None = None,
    n_threads: int | None = None,
) -> LearnedDictionary:
    """Learn a dictionary by K-SVD, approximate K-SVD or MOD.

    Args:
        X: Samples, shape (n, d), in memory; a float32 copy of them is made.
        n_atoms: Number of atoms K, at least 1.
        n_nonzero_coefs: Sparsity level k of the codes, from 1 to K; above d it acts as d.
        seed: Fixes every random choice; the threads change nothing.
        method: ``"ksvd"`` (best rank-one matrix to working accuracy, by power steps),
            ``"aksvd"`` (one power step) or ``"mod"``.
        selection: How codes are chosen, ``"ols"`` or ``"omp"``.
        max_epochs: Rounds of coding and refitting.
        init: Atoms to start from, shape (K, d), of any norm but zero; None starts from samples.
        on_epoch: Called after each round with its number and its row of the history.
        n_threads: Threads; None uses all cores.

    Returns:
        The dictionary and its history; ``train_mse`` is the coding error at the start of each
        round. Unused atoms are replaced by the worst-coded samples.

    Raises:
        ValueError: Shapes do not fit, a number is not finite, or a setting is out of range.

    References:
        Aharon, Elad, Bruckstein, "K-SVD", 2006. https://doi.org/10.1109/TSP.2006.881199
        Engan, Aase, Husoy, "Method of optimal directions for frame design", 1999.
        https://doi.org/10.1109/ICASSP.1999.760624
    """
    if method not in (*_POWERS, "mod"):
        raise ValueError(f"method must be 'ksvd', 'aksvd' or 'mod', got {method!r}")
    check_selection(selection)
    if n_atoms < 1 or max_epochs < 1:
        raise ValueError(
            f"n_atoms and max_epochs must be at least 1, got {n_atoms} and {max_epochs}"
        )
    source = as_samples(X)
    if source.shape[0] == 0:
        raise ValueError("X must hold at least one sample, got none")
    level = min(check_level("n_nonzero_coefs", n_nonzero_coefs, n_atoms), source.shape[1])
    rng = np.random.default_rng(seed)
    batches = Batches(np.asarray(source), source.shape[0], rng)
    dictionary = start_dictionary(batches.pool(n_atoms), n_atoms, rng, init)
    samples = next(batches.epoch())
    history: list[dict[str, float]] = []
    n_revived = 0
    with BlockRunner(n_threads) as runner:
        for epoch in range(1, max_epochs + 1):
            coder = GreedyCoder(dictionary, [level], selection, want_residual=True)
            slots = coder.code(samples, runner, DEFAULT_BLOCK_BYTES)
            n_revived += _refit(method, samples, slots, dictionary)
            error = float(slots.residual.mean()) / samples.shape[1] * batches.unit * batches.unit
            history.append({"train_mse": error, "n_revived": float(n_revived)})
            if on_epoch is not None:
                on_epoch(epoch, dict(history[-1]))
    return LearnedDictionary(
        dictionary=dictionary, history=tuple(history), n_revived=n_revived, best_epoch=max_epochs
    )


def _refit(
    method: str, samples: NDArray[np.float32], slots: Slots, dictionary: NDArray[np.float32]
) -> int:
    """Refit the dictionary to the codes, in place; return how many atoms were replaced."""
    filled = np.arange(slots.atoms.shape[1]) < slots.counts
    used = np.bincount(slots.atoms[filled], minlength=len(dictionary))
    if method == "mod":
        _solve(samples, slots, dictionary)
    else:
        _rank_one(samples, slots, filled, dictionary, _POWERS[method])
    unused = np.flatnonzero(used == 0)
    worst = np.argsort(-slots.residual, kind="stable")[: len(unused)]
    energy = float(np.square(samples).sum(axis=1).max())
    worst = worst[slots.residual[worst] > 1e-6 * energy]
    dictionary[unused[: len(worst)]] = unit_rows(samples[worst])
    return len(worst)


def _solve(samples: NDArray[np.float32], slots: Slots, dictionary: NDArray[np.float32]) -> None:
    """MOD: least squares for all used atoms, then unit norms."""
    from vaesc.sparse._update import add_gram, add_products

    n_atoms, d = dictionary.shape
    gram, usage = np.zeros((n_atoms, n_atoms)), np.zeros(n_atoms)
    products = np.zeros((n_atoms, d))
    codes = slots.atoms, slots.values, slots.counts
    add_gram(*codes, gram, usage)
    add_products(*codes, samples, 0, d, products)
    used = np.flatnonzero(usage)
    inner = gram[np.ix_(used, used)]
    # A whisper of ridge, for atoms that are only ever used together.
    inner[np.diag_indices(len(used))] += 1e-9 * np.diag(inner)
    solved = np.linalg.lstsq(inner, products[used], rcond=None)[0]
    visible = np.linalg.norm(solved, axis=1) > 0
    dictionary[used[visible]] = unit_rows(solved[visible])


def _rank_one(
    samples: NDArray[np.float32],
    slots: Slots,
    filled: NDArray[np.bool_],
    dictionary: NDArray[np.float32],
    n_powers: int,
) -> None:
    """K-SVD: atom by atom, the best rank-one matrix for the samples that use it."""
    from vaesc.sparse._update import refit_atoms

    flat = np.flatnonzero(filled)
    atoms = slots.atoms.reshape(-1)[flat]
    order = flat[np.argsort(atoms, kind="stable")]
    starts = np.concatenate([[0], np.cumsum(np.bincount(atoms, minlength=len(dictionary)))])
    residual: NDArray[Any] = samples - slots.to_csr()[0] @ dictionary
    scratch = np.zeros(dictionary.shape[1])
    level = slots.atoms.shape[1]
    refit_atoms(order, starts, slots.values, level, dictionary, residual, n_powers, scratch)
