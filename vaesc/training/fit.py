"""The step *train*: a dataset in, the best weights and the history out."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self

import torch
from torch import Tensor

from vaesc.config import TrainingConfig, VAEConfig, canonical_json, settings
from vaesc.errors import ConfigError, TrainingError
from vaesc.models import (
    VAE,
    PosteriorStatistics,
    load_vae,
    mean_elbo,
    resolve_device,
    save_vae,
)
from vaesc.models.elbo import group_images
from vaesc.models.files import WEIGHTS
from vaesc.progress import SILENT, After, Listener
from vaesc.store import file_digest
from vaesc.training.checkpoints import Checkpoints
from vaesc.training.determinism import deterministic, stream
from vaesc.training.engine import Engine
from vaesc.training.health import collapse_sentence, mended
from vaesc.training.loop import Loop
from vaesc.training.objective import Objective
from vaesc.training.resident import in_groups, load_split, require_images
from vaesc.training.run import Run, score_of
from vaesc.training.state import State
from vaesc.training.streamed import free_bytes, open_batches
from vaesc.training.threads import fitting_threads
from vaesc.training.work import flops_per_image, has_bf16, is_worth_compiling

if TYPE_CHECKING:
    from vaesc.datasets.reader import ImageDataset

logger = logging.getLogger(__name__)

Compile = Literal["auto", "always", "never"]


@dataclass(frozen=True, kw_only=True)
class How:
    """How a training is done, never what comes out, but for the last bits of compiled products."""

    device: str = "auto"
    block_size: int = 8192
    compile: Compile = "auto"
    checkpoints: Path | None = None
    checkpoint_seconds: float = 30.0
    checkpoint_batches: int = 0

    def beside(self, name: str) -> Self:
        """Return the same for a second training, whose checkpoint lies beside the first one's."""
        return replace(self, checkpoints=self.checkpoints and self.checkpoints / name)


@dataclass(frozen=True, kw_only=True)
class Task:
    """What is trained, but for the settings of the training."""

    vae: VAEConfig
    dataset: ImageDataset
    seed: int
    start: Path | None
    listener: Listener


def train(
    vae_config: VAEConfig,
    training_config: TrainingConfig,
    dataset_folder: Path,
    folder: Path,
    *,
    seed: int,
    device: str = "auto",
    block_size: int = 8192,
    compile: Compile = "auto",
    checkpoints: Path | None = None,
    checkpoint_seconds: float = 30.0,
    checkpoint_batches: int = 0,
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
        device: Where to compute, see :func:`vaesc.models.resolve_device`.
        block_size: Images read at once.
        compile: ``auto`` compiles the step if the training is long enough to win it back.
        checkpoints: Folder for this training's checkpoint, to be deleted by the caller once what
            was written is safe; default: none.
        checkpoint_seconds: Least time between checkpoints; 0 for none by time.
        checkpoint_batches: Gradient steps between checkpoints; 0 for none by steps.
        start: Folder of a VAE of the same description, whose weights training starts from;
            default: random ones.
        listener: Hears of progress and of each epoch's metrics.

    Returns:
        The summary: latent_dim, epochs (trained), best_epoch, metrics (of the best epoch),
        engine (how steps were computed), rollbacks, collapse (a sentence, or empty), health (a
        sentence for everything that was not as it should be, mended or not).

    Raises:
        ConfigError: Settings that exclude one another.
        DataError: There is no training image or no validation image.
        TrainingError: The loss is not finite, or has exploded, however often training went back;
            or the posterior has collapsed, and the policy is to fail.
    """
    from vaesc.datasets.reader import open_dataset

    how = How(
        device=device, block_size=block_size, compile=compile, checkpoints=checkpoints,
        checkpoint_seconds=checkpoint_seconds, checkpoint_batches=checkpoint_batches,
    )  # fmt: skip
    dataset = open_dataset(dataset_folder)
    for split in ("train", "validation"):
        require_images(dataset, split)
    task = Task(vae=vae_config, dataset=dataset, seed=seed, start=start, listener=listener)
    with deterministic():
        runs, fallbacks, troubles = _trained(task, training_config, how)
        run = runs[-1]
        extra = _final_metrics(run)
    save_vae(run.loop.vae, folder)
    _write(folder / "history.json", [epoch for each in runs for epoch in each.history])
    dimensions = [epoch for each in runs for epoch in each.kl_dimensions]
    _write(folder / "posterior.json", {"validation/kl_per_dimension": dimensions})
    return _summary(runs, extra, fallbacks, troubles)


def _trained(
    task: Task, config: TrainingConfig, how: How
) -> tuple[list[Run], list[str], list[str]]:
    """Train, and act on a collapse as the policy says.

    Returns:
        The runs, that of the model to keep last; what could not be as the config asks; and a
        sentence on everything that was not sound.

    Raises:
        TrainingError: It has collapsed, and the policy is to fail.
    """
    run, fallbacks = _run(task, config, how)
    collapse, again = _collapse(run), mended(config)
    if not collapse:
        return [run], fallbacks, run.troubles
    if config.on_collapse == "fail":
        raise TrainingError(f"{collapse} (training.on_collapse=fail)")
    logger.warning("%s", collapse)
    if config.on_collapse == "continue" or again is None:
        return [run], fallbacks, [*run.troubles, collapse]
    changed = ", ".join(
        f"training.{name}={getattr(again, name)}"
        for name in ("beta_schedule", "beta_epochs", "free_bits")
    )
    logger.warning("training once more with %s", changed)
    later = replace(task, listener=After(task.listener, len(run.history)))
    what, before = collapse.partition(";")[0], f"{run.best.score:.5g}"
    try:
        second, _ = _run(later, again, how.beside("mended"))
    except TrainingError as error:
        told = f"{what}; a second training with {changed} failed: {error}"
        return [run], fallbacks, [*run.troubles, told]
    end = "is no better" if _collapse(second) else "mended it"
    told = (
        f"{what}; a second training with {changed} {end} (validation score {before} before, "
        f"{second.best.score:.5g} nats per image now)"
    )
    return [run, second], fallbacks, [*run.troubles, told, *second.troubles]


def _run(task: Task, config: TrainingConfig, how: How) -> tuple[Run, list[str]]:
    """Return a finished run, the best weights in its model; and what could not be as asked."""
    run, fallbacks = _prepare(task, config, how)
    with fitting_threads(run.loop.vae, config.batch_size):
        run.fit()
        run.state.flat["weights"].copy_(run.best.weights)
    return run, fallbacks


def _collapse(run: Run) -> str:
    active = run.history[run.best.epoch - 1]["validation/active_units"]
    return collapse_sentence(active, run.loop.vae.latent_dim)


def _prepare(task: Task, config: TrainingConfig, how: How) -> tuple[Run, list[str]]:
    """Return the run, ready to start, and what could not be as the config asks."""
    place, fallbacks = resolve_device(how.device), list[str]()
    dataset, seed = task.dataset, task.seed
    vae = VAE(task.vae, dataset.shape, generator=stream(seed, "train/init")).to(place)
    validation = _validation(dataset, place, how)
    untrained = _untrained(vae, validation, config, seed)
    if task.start is not None:
        _warm(vae, task.start)
    bf16 = config.precision == "bf16"
    if bf16 and not has_bf16(place):
        bf16 = False
        fallbacks.append("float32: this device has no fast bf16 products")
        logger.warning("training.precision=bf16: this device has no fast bf16; using float32")
    flops = flops_per_image(vae) * config.epochs * dataset.n("train")
    worth = is_worth_compiling(flops, "bf16" if bf16 else "float32", place.type)
    wanted = how.compile == "always" or (how.compile == "auto" and worth)
    compiled = wanted and dataset.n("train") >= config.batch_size  # only whole batches are
    state = State(vae, averaged=config.weight_average > 0)
    engine = Engine(
        Objective(vae, config, bf16=bf16), state, compiled=compiled, batch_size=config.batch_size
    )
    batches = open_batches(
        dataset, place, batch_size=config.batch_size, seed=seed, block_size=how.block_size
    )
    loop = Loop(engine, batches, seed=seed, listener=task.listener)
    facts = [settings(task.vae), settings(config), dict(dataset.sha256), seed, bf16, compiled]
    facts += [] if task.start is None else [file_digest(task.start / WEIGHTS)]
    place_facts = [torch.__version__, str(place), torch.get_num_threads()]
    checkpoints = Checkpoints(
        how.checkpoints, _digest([*facts, *place_facts]), how.checkpoint_seconds,
        how.checkpoint_batches,
    )  # fmt: skip
    return Run(loop, validation, checkpoints, untrained), fallbacks


def _untrained(
    vae: VAE, validation: Callable[[], Iterable[Tensor]], config: TrainingConfig, seed: int
) -> float:
    """Return the score of the weights as they are, on the first group of validation images."""
    terms = mean_elbo(vae, [next(iter(validation()))], seed=seed, stream="elbo/untrained")
    return score_of(terms, config, vae.config.beta)


def _warm(vae: VAE, start: Path) -> None:
    """Give a new VAE the weights of one that was trained before."""
    trained = load_vae(start, vae.device)
    if (trained.config, trained.shape) != (vae.config, vae.shape):
        raise ConfigError(
            f"training cannot start from the VAE in {start}: its settings or its shape of image "
            "differ from this run's; start without it, or with its settings"
        )
    vae.load_state_dict(trained.state_dict())


def _validation(
    dataset: ImageDataset, place: torch.device, how: How
) -> Callable[[], Iterable[Tensor]]:
    """Return what gives the validation images in groups: resident if they fit, else read anew."""
    n = dataset.n("validation")
    if n * dataset.images("validation", slice(0, 1)).nbytes > free_bytes(place) // 4:
        return lambda: group_images(dataset, "validation", slice(0, n), how.block_size)
    images = load_split(dataset, "validation", place, block_size=how.block_size)
    return lambda: in_groups(images)


def _final_metrics(run: Run) -> dict[str, float]:
    """Return what is measured once, with the weights that are kept."""
    statistics, vae, seed = PosteriorStatistics(), run.loop.vae, run.loop.seed
    groups = iter(run.validation())
    with fitting_threads(vae, run.config.batch_size):
        mean_elbo(vae, [next(groups)], seed=seed, stream="final", on_posterior=statistics.add)
    return {"validation/mutual_information": statistics.mutual_information(seed)}


def _summary(
    runs: list[Run], extra: dict[str, float], fallbacks: list[str], troubles: list[str]
) -> dict[str, Any]:
    run, collapse = runs[-1], _collapse(runs[-1])
    vae, best, engine = run.loop.vae, run.best.epoch, run.loop.engine
    metrics = {k: v for k, v in run.history[best - 1].items() if k != "train/learning_rate"}
    metrics |= {**extra, "train/collapsed": float(bool(collapse))}
    metrics["train/mended"] = float(len(runs) > 1 and not collapse)
    metrics["train/rollbacks"] = float(sum(each.rollbacks for each in runs))
    metrics["train/bf16"] = float(engine.objective.bf16)
    before = sum(len(each.history) for each in runs[:-1])
    return {
        "latent_dim": vae.latent_dim,
        "epochs": before + len(run.history),
        "best_epoch": before + best,
        "metrics": metrics,
        "engine": {
            "compiled": engine.compiled,
            "precision": "bf16" if engine.objective.bf16 else "float32",
            "fallbacks": [*fallbacks, *([engine.fallback] if engine.fallback else [])],
        },
        "rollbacks": int(metrics["train/rollbacks"]),
        "collapse": collapse,
        "health": troubles,
    }


def _digest(value: Any) -> str:  # noqa: ANN401
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()


def _write(path: Path, value: Any) -> None:  # noqa: ANN401
    path.write_text(json.dumps(value, indent=1, sort_keys=True, allow_nan=False) + "\n")
