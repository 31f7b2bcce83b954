r"""New images from a registered model, by whatever the application *generation* left in it.

=========== ==================================================================================
prior       a latent is
=========== ==================================================================================
standard    drawn from N(0, I): the prior of a VAE trained for its bound, and no more than a
            control for a refined one, whose latents are of another size
mixture     drawn from a Gaussian mixture fitted to the training latents (:mod:`.mixtures`), or
            to those of one class
coded       the same, then coded by the pursuit, m + s D^T a: a refined decoder was trained on
            coded latents, and a code of few atoms leaves out what no image would show
aggregated  the posterior's mean of a training image from a bounded set, with its noise: the
            *aggregated posterior*, which hands out training images where that noise is small
sparse      m + s D^T a, with the code a drawn from a model of which atoms go together and with
            what coefficients (:mod:`vaesc.applications.code_model`); atoms can be switched on
            and off
=========== ==================================================================================

References:
    Tomczak and Welling, "VAE with a VampPrior" (aggregated posterior), 2018.
    https://arxiv.org/abs/1705.07120
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from vaesc.applications.code_model import CodeModel
from vaesc.applications.generation.interpolation import linear, spherical
from vaesc.applications.generation.mixtures import Mixture
from vaesc.applications.threads import one_thread_everywhere
from vaesc.config import derive_seed
from vaesc.errors import ConfigError, DataError
from vaesc.parts import Part
from vaesc.untrusted import is_moderate

if TYPE_CHECKING:
    from vaesc.bundle import SparseVAE

Floats = NDArray[np.float32]
Prior = Literal["standard", "mixture", "coded", "aggregated", "sparse"]
PRIORS: tuple[Prior, ...] = get_args(Prior)
NEW: tuple[Prior, ...] = ("mixture", "coded", "sparse")
"""Those that make new images and are fitted to the model: the best of them is found on validation
images and is the model's own."""
BLOCK = 4096
"""Images that are drawn at once: what chance gives to which image depends on it."""


@dataclass(frozen=True, kw_only=True)
class Priors:
    """What is fitted to the training latents of a model, and kept in it."""

    mixture: Mixture
    by_class: Mapping[str, Mixture]
    """A mixture for each class, by name; empty without labels."""
    means: Floats
    """Posterior means of some training images, shape (m, d)."""
    stds: Floats
    """Their posterior standard deviations, shape (m, d)."""
    codes: CodeModel
    best: Prior = "mixture"
    """The one to use unless told otherwise, one of :data:`NEW`."""

    def part(self) -> Part:
        """Return the part of the model that holds it all."""
        arrays: dict[str, NDArray[Any]] = dict(self.mixture.arrays("mixture"))
        for i, mixture in enumerate(self.by_class.values()):
            arrays |= mixture.arrays(f"class/{i}")
        arrays |= {"aggregated/means": self.means, "aggregated/stds": self.stds}
        arrays |= {f"codes/{name}": array for name, array in self.codes.arrays().items()}
        return Part(arrays=arrays, facts={"classes": list(self.by_class), "best": self.best})

    @classmethod
    def of_part(cls, part: Part, *, latent_dim: int, n_atoms: int) -> Priors:
        """Return what :meth:`part` wrote.

        Raises:
            DataError: It is none, or belongs to a model of another size.
        """
        arrays, names, best = part.arrays, part.facts.get("classes"), part.facts.get("best")
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise DataError("the model's classes must be a list of names; register it again")
        if best not in NEW:
            raise DataError(
                f"the model's best prior must be one of {', '.join(NEW)}, got {best!r}; register "
                "it again"
            )
        codes = {
            name.partition("/")[2]: array for name, array in arrays.items()
            if name.startswith("codes/")
        }  # fmt: skip
        found = cls(
            mixture=Mixture.of_arrays(arrays, "mixture"),
            by_class={n: Mixture.of_arrays(arrays, f"class/{i}") for i, n in enumerate(names)},
            means=arrays.get("aggregated/means", np.empty(0)),
            stds=arrays.get("aggregated/stds", np.empty(0)),
            codes=CodeModel.from_arrays(codes),
            best=best,
        )
        if fault := _fault(found, latent_dim, n_atoms):
            raise DataError(f"the model's part for generation {fault}; register it again")
        return found


class Sampler:
    """Draws images from a model.

    Args:
        model: The model.
        priors: What was fitted to its latents.
    """

    def __init__(self, model: SparseVAE, priors: Priors) -> None:
        self.model, self.priors = model, priors

    @classmethod
    def of(cls, model: SparseVAE) -> Sampler:
        """Return the sampler of a registered model.

        Raises:
            DataError: The model was registered without generation, or its part is damaged.
        """
        part = model.part("generation")
        priors = Priors.of_part(part, latent_dim=model.latent_dim, n_atoms=model.n_atoms)
        return cls(model, priors)

    @one_thread_everywhere()
    def sample(
        self,
        n: int,
        *,
        prior: Prior | None = None,
        seed: int = 0,
        of_class: str | None = None,
        on: Sequence[int] = (),
        off: Sequence[int] = (),
    ) -> Floats:
        """Return new images; the same arguments on the same machine give the same bytes.

        Args:
            n: How many.
            prior: Where latents come from; default: the best one that goes with what follows.
            seed: Of the draw.
            of_class: Name of a class; `mixture` and `coded` only.
            on: Atoms that every code uses; `sparse` only.
            off: Atoms that no code uses; `sparse` only.

        Returns:
            float32, shape (n, *shape), in the range of :meth:`vaesc.bundle.SparseVAE.decode`.

        Raises:
            ConfigError: Arguments that exclude one another.
            DataError: There is no such class or atom.
        """
        made = self.blocks(n, prior=prior, seed=seed, of_class=of_class, on=on, off=off)
        return np.concatenate(list(made))

    def blocks(
        self,
        n: int,
        *,
        prior: Prior | None = None,
        seed: int = 0,
        of_class: str | None = None,
        on: Sequence[int] = (),
        off: Sequence[int] = (),
    ) -> Iterator[Floats]:
        """Yield what :meth:`sample` returns, at most :data:`BLOCK` images at a time."""
        if n < 1:
            raise ConfigError(f"the number of samples must be at least 1, got {n}")
        prior = self._chosen(prior, of_class, on, off)
        rng = np.random.default_rng(derive_seed(seed, f"sample/{prior}"))
        for start in range(0, n, BLOCK):
            size = min(BLOCK, n - start)
            latents = self.latents(size, rng, prior=prior, of_class=of_class, on=on, off=off)
            yield self.model.decode_latents(latents)

    def latents(
        self,
        n: int,
        rng: np.random.Generator,
        *,
        prior: Prior | None = None,
        of_class: str | None = None,
        on: Sequence[int] = (),
        off: Sequence[int] = (),
    ) -> Floats:
        """Return latents that :meth:`sample` decodes, shape (n, d); arguments as there.

        Raises:
            DataError: What the model holds for generation gives none that are finite.
        """
        if n < 1:
            raise ConfigError(f"the number of samples must be at least 1, got {n}")
        prior = self._chosen(prior, of_class, on, off)
        with np.errstate(over="ignore", invalid="ignore"):  # which is looked for next
            latents = self._drawn(n, rng, prior, of_class, on, off)
        if not is_moderate(latents):
            raise DataError(
                f"the model's prior {prior} gives latents that are not finite, or absurdly large: "
                "its part for generation is damaged; register it again"
            )
        return self._coded(latents) if prior == "coded" else latents

    def _drawn(
        self,
        n: int,
        rng: np.random.Generator,
        prior: Prior,
        of_class: str | None,
        on: Sequence[int],
        off: Sequence[int],
    ) -> Floats:
        """Return what a prior gives; `coded` is `mixture` before it is coded."""
        if prior == "standard":
            return rng.standard_normal((n, self.model.latent_dim), np.float32)
        if prior == "aggregated":
            rows = rng.integers(len(self.priors.means), size=n)
            noise = rng.standard_normal((n, self.model.latent_dim), np.float32)
            return self.priors.means[rows] + self.priors.stds[rows] * noise
        if prior == "sparse":
            codes = self.priors.codes.sample(n, rng, banned=off, forced=on)
            return self.model.dictionary.decode(codes)
        mixture = self.priors.mixture if of_class is None else self._mixture_of(of_class)
        return mixture.sample(n, rng)

    @one_thread_everywhere()
    def interpolate(
        self, start: NDArray[Any], end: NDArray[Any], n: int, *, along: str = "linear"
    ) -> Floats:
        """Return images on the way from one image to another, both ends included.

        Args:
            start: An image, shape (*shape), in the range of the model's other methods.
            end: Another.
            n: How many, at least 2.
            along: ``linear``, or ``spherical``: around the mean of the training latents.

        Returns:
            As :meth:`sample` does; the first and last are what the VAE makes of the two.

        Raises:
            ConfigError: There is no such way, or there are fewer than two images on it.
            DataError: These are no images of the model.
        """
        if n < 2:
            raise ConfigError(f"a way between two images has at least 2 images, got {n}")
        if along not in ("linear", "spherical"):
            raise ConfigError(f"the way must be linear or spherical, got {along!r}")
        first, last = self.model.latents(np.stack([start, end]))
        if along == "linear":
            return self.model.decode_latents(linear(first, last, n))
        centre = self.model.dictionary.mean
        return self.model.decode_latents(spherical(first, last, n, centre))

    def _chosen(
        self, prior: Prior | None, of_class: str | None, on: Sequence[int], off: Sequence[int]
    ) -> Prior:
        """Return the prior that is asked for, or goes with what is asked for."""
        if of_class is not None and (len(on) or len(off)):
            raise ConfigError("samples of a class have no switched atoms; leave one of them out")
        if prior is None:
            best = self.priors.best
            if of_class is not None:
                return best if best != "sparse" else "mixture"
            return "sparse" if len(on) or len(off) else best
        if prior not in PRIORS:
            raise ConfigError(f"prior must be one of {', '.join(PRIORS)}, got {prior!r}")
        if of_class is not None and prior not in ("mixture", "coded"):
            raise ConfigError(f"samples of a class are of the priors mixture, coded, not {prior}")
        if (len(on) or len(off)) and prior != "sparse":
            raise ConfigError(f"atoms are switched on and off in the prior sparse, not {prior}")
        return prior

    def _coded(self, latents: Floats) -> Floats:
        dictionary = self.model.dictionary
        return dictionary.decode(dictionary.encode(latents))

    def _mixture_of(self, name: str) -> Mixture:
        if name in self.priors.by_class:
            return self.priors.by_class[name]
        known = ", ".join(self.priors.by_class)
        raise DataError(
            f"the model knows no class {name!r}; it knows {known}" if known
            else "the model was trained on images without labels and knows no class"
        )  # fmt: skip


def _fault(found: Priors, latent_dim: int, n_atoms: int) -> str | None:
    """Say what is wrong with priors, which may come from any file; None if nothing is."""
    mixtures = (found.mixture, *found.by_class.values())
    if any(mixture.latent_dim != latent_dim for mixture in mixtures):
        return f"must be of {latent_dim} latent dimensions"
    if found.codes.n_atoms != n_atoms:
        return f"must be of {n_atoms} atoms, got {found.codes.n_atoms}"
    means, stds = found.means, found.stds
    if means.ndim != 2 or means.shape[1] != latent_dim or not len(means):
        return f"must hold posterior means of shape (m, {latent_dim}), got {means.shape}"
    if stds.shape != means.shape or means.dtype != np.float32 or stds.dtype != np.float32:
        return "must hold a standard deviation beside each posterior mean, float32 both"
    if not (is_moderate(means) and is_moderate(stds) and (stds >= 0).all()):
        return "must hold finite posteriors, standard deviations of at least 0"
    return None
