"""A whole training in one process, or one of several: a dataset in, the best weights out."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from vaesc.config import TrainingConfig, canonical_json, settings
from vaesc.errors import ConfigError, TrainingError
from vaesc.models import PosteriorStatistics, mean_elbo, save_vae
from vaesc.models.files import WEIGHTS
from vaesc.progress import After, Listener
from vaesc.source import source_digest
from vaesc.store import file_digest
from vaesc.training.determinism import deterministic
from vaesc.training.health import collapse_sentence, mended
from vaesc.training.prepare import How, Images, Task, open_images, prepare
from vaesc.training.request import Work
from vaesc.training.resident import require_images
from vaesc.training.run import Run
from vaesc.training.threads import fitting_threads

if TYPE_CHECKING:
    from vaesc.datasets.reader import ImageDataset

logger = logging.getLogger(__name__)

_MUST_BE_ALIKE = {
    "vaesc": "another vaesc: install the same one everywhere",
    "torch": "another version of torch: install the same one everywhere",
    "settings": "other settings: start all ranks with the same --preset, --config and --set",
    "images": "other images: give all ranks the same dataset",
    "start": "another VAE to start from: give all ranks the same --start",
}


def fit(work: Work, listener: Listener) -> dict[str, Any]:
    """Do what :func:`vaesc.training.train` says in this process, perhaps one of several ranks.

    The first rank writes and returns the summary, the others nothing.

    Raises:
        ConfigError: Ranks have not been given the same work.
        VaescError: See :func:`vaesc.training.train`.
    """
    from vaesc.datasets.reader import open_dataset

    dataset, ranks = open_dataset(work.dataset), work.how.ranks
    for split in ("train", "validation"):
        require_images(dataset, split)
    if ranks.n > 1:
        _require_alike(ranks.tell(_facts(work, dataset)))
    task = Task(
        vae=work.vae, dataset=dataset, seed=work.seed, window_bytes=work.window_bytes,
        start=work.start, listener=listener,
    )  # fmt: skip
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


def _facts(work: Work, dataset: ImageDataset) -> dict[str, str]:
    """Return what must be the same in all ranks, in few words."""
    how = [work.seed, work.window_bytes, work.how.compile, work.how.accumulate]
    return {
        "vaesc": source_digest("vaesc.training"),
        "torch": torch.__version__,
        "settings": canonical_json([settings(work.vae), settings(work.training), *how]),
        "images": canonical_json(dict(dataset.sha256)),
        "start": "" if work.start is None else file_digest(work.start / WEIGHTS),
    }


def _require_alike(everyone: Sequence[Mapping[str, str]]) -> None:
    """Refuse ranks that would add up the gradients of unlike trainings."""
    for rank, facts in enumerate(everyone):
        for name, sentence in _MUST_BE_ALIKE.items():
            if facts[name] != everyone[0][name]:
                raise ConfigError(f"rank {rank} of this training has, unlike rank 0, {sentence}")


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
    images = open_images(task, config.batch_size, how)
    run, fallbacks = _run(task, config, how, images)
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
        second, _ = _run(later, again, how.beside("mended"), images)
    except TrainingError as error:
        told = f"{what}; a second training with {changed} failed: {error}"
        return [run], fallbacks, [*run.troubles, told]
    end = "is no better" if _collapse(second) else "mended it"
    told = (
        f"{what}; a second training with {changed} {end} (validation score {before} before, "
        f"{second.best.score:.5g} nats per image now)"
    )
    return [run, second], fallbacks, [*run.troubles, told, *second.troubles]


def _run(task: Task, config: TrainingConfig, how: How, images: Images) -> tuple[Run, list[str]]:
    """Return a finished run, the best weights in its model; and what could not be as asked."""
    run, fallbacks = prepare(task, config, how, images)
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
