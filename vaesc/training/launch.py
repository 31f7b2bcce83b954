"""A training shared by several processes of this machine, as seen by the one that wants it.

The ranks are started, watched and, when one has died, started again by torch's own ``torchrun``,
in a process of its own; the same as on a cluster (:mod:`vaesc.training.distributed`). Here their
events are heard: progress and epochs go to the listener, log records to the log, an error becomes
an error. When this process ends, in whatever way, the ranks end with it: they hold the other end
of its pipe.

Nobody else can reach them: torchrun and ranks meet in files, and gloo and nccl listen on the
loopback interface only (nccl on another one if ``NCCL_SOCKET_IFNAME`` is set).
"""

from __future__ import annotations

import json
import logging
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch

import vaesc
from vaesc import errors
from vaesc.errors import MachineError, VaescError
from vaesc.progress import Listener
from vaesc.scratch import scratch
from vaesc.training.devices import device_of
from vaesc.training.request import Work, work_as_json

logger = logging.getLogger(__name__)

RESTARTS = 3
"""Times that ranks are started again after one of them has died."""
_GRACE = 15.0
"""Seconds that torchrun has to end its ranks."""
_SIGNAL = re.compile(r"Signal \d+ \((SIG[A-Z0-9]+)\)")
"""How torchrun tells which signal has ended a rank."""


def fit_in_ranks(work: Work, n: int, listener: Listener) -> dict[str, Any]:
    """Let `n` ranks do a training, see :func:`vaesc.training.train`.

    Returns:
        The first rank's summary.

    Raises:
        ConfigError: There are fewer GPUs than ranks.
        MachineError: Ranks died more often than :data:`RESTARTS`.
        VaescError: What any rank has raised.
    """
    device_of(work.how.device, 0, n)
    with scratch("ranks") as place:
        told = place / "work.json"
        told.write_text(json.dumps(work_as_json(work)))
        hearer = _Hearer(listener)
        with (place / "stderr").open("w") as stderr, _torchrun(told, n, stderr) as process:
            assert process.stdout is not None
            for line in process.stdout:
                hearer.hear(line)
            code = process.wait()
        if code or hearer.summary is None:
            raise MachineError(_sentence(n, hearer, code, place / "stderr"))
        return hearer.summary


class _Hearer:
    """Acts on the events of ranks, each of them a line of JSON."""

    def __init__(self, listener: Listener) -> None:
        self.listener = listener
        self.summary: dict[str, Any] | None = None
        self.last_words = ""
        self.starts = 0
        """Times that ranks have been started, as far as they could say so."""
        self._epoch = 0

    def hear(self, line: str) -> None:
        """Act on one event; what is none is left aside.

        Raises:
            VaescError: A rank has raised it.
        """
        acts = {
            "begins": self._begins, "progress": self._progress, "epoch": self._hear_epoch,
            "log": self._log, "error": self._error, "failed": self._failed,
            "summary": self._hear_summary,
        }  # fmt: skip
        try:
            event = json.loads(line)
            act, starts = acts[event["event"]], event["restarts"] + 1
        except (ValueError, TypeError, KeyError):
            return
        if starts > self.starts:
            self.starts, self.last_words = starts, ""
        act(event)

    def _begins(self, event: dict[str, Any]) -> None:
        if event["rank"] == 0 and event["restarts"]:
            logger.warning(
                "a process of this training has died: all of them %s (restart %d of at most %d)",
                "go on from the last checkpoint" if event["checkpoints"] else "begin at epoch 1",
                event["restarts"], RESTARTS,
            )  # fmt: skip

    def _progress(self, event: dict[str, Any]) -> None:
        self.listener.progress(event["done"], event["total"], **event["figures"])

    def _hear_epoch(self, event: dict[str, Any]) -> None:
        # Ranks that go on from a checkpoint tell of its epochs again.
        if event["epoch"] > self._epoch:
            self._epoch = event["epoch"]
            self.listener.epoch(event["epoch"], event["metrics"])

    def _log(self, event: dict[str, Any]) -> None:
        logging.getLogger(event["name"]).log(event["level"], "%s", event["text"])

    def _error(self, event: dict[str, Any]) -> None:
        kind = getattr(errors, event["kind"], VaescError)
        if not (isinstance(kind, type) and issubclass(kind, VaescError)):
            kind = VaescError
        raise kind(event["text"])

    def _failed(self, event: dict[str, Any]) -> None:
        # The first to speak is the one that died; the others have only lost the connection to it.
        self.last_words = self.last_words or f"rank {event['rank']}: {event['text']}"

    def _hear_summary(self, event: dict[str, Any]) -> None:
        self.summary = event["summary"]


@contextmanager
def _torchrun(told: Path, n: int, stderr: Any) -> Iterator[subprocess.Popen[str]]:  # noqa: ANN401
    """Start torchrun, and leave no process behind after the block, however it ends."""
    command = [
        sys.executable, "-m", "torch.distributed.run", "--nnodes=1", f"--nproc-per-node={n}",
        f"--max-restarts={RESTARTS}", "--rdzv-backend=c10d", "--rdzv-id=vaesc",
        f"--rdzv-endpoint={told.with_name('rendezvous')}", "--rdzv-conf=store_type=file",
        "--local-addr=127.0.0.1", f"--log-dir={told.with_name('logs')}",
        "-m", "vaesc.training.distributed", f"--work={told}",
    ]  # fmt: skip
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=stderr, text=True,
        env=_environment(n), start_new_session=True,  # Ctrl-C is for this process to hear
    )  # fmt: skip
    try:
        yield process
    finally:
        _end(process)


def _end(process: subprocess.Popen[str]) -> None:
    assert process.stdin is not None
    assert process.stdout is not None
    if process.poll() is None:
        process.terminate()
        with suppress(subprocess.TimeoutExpired):
            process.wait(_GRACE)
    if process.poll() is None:
        process.kill()
        process.wait()
    with suppress(OSError):
        process.stdin.close()  # ranks that have outlived torchrun hear that, and end
    process.stdout.read()  # until the last of them has closed its end
    process.stdout.close()


def _environment(n: int) -> dict[str, str]:
    own = str(Path(vaesc.__file__).parent.parent)
    paths = [own, *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(paths),
        "OMP_NUM_THREADS": str(max(1, torch.get_num_threads() // n)),
        # Without it torchrun opens a port to all the world.
        "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1",
    }
    loopback = [name for _, name in socket.if_nameindex() if name in ("lo", "lo0")]
    if loopback:
        environment["GLOO_SOCKET_IFNAME"] = loopback[0]
        environment.setdefault("NCCL_SOCKET_IFNAME", loopback[0])
    return environment


def _sentence(n: int, hearer: _Hearer, code: int, stderr: Path) -> str:
    """Say how ranks, or torchrun, have ended, with what was said last."""
    text = stderr.read_text(errors="replace")
    said = [line.strip() for line in text.splitlines() if line.strip()]
    words = hearer.last_words or (said[-1] if said else "nothing")
    signals = _SIGNAL.findall(text)
    if code < 0:
        end = f"torchrun was ended by {signal.Signals(-code).name}"
    elif not hearer.starts:
        end = "its processes could not be started"
    else:
        times = "once" if hearer.starts == 1 else f"{hearer.starts} times"
        end = f"its processes died {times}" + (f", the last by {signals[-1]}" if signals else "")
    killed = "SIGKILL" in end
    memory = f"see that there is memory for {n} of them, or " if killed else ""
    return (
        f"training with runtime.ranks={n} was given up: {end}; the last words were: "
        f"{words[:500]}; {memory}set runtime.ranks=1"
    )
