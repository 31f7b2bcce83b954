"""From a task, a config and a way of working to a run that is ready to start."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self

import torch
from torch import Tensor

from vaesc.config import TrainingConfig, VAEConfig, canonical_json, settings
from vaesc.errors import ConfigError
from vaesc.models import VAE, load_vae, mean_elbo, resolve_device
from vaesc.models.elbo import GROUP, group_images
from vaesc.models.files import WEIGHTS
from vaesc.progress import Listener
from vaesc.store import file_digest
from vaesc.training.checkpoints import Checkpoints, SharedCheckpoints
from vaesc.training.determinism import stream
from vaesc.training.engine import Engine
from vaesc.training.loop import Loop
from vaesc.training.objective import Objective
from vaesc.training.ranks import ALONE, Ranks
from vaesc.training.resident import ResidentBatches, in_groups, load_split
from vaesc.training.run import Run, score_of
from vaesc.training.split import SplitEngine
from vaesc.training.state import State
from vaesc.training.streamed import StreamedBatches, may_stay, open_batches
from vaesc.training.work import flops_per_image, has_bf16, is_worth_compiling
from vaesc.windows import VALIDATION_WINDOWS

if TYPE_CHECKING:
    from vaesc.datasets.reader import ImageDataset

logger = logging.getLogger(__name__)

Compile = Literal["auto", "always", "never"]


@dataclass(frozen=True, kw_only=True)
class How:
    """How a training is done, never what comes out, but for the last bits.

    Those depend on whether products are compiled, and on the order in which a gradient is summed:
    on the number of ranks, and of the micro-batches of each (:mod:`vaesc.training.split`).
    """

    device: str = "auto"
    block_size: int = 8192
    compile: Compile = "auto"
    checkpoints: Path | None = None
    checkpoint_seconds: float = 30.0
    checkpoint_batches: int = 0
    accumulate: int = 1
    ranks: Ranks = ALONE

    @property
    def parts(self) -> tuple[int, int]:
        """Into how many parts each batch is cut: by ranks, and by each of them."""
        return self.ranks.n, self.accumulate

    def beside(self, name: str) -> Self:
        """Return the same for a second training, whose checkpoint lies beside the first one's."""
        return replace(self, checkpoints=self.checkpoints and self.checkpoints / name)


@dataclass(frozen=True, kw_only=True)
class Task:
    """What is trained, but for the settings of the training."""

    vae: VAEConfig
    dataset: ImageDataset
    seed: int
    window_bytes: int
    start: Path | None
    listener: Listener


@dataclass(frozen=True, kw_only=True)
class Images:
    """A task's images, held or streamed; a second training of them takes the same."""

    place: torch.device
    """Where they go, and where the training computes."""
    train: ResidentBatches | StreamedBatches
    validation: Callable[[], Iterable[Tensor]]
    """Gives the groups of validation images that are this rank's."""
    first_group: int
    """Number of the first of them."""


def open_images(task: Task, batch_size: int, how: How) -> Images:
    """Open what is trained on and what is validated with."""
    place = resolve_device(how.device)
    batches = open_batches(
        task.dataset, place, batch_size=batch_size, seed=task.seed, block_size=how.block_size,
        window_bytes=task.window_bytes, ranks=how.ranks,
    )  # fmt: skip
    validation, first = _validation(task, place, how)
    return Images(place=place, train=batches, validation=validation, first_group=first)


def prepare(task: Task, config: TrainingConfig, how: How, images: Images) -> tuple[Run, list[str]]:
    """Return the run, ready to start, and what could not be as the config asks."""
    place, fallbacks = images.place, list[str]()
    dataset, seed = task.dataset, task.seed
    vae = VAE(task.vae, dataset.shape, generator=stream(seed, "train/init")).to(place)
    untrained = _untrained(vae, images.validation, config, seed) if how.ranks.rank == 0 else 0.0
    untrained = how.ranks.first(untrained)
    if task.start is not None:
        _warm(vae, task.start)
    bf16 = config.precision == "bf16"
    if bf16 and not all(how.ranks.tell(has_bf16(place))):
        bf16 = False
        fallbacks.append("float32: this device has no fast bf16 products")
        logger.warning("training.precision=bf16: this device has no fast bf16; using float32")
    flops = flops_per_image(vae) * config.epochs * dataset.n("train")
    worth = is_worth_compiling(flops, "bf16" if bf16 else "float32", place.type)
    wanted = how.compile == "always" or (how.compile == "auto" and worth)
    compiled = wanted and dataset.n("train") >= config.batch_size  # only whole batches are
    engine = _engine(Objective(vae, config, bf16=bf16), compiled=compiled, how=how)
    loop = Loop(engine, images.train, seed=seed, listener=task.listener)
    facts = [
        settings(task.vae), settings(config), dict(dataset.sha256), seed, task.window_bytes, bf16,
        compiled,
    ]  # fmt: skip
    facts += [] if task.start is None else [file_digest(task.start / WEIGHTS)]
    checkpoints = _checkpoints(facts, place, how)
    run = Run(loop, images.validation, checkpoints, untrained, images.first_group)
    return run, fallbacks


def _engine(objective: Objective, *, compiled: bool, how: How) -> Engine:
    config = objective.config
    state = State(objective.vae, averaged=config.weight_average > 0)
    if how.parts == (1, 1):
        return Engine(objective, state, compiled=compiled, batch_size=config.batch_size)
    return SplitEngine(
        objective, state, compiled=compiled, batch_size=config.batch_size, ranks=how.ranks,
        accumulate=how.accumulate,
    )  # fmt: skip


def _checkpoints(facts: list[Any], place: torch.device, how: How) -> Checkpoints:
    """Return the checkpoint of what the facts describe: byte for byte only where it began."""
    where = [torch.__version__, str(place), torch.get_num_threads()]
    where += [] if how.parts == (1, 1) else [list(how.parts)]
    names = _digest([*facts, *where]), how.checkpoint_seconds, how.checkpoint_batches
    if how.ranks.n == 1:
        return Checkpoints(how.checkpoints, *names, _digest(facts), how.parts)
    return SharedCheckpoints(how.checkpoints, *names, _digest(facts), how.parts, how.ranks)


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
    task: Task, place: torch.device, how: How
) -> tuple[Callable[[], Iterable[Tensor]], int]:
    """Return what gives the rank's groups of validation images, and the first one's number.

    They are resident if they are few, else read anew every time.
    """
    dataset, ranks = task.dataset, how.ranks
    n = dataset.n("validation")
    own = ranks.part(-(-n // GROUP))
    rows = slice(min(own.start * GROUP, n), min(own.stop * GROUP, n))
    n_bytes = (rows.stop - rows.start) * dataset.images("validation", slice(0, 1)).nbytes
    most = VALIDATION_WINDOWS * task.window_bytes
    if not may_stay(n_bytes, most, place, 4 * ranks.on_device):
        return lambda: group_images(dataset, "validation", rows, how.block_size), own.start
    images = load_split(dataset, "validation", place, block_size=how.block_size, rows=rows)
    return lambda: in_groups(images), own.start


def _digest(value: Any) -> str:  # noqa: ANN401
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()
