r"""The article's third step: a dictionary learned on latents, and their sparse codes.

A latent :math:`z \in \mathbb{R}^d` is centred by the mean :math:`m` of the training latents and
divided by a scale :math:`s`; what is left is written with at most k atoms,

.. math:: (z - m) / s \approx D^\top a, \qquad \|a\|_0 \le k, \qquad \|d_j\| = 1 ,

so that :math:`\hat z = m + s\, D^\top a`. Mean and scale come from the training split alone.

The scale is a choice (``DictionaryConfig.scaling``). ``global`` divides every dimension by one
common number, the square root of the mean variance: distances between latents keep their
proportions. A VAE leaves some dimensions collapsed: their posterior means hardly move, and the
decoder ignores them. ``per-dimension`` scaling would blow exactly these up to unit variance, and
make the dictionary spend atoms on noise that no pixel ever shows.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from vaesc import windows
from vaesc.config import DictionaryConfig, derive_seed
from vaesc.dead_atoms import mend_dead_atoms
from vaesc.dictionary_files import load_dictionary, save_dictionary, write_json
from vaesc.errors import DataError
from vaesc.latent_codes import CODES, SPLITS, write_codes
from vaesc.latent_rows import LatentRows, fit_scaling, scaled
from vaesc.progress import After, Listener
from vaesc.shards import HERE, Runner
from vaesc.untrusted import MOST, is_moderate

if TYPE_CHECKING:
    from scipy.sparse import csr_array

    from vaesc.latents import LatentStore
    from vaesc.sparse import AmortisedCoder

__all__ = [
    "CODES",
    "HISTORY",
    "SPLITS",
    "LatentDictionary",
    "checkpoint_of",
    "exact",
    "fit_dictionary",
    "fit_scaling",
    "learn",
    "learn_atoms",
    "load_dictionary",
    "path",
    "save_dictionary",
]

HISTORY = "history.json"

logger = logging.getLogger(__name__)

Floats = NDArray[np.float32]
History = list[dict[str, float]]
"""Metrics of each epoch, keyed ``split/metric``."""


@dataclass(frozen=True, kw_only=True)
class LatentDictionary:
    """A dictionary with everything needed to code latents in it and to decode the codes."""

    dictionary: Floats
    """Atoms of unit norm, one a row, shape (K, d), in scaled latent space."""
    mean: Floats
    """Mean of the training latents, shape (d,)."""
    scale: Floats
    """What centred latents are divided by, shape (d,); all equal under ``global`` scaling."""
    coder: str
    """How atoms are chosen: ``ols``, ``omp``, ``lasso``, see :func:`path`, or ``lista``."""
    n_nonzero_coefs: int
    """The sparsity level it was learned at, and the default one of :meth:`encode`."""
    vae_sha256: Mapping[str, str]
    """SHA-256 of each file of the VAE whose latents it was learned on: it fits no other."""
    network: Mapping[str, Floats] | None = None
    """Under ``lista`` the weights of the network that proposes the atoms, by name."""
    descent_steps: int = 0
    """Steps of :func:`vaesc.decoder_coding.descend` that follow the pursuit, given the decoder."""
    amounts: Floats | None = None
    """Amounts of each atom, shape (K, T), increasing: at k = 1 the image whose decoded error is
    smallest decides (:func:`vaesc.decoder_coding.nearest`), and no pursuit; None: the pursuit."""

    @property
    def n_atoms(self) -> int:
        """Number of atoms, K."""
        return len(self.dictionary)

    @property
    def latent_dim(self) -> int:
        """Number of latent dimensions, d."""
        return int(self.dictionary.shape[1])

    def encode(self, latents: NDArray[Any], n_nonzero_coefs: int | None = None) -> csr_array:
        """Return the sparse codes of `latents`.

        Args:
            latents: Posterior means, shape (n, d).
            n_nonzero_coefs: Sparsity level, from 1 to K; default: the one learned at. Above d it
                acts as d, since d atoms reconstruct a latent exactly.

        Returns:
            Codes in units of scaled latents, shape (n, K).

        Raises:
            ValueError: The latents do not have d columns or are not finite, or the level is out
                of range.
        """
        level = self.n_nonzero_coefs if n_nonzero_coefs is None else n_nonzero_coefs
        if level <= self.n_atoms:  # beyond, the coder says what is wrong
            level = min(level, self.latent_dim)
        return self._coded(self._scaled(latents), [level])[level]

    def path(self, latents: NDArray[Any], levels: Sequence[int]) -> dict[int, csr_array]:
        """Return the codes at several sparsity levels, from one run to the largest.

        A level above the number of atoms or of dimensions acts as the smaller of the two.

        Args:
            latents: Posterior means, shape (n, d).
            levels: Sparsity levels, each at least 1.

        Returns:
            Level -> codes, shape (n, K), a key for every level asked for.
        """
        reach = _reach(self.dictionary, levels)
        codes = self._coded(self._scaled(latents), sorted(set(reach.values())))
        return {k: codes[reached] for k, reached in reach.items()}

    def decode(self, codes: csr_array) -> Floats:
        """Return the latents that `codes` stand for: ``mean + scale * (codes @ dictionary)``.

        Args:
            codes: Codes, shape (n, K).

        Returns:
            Latents, shape (n, d).
        """
        if codes.shape[1] != self.n_atoms:
            raise DataError(
                f"codes must have one column per atom, {self.n_atoms}, got shape {codes.shape}"
            )
        scaled = np.asarray(codes @ self.dictionary, np.float32)
        return np.asarray(self.mean + self.scale * scaled, np.float32)

    def _coded(self, samples: Floats, levels: Sequence[int]) -> dict[int, csr_array]:
        """Code scaled latents at levels that the dictionary allows."""
        if self.coder == "lista":
            return {level: self._amortised.encode(samples, level) for level in levels}
        return _coded(samples, self.dictionary, levels, self.coder)

    @cached_property
    def _amortised(self) -> AmortisedCoder:
        from vaesc.sparse.amortised import from_weights

        assert self.network is not None  # load_dictionary and fit_dictionary see to it
        return from_weights(self.dictionary, self.n_nonzero_coefs, self.network)

    def _scaled(self, latents: NDArray[Any]) -> Floats:
        if latents.ndim != 2 or latents.shape[1] != self.latent_dim:
            raise DataError(
                f"latents must have shape (n, {self.latent_dim}), got {tuple(latents.shape)}"
            )
        with np.errstate(over="ignore", invalid="ignore"):  # which is looked for next
            found = np.asarray((latents - self.mean) / self.scale, np.float32)
        if not is_moderate(found):
            raise DataError(
                f"scaled latents must be finite and at most {MOST:g}: the latents are not, or "
                "mean and scale of the dictionary are of others; fetch the model again"
            )
        return found


def path(
    samples: NDArray[Any],
    dictionary: NDArray[Any],
    levels: Iterable[int],
    *,
    coder: str,
) -> dict[int, csr_array]:
    """Code `samples` at every level; more than there are atoms or dimensions asks for no more.

    That many atoms reconstruct a sample exactly: a further one would code nothing but rounding.
    ``ols`` and ``omp`` choose atoms greedily; ``lasso`` takes those active on the lasso's path
    before there would be more than k. Coefficients are least-squares ones under all three, so
    that codes of equal k are compared by their support alone.
    """
    reach = _reach(dictionary, levels)
    codes = _coded(samples, dictionary, sorted(set(reach.values())), coder)
    return {k: codes[reached] for k, reached in reach.items()}


def _reach(dictionary: NDArray[Any], levels: Iterable[int]) -> dict[int, int]:
    """Return level -> the level that it acts as."""
    return {k: min(k, *dictionary.shape) for k in levels}


def exact(coder: str) -> Any:  # noqa: ANN401 - one of the literals of vaesc.sparse
    """Return the coder that gives the codes which `coder` gives, or imitates."""
    return "ols" if coder == "lista" else coder


def _coded(
    samples: NDArray[Any],
    dictionary: NDArray[Any],
    levels: Sequence[int],
    coder: Any,  # noqa: ANN401
) -> dict[int, csr_array]:
    """Code at levels that the dictionary allows, as `coder` says."""
    from vaesc.sparse import lasso_pursuit, pursuit_path

    codes: dict[int, csr_array]
    if coder == "lasso":
        codes = lasso_pursuit(samples, dictionary, levels)
    else:
        codes = pursuit_path(samples, dictionary, levels, selection=coder)
    return codes


def learn(
    config: DictionaryConfig,
    latents_folder: Path,
    folder: Path,
    *,
    seed: int,
    listener: Listener,
    window_bytes: int = windows.WINDOW_BYTES,
    checkpoints: Path | None = None,
    runner: Runner = HERE,
) -> dict[str, Any]:
    """Learn a dictionary on the training latents and code every split in it.

    Writes ``dictionary.safetensors`` and ``dictionary.json`` (:mod:`vaesc.dictionary_files`),
    ``codes.zarr`` (a CSR matrix ``<split>/codes`` each) and ``history.json`` (one dict an epoch).

    Args:
        config: Size, sparsity level, coder and scaling.
        latents_folder: Artifact of :func:`vaesc.latents.extract`.
        folder: Empty folder to write into.
        seed: The run's seed.
        listener: Hears of every epoch.
        window_bytes: Half of it is shuffled together of the latents, see :mod:`vaesc.windows`.
        checkpoints: Keeps each finished pass: a killed run's successor goes on from there; to be
            deleted by the caller once what was written is safe. Default: none.
        runner: Who codes the splits; no part of the result.

    Returns:
        Summary: ``n_atoms``, ``n_nonzero_coefs``, ``metrics`` and ``health`` (sentences on what
        was not as it should be).

    Raises:
        DataError: The latents do not vary, or are too few.
        TrainingError: Too many atoms are dead, and the policy is to fail.
    """
    from vaesc.latents import open_latents
    from vaesc.metrics import mutual_coherence

    latents = open_latents(latents_folder, window_bytes=window_bytes)
    health = list[str]()
    dictionary, history = fit_dictionary(
        config, latents, n_nonzero_coefs=config.n_nonzero_coefs,
        seed=derive_seed(seed, "learn/dictionary"), listener=listener, health=health,
        checkpoint=checkpoint_of(checkpoints, "dictionary"),
    )  # fmt: skip
    for sentence in health:
        logger.warning("%s", sentence)
    save_dictionary(dictionary, folder)
    write_json(folder / HISTORY, history)
    coded = None
    if runner is not HERE:
        from vaesc.coding_shards import code_by_shards

        coded = partial(code_by_shards, runner, folder, latents_folder, checkpoints=checkpoints)
    measured = write_codes(dictionary, latents, folder, coded)
    return {
        "n_atoms": dictionary.n_atoms,
        "n_nonzero_coefs": dictionary.n_nonzero_coefs,
        "metrics": {"train/mutual_coherence": mutual_coherence(dictionary.dictionary), **measured},
        "health": health,
    }


def fit_dictionary(
    config: DictionaryConfig,
    latents: LatentStore,
    *,
    n_nonzero_coefs: int,
    seed: int,
    listener: Listener,
    prefix: str = "",
    health: list[str] | None = None,
    checkpoint: Path | None = None,
) -> tuple[LatentDictionary, History]:
    """Learn a dictionary of the training latents at one sparsity level.

    Latents beyond one window (:mod:`vaesc.windows`) are read from disk in every epoch: memory
    then grows with their number by about a hundred bytes for each batch and each page only. The
    network of ``lista`` learns from one window of pages drawn at random: it imitates the codes of
    a dictionary that has seen all latents, for which a window's million examples are plenty.

    Args:
        config: Size, coder and scaling; its own sparsity level is not looked at.
        latents: Latents of every split.
        n_nonzero_coefs: Sparsity level to learn at.
        seed: Seed of the learner.
        listener: Hears of every epoch.
        prefix: Of the metrics' names, see :func:`learn_atoms`.
        health: Gets a sentence if too many atoms are dead, see :mod:`vaesc.dead_atoms`; None
            leaves them as they are.
        checkpoint: File that a killed call's successor goes on from; None keeps none.

    Returns:
        The dictionary, and one dict of metrics an epoch.

    Raises:
        DataError: The latents do not vary.
        TrainingError: Too many atoms are dead, and the policy is to fail.
    """
    train = windows.loaded(LatentRows(latents, "train"))
    mean, scale = fit_scaling(train, config.scaling)
    train = scaled(train, mean, scale)
    held_out = windows.loaded(LatentRows(latents, "validation", mean, scale))

    def atoms_from(start: Floats | None, seed: int, part: str = "") -> Floats:
        """Learn, each part's epochs counted on from those before."""
        atoms, epochs = learn_atoms(
            config, train, held_out, n_nonzero_coefs=n_nonzero_coefs, seed=seed,
            listener=After(listener, len(history)), prefix=prefix, start=start,
            checkpoint=checkpoint and checkpoint.with_stem(checkpoint.stem + part),
        )  # fmt: skip
        history.extend(epochs)
        return atoms

    def coded(samples: Floats, atoms: Floats) -> csr_array:
        return path(samples, atoms, [n_nonzero_coefs], coder=exact(config.coder))[n_nonzero_coefs]

    history: History = []
    atoms = atoms_from(None, seed)
    if health is not None:
        atoms, found = mend_dead_atoms(
            config, atoms, train, coded,
            lambda start, seed: atoms_from(start, seed, f"-mend{seed % 10**6}"), seed,
        )  # fmt: skip
        health += found
    network = None
    if config.coder == "lista":
        few = windows.sample(train, derive_seed(seed, "lista/sample"))
        network = _distilled(config, few, atoms, n_nonzero_coefs, seed)
    dictionary = LatentDictionary(
        dictionary=atoms,
        mean=mean,
        scale=scale,
        coder=config.coder,
        n_nonzero_coefs=n_nonzero_coefs,
        vae_sha256=latents.attributes["vae_sha256"],
        network=network,
    )
    return dictionary, history


def checkpoint_of(checkpoints: Path | None, name: str) -> Path | None:
    """Return the file in which one dictionary is kept while it is learned, if any is."""
    return None if checkpoints is None else checkpoints / f"{name}.npz"


def _distilled(
    config: DictionaryConfig, train: Floats, atoms: Floats, n_nonzero_coefs: int, seed: int
) -> dict[str, Floats]:
    """Train the network of the coder ``lista`` and return its weights."""
    from vaesc.sparse import distil

    level = min(n_nonzero_coefs, *atoms.shape)
    coder = distil(
        train, atoms, level, seed=derive_seed(seed, "lista"), n_layers=config.lista_layers,
        max_epochs=config.lista_epochs,
    )  # fmt: skip
    weights: dict[str, Floats] = coder.weights()
    return weights


def epochs_at(level: int, n_dimensions: int, max_epochs: int) -> int:
    """Return the largest number of epochs that a dictionary of this level is learned for.

    With as many atoms as dimensions every sample is exact: later epochs would fit rounding.
    """
    return 1 if level >= n_dimensions else max_epochs


def learn_atoms(
    config: DictionaryConfig,
    train: windows.Rows,
    validation: windows.Rows,
    *,
    n_nonzero_coefs: int,
    seed: int,
    listener: Listener,
    prefix: str = "",
    start: Floats | None = None,
    checkpoint: Path | None = None,
) -> tuple[Floats, History]:
    """Learn atoms of any centred samples: latents, or the pixels they are compared with.

    Args:
        config: Size, coder and the learner's settings.
        train: Samples to learn from, shape (n, D); may be a memory map, or lazy float32.
        validation: Samples that choose the best epoch, shape (m, D); the same.
        n_nonzero_coefs: Sparsity level to learn at.
        seed: Seed of the learner.
        listener: Hears of every epoch.
        prefix: Put before the names of metrics, after the split, such as ``pixel_``.
        start: Atoms to start from, shape (K, D); default: samples and main directions.
        checkpoint: File that is written after each epoch, and that a killed call's successor goes
            on from to the same atoms; None keeps none.

    Returns:
        Atoms of unit norm, shape (K, D), and one dict of metrics an epoch; errors in the samples'
        squared units.
    """
    from vaesc.sparse import learn_dictionary

    max_epochs = epochs_at(n_nonzero_coefs, train.shape[1], config.max_epochs)

    def hear(epoch: int, row: Mapping[str, float]) -> None:
        listener.epoch(epoch, _epoch_metrics(row, prefix))
        listener.progress(epoch, max_epochs)

    if checkpoint is not None:
        checkpoint.parent.mkdir(parents=True, exist_ok=True)
    learned = learn_dictionary(
        _as_float32(train),
        n_atoms=config.n_atoms,
        n_nonzero_coefs=n_nonzero_coefs,
        selection=exact(config.coder),
        seed=seed,
        batch_size=config.batch_size,
        max_epochs=max_epochs,
        X_validation=_as_float32(validation),
        on_epoch=hear,
        init=start,
        checkpoint=checkpoint,
    )
    atoms = np.ascontiguousarray(learned.dictionary, np.float32)
    return atoms, [_epoch_metrics(row, prefix) for row in learned.history]


def _as_float32(samples: windows.Rows) -> Any:  # noqa: ANN401 - an array, or lazy as it is
    return np.asarray(samples, np.float32) if isinstance(samples, np.ndarray) else samples


def _epoch_metrics(row: Mapping[str, float], prefix: str) -> dict[str, float]:
    """Name one row of a learner's history ``split/metric``."""
    names = {
        "train_mse": f"train/{prefix}dictionary_mse",
        "validation_mse": f"validation/{prefix}dictionary_mse",
        "n_revived": f"train/{prefix}atoms_revived",
    }
    return {name: float(row[key]) for key, name in names.items() if key in row}
