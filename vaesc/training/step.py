"""The step *train*: a dataset in, the best weights and the history out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from vaesc.config import TrainingConfig, VAEConfig
from vaesc.progress import SILENT, Listener
from vaesc.training.fit import fit
from vaesc.training.launch import fit_in_ranks
from vaesc.training.prepare import Compile, How
from vaesc.training.request import Work
from vaesc.windows import WINDOW_BYTES


def train(
    vae_config: VAEConfig,
    training_config: TrainingConfig,
    dataset_folder: Path,
    folder: Path,
    *,
    seed: int,
    window_bytes: int = WINDOW_BYTES,
    device: str = "auto",
    block_size: int = 8192,
    compile: Compile = "auto",
    checkpoints: Path | None = None,
    checkpoint_seconds: float = 30.0,
    checkpoint_batches: int = 0,
    ranks: int = 1,
    accumulate: int = 1,
    start: Path | None = None,
    listener: Listener = SILENT,
) -> dict[str, Any]:
    """Fit a VAE and write it.

    ``vae.safetensors`` and ``vae.json`` are the model with the weights of the epoch with the
    lowest validation negative ELBO (of their moving average, if that was asked for),
    ``history.json`` holds each epoch's metrics, ``posterior.json`` each epoch's KL per dimension;
    after a collapse that was mended, those of the first training and then those of the second.
    The same arguments on the same machine write the same bytes, also after an interruption;
    torch's global random state is not used.

    Args:
        vae_config: The model.
        training_config: How it is fitted.
        dataset_folder: Folder of the dataset's artifact.
        folder: Where to write; nothing is written if training fails.
        seed: The run's seed.
        window_bytes: Images shuffled together, as stored, see :mod:`vaesc.training.order`.
        device: Where to compute, see :func:`vaesc.models.resolve_device`.
        block_size: Images read at once.
        compile: ``auto`` compiles the step if the training is long enough to win it back.
        checkpoints: Folder for this training's checkpoint, to be deleted by the caller once what
            was written is safe; default: none.
        checkpoint_seconds: Least time between checkpoints; 0 for none by time.
        checkpoint_batches: Gradient steps between checkpoints; 0 for none by steps.
        ranks: Processes that share the training, see :mod:`vaesc.training.launch`; 1 is this one.
            A step is the same but for the order of its sums, a relative 1e-7 or so; such
            differences grow from step to step, as in any training (``benchmarks/ranks.py``).
        accumulate: Micro-batches into which a process cuts its part of a batch, one after
            another, to need less memory; a step is the same but for the order of its sums.
        start: Folder of a VAE of the same description, whose weights training starts from;
            default: random ones.
        listener: Hears of progress and of each epoch's metrics.

    Returns:
        The summary: latent_dim, epochs (trained), best_epoch, metrics (of the best epoch),
        engine (how steps were computed), rollbacks, collapse (a sentence, or empty), health (a
        sentence for everything that was not as it should be, mended or not).

    Raises:
        ConfigError: Settings that exclude one another, or more ranks than GPUs.
        DataError: There is no training image or no validation image.
        TrainingError: The loss is not finite, or has exploded, however often training went back;
            or the posterior has collapsed, and the policy is to fail.
        MachineError: Ranks died too often.
    """
    how = How(
        device=device, block_size=block_size, compile=compile, checkpoints=checkpoints,
        checkpoint_seconds=checkpoint_seconds, checkpoint_batches=checkpoint_batches,
        accumulate=accumulate,
    )  # fmt: skip
    work = Work(
        vae=vae_config, training=training_config, dataset=dataset_folder, folder=folder,
        seed=seed, window_bytes=window_bytes, start=start, how=how,
    )  # fmt: skip
    return fit(work, listener) if ranks == 1 else fit_in_ranks(work, ranks, listener)
