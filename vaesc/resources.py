r"""What a run asks of a machine: memory, cores, GPUs; estimated from its config, before it starts.

A cluster places a run by what it asks for, and ends it if it takes more memory than that. So
memory is reckoned from above, as disk is from below (:mod:`vaesc.room`):

.. math:: M = R \, (P + \max_i m_i) (1 + h)

for R processes with P bytes of libraries each, m_i bytes in step i, and headroom h. R is 1 more
than there are ranks or workers of a cluster on this machine: the run's own process leads them.
What a step holds is a window or a block, whatever the number of images; fewer images fill less:

======== ======================================================================================
train    four windows of images (``window_mib``); weights, gradients, two moments, an average
         and copies to go back to; what a batch leaves in each layer, and its gradients.
         Refinement alike.
extract  ``block_size`` images as stored and as floats; shards of latents.
learn    :data:`SAMPLE_WINDOWS` half windows of latents; codes; gram matrix and moments.
evaluate ``block_size`` images; for each sparsity level dictionaries of latents and of pixels;
         a TopK autoencoder while it is trained.
======== ======================================================================================

P is measured (peak resident size of ``vaesc run`` in MiB: 1295 for the preset digits; for 28x28
images with K = 256 1410 with 8,000 and 1474 with 40,000 of them; asked for are 1792 for each. The
preset digits with two ranks 2019, with two workers 2032, shared pages counted once; 5376 are asked
for).
Applications are reckoned by what they hold, and were not measured.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise

from vaesc.arrays import SHARD_BYTES
from vaesc.config import PipelineConfig, RuntimeConfig
from vaesc.shapes import n_channels, n_pixels
from vaesc.windows import IMAGE_WINDOWS, VALIDATION_WINDOWS

PROCESS_BYTES = 1280 << 20
"""One process with torch, numba, scikit-learn, zarr, MLflow and Prefect's client at work."""
HEADROOM = 0.25
"""What allocators hold beyond what is in use, and the page cache that a limit counts, too."""
SAMPLE_WINDOWS = 4
"""Latents as read, scaled, in the order of a pass, and their products with the atoms; each half a
window (:mod:`vaesc.windows`)."""
_ROW_BYTES = 40
"""Of an image while splits are chosen: row numbers, places, label."""
_CPUS = 2
"""Cores of a run that is one process."""
_QUANTUM = 256 << 20
_FLOAT = 4
_WEIGHT_COPIES = 8
_KNOWN: dict[str, tuple[int, tuple[int, ...]]] = {
    "digits": (1_797, (8, 8)),
    "mnist": (70_000, (28, 28)),
    "fashion-mnist": (70_000, (28, 28)),
    "kmnist": (70_000, (28, 28)),
    "emnist": (131_600, (28, 28)),
    "cifar10": (60_000, (3, 32, 32)),
}
"""Images of each built-in source, of bytes, and their shape."""
_UNKNOWN_SHAPE = (3, 64, 64)
"""Of images that nobody has looked at yet."""


@dataclass(frozen=True, kw_only=True)
class Requests:
    """What one run asks for."""

    memory_bytes: int
    """Memory of the run's processes together, a multiple of 256 MiB."""
    cpus: int
    """Cores that it can keep busy; also its number of threads."""
    gpus: int
    """Whole GPUs."""

    @property
    def memory_mib(self) -> int:
        """Memory in MiB, rounded up."""
        return math.ceil(self.memory_bytes / (1 << 20))

    @property
    def cpu_shares(self) -> int:
        """Cores as Docker weighs them, 1024 each."""
        return 1024 * self.cpus


def requests_for(
    config: PipelineConfig,
    *,
    n_images: int | None = None,
    shape: tuple[int, ...] | None = None,
) -> Requests:
    """Return what a run with this config asks for.

    Args:
        config: The run's settings.
        n_images: Images of all splits; default: those of a built-in source, else more than any
            window holds.
        shape: Of one image; default: that of a built-in source, else 64x64 in colour.

    Returns:
        The requests. GPUs are asked for only where ``runtime.device`` names one: ``auto`` takes
        what the machine has.
    """
    n, shape = _images_of(config, n_images, shape)
    processes, cpus = _processes_and_cpus(config.runtime)
    held = max(step(config, n, shape) for step in (_ingest, _train, _extract, _learn, _evaluate))
    held += _applications(config, n, shape)
    needed = processes * (PROCESS_BYTES + held) * (1 + HEADROOM)
    gpu = config.runtime.device.startswith("cuda")
    return Requests(
        memory_bytes=math.ceil(needed / _QUANTUM) * _QUANTUM,
        cpus=cpus,
        gpus=config.runtime.ranks if gpu else 0,
    )


def _processes_and_cpus(runtime: RuntimeConfig) -> tuple[int, int]:
    """Return how many processes a run has at once on its own machine, and on how many cores.

    Ranks are gone before the first shard is due, so the more of ranks and workers counts, and with
    them the process that started them. Threads are one process, and so is a run whose workers are
    somebody else's: ``runtime.workers`` says nothing of either.
    """
    local = runtime.runner == "dask"
    cpus = max(_CPUS, runtime.ranks, runtime.workers if local else 0)
    workers = (runtime.workers or cpus) if local else 0  # 0: one a core, which is those asked for
    ranks = runtime.ranks if runtime.ranks > 1 else 0
    return 1 + max(ranks, workers), cpus


def _images_of(
    config: PipelineConfig, n: int | None, shape: tuple[int, ...] | None
) -> tuple[float, tuple[int, ...]]:
    data = config.dataset
    if data.source == "patches":
        known: tuple[float, tuple[int, ...]] = data.n_patches, (data.patch_size,) * 2
    else:
        known = _KNOWN.get(data.source, (math.inf, _UNKNOWN_SHAPE))
    n_known, shape = (known[0] if n is None else n), shape or known[1]
    return (n_known if data.limit is None else min(n_known, 3 * data.limit)), shape


def _stored(config: PipelineConfig, shape: tuple[int, ...]) -> int:
    """Return the bytes of an image as it is stored: floats unless it is known to be bytes."""
    return math.prod(shape) * (1 if config.dataset.source in {*_KNOWN, "folder"} else _FLOAT)


def _train(config: PipelineConfig, n: float, shape: tuple[int, ...]) -> float:
    windows = (IMAGE_WINDOWS + VALIDATION_WINDOWS) * config.window_bytes
    images = min(n * _stored(config, shape), windows)
    vae, refine = config.vae, config.refine
    first = _network(shape, vae.hidden, vae.channels, vae.latent_dim)
    batch = config.training.batch_size * config.training.importance_samples
    trained = first[0] * _WEIGHT_COPIES + batch * first[1] * 2
    if refine.epochs:
        second = _network(shape, refine.hidden, refine.channels, vae.latent_dim)
        codes = config.dictionary.n_atoms * (refine.n_amounts + 2) * _FLOAT
        again = second[0] * _WEIGHT_COPIES + refine.batch_size * (second[1] * 2 + codes)
        trained = max(trained, again)
    return images + trained


def _network(
    shape: tuple[int, ...], hidden: tuple[int, ...], channels: tuple[int, ...], latent_dim: int
) -> tuple[float, float]:
    """Return the bytes of a VAE's weights, and of what one image leaves in its layers."""
    widths = [math.prod(shape), *hidden, 2 * latent_dim]
    weights = 2 * sum(a * b for a, b in pairwise(widths))
    weights += sum(9 * a * b for a, b in pairwise([n_channels(shape), *channels]))
    # A stage of convolutions works on no more than the picture's own size.
    units = 2 * sum(widths) + 2 * n_pixels(shape) * sum(channels)
    return weights * _FLOAT, units * _FLOAT


def _ingest(config: PipelineConfig, n: float, shape: tuple[int, ...]) -> float:
    """Return what choosing splits takes, the one thing that grows with n without end."""
    rows = min(n, config.runtime.block_size) * _stored(config, shape) * 3
    return rows + (_ROW_BYTES * n if math.isfinite(n) else 0)


def _extract(config: PipelineConfig, n: float, shape: tuple[int, ...]) -> float:
    rows = min(n, config.runtime.block_size)
    pixels = math.prod(shape) * _FLOAT
    return rows * (_stored(config, shape) + 2 * pixels) + 6 * SHARD_BYTES


def _learn(config: PipelineConfig, n: float, shape: tuple[int, ...]) -> float:
    d, n_atoms = config.vae.latent_dim, config.dictionary.n_atoms
    window = _latents_at_once(config, n)
    codes = window // (d * _FLOAT) * 2 * config.dictionary.n_nonzero_coefs * _FLOAT
    moments = 3 * n_atoms * (n_atoms + d) * 2 * _FLOAT
    return SAMPLE_WINDOWS * window + codes + moments + config.dictionary.batch_size * n_atoms * 8


def _latents_at_once(config: PipelineConfig, n: float) -> float:
    return min(n * config.vae.latent_dim * _FLOAT, config.window_bytes // 2)


def _evaluate(config: PipelineConfig, n: float, shape: tuple[int, ...]) -> float:
    pixels, n_atoms = math.prod(shape), config.dictionary.n_atoms
    rows = min(n, max(1024, config.runtime.block_size))
    levels = len(config.evaluation.sparsity_levels)
    dictionaries = levels * n_atoms * (pixels + config.vae.latent_dim) * _FLOAT * 3
    topk = 2 * n_atoms * pixels * _FLOAT * 4 if config.evaluation.topk_epochs else 0
    window = _latents_at_once(config, n)
    return rows * pixels * _FLOAT * 3 + dictionaries + topk + 2 * window


def _applications(config: PipelineConfig, n: float, shape: tuple[int, ...]) -> float:
    """Return what applications hold besides: images drawn and compared, local codes, graphs."""
    pixels, held = math.prod(shape) * _FLOAT, 0.0
    if "generation" in config.applications:
        held = max(held, 4 * config.generation.n_samples * pixels)
    if "representation" in config.applications:
        of_codes = 2 * _FLOAT * config.representation.n_nonzero_coefs
        held = max(held, min(n, 1 << 20) * of_codes)
    if "semi_supervised" in config.applications:
        semi = config.semi_supervised
        held = max(held, min(n, semi.n_images) * (pixels + 8 * _FLOAT * semi.n_neighbours))
    return held
