r"""The dictionaries that are compared, of latents and of pixels, and the level each one serves.

A dictionary is best at the sparsity level k it was learned at. So that each side is as good as it
can be, both are learned anew for every compared k, by one learner with the same settings
(:func:`vaesc.dictionary.learn_atoms`); at the model's own k the latents' one is the model's, and
the numbers there are exactly the model's. ``EvaluationConfig.relearn = false`` lets the two
dictionaries of the model's own k serve all levels instead.

:math:`\min(D, K)` atoms reconstruct a sample of D dimensions exactly. There is nothing to choose
beyond, so levels above share the dictionary that was learned there.

Under the coder ``lista``, whose network only imitates exact codes, pixels keep exact (OLS) codes:
the comparison can only be harder for the model.

Pixels are centred by the mean training image, and reconstructions are clipped to [0, 1], where
images lie.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from vaesc.config import DictionaryConfig, EvaluationConfig, derive_seed
from vaesc.dictionary import (
    History,
    LatentDictionary,
    checkpoint_of,
    epochs_at,
    exact,
    fit_dictionary,
    learn_atoms,
    path,
)
from vaesc.evaluation.batches import Floats, Split, mean_of
from vaesc.progress import Listener

if TYPE_CHECKING:
    from scipy.sparse import csr_array

    from vaesc.latents import LatentStore

PIXELS = "pixel_dictionaries.safetensors"
LATENTS = "latent_dictionaries.safetensors"


class Coder(Protocol):
    """A dictionary that codes samples at several sparsity levels on one path."""

    def path(self, samples: NDArray[Any], levels: Sequence[int], /) -> dict[int, csr_array]:
        """Return level -> codes, shape (n, K)."""


@dataclass(frozen=True, kw_only=True)
class PixelDictionary:
    """A dictionary in pixel space and the mean image it was learned without."""

    dictionary: Floats
    """Atoms of unit norm, shape (K, n_pixels)."""
    mean: Floats
    """Mean training image, shape (n_pixels,)."""
    coder: str
    descent_steps: int = 0
    """Steps in which coefficients descend the error of the *clipped* image, see :meth:`path`."""

    def path(self, images: NDArray[Any], levels: Sequence[int]) -> dict[int, csr_array]:
        """Code flat images, shape (m, n_pixels), at several sparsity levels.

        Least squares do not know that the image is clipped; with ``descent_steps`` the
        coefficients go on from there by what the clipped image misses
        (:mod:`vaesc.decoder_coding`, with a decoder that adds the mean).
        """
        codes = path(images - self.mean, self.dictionary, levels, coder=self.coder)
        if not self.descent_steps:
            return codes
        import torch

        from vaesc.decoder_coding import descended_codes

        atoms, mean = torch.from_numpy(self.dictionary), torch.from_numpy(self.mean)
        return {
            k: descended_codes(lambda z: z + mean, atoms, images, code, self.descent_steps)
            for k, code in codes.items()
        }

    def decode(self, codes: csr_array) -> Floats:
        """Return the images that `codes` stand for, clipped to [0, 1]."""
        return clipped(codes @ self.dictionary + self.mean)


@dataclass(frozen=True, kw_only=True)
class Plan:
    """At which sparsity level the dictionary that serves a level is learned."""

    own: int
    """The level of the registered model."""
    levels: tuple[int, ...]
    """The compared levels, `own` among them."""
    relearn: bool

    def learned_at(self, reach: int) -> dict[int, int]:
        """Return compared level -> level to learn at, for samples that `reach` atoms exhaust."""
        return {k: min(k if self.relearn else self.own, reach) for k in self.levels}


def plan_of(config: EvaluationConfig, dictionary_config: DictionaryConfig) -> Plan:
    """Return the plan of a run: the compared levels, and the model's own among them."""
    own = dictionary_config.n_nonzero_coefs
    levels = tuple(sorted({*config.sparsity_levels, own}))
    return Plan(own=own, levels=levels, relearn=config.relearn)


@dataclass(frozen=True, kw_only=True)
class Dictionaries:
    """Compared level -> the dictionary that serves it; equal ones are one object."""

    latents: Mapping[int, LatentDictionary]
    pixels: Mapping[int, PixelDictionary]


def clipped(images: NDArray[Any]) -> Floats:
    """Return `images` with every value moved into [0, 1]."""
    return np.asarray(np.clip(images, 0.0, 1.0), np.float32)


def code_levels(dictionaries: Mapping[int, Coder], samples: NDArray[Any]) -> dict[int, csr_array]:
    """Code samples at every level, each in its own dictionary.

    Levels that share a dictionary share one path.

    Args:
        dictionaries: Sparsity level -> dictionary.
        samples: What they code, shape (n, D).

    Returns:
        Level -> codes, shape (n, K), in the order of `dictionaries`.
    """
    served: dict[int, list[int]] = {}
    for k, dictionary in dictionaries.items():
        served.setdefault(id(dictionary), []).append(k)
    codes: dict[int, csr_array] = {}
    for levels in served.values():
        codes |= dictionaries[levels[0]].path(samples, levels)
    return {k: codes[k] for k in dictionaries}


def n_epochs(
    plan: Plan, registered: LatentDictionary, n_pixels: int | None, max_epochs: int
) -> int:
    """Return how many epochs :func:`learn_dictionaries` takes at most; None: none of pixels."""
    n_atoms, d = registered.dictionary.shape
    own = min(plan.own, n_atoms, d)
    latent = sum(
        epochs_at(k, d, max_epochs) for k in set(plan.learned_at(min(n_atoms, d)).values()) - {own}
    )
    if n_pixels is None:
        return latent
    pixel = set(plan.learned_at(min(n_atoms, n_pixels)).values())
    return latent + sum(epochs_at(k, n_pixels, max_epochs) for k in pixel)


def learn_dictionaries(
    config: DictionaryConfig,
    plan: Plan,
    registered: LatentDictionary,
    latents: LatentStore,
    splits: Mapping[str, Split],
    folder: Path,
    *,
    seed: int,
    listener: Listener,
    pixels: dict[int, PixelDictionary] | None = None,
    checkpoints: Path | None = None,
) -> tuple[Dictionaries, History]:
    """Learn what is compared, on every training sample.

    Writes ``pixel_dictionaries.safetensors`` (``mean`` and ``dictionary_k<level>`` for each level
    learned at) and, if any latent dictionary was learned, ``latent_dictionaries.safetensors``
    (also ``scale``).

    Args:
        config: Settings of the learner, those of the registered dictionary.
        plan: Which level is served by what.
        registered: The model's dictionary of latents.
        latents: Latents of every split.
        splits: Images of ``train`` and ``validation``.
        folder: Folder to write into.
        seed: The run's seed.
        listener: Hears of every epoch of every dictionary.
        pixels: Dictionaries of pixels learned before by the same call, see :func:`load_pixels`.
        checkpoints: Folder in which a killed call's successor finds each dictionary as far as it
            was learned; default: none.

    Returns:
        The dictionaries, and one dict of metrics an epoch, of all dictionaries together.
    """
    if pixels is None:
        pixels, told = learn_pixels(
            config, plan, splits, folder, seed=seed, listener=listener, checkpoints=checkpoints
        )
    else:
        told = []
    found, told_too = _learn_latents(
        config, plan, registered, latents, folder, seed=seed, listener=listener,
        checkpoints=checkpoints,
    )  # fmt: skip
    return Dictionaries(latents=found, pixels=pixels), side_by_side([*told, *told_too])


def _learn_latents(
    config: DictionaryConfig,
    plan: Plan,
    registered: LatentDictionary,
    latents: LatentStore,
    folder: Path,
    *,
    seed: int,
    listener: Listener,
    checkpoints: Path | None,
) -> tuple[dict[int, LatentDictionary], list[History]]:
    reach = min(registered.dictionary.shape)
    learned_at = plan.learned_at(reach)
    learned, told = {min(plan.own, reach): registered}, []
    for k in sorted(set(learned_at.values()) - set(learned)):
        learned[k], history = fit_dictionary(
            config, latents, n_nonzero_coefs=k,
            seed=derive_seed(seed, f"evaluate/latent-dictionary/{k}"),
            listener=listener, prefix=f"latent_k{k}_",
            checkpoint=checkpoint_of(checkpoints, f"latent_k{k}"),
        )  # fmt: skip
        told.append(history)
    new = {k: d.dictionary for k, d in learned.items() if d is not registered}
    if new:
        common = {"mean": registered.mean, "scale": registered.scale}
        for k in new:
            weights = learned[k].network or {}
            common |= {f"network_k{k}.{name}": array for name, array in weights.items()}
        _save(new, common, config.coder, folder / LATENTS)
    return {k: learned[at] for k, at in learned_at.items()}, told


def learn_pixels(
    config: DictionaryConfig,
    plan: Plan,
    splits: Mapping[str, Split],
    folder: Path,
    *,
    seed: int,
    listener: Listener,
    checkpoints: Path | None = None,
) -> tuple[dict[int, PixelDictionary], list[History]]:
    """Learn the dictionaries of pixels alone, and write them; see :func:`learn_dictionaries`."""
    mean = mean_of(splits["train"].images)
    learned_at = plan.learned_at(min(config.n_atoms, mean.size))
    learned, told = {}, []
    # The centred images lie in a file, temporary or the data set's own, and not in memory.
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        train, validation = (
            splits[name].samples(Path(scratch), mean) for name in ("train", "validation")
        )
        for k in sorted(set(learned_at.values())):
            atoms, history = learn_atoms(
                config, train, validation, n_nonzero_coefs=k,
                seed=derive_seed(seed, f"evaluate/pixel-dictionary/{k}"),
                listener=listener, prefix=f"pixel_k{k}_",
                checkpoint=checkpoint_of(checkpoints, f"pixel_k{k}"),
            )  # fmt: skip
            learned[k] = PixelDictionary(dictionary=atoms, mean=mean, coder=exact(config.coder))
            told.append(history)
    atoms_of = {k: d.dictionary for k, d in learned.items()}
    _save(atoms_of, {"mean": mean}, exact(config.coder), folder / PIXELS)
    return {k: learned[at] for k, at in learned_at.items()}, told


def load_pixels(plan: Plan, folder: Path) -> dict[int, PixelDictionary] | None:
    """Return what :func:`learn_pixels` wrote into `folder`, if it holds all that `plan` needs."""
    from safetensors import safe_open

    with safe_open(folder / PIXELS, "np") as file:
        mean, coder = file.get_tensor("mean"), file.metadata()["coder"]
        found = {
            int(name.removeprefix("dictionary_k")): file.get_tensor(name)
            for name in file.keys()  # noqa: SIM118 - not a dict
            if name != "mean"
        }
    at = plan.learned_at(min(*next(iter(found.values())).shape))
    if not set(at.values()) <= set(found):
        return None
    made = {k: PixelDictionary(dictionary=found[k], mean=mean, coder=coder) for k in found}
    return {k: made[level] for k, level in at.items()}


def _save(atoms: Mapping[int, Floats], common: Mapping[str, Floats], coder: str, to: Path) -> None:
    from safetensors.numpy import save_file

    named = {f"dictionary_k{k}": dictionary for k, dictionary in atoms.items()}
    # One key only: safetensors writes several in no fixed order.
    save_file({**named, **common}, to, metadata={"coder": coder})


def side_by_side(histories: Sequence[History]) -> History:
    """Merge histories of differently named metrics, epoch by epoch."""
    merged: History = [{} for _ in range(max(map(len, histories), default=0))]
    for history in histories:
        for row, found in zip(merged, history, strict=False):
            row.update(found)
    return merged
