"""Learning that can be killed: a process that learns, and is struck at a moment of its learning.

A child is forked from a process that has imported everything, so that moments are counted from
the first step on, and none are spent on imports. It tells how far it is through a page of memory
that outlives it.
"""

from __future__ import annotations

import mmap
import os
import signal
import struct
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

_SLOWEST = 300.0
"""Seconds after which a process that learns hangs."""


class Told:
    """What a child tells of itself: when its learning began, and how many steps are done."""

    def __init__(self) -> None:
        self._page = mmap.mmap(-1, 16)

    def begun(self) -> None:
        """Note that learning begins now."""
        if not self.since:
            struct.pack_into("d", self._page, 0, time.monotonic())

    def at(self, steps: int) -> None:
        """Note how many steps are done, those of the processes before included."""
        struct.pack_into("q", self._page, 8, steps)

    @property
    def since(self) -> float:
        """When learning began, on the clock that all processes share; 0 before."""
        return float(struct.unpack_from("d", self._page, 0)[0])

    @property
    def steps(self) -> int:
        """Steps done."""
        return int(struct.unpack_from("q", self._page, 8)[0])


@dataclass(frozen=True)
class End:
    """How a child ended."""

    code: int
    """Exit code; negative: the signal."""
    seconds: float
    """From the beginning of its learning on."""
    steps: int

    @property
    def killed(self) -> bool:
        """Whether it was struck before it had finished."""
        return self.code == -signal.SIGKILL


def learn(work: Callable[[Told], None], log: Path, strike_after: float | None = None) -> End:
    """Let a child learn, and kill it so many seconds after its learning began, or never."""
    told = Told()
    pid = os.fork()
    if pid == 0:
        _become(work, told, log)
    deadline = time.monotonic() + _SLOWEST
    while True:
        done, status = os.waitpid(pid, os.WNOHANG)
        now = time.monotonic()
        if done:
            seconds = now - told.since if told.since else 0.0
            return End(os.waitstatus_to_exitcode(status), seconds, told.steps)
        struck = strike_after is not None and told.since and now - told.since >= strike_after
        if struck or now > deadline:
            os.kill(pid, signal.SIGKILL)
            _, status = os.waitpid(pid, 0)
            if now > deadline:
                raise RuntimeError(f"a process that learns hangs; see {log}")
            return End(os.waitstatus_to_exitcode(status), now - told.since, told.steps)
        time.sleep(0.0005)


def _become(work: Callable[[Told], None], told: Told, log: Path) -> None:
    """Be the child that learns; does not return."""
    code = 1
    try:
        with log.open("ab") as sink:
            for number in (1, 2):
                os.dup2(sink.fileno(), number)
        work(told)
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
