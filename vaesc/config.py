"""Every setting of the pipeline, in one place.

All settings are frozen, keyword-only dataclasses whose defaults are the article's numbers
(784-512-256-2x32, Adam 1e-3, batch 128). The string under a field is its documentation: the
command line's ``--help`` is drawn from it.

A field marked with :func:`how` says *how* or *where* something is done, never *what*: it cannot
change a result, so it is no part of any digest.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Any, Literal

from vaesc.errors import ConfigError

Source = Literal[
    "digits",
    "mnist",
    "fashion-mnist",
    "kmnist",
    "emnist",
    "cifar10",
    "patches",
    "arrays",
    "folder",
]
"""Where images come from: a built-in name, the user's ``arrays``, or a ``folder`` of images."""

Application = Literal["generation", "representation", "anomaly", "compression", "semi_supervised"]
"""What a VAE is for; each is a step of its own after the model is made."""

Policy = Literal["continue", "mend", "fail"]
"""What to do about training that is not sound; whatever was done is on record with the run."""


def how(default: Any) -> Any:  # noqa: ANN401
    """Declare a field that says how or where, not what: it is left out of every digest."""
    return field(default=default, metadata={"how": True})


@dataclass(frozen=True, kw_only=True)
class DatasetConfig:
    """Which images, and how they are split."""

    source: Source = "digits"
    """A built-in data set, `arrays` (your own file) or `folder` (of image files)."""
    path: str | None = how(None)
    """Your images: a file (`arrays`: .npy, .npz, .zarr, IDX; or Zarr at `s3://bucket/prefix`) or
    a folder of image files."""
    labels: str | None = how(None)
    """File with one integer label per image of `path` (.npy or IDX); optional."""
    folder: str | None = how(None)
    """Folder in torchvision's layout to look in too, such as DIR with DIR/MNIST/raw/*.gz."""
    download: bool = how(True)
    """Whether a data set that is nowhere on this machine may be downloaded by torchvision."""
    validation_fraction: float = 0.1
    """Share of the training images set apart for validation, in (0, 0.5]."""
    test_fraction: float = 0.2
    """Share of all images set apart for the test, in (0, 0.5], if the source has no test split."""
    split: Literal["draw", "content"] = "draw"
    """Splits a source lacks: drawn in exact shares, or by each image's content, so that data added
    later moves no image to another split, and copies of one image share one."""
    limit: int | None = None
    """Largest number of images kept in each split, drawn with the seed; none keeps them all."""
    rescale: Literal["strict", "minmax"] = "strict"
    """Your floats outside [0, 1]: `strict` refuses them, `minmax` maps their range to it."""
    n_patches: int = 20_000
    """Number of patches drawn from the photographs (source `patches`)."""
    patch_size: int = 12
    """Side of a square patch in pixels (source `patches`)."""

    def __post_init__(self) -> None:
        for name in ("validation_fraction", "test_fraction"):
            _require(0 < getattr(self, name) <= 0.5, self, name, "must be in (0, 0.5]")
        _require(
            self.limit is None or self.limit >= 1, self, "limit", "must be at least 1, or none"
        )
        _require(self.n_patches >= 10, self, "n_patches", "must be at least 10")
        _require(4 <= self.patch_size <= 64, self, "patch_size", "must be between 4 and 64")
        if self.path is not None and self.path.startswith("s3://") and "@" in self.path:
            raise ValueError(  # without its value, unlike all others
                "path must not hold credentials; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
            )
        if self.source in ("arrays", "folder"):
            _require(
                self.path is not None,
                self,
                "path",
                f"must name your data for source={self.source}",
            )
        else:
            _require(
                self.path is None,
                self,
                "path",
                f"is only read by the sources arrays and folder, not by {self.source}",
            )
        _require(
            self.labels is None or self.source == "arrays",
            self,
            "labels",
            f"is only read by the source arrays, not by {self.source}",
        )


@dataclass(frozen=True, kw_only=True)
class VAEConfig:
    """The variational autoencoder: encoder q(z|x), decoder p(x|z) and their objective."""

    architecture: Literal["mlp", "conv", "linear-path"] = "mlp"
    """Encoder: `mlp`; `conv`, which puts convolutions before it; `linear-path`, a linear layer
    beside one hidden layer."""
    hidden: tuple[int, ...] = (512, 256)
    """Widths of the encoder's hidden layers, mirrored by the decoder; `linear-path`: the first is
    the encoder's one hidden layer, the last the decoder's."""
    channels: tuple[int, ...] = ()
    """Channels of the stages of `conv`, each halving the sides (none: derived), or of the
    convolutions that end the decoder of `linear-path` (none: no such convolutions)."""
    activation: Literal["relu", "silu"] = "relu"
    """What follows each hidden layer: `relu`, or the smooth `silu`."""
    residual: bool = False
    """Whether layers of equal width, and a block in each stage, add their input."""
    latent_dim: int = 32
    """Number of latent dimensions, d."""
    likelihood: Literal["bernoulli", "continuous-bernoulli", "gaussian"] = "bernoulli"
    """p(x|z): `bernoulli` (cross-entropy), its density `continuous-bernoulli`, or `gaussian`."""
    observation_std: float = 0.1
    """Standard deviation of the gaussian likelihood, in pixel units (images lie in [0, 1])."""
    variance: Literal["fixed", "learned", "optimal"] = "fixed"
    """Gaussian's std: `fixed`, or starting there and `learned`, or `optimal` for each batch."""
    beta: float = 1.0
    """Weight of the KL term in the negative ELBO; 1 is the true bound."""

    def __post_init__(self) -> None:
        _require_finite(self)
        for name in ("hidden", "channels"):
            _require(all(w >= 1 for w in getattr(self, name)), self, name, "must be at least 1")
        if self.architecture == "linear-path":
            _require(bool(self.hidden), self, "hidden", "must not be empty for linear-path")
        _require(self.latent_dim >= 1, self, "latent_dim", "must be at least 1")
        _require(self.observation_std > 0, self, "observation_std", "must be positive")
        _require(self.beta >= 0, self, "beta", "must not be negative")


@dataclass(frozen=True, kw_only=True)
class TrainingConfig:
    """How the VAE is fitted."""

    epochs: int = 20
    """Largest number of passes over the training images."""
    batch_size: int = 128
    """Images per gradient step."""
    learning_rate: float = 1e-3
    """Adam's step size."""
    rate_scaling: Literal["none", "sqrt", "linear"] = "none"
    """Growth of the learning rate with `batch_size`: by its ratio to 128, or the `sqrt` of it."""
    schedule: Literal["constant", "cosine", "flat-linear"] = "cosine"
    """Learning rate: `constant`, `cosine` to zero, or `flat-linear`: to zero in the last half."""
    warmup_epochs: float = 0.0
    """Epochs in which the learning rate first rises from zero."""
    precision: Literal["float32", "bf16"] = "float32"
    """Of matrix products; `bf16` keeps float32 weights, and is faster where hardware has it."""
    gradient_clip: float = 0.0
    """Largest norm of a gradient; longer ones are shortened to it. 0 leaves them alone."""
    weight_average: float = 0.0
    """Decay of the moving average of the weights, such as 0.999, which is kept; 0 is off."""
    beta_schedule: Literal["constant", "warm-up", "cyclical"] = "constant"
    """The KL term's weight: `vae.beta`, or rising to it from 0 once, or in cycles."""
    beta_epochs: float = 10.0
    """Epochs of the rise (`warm-up`), or of one cycle, whose first half rises (`cyclical`)."""
    free_bits: float = 0.0
    """Nats of KL that each latent dimension may use at no cost."""
    capacity: float = 0.0
    """Nats of KL aimed at: a target that rises to this over the run, kept by beta; 0 is off."""
    importance_samples: int = 1
    """Latent samples per image; above 1 the importance-weighted bound is maximised (IWAE)."""
    max_rollbacks: int = 3
    """Times a loss that is no number, or has exploded, sends training back, at a tenth of the
    learning rate."""
    on_explosion: Policy = "mend"
    """If loss or KL grow beyond twice what untrained weights have: `continue` all the same, `mend`
    by going back as for a loss that is no number, or `fail`."""
    on_collapse: Policy = "mend"
    """If no latent varies with the image: `continue` all the same, `mend` by training once more
    with a rising beta and free bits, or `fail`."""
    patience: int = 5
    """Epochs without a better validation ELBO before stopping early; 0 never stops early."""

    def __post_init__(self) -> None:
        _require_finite(self)
        _require(self.epochs >= 1, self, "epochs", "must be at least 1")
        _require(self.batch_size >= 1, self, "batch_size", "must be at least 1")
        _require(self.learning_rate > 0, self, "learning_rate", "must be positive")
        for name in (
            "warmup_epochs", "gradient_clip", "free_bits", "capacity", "max_rollbacks", "patience",
        ):  # fmt: skip
            _require(getattr(self, name) >= 0, self, name, "must not be negative")
        _require(0 <= self.weight_average < 1, self, "weight_average", "must be in [0, 1)")
        _require(self.beta_epochs > 0, self, "beta_epochs", "must be positive")
        _require(self.importance_samples >= 1, self, "importance_samples", "must be at least 1")
        shaped = self.free_bits > 0 or self.capacity > 0
        _require(not (self.free_bits and self.capacity), self, "capacity", "excludes free_bits")
        _require(
            self.importance_samples == 1 or not (shaped or self.beta_schedule != "constant"),
            self,
            "importance_samples",
            "above 1 excludes free_bits, capacity and beta_schedule",
        )


MOST_LAYERS = 100
"""Shrinkage steps of the coder `lista`: each is a pass over all its atoms."""


@dataclass(frozen=True, kw_only=True)
class DictionaryConfig:
    """How the dictionary is learned and how latents are coded in it."""

    n_atoms: int = 256
    """Number of atoms, K; above the latent dimension the dictionary is overcomplete."""
    n_nonzero_coefs: int = 8
    """Sparsity level k: largest number of nonzero coefficients in the code of one latent."""
    coder: Literal["ols", "omp", "lasso", "lista"] = "ols"
    """Next atom: what lowers the residual most (`ols`), the closest (`omp`), the lasso's; or a
    network that proposes all atoms of a latent at once, trained on ols codes (`lista`)."""
    lista_layers: int = 3
    """`lista`: shrinkage steps after the first; more are slower and more accurate."""
    lista_epochs: int = 5
    """`lista`: passes over the training latents to train the network."""
    scaling: Literal["global", "per-dimension", "none"] = "global"
    """Latents are centred, then divided by one common std, by each dimension's own, or not."""
    max_epochs: int = 10
    """Largest number of passes over the training latents (or pixels, for the baseline)."""
    batch_size: int = 512
    """Samples per update of the dictionary."""
    max_dead_fraction: float = 0.5
    """Largest share of atoms that may go unused by every training latent."""
    on_dead_atoms: Policy = "mend"
    """If more atoms are dead: `continue` all the same, `mend` by giving them the worst-coded
    latents and learning on, or `fail`."""

    def __post_init__(self) -> None:
        _require(self.n_atoms >= 2, self, "n_atoms", "must be at least 2")
        _require(
            1 <= self.n_nonzero_coefs <= self.n_atoms,
            self,
            "n_nonzero_coefs",
            f"must be between 1 and n_atoms={self.n_atoms}",
        )
        _require(self.max_epochs >= 1, self, "max_epochs", "must be at least 1")
        _require(self.batch_size >= 1, self, "batch_size", "must be at least 1")
        _require(
            0 <= self.lista_layers <= MOST_LAYERS,
            self,
            "lista_layers",
            f"must be between 0 and {MOST_LAYERS}",
        )
        _require(self.lista_epochs >= 1, self, "lista_epochs", "must be at least 1")
        _require(0 <= self.max_dead_fraction <= 1, self, "max_dead_fraction", "must be in [0, 1]")


@dataclass(frozen=True, kw_only=True)
class EvaluationConfig:
    """What the test split is asked."""

    sparsity_levels: tuple[int, ...] = (1, 2, 4, 8, 16, 32)
    """Sparsity levels k at which every method is compared, increasing."""
    relearn: bool = True
    """Learn both dictionaries anew for each k; false: those of `n_nonzero_coefs` serve every k."""
    elbo_samples: int = 8
    """Latent samples per image in the estimate of the negative ELBO."""
    iwae_samples: tuple[int, ...] = (100, 5000)
    """Latent samples per image in importance-weighted bounds on the log-likelihood."""
    iwae_images: tuple[int, ...] = (1000, 100)
    """Test images, from the first on, that each of `iwae_samples` is taken for."""
    topk_epochs: int = 5
    """Passes over the training images for each TopK autoencoder; 0 leaves them out."""
    n_examples: int = 10
    """Images shown in the grid of originals and reconstructions."""

    def __post_init__(self) -> None:
        levels = self.sparsity_levels
        _require(
            bool(levels) and levels[0] >= 1 and all(a < b for a, b in zip(levels, levels[1:])),  # noqa: B905, RUF007
            self,
            "sparsity_levels",
            "must be increasing and start at 1 or above",
        )
        _require(self.elbo_samples >= 1, self, "elbo_samples", "must be at least 1")
        for name in ("iwae_samples", "iwae_images"):
            _require(all(n >= 1 for n in getattr(self, name)), self, name, "must be at least 1")
        _require(
            len(set(self.iwae_samples)) == len(self.iwae_samples),
            self,
            "iwae_samples",
            "must hold no number twice",
        )
        _require(
            len(self.iwae_images) == len(self.iwae_samples),
            self,
            "iwae_images",
            f"must hold as many numbers as iwae_samples={self.iwae_samples}",
        )
        _require(self.topk_epochs >= 0, self, "topk_epochs", "must be 0 (left out) or more")
        _require(1 <= self.n_examples <= 100, self, "n_examples", "must be between 1 and 100")


@dataclass(frozen=True, kw_only=True)
class RefineConfig:
    """Training of encoder, dictionary and decoder on what the decoder will really see, D a."""

    epochs: int = 5
    """Passes over the training images for each sparsity level; 0 is the article's recipe alone."""
    batch_size: int = 128
    """Images per gradient step."""
    learning_rate: float = 1e-3
    """Adam's largest step size; it falls to zero along a cosine."""
    hidden: tuple[int, ...] = (512, 1024)
    """Hidden units beside the linear path: the encoder's, and the decoder's."""
    channels: tuple[int, ...] = (32, 32)
    """Channels of the convolutions that end the decoder of pictures for k > 1."""
    plain_weight: float = 0.1
    """Weight of plain reconstruction and KL beside the error of decoder(D a)."""
    descent_steps: int = 4
    """Steps in which each image's coefficients descend its decoded error, after the pursuit."""
    n_amounts: int = 16
    """At k = 1: amounts of each atom that are decoded and compared with the image."""

    def __post_init__(self) -> None:
        _require_finite(self)
        _require(self.epochs >= 0, self, "epochs", "must be 0 (no refinement) or more")
        _require(self.batch_size >= 1, self, "batch_size", "must be at least 1")
        _require(self.learning_rate > 0, self, "learning_rate", "must be positive")
        _require(len(self.hidden) == 2, self, "hidden", "must hold two numbers")
        for name in ("hidden", "channels"):
            _require(all(w >= 1 for w in getattr(self, name)), self, name, "must be at least 1")
        _require(self.plain_weight >= 0, self, "plain_weight", "must not be negative")
        _require(0 <= self.descent_steps <= 100, self, "descent_steps", "must be from 0 to 100")
        _require(2 <= self.n_amounts <= 1024, self, "n_amounts", "must be from 2 to 1024")


@dataclass(frozen=True, kw_only=True)
class GenerationConfig:
    """Samples of the model, and how like the data they are."""

    n_samples: int = 10_000
    """Images drawn from each prior and compared with as many test images."""
    n_components: int = 100
    """Gaussians of the mixture that is fitted to the training latents; fewer for few latents."""
    class_components: int = 5
    """The same for the latents of one class, where there are labels."""
    code_classes: int = 64
    """Kinds of codes, each with atoms of its own, that the sparse prior tells apart."""
    n_references: int = 2048
    """Training posteriors that the registered model keeps, as its aggregated posterior."""
    binary_epochs: int = 50
    """Passes that train a VAE on binarised images, for published bounds; 0 leaves it out."""
    binary_images: int = 200
    """Binarised test images, drawn at random, that the bound of 5000 samples is taken for."""

    def __post_init__(self) -> None:
        _require(self.n_samples >= 100, self, "n_samples", "must be at least 100")
        for name in (
            "n_components", "class_components", "code_classes", "n_references", "binary_images",
        ):  # fmt: skip
            _require(getattr(self, name) >= 1, self, name, "must be at least 1")
        _require(self.binary_epochs >= 0, self, "binary_epochs", "must be 0 (left out) or more")


MOST_LOCAL = 1024
"""Anchors of one local code: their equations take a time that grows with the cube."""


@dataclass(frozen=True, kw_only=True)
class RepresentationConfig:
    """Latents and codes as features: probes, neighbours, clusters."""

    n_anchors: int = 8192
    """Anchors among the latents, of which local codes are made; fewer for few images."""
    n_nonzero_coefs: int = 128
    """Anchors of one local code."""
    n_neighbours: int = 10
    """Neighbours that vote on an image's class."""
    n_clusters: int = 0
    """Clusters that are looked for; 0: as many as the data set has classes, else 10."""

    def __post_init__(self) -> None:
        _require(self.n_anchors >= 2, self, "n_anchors", "must be at least 2")
        _require(
            1 <= self.n_nonzero_coefs <= self.n_anchors,
            self,
            "n_nonzero_coefs",
            f"must be between 1 and n_anchors={self.n_anchors}",
        )
        _require(
            self.n_nonzero_coefs <= MOST_LOCAL,
            self,
            "n_nonzero_coefs",
            f"must be at most {MOST_LOCAL}",
        )
        _require(self.n_neighbours >= 1, self, "n_neighbours", "must be at least 1")
        _require(
            self.n_clusters == 0 or 2 <= self.n_clusters <= 1000,
            self,
            "n_clusters",
            "must be 0, or between 2 and 1000",
        )


@dataclass(frozen=True, kw_only=True)
class AnomalyConfig:
    """Images unlike those that the model was trained on."""

    false_alarm_rate: float = 0.05
    """Share of usual images that may be called anomalous, in (0, 0.5]."""
    outliers: Literal["mnist", "fashion-mnist", "kmnist", "made"] = "made"
    """Images of another kind, which must be found: a data set of images of the same size that is
    on this machine, or `made` (noise, constants, ...)."""
    outliers_folder: str | None = how(None)
    """Folder in torchvision's layout to look for `outliers` in too; default: `dataset.folder`."""

    def __post_init__(self) -> None:
        _require(0 < self.false_alarm_rate <= 0.5, self, "false_alarm_rate", "must be in (0, 0.5]")


@dataclass(frozen=True, kw_only=True)
class CompressionConfig:
    """Images as files of quantised, entropy-coded sparse codes."""

    n_images: int = 10_000
    """Test images, from the first on, that are compressed as one set."""

    def __post_init__(self) -> None:
        _require(self.n_images >= 1, self, "n_images", "must be at least 1")


@dataclass(frozen=True, kw_only=True)
class SemiSupervisedConfig:
    """Classification with few labels."""

    n_labels: tuple[int, ...] = (100, 600, 1000, 3000)
    """Numbers of labelled training images, as many of each class."""
    n_draws: int = 10
    """Draws of labelled images for each number of them."""
    network_draws: int = 2
    """Draws, from the first on, in which networks are trained, too: of the best method and of its
    baseline; both are trained in every draw of the smallest of `n_labels`."""
    m2_draws: int = 1
    """Draws of the smallest of `n_labels` in which M1+M2 is trained."""
    n_images: int = 60_000
    """Training images, drawn with the seed, that the graph of nearest neighbours joins at most."""
    n_neighbours: int = 10
    """Neighbours in latent space that labels spread to from each image."""
    epochs: int = 2
    """Passes over the training images in each of the two rounds of self-training."""
    m2_epochs: int = 20
    """Passes over the training latents for M1+M2."""

    def __post_init__(self) -> None:
        _require(all(n >= 1 for n in self.n_labels), self, "n_labels", "must be at least 1")
        _require(
            len(set(self.n_labels)) == len(self.n_labels) > 0,
            self,
            "n_labels",
            "must hold a number, and none twice",
        )
        counts = ("n_draws", "network_draws", "m2_draws", "n_neighbours", "epochs", "m2_epochs")
        for name in counts:
            _require(getattr(self, name) >= 1, self, name, "must be at least 1")
        _require(self.n_images >= 10, self, "n_images", "must be at least 10")


@dataclass(frozen=True, kw_only=True)
class RegistryConfig:
    """Under which names MLflow keeps the runs and the model."""

    model_name: str = how("vaesc")
    """Registered model that gets a new version."""
    experiment: str = how("vaesc")
    """MLflow experiment that gets the runs."""

    def __post_init__(self) -> None:
        for name in ("model_name", "experiment"):
            value = getattr(self, name)
            _require(
                bool(re.fullmatch(r"(?=.*\w)[\w .-]+", value)),
                self,
                name,
                "must hold only letters, digits, spaces, dots, underscores and hyphens, "
                "and not be empty",
            )


@dataclass(frozen=True, kw_only=True)
class GateConfig:
    """What a retrained model must show before it replaces the champion."""

    policy: Literal["better", "not-worse"] = how("better")
    """What the mean error must show: lower beyond doubt, or no higher than `margin` allows."""
    margin: float = how(0.01)
    """Share by which mean error and L0 may be higher, at the upper end of the 95 % interval."""
    tail_margin: float = how(0.05)
    """The same of the error's 95th percentile, and of the class that is reconstructed worst."""
    min_images: int = how(100)
    """Images of the frozen split that neither model was trained on, below which none is judged."""
    min_active_units: int = how(1)
    """Latent dimensions that must be active (variance of the posterior mean above 0.01)."""
    max_dead_fraction: float = how(0.75)
    """Largest share of atoms that no image of the frozen split uses."""
    max_coherence: float = how(0.9999)
    """Largest absolute cosine between two atoms: at 1, one of them is a copy."""
    max_latency_ratio: float = how(2.0)
    """How many times the champion's time to encode an image the candidate's may be."""

    def __post_init__(self) -> None:
        _require_finite(self)
        for name in ("margin", "tail_margin"):
            _require(0 <= getattr(self, name) < 1, self, name, "must be in [0, 1)")
        _require(self.min_images >= 20, self, "min_images", "must be at least 20")
        _require(self.min_active_units >= 0, self, "min_active_units", "must not be negative")
        for name in ("max_dead_fraction", "max_coherence"):
            _require(0 <= getattr(self, name) <= 1, self, name, "must be in [0, 1]")
        _require(self.max_latency_ratio > 0, self, "max_latency_ratio", "must be positive")


@dataclass(frozen=True, kw_only=True)
class RuntimeConfig:
    """How the work is done; no result depends on it, but for the last bits of a training."""

    device: str = how("auto")
    """Where torch computes: `auto` (cuda, then mps, then cpu), or a device such as `cuda:1`."""
    block_size: int = how(8192)
    """Images held in memory at once while encoding, decoding and writing."""
    compile: Literal["auto", "always", "never"] = how("auto")
    """Compile the training step: `auto` when there is enough work to repay the compilation."""
    checkpoint_seconds: float = how(30.0)
    """Seconds between training's checkpoints, from which a killed run resumes; 0 writes none."""
    ranks: int = how(1)
    """Processes that share the step *train*, each on a GPU of its own, or all on the CPU; 1 is the
    run's own alone. Together they take `training.batch_size` images per step. *refine* is never
    shared."""
    accumulate: int = how(1)
    """Micro-batches into which a process cuts its part of a batch in the step *train*, to need
    less memory."""
    runner: str = how("threads")
    """Who computes shards and seeds: `threads` of this process, a Dask cluster on this machine
    (`dask`) or elsewhere (`dask://host:port`, the address of its scheduler)."""
    workers: int = how(0)
    """At most so many at once: processes of the `dask` cluster on this machine, and pipelines of a
    sweep or a claim; 0: as many as suit. A run with any other runner refuses a number."""

    def __post_init__(self) -> None:
        _require(
            bool(re.fullmatch(r"threads|dask|dask://\S+:\d{1,5}", self.runner, re.ASCII)),
            self,
            "runner",
            "must be threads, dask or dask://host:port",
        )
        _require(0 <= self.workers <= 1024, self, "workers", "must be from 0 (one a core) to 1024")
        _require(
            bool(re.fullmatch(r"auto|cpu|mps|cuda(:\d{1,3})?", self.device, re.ASCII)),
            self,
            "device",
            "must be auto, cpu, mps, cuda or cuda:N",
        )
        _require(self.block_size >= 1, self, "block_size", "must be at least 1")
        _require(self.checkpoint_seconds >= 0, self, "checkpoint_seconds", "must not be negative")
        _require(1 <= self.ranks <= 64, self, "ranks", "must be between 1 and 64")
        _require(self.accumulate >= 1, self, "accumulate", "must be at least 1")
        _require(
            self.ranks == 1 or self.device in ("auto", "cpu", "cuda"),
            self,
            "device",
            f"must be auto, cpu or cuda with ranks={self.ranks}, of which each has its own",
        )


@dataclass(frozen=True, kw_only=True)
class PipelineConfig:
    """One run of the pipeline: ingest, train, extract, learn, refine, evaluate, register."""

    preset: str = how("digits")
    """Name of the preset this config started from, for people and for MLflow."""
    seed: int = 0
    """The one seed: every random stream derives from it by name."""
    window_mib: int = 256
    """MiB of images, as stored, that are shuffled together, and half as much of latents or pixels:
    larger splits are read window by window, and never held. Training holds four windows at most,
    learning a dictionary two. What is larger than one meets in another order with another size, so
    this is part of the result."""
    applications: tuple[Application, ...] = ()
    """What the model is put to, each measured beside its baselines."""
    dataset: DatasetConfig = field(default_factory=DatasetConfig)
    vae: VAEConfig = field(default_factory=VAEConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    dictionary: DictionaryConfig = field(default_factory=DictionaryConfig)
    refine: RefineConfig = field(default_factory=RefineConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    generation: GenerationConfig = field(default_factory=GenerationConfig)
    representation: RepresentationConfig = field(default_factory=RepresentationConfig)
    anomaly: AnomalyConfig = field(default_factory=AnomalyConfig)
    compression: CompressionConfig = field(default_factory=CompressionConfig)
    semi_supervised: SemiSupervisedConfig = field(default_factory=SemiSupervisedConfig)
    registry: RegistryConfig = field(default_factory=RegistryConfig)
    gate: GateConfig = field(default_factory=GateConfig)
    runtime: RuntimeConfig = field(default_factory=RuntimeConfig)

    def __post_init__(self) -> None:
        _require(0 <= self.seed < 2**63, self, "seed", "must be between 0 and 2^63 - 1")
        _require(
            1 <= self.window_mib <= 2**20, self, "window_mib", "must be between 1 and 1048576"
        )
        _require(
            len(set(self.applications)) == len(self.applications),
            self,
            "applications",
            "must hold none twice",
        )

    @property
    def window_bytes(self) -> int:
        """`window_mib` in bytes."""
        return self.window_mib << 20


def settings(config: Any, *, what_only: bool = False) -> dict[str, Any]:  # noqa: ANN401
    """Return a config as plain dicts, lists, strings and numbers, ready for JSON or TOML.

    Args:
        config: Any config of this module.
        what_only: Leave out the fields that say how or where (see :func:`how`).
    """
    return {
        f.name: _plain(getattr(config, f.name), what_only)
        for f in fields(config)
        if not (what_only and f.metadata.get("how"))
    }


def flat_settings(config: Any) -> Iterator[tuple[str, Any]]:  # noqa: ANN401
    """Yield every setting as (``section.name``, value), in the order of declaration."""
    for name, value in settings(config).items():
        if isinstance(value, dict):
            yield from ((f"{name}.{key}", leaf) for key, leaf in value.items())
        else:
            yield name, value


def canonical_json(value: Any) -> str:  # noqa: ANN401
    """Serialise to the one JSON text that equal values share (sorted keys, no spaces, no NaN)."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


def config_digest(config: PipelineConfig) -> str:
    """SHA-256 over every setting that can change a result.

    Where the data lies is not one of them: the dataset's own digest says which data it was.
    """
    return hashlib.sha256(canonical_json(settings(config, what_only=True)).encode()).hexdigest()


def derive_seed(seed: int, stream: str) -> int:
    """Derive the seed of one named random stream from the one seed of the run.

    Streams with different names are independent, and adding one never shifts another.

    Args:
        seed: The run's seed.
        stream: Name of the stream, such as ``"train/init"``.

    Returns:
        An integer in [0, 2^63), accepted by numpy's and torch's generators alike.
    """
    return int.from_bytes(hashlib.sha256(f"{seed}/{stream}".encode()).digest()[:8], "big") >> 1


def home() -> Path:
    """Return the folder of everything that is made: ``$VAESC_HOME``, else ``./data``."""
    return expanded(os.environ.get("VAESC_HOME") or "data").resolve()


def check_local(path: str | os.PathLike[str]) -> None:
    """Refuse a URL where a file or folder of this machine is needed.

    Raises:
        ConfigError: `path` is a URL; also one that has lost a slash by being made a path.
    """
    if found := re.match(r"([A-Za-z][A-Za-z0-9+.-]+):/", os.fspath(path)):
        raise ConfigError(  # without what follows, which may hold a password
            f"a URL ({found[1]}://...) is given where a file or folder of this machine is needed; "
            "name one, and copy it from or to the URL by yourself"
        )


def expanded(path: str | os.PathLike[str]) -> Path:
    """Return a path of the user's with ``~`` written out.

    Raises:
        ConfigError: It is a URL, begins with the home of somebody unknown, or is no path that can
            be looked at.
    """
    check_local(path)
    try:
        found = Path(path).expanduser()
        found.exists()
    except OSError as error:
        shown = text if len(text := os.fspath(path)) <= 200 else f"{text[:200]}..."
        raise ConfigError(
            f"{shown!r} cannot be looked at ({error.strerror}); correct the path"
        ) from error
    except RuntimeError as error:
        raise ConfigError(
            f"{os.fspath(path)!r} begins with the home of a user who is not known on this "
            "machine; write the path out"
        ) from error
    return found


def _plain(value: Any, what_only: bool) -> Any:  # noqa: ANN401
    if is_dataclass(value):
        return settings(value, what_only=what_only)
    return list(value) if isinstance(value, tuple) else value


def _require_finite(config: Any) -> None:  # noqa: ANN401 - a settings dataclass
    """Refuse NaN and infinities, which no JSON can hold."""
    for one in fields(config):
        value = getattr(config, one.name)
        finite = not isinstance(value, float) or math.isfinite(value)
        _require(finite, config, one.name, "must be finite")


def _require(holds: bool, config: object, name: str, rule: str) -> None:
    """Refuse a setting that breaks its rule; the loader puts the section before the name."""
    if not holds:
        raise ValueError(f"{name} {rule}, got {getattr(config, name)!r}")
