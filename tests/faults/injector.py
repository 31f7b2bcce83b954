"""Points of a run as it passes them, and what is done to it at one of them.

Python tells an audit hook of every file that is opened, renamed, made or removed, before it
happens; SQLAlchemy tells of every statement and commit before it is sent. A point is one of these
events with its place: the path below the home with every digest and number taken out, or the
statement's verb and table. The n-th passing of a point is what an injection names.
"""

from __future__ import annotations

import errno
import json
import os
import random
import re
import resource
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
_PATHS = {"os.rename": 1, "os.mkdir": 0, "os.remove": 0, "os.rmdir": 0}
"""Events that change the disk, and which of their arguments says where."""
_CHANGING = re.compile(r"\s*(INSERT INTO|UPDATE|DELETE FROM)\s+(\w+)", re.IGNORECASE)
_RANDOM = re.compile(
    r"[0-9a-f]{8}(-[0-9a-f]{8}){2}-\d+-\d*|[0-9a-f]{8,}|(?<=/tmp)[a-z0-9_]{8}|(?<=vaesc-)[a-z0-9_]{8}"
    r"|(?<=uploading\.)\w+|(?<=/)[0-9a-f]{2}(?=/)|\d+"
)
_DISK = {"full disk": errno.ENOSPC, "disk error": errno.EIO, "read-only store": errno.EROFS}
_FREE = {
    errno.ENOSPC: ("sql", "commit", "remove", "rmdir"),
    errno.EIO: ("sql", "commit"),
    errno.EROFS: ("sql", "commit"),
}
"""What is not refused: a full disk lets one remove; SQLite's own writes are not seen here."""
_SIGNALS = {"SIGKILL": signal.SIGKILL, "SIGTERM": signal.SIGTERM, "SIGINT": signal.SIGINT}


FILLED = "filled disk"
"""Not one refusal told by this process, but a disk that has no room, for SQLite neither."""
MIDST = "SIGKILL in the midst"
"""Not before something is done, but while it is: some milliseconds later."""
_LONGEST_MOMENT = 0.03
BALLAST = "VAESC_FAULTS_BALLAST"
"""Environment variable: the file that a disk is filled with."""


@dataclass(frozen=True, order=True)
class Point:
    """One event of a run."""

    event: str
    place: str
    nth: int = 1
    """Which passing, from 1 on."""

    def __str__(self) -> str:
        return f"{self.event} {self.place} #{self.nth}"


@dataclass(frozen=True)
class Injection:
    """One thing that goes wrong, at one point."""

    fault: str
    """A signal, a way in which the disk refuses, ``out of memory`` or ``clock``."""
    point: Point

    def to_json(self) -> str:
        """Return the injection as text."""
        return json.dumps(asdict(self))

    @staticmethod
    def from_json(text: str) -> Injection:
        """Read what :meth:`to_json` wrote."""
        found = json.loads(text)
        return Injection(fault=found["fault"], point=Point(**found["point"]))


def placeless(path: str) -> str:
    """Return a path with every digest, id and number taken out."""
    return _RANDOM.sub("*", path)


class Injector:
    """Watches this process, and breaks it at a point.

    Args:
        home: What lies below it counts as the run's own.
        injection: What to do where; None: only note the points.
        trace: File that the points passed are written to, one a line, or None.
    """

    def __init__(self, home: Path, injection: Injection | None, trace: Path | None) -> None:
        self._roots = (str(home), os.path.join(os.environ.get("TMPDIR", "/tmp"), "vaesc-"))
        self._home, self._injection, self._trace = str(home), injection, trace
        self._seen: Counter[tuple[str, str]] = Counter()
        self._lock = threading.RLock()
        self._busy = self._struck = False
        self._refuse = 0
        self._log: list[str] = []

    def install(self) -> None:
        """Start watching; there is no way back."""
        from sqlalchemy import Engine, event

        sys.addaudithook(self._audit)
        event.listen(Engine, "before_cursor_execute", self._statement)
        event.listen(Engine, "commit", lambda _: self._pass("commit", "mlflow"))

    def _audit(self, event: str, arguments: tuple[Any, ...]) -> None:
        if self._busy:
            return
        if event == "open":
            path, _, flags = arguments
            if not isinstance(flags, int) or not flags & _WRITING:
                return
            self._pass("open", path)
        elif event in _PATHS:
            self._pass(event.removeprefix("os."), arguments[_PATHS[event]])

    def _statement(self, _c: object, _k: object, statement: str, *_: object) -> None:
        if found := _CHANGING.match(statement):
            self._pass("sql", f"{found[1].split()[0].upper()} {found[2]}")

    def _pass(self, event: str, where: object) -> None:
        place = where if event in ("sql", "commit") else self._place(where)
        if not isinstance(place, str):
            return
        with self._lock:
            self._busy = True
            try:
                self._seen[event, place] += 1
                point = Point(event, place, self._seen[event, place])
                if self._trace is not None:
                    with self._trace.open("a") as file:
                        file.write(json.dumps(asdict(point)) + "\n")
                if self._injection is not None and self._injection.point == point:
                    self._strike()
            finally:
                self._busy = False
        if self._refuse and event not in _FREE[self._refuse]:
            raise OSError(self._refuse, os.strerror(self._refuse), str(where))

    def _place(self, where: object) -> str | None:
        try:
            path = os.path.abspath(os.fsdecode(where))
        except TypeError:  # a file descriptor
            return None
        if not path.startswith(self._roots) or "/prefect/" in path:
            return None
        return placeless(path.replace(self._home, "~"))

    def _strike(self) -> None:
        fault = self._injection.fault if self._injection else ""
        print(f"fault: {fault} at {self._injection and self._injection.point}", file=sys.stderr)
        sys.stderr.flush()
        if fault in _SIGNALS:
            os.kill(os.getpid(), _SIGNALS[fault])
            if fault == "SIGKILL":
                time.sleep(60)
        elif fault in _DISK:
            self._refuse = _DISK[fault]
        elif fault == MIDST:
            _kill_soon(str(self._injection and self._injection.point))
        else:
            _OTHERS[fault]()


def _kill_soon(point: str) -> None:
    moment = random.Random(point).uniform(0.0, _LONGEST_MOMENT)
    threading.Timer(moment, os.kill, (os.getpid(), signal.SIGKILL)).start()


def _out_of_memory() -> None:
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + (8 << 20), resource.RLIM_INFINITY))


def _jump(seconds: float) -> Callable[[], None]:
    def jump() -> None:
        now, now_ns = time.time, time.time_ns
        time.time = lambda: now() + seconds
        time.time_ns = lambda: now_ns() + int(seconds * 10**9)

    return jump


def _fill() -> None:
    """Leave no byte free on the disk of the run, for everybody who writes there."""
    with open(os.environ[BALLAST], "wb", buffering=0) as ballast:
        for size in (1 << 22, 1 << 12):
            with suppress(OSError):
                while True:
                    ballast.write(bytes(size))


_OTHERS = {
    FILLED: _fill,
    "out of memory": _out_of_memory,
    "clock a year ahead": _jump(365 * 86400.0),
    "clock a day back": _jump(-86400.0),
}
