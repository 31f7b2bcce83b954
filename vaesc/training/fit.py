"""The step *train*: a dataset in, the best weights and the history out."""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from vaesc.config import TrainingConfig, VAEConfig
from vaesc.models import VAE, mean_elbo, resolve_device, save_vae
from vaesc.progress import SILENT, Listener
from vaesc.training.determinism import deterministic, stream
from vaesc.training.loop import Loop, check_finite
from vaesc.training.resident import in_groups, load_split
from vaesc.training.threads import fitting_threads

logger = logging.getLogger(__name__)

Metrics = dict[str, float]


def train(
    vae_config: VAEConfig,
    training_config: TrainingConfig,
    dataset_folder: Path,
    folder: Path,
    *,
    seed: int,
    device: str = "auto",
    block_size: int = 8192,
    listener: Listener = SILENT,
) -> dict[str, Any]:
    """Fit a VAE and write it: ``vae.safetensors``, ``vae.json``, ``history.json``.

    The weights written are those of the epoch with the lowest validation negative ELBO. The same
    arguments on the same machine write the same bytes; torch's global random state is not used.

    Args:
        vae_config: The model.
        training_config: How it is fitted.
        dataset_folder: Folder of the dataset's artifact.
        folder: Where to write; nothing is written if training fails.
        seed: The run's seed.
        device: Where to compute, see :func:`vaesc.models.resolve_device`.
        block_size: Images read at once.
        listener: Hears of progress and of each epoch's metrics.

    Returns:
        The summary: latent_dim, epochs (trained), best_epoch, metrics (of the best epoch).

    Raises:
        DataError: There is no training image or no validation image.
        TrainingError: The loss is not finite.
    """
    from vaesc.datasets.reader import open_dataset

    dataset = open_dataset(dataset_folder)
    place = resolve_device(device)
    with deterministic():
        vae = VAE(vae_config, dataset.shape, generator=stream(seed, "train/init")).to(place)
        images = load_split(dataset, "train", place, block_size=block_size)
        validation = load_split(dataset, "validation", place, block_size=block_size)
        loop = Loop(vae, images, training_config, seed=seed, listener=listener)
        with fitting_threads(vae, training_config.batch_size):
            best, history = _fit(loop, validation)
    vae.load_state_dict(best.weights)
    save_vae(vae, folder)
    text = json.dumps(history, indent=1, sort_keys=True, allow_nan=False)
    (folder / "history.json").write_text(text + "\n")
    return _summary(vae, best, history)


@dataclass
class Best:
    """The best epoch so far, by validation negative ELBO; the earlier one of equals."""

    epoch: int = 0
    score: float = float("inf")
    weights: dict[str, Tensor] = field(default_factory=dict)

    def offer(self, epoch: int, score: float, vae: VAE) -> None:
        """Keep a copy of the weights if `score` is lower than every one before."""
        if score < self.score:
            self.epoch, self.score = epoch, score
            self.weights = {name: value.clone() for name, value in vae.state_dict().items()}

    def is_old(self, epoch: int, patience: int) -> bool:
        """Whether `patience` epochs have passed without a better one; never if it is 0."""
        return 0 < patience <= epoch - self.epoch


def _fit(loop: Loop, validation: Tensor) -> tuple[Best, list[Metrics]]:
    """Run epochs until the last one or until patience ends."""
    best, history = Best(), []
    for epoch in range(1, loop.config.epochs + 1):
        metrics = {**loop.run_epoch(epoch), **_validate(loop, validation)}
        check_finite(metrics, epoch, loop.config)
        history.append(metrics)
        loop.listener.epoch(epoch, metrics)
        logger.debug(
            "epoch %d: negative ELBO %.2f (train), %.2f (validation) nats per image",
            epoch, metrics["train/negative_elbo"], metrics["validation/negative_elbo"],
        )  # fmt: skip
        best.offer(epoch, metrics["validation/negative_elbo"], loop.vae)
        if best.is_old(epoch, loop.config.patience):
            logger.info("no better epoch since %d: stopped early at %d", best.epoch, epoch)
            break
    return best, history


def _validate(loop: Loop, images: Tensor) -> Metrics:
    """Return the validation metrics; the noise is the same in every epoch.

    It is the noise of :func:`vaesc.models.evaluate_elbo` too, which repeats these numbers.
    """
    terms = mean_elbo(loop.vae, in_groups(images), seed=loop.seed, stream="elbo/validation")
    return {f"validation/{name}": value for name, value in terms.items()}


def _summary(vae: VAE, best: Best, history: list[Metrics]) -> dict[str, Any]:
    metrics = {k: v for k, v in history[best.epoch - 1].items() if k != "train/learning_rate"}
    return {
        "latent_dim": vae.latent_dim,
        "epochs": len(history),
        "best_epoch": best.epoch,
        "metrics": metrics,
    }
