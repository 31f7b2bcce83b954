r"""One rank of a training that several processes share: what ``torchrun`` starts.

On one machine a run starts it by itself (``runtime.ranks``, :mod:`vaesc.training.launch`). On
several, the same command goes to each of them, with folders that all can see::

    torchrun --nnodes 2 --nproc-per-node 4 --max-restarts 3 \
        --rdzv-backend c10d --rdzv-id vaesc --rdzv-endpoint first-machine:29400 \
        -m vaesc.training.distributed \
        --dataset FOLDER --preset mnist --out FOLDER --checkpoints FOLDER

The dataset is the folder of an artifact of the step *ingest*; the model is written to ``--out``,
and the first rank's last line is its summary, one JSON object. How many ranks there are is for
torchrun to say, not for ``runtime.ranks``. One that dies ends all; torchrun starts them again, and
they go on from the last checkpoint: to the same bytes if they are as many as before, else with
other last bits. Ranks trust whoever reaches their ports: let only them share that network.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import select
import signal
import sys
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NoReturn

import torch

from vaesc.config import settings
from vaesc.config_files import config_from_mapping, load_config
from vaesc.errors import ConfigError, VaescError, told
from vaesc.progress import SILENT, Listener
from vaesc.training.fit import Work, fit
from vaesc.training.prepare import How
from vaesc.training.ranks import joined

logger = logging.getLogger(__name__)

_LONGEST = 2000
"""Characters of an event's text: a line below the 4,096 bytes that a pipe takes in one piece."""


def main(arguments: list[str] | None = None) -> int:
    """Be one rank; return 0 if the training is done."""
    options = _options(arguments)
    try:
        me = _Me.from_environment()
    except ConfigError as error:
        sys.stderr.write(f"{error}\n")
        return error.exit_code
    _watch(me, lifeline=options.job is not None)
    speaker = _Events(me) if options.job else _Words(me)
    try:
        return _take_part(options, me, speaker)
    except Exception as error:
        sentence = told(error)
        if not isinstance(sentence, VaescError):
            speaker.failed(f"{type(error).__name__}: {error}")
            raise  # torchrun is to start all anew
        speaker.error(sentence)
        return sentence.exit_code


def _take_part(options: argparse.Namespace, me: _Me, speaker: _Speaker) -> int:
    work = _work(options)
    name, on_device = device_of(work.how.device, me.local_rank, me.n_local)
    where = {} if options.job is None else me.meeting(options.job.parent)
    speaker.begins(me.restarts)
    with joined(torch.device(name), on_device, **where) as ranks:
        how = replace(work.how, device=name, ranks=ranks)
        summary = fit(replace(work, how=how), speaker if me.rank == 0 else SILENT)
    if me.rank == 0:
        speaker.summary(summary)
    return 0


def device_of(device: str, local_rank: int, n_local: int) -> tuple[str, int]:
    """Return where a rank computes, and how many ranks share that memory.

    Args:
        device: ``auto``, ``cuda`` or ``cpu``, as in ``runtime.device``.
        local_rank: The rank's number on its machine.
        n_local: Ranks of its machine.

    Raises:
        ConfigError: There are fewer GPUs than ranks, or it is another device.
    """
    n_gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if device == "cpu" or (device == "auto" and not n_gpus):
        return "cpu", n_local
    if device not in ("auto", "cuda"):
        raise ConfigError(
            f"runtime.device={device}: ranks that share a training have a device each; set auto, "
            "cuda or cpu"
        )
    if n_gpus < n_local:
        raise ConfigError(
            f"{n_local} ranks need a GPU each, and torch finds {n_gpus} on this machine; set "
            f"runtime.ranks={max(1, n_gpus)}, or runtime.device=cpu"
        )
    return f"cuda:{local_rank}", 1


@dataclass(frozen=True)
class _Me:
    """Which rank this process is, as torchrun has put it into the environment."""

    rank: int
    n: int
    local_rank: int
    n_local: int
    restarts: int

    @classmethod
    def from_environment(cls) -> _Me:
        names = (
            "RANK",
            "WORLD_SIZE",
            "LOCAL_RANK",
            "LOCAL_WORLD_SIZE",
            "TORCHELASTIC_RESTART_COUNT",
        )
        try:
            return cls(*(int(os.environ[name]) for name in names))
        except (KeyError, ValueError) as error:
            raise ConfigError(
                "this is one rank of several: start it with torchrun --nproc-per-node N "
                "-m vaesc.training.distributed ..., or let vaesc run do it with runtime.ranks=N"
            ) from error

    def meeting(self, folder: Path) -> dict[str, Any]:
        """Return where the ranks of one machine meet: in a file, that nobody else can reach."""
        path = (folder / f"meeting-{self.restarts}").resolve()
        return {"init_method": path.as_uri(), "rank": self.rank, "world_size": self.n}


def _watch(me: _Me, *, lifeline: bool) -> None:
    """End this process once nobody is left who wants its work.

    That is torchrun, its parent, and at the other end of standard input whoever started that.
    """
    parent = os.getppid()

    def end() -> NoReturn:
        if me.local_rank == 0:  # torchrun would start all anew; once: a second signal harms it
            with suppress(OSError):
                os.kill(parent, signal.SIGTERM)
        os._exit(1)

    def wait() -> None:
        while os.getppid() == parent:
            if not lifeline:
                time.sleep(1)
            elif select.select([0], [], [], 1.0)[0] and not os.read(0, 1):
                end()
        os._exit(1)

    threading.Thread(target=wait, name="vaesc-watch", daemon=True).start()


class _Speaker(Listener):
    """Says what happens in this rank."""

    def __init__(self, me: _Me) -> None:
        self.me = me

    def begins(self, restarts: int) -> None:
        """Say that this rank begins, for the how manieth time."""

    def error(self, error: VaescError) -> None:
        """Say what the user can act on."""

    def failed(self, text: str) -> None:
        """Say what else has ended this rank, such as the death of another one."""

    def summary(self, summary: Mapping[str, Any]) -> None:
        """Say what has come out."""


class _Words(_Speaker):
    """For whoever typed ``torchrun``: words on standard error, the summary on standard output."""

    def __init__(self, me: _Me) -> None:
        super().__init__(me)
        level = logging.INFO if me.rank == 0 else logging.ERROR
        logging.basicConfig(level=level, format=f"rank {me.rank}: %(message)s")

    def epoch(self, epoch: int, metrics: Mapping[str, float]) -> None:
        """Log an epoch."""
        logger.info(
            "epoch %d: negative ELBO %.2f (train), %.2f (validation) nats per image", epoch,
            metrics["train/negative_elbo"], metrics["validation/negative_elbo"],
        )  # fmt: skip

    def error(self, error: VaescError) -> None:
        """Log the sentence."""
        logger.error("%s", error)

    def summary(self, summary: Mapping[str, Any]) -> None:
        """Print it."""
        sys.stdout.write(f"{json.dumps(summary)}\n")


class _Events(_Speaker):
    """For :mod:`vaesc.training.launch`: a JSON object a line, and nothing else on that pipe."""

    def __init__(self, me: _Me) -> None:
        super().__init__(me)
        self._pipe = os.dup(1)
        os.dup2(2, 1)  # what libraries print is none of it
        if me.rank == 0:
            handler = logging.Handler(logging.INFO)
            handler.emit = self._log  # type: ignore[method-assign]
            logging.getLogger("vaesc").addHandler(handler)
            logging.getLogger("vaesc").setLevel(logging.INFO)

    def _say(self, event: str, **facts: Any) -> None:  # noqa: ANN401
        line = json.dumps({"event": event, "rank": self.me.rank, **facts})
        os.write(self._pipe, f"{line}\n".encode())

    def _log(self, record: logging.LogRecord) -> None:
        self._say(
            "log", name=record.name, level=record.levelno, text=record.getMessage()[:_LONGEST]
        )

    def begins(self, restarts: int) -> None:
        """See :class:`_Speaker`."""
        self._say("begins", restarts=restarts)

    def progress(self, done: float, total: float, **figures: float) -> None:
        """Pass on."""
        self._say("progress", done=done, total=total, figures=figures)

    def epoch(self, epoch: int, metrics: Mapping[str, float]) -> None:
        """Pass on."""
        self._say("epoch", epoch=epoch, metrics=metrics)

    def error(self, error: VaescError) -> None:
        """See :class:`_Speaker`."""
        self._say("error", kind=type(error).__name__, text=str(error)[:_LONGEST])

    def failed(self, text: str) -> None:
        """See :class:`_Speaker`."""
        self._say("failed", text=text[:_LONGEST])

    def summary(self, summary: Mapping[str, Any]) -> None:
        """See :class:`_Speaker`."""
        self._say("summary", summary=summary)


def work_as_json(work: Work) -> dict[str, Any]:
    """Return a training as what JSON can say; the ranks are left out."""
    paths = {name: getattr(work, name) for name in ("dataset", "folder", "start")}
    how = {k: v for k, v in vars(work.how).items() if k != "ranks"}
    how["checkpoints"] = how["checkpoints"] and str(how["checkpoints"])
    return {
        "vae": settings(work.vae), "training": settings(work.training), "seed": work.seed,
        **{name: path and str(path) for name, path in paths.items()}, "how": how,
    }  # fmt: skip


def _work_from_json(job: Mapping[str, Any]) -> Work:
    config = config_from_mapping({"vae": job["vae"], "training": job["training"]})
    paths = {name: job[name] and Path(job[name]) for name in ("dataset", "folder", "start")}
    checkpoints = job["how"]["checkpoints"]
    how = How(**{**job["how"], "checkpoints": checkpoints and Path(checkpoints)})
    return Work(vae=config.vae, training=config.training, seed=job["seed"], how=how, **paths)


def _work(options: argparse.Namespace) -> Work:
    if options.job is not None:
        return _work_from_json(json.loads(options.job.read_text()))
    config = load_config(options.preset, options.config, options.set)
    runtime = config.runtime
    options.out.mkdir(parents=True, exist_ok=True)
    how = How(
        device=runtime.device, block_size=runtime.block_size, compile=runtime.compile,
        checkpoints=options.checkpoints, checkpoint_seconds=runtime.checkpoint_seconds,
        accumulate=runtime.accumulate,
    )  # fmt: skip
    return Work(
        vae=config.vae, training=config.training, dataset=options.dataset, folder=options.out,
        seed=config.seed, start=options.start, how=how,
    )  # fmt: skip


def _options(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="torchrun ... -m vaesc.training.distributed", description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("--dataset", type=Path, help="folder of a dataset's artifact")
    parser.add_argument("--out", type=Path, help="where the first rank writes the model")
    parser.add_argument("--preset", default="digits")
    parser.add_argument("--config", type=Path, help="TOML file laid over the preset")
    parser.add_argument("--set", action="append", default=[], metavar="A.B=C")
    parser.add_argument("--checkpoints", type=Path, help="folder to resume from; default: none")
    parser.add_argument("--start", type=Path, help="folder of a VAE whose weights to start from")
    parser.add_argument("--job", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.job is None and not (options.dataset and options.out):
        parser.error("--dataset and --out are needed")
    return options


if __name__ == "__main__":
    sys.exit(main())
