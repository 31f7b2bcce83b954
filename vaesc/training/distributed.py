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
other last bits; without ``--checkpoints`` they begin anew. An error in settings, data or training
ends torchrun, since it would come again. Ranks with other settings, images, vaesc or torch than
the first one are refused. They trust whoever reaches their ports: let only them share a network.
"""

from __future__ import annotations

import argparse
import json
import os
import select
import signal
import sys
import threading
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import NoReturn

import torch

from vaesc.config_files import load_config
from vaesc.errors import ConfigError, VaescError, told
from vaesc.progress import SILENT
from vaesc.training.devices import Me, device_of
from vaesc.training.fit import fit
from vaesc.training.prepare import How
from vaesc.training.ranks import joined
from vaesc.training.request import Work, work_from_json
from vaesc.training.speakers import Events, Speaker, Words

_APART = 1.0
"""Seconds between the moments at which ranks of one machine would end torchrun."""


def main(arguments: list[str] | None = None) -> int:
    """Be one rank; return 0 if the training is done."""
    options = _options(arguments)
    try:
        me = Me.from_environment()
    except ConfigError as error:
        sys.stderr.write(f"{error}\n")
        return error.exit_code
    parent = os.getppid()
    _watch(me, parent, lifeline=options.work is not None)
    speaker = Events(me) if options.work else Words(me)
    try:
        return _take_part(options, me, speaker)
    except Exception as error:
        sentence = told(error)
        if not isinstance(sentence, VaescError):
            speaker.failed(f"{type(error).__name__}: {error}")
            raise  # torchrun is to start all anew
        speaker.error(sentence)
        if me.restarts_left > 0 and options.work is None:
            _end_torchrun(me, parent)  # it would start all anew, to end in the same way
        return sentence.exit_code


def _take_part(options: argparse.Namespace, me: Me, speaker: Speaker) -> int:
    work = _work(options)
    name, on_device = device_of(work.how.device, me.local_rank, me.n_local)
    where = {} if options.work is None else me.meeting(options.work.parent)
    speaker.begins(checkpoints=work.how.checkpoints is not None)
    with joined(torch.device(name), on_device, **where) as ranks:
        how = replace(work.how, device=name, ranks=ranks)
        summary = fit(replace(work, how=how), speaker if me.rank == 0 else SILENT)
    if me.rank == 0:
        speaker.summary(summary)
    return 0


def _watch(me: Me, parent: int, *, lifeline: bool) -> None:
    """End this process once nobody is left who wants its work.

    That is torchrun, its parent, and at the other end of standard input whoever started that.
    """

    def end() -> NoReturn:
        if me.local_rank == 0:
            _end_torchrun(me, parent)
        os._exit(1)

    def wait() -> None:
        while os.getppid() == parent:
            if not lifeline:
                time.sleep(1)
            elif select.select([0], [], [], 1.0)[0] and not os.read(0, 1):
                end()
        os._exit(1)

    threading.Thread(target=wait, name="vaesc-watch", daemon=True).start()


def _end_torchrun(me: Me, parent: int) -> None:
    """Let torchrun end its ranks and itself; of ranks that all want that, the first one does it.

    A second signal harms it: the others wait, and are ended meanwhile.
    """
    time.sleep(_APART * me.local_rank)
    with suppress(OSError):
        os.kill(parent, signal.SIGTERM)


def _work(options: argparse.Namespace) -> Work:
    if options.work is not None:
        return work_from_json(json.loads(options.work.read_text()))
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
        seed=config.seed, window_bytes=config.window_bytes, start=options.start, how=how,
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
    parser.add_argument("--work", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.work is None and not (options.dataset and options.out):
        parser.error("--dataset and --out are needed")
    return options


if __name__ == "__main__":
    sys.exit(main())
