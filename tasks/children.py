"""Servers as child processes: started with a log, waited for, and never left behind.

A child is asked by Linux to end when the thread that started it ends, however that happens: a test
that is killed, a terminal that is closed. So start children from the main thread.
"""

from __future__ import annotations

import ctypes
import logging
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from vaesc.errors import VaescError

logger = logging.getLogger(__name__)

_STOP_SECONDS = 15.0
_SAY_EVERY_SECONDS = 15.0
_TELLING = re.compile(r"error|fatal|panic|critical|refus|denied|in use", re.IGNORECASE)


class ServerError(VaescError):
    """A server does not answer, did not start, or does not let us in."""


class Child:
    """One server process and its log.

    Args:
        name: What it is called in messages: "the MLflow server".
        command: Its program and arguments. No secrets here: anybody can list them.
        log: File that gets what it writes, added to what is there.
        environment: Its whole environment; the place for secrets.
        folder: Its working directory.
        user: Whom to run it as; default: whoever runs this.
        farewell: The signal that ends it in good order.

    Raises:
        ServerError: The program cannot be started.
    """

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        *,
        log: Path,
        environment: Mapping[str, str],
        folder: Path,
        user: str | None = None,
        farewell: signal.Signals = signal.SIGTERM,
    ) -> None:
        self.name, self.log, self._farewell = name, log, farewell
        as_user = {"user": user, "group": user, "extra_groups": []} if user else {}
        try:
            with log.open("ab") as sink:
                self.process = subprocess.Popen(
                    command, stdin=subprocess.DEVNULL, stdout=sink, stderr=sink, cwd=folder,
                    env=dict(environment), preexec_fn=lambda: die_with_parent(farewell),
                    start_new_session=True, **as_user,
                )  # type: ignore[call-overload]  # fmt: skip
        except OSError as error:
            raise ServerError(
                f"{name} cannot be started: {command[0]}: {error.strerror}"
            ) from error

    def wait_until(self, ready: Callable[[], bool], seconds: float) -> None:
        """Wait until `ready` says so.

        Raises:
            ServerError: The child ended first, or `seconds` have passed; with its last words.
        """
        begun = said = time.monotonic()
        while not ready():
            self.check()
            now = time.monotonic()
            if now - begun > seconds:
                raise ServerError(
                    f"{self.name} did not answer within {seconds:.0f} s "
                    f"({last_words(self.log)}); see {self.log}"
                )
            if now - said > _SAY_EVERY_SECONDS:
                said = now
                logger.warning("still waiting for %s (%.0f s)", self.name, now - begun)
            time.sleep(0.1)

    def check(self) -> None:
        """Raise :class:`ServerError` with the child's last words if it has ended."""
        code = self.process.poll()
        if code is not None:
            raise ServerError(
                f"{self.name} has ended with {code} ({last_words(self.log)}); see {self.log}"
            )

    def stop(self) -> None:
        """End the child in good order, or else by force."""
        terminate(self.process, self._farewell)


def terminate(process: subprocess.Popen[Any], farewell: signal.Signals = signal.SIGTERM) -> None:
    """End a process with `farewell`, or by force when that has not helped after 15 seconds."""
    if process.poll() is not None:
        return
    process.send_signal(farewell)
    try:
        process.wait(_STOP_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def die_with_parent(farewell: signal.Signals = signal.SIGTERM) -> None:
    """Ask Linux to end this process when its parent dies, however it dies; for `preexec_fn`."""
    if sys.platform == "linux":
        pr_set_pdeathsig = 1
        ctypes.CDLL(None).prctl(pr_set_pdeathsig, int(farewell))


def free_port() -> int:
    """Return a port of this machine that nobody listens at now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def last_words(log: Path) -> str:
    """Return the line of a log that tells most about its end, in at most 200 characters.

    That is the last of its last thirty lines that speaks of an error, else the very last.
    """
    lines = [line.strip() for line in log.read_text(errors="replace").splitlines()]
    spoken = [line for line in lines if line][-30:]
    telling = [line for line in spoken if _TELLING.search(line)]
    return next(iter((telling or spoken)[-1:]), "it said nothing")[:200]
