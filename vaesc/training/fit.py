"""The step *train*: a dataset in, the best weights and the history out."""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any

from vaesc.config import TrainingConfig, VAEConfig
from vaesc.errors import TrainingError
from vaesc.models import PosteriorStatistics, mean_elbo, save_vae
from vaesc.progress import SILENT, After, Listener
from vaesc.training.determinism import deterministic
from vaesc.training.health import collapse_sentence, mended
from vaesc.training.prepare import Compile, How, Task, prepare
from vaesc.training.resident import require_images
from vaesc.training.run import Run
from vaesc.training.threads import fitting_threads

logger = logging.getLogger(__name__)


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
        seed=seed, start=start, how=how,
    )  # fmt: skip
    if ranks == 1:
        return fit(work, listener)
    from vaesc.training.launch import fit_in_ranks

    return fit_in_ranks(work, ranks, listener)


@dataclass(frozen=True, kw_only=True)
class Work:
    """A whole training, from folder to folder."""

    vae: VAEConfig
    training: TrainingConfig
    dataset: Path
    folder: Path
    seed: int
    start: Path | None
    how: How


def fit(work: Work, listener: Listener) -> dict[str, Any]:
    """Do what :func:`train` says in this process, which may be one of several ranks.

    The first rank writes and returns the summary, the others nothing.
    """
    from vaesc.datasets.reader import open_dataset

    dataset, ranks = open_dataset(work.dataset), work.how.ranks
    for split in ("train", "validation"):
        require_images(dataset, split)
    task = Task(vae=work.vae, dataset=dataset, seed=work.seed, start=work.start, listener=listener)
    summary: dict[str, Any] = {}
    with deterministic():
        runs, fallbacks, troubles = _trained(task, work.training, work.how)
        engine = runs[-1].loop.engine
        said = ranks.tell([*fallbacks, *([engine.fallback] if engine.fallback else [])])
        if ranks.rank == 0:
            extra = _final_metrics(runs[-1])
            _write_all(runs, work.folder)
            summary = _summary(runs, extra, list(dict.fromkeys(chain(*said))), troubles)
    ranks.tell("done")  # nobody leaves before all is written
    return summary


def _write_all(runs: list[Run], folder: Path) -> None:
    save_vae(runs[-1].loop.vae, folder)
    _write(folder / "history.json", [epoch for each in runs for epoch in each.history])
    dimensions = [epoch for each in runs for epoch in each.kl_dimensions]
    _write(folder / "posterior.json", {"validation/kl_per_dimension": dimensions})


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
    run, fallbacks = prepare(task, config, how)
    with fitting_threads(run.loop.vae, config.batch_size):
        run.fit()
        run.state.flat["weights"].copy_(run.best.weights)
    return run, fallbacks


def _collapse(run: Run) -> str:
    active = run.history[run.best.epoch - 1]["validation/active_units"]
    return collapse_sentence(active, run.loop.vae.latent_dim)


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
            "fallbacks": fallbacks,
            **({"ranks": engine.ranks.n} if engine.ranks.n > 1 else {}),
            **({"accumulate": engine.accumulate} if engine.accumulate > 1 else {}),
        },
        "rollbacks": int(metrics["train/rollbacks"]),
        "collapse": collapse,
        "health": troubles,
    }


def _write(path: Path, value: Any) -> None:  # noqa: ANN401
    path.write_text(json.dumps(value, indent=1, sort_keys=True, allow_nan=False) + "\n")
