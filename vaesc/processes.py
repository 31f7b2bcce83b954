"""Which process opened a run or a folder, and whether it still lives.

A killed process cannot close its runs: MLflow shows them as running for ever. A run therefore
names its process, so that a later one on the same machine can tell. A process id alone is not
enough, since ids are reused: the start time of the process, the boot of the machine and the
process namespace (a container's) go with it.
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
import re
import socket
from dataclasses import asdict, dataclass
from pathlib import Path

_PROC = Path("/proc")
_MARK = re.compile(
    r"(?P<machine>[0-9a-f]{8})-(?P<boot>[0-9a-f]{8})-(?P<namespace>[0-9a-f]{8})"
    r"-(?P<pid>\d{1,10})-(?P<started>\d*)"
)


@dataclass(frozen=True, kw_only=True)
class Process:
    """One process of one boot of one machine, for good."""

    machine: str
    """Digest of the machine's id, empty where it has none; with the host's name."""
    boot: str
    namespace: str
    """Where `pid` has a meaning: the process namespace, of a container or of the machine."""
    pid: int
    started: str
    """Start time of the process in the kernel's clock ticks since boot; empty if unknown."""

    def to_json(self) -> str:
        """Return the process as the text of a tag."""
        return json.dumps(asdict(self), sort_keys=True)

    def is_dead(self) -> bool:
        """Tell whether this process is over for certain; False if it cannot be known from here."""
        here = this_process()
        if self.machine != here.machine or not (self.boot and here.boot):
            return False
        if self.boot != here.boot:
            return True
        if self.namespace != here.namespace:
            return False
        return not pid_exists(self.pid) or self.started != _start_time(self.pid)


def mark() -> str:
    """Return this process as a part of a file's name, for :func:`is_of_the_dead`."""
    here = this_process()
    places = "-".join(_short(text) for text in (here.machine, here.boot, here.namespace))
    return f"{places}-{here.pid}-{here.started}"


def surroundings() -> str:
    """Return what processes that see the same files share: machine, boot and what is mounted.

    A process that cannot know them shares them with none.
    """
    here, mounts = this_process(), _namespace("mnt")
    if not (here.machine and here.boot and mounts):
        return mark()
    return "-".join(_short(text) for text in (here.machine, here.boot, mounts))


def is_of_the_dead(text: str) -> bool:
    """Tell whether the process of a :func:`mark` is over for certain, as seen from here."""
    return _lives(text) is False


def is_of_the_living(text: str) -> bool:
    """Tell whether the process of a :func:`mark` goes on for certain, as seen from here."""
    return _lives(text) is True


def _lives(text: str) -> bool | None:
    """Return None where that cannot be known: no mark, another machine or another container."""
    found = _MARK.fullmatch(text)
    if found is None:
        return None
    here = this_process()
    machine, boot, namespace = map(_short, (here.machine, here.boot, here.namespace))
    if found["machine"] != machine or not (here.machine and here.boot):
        return None
    if found["boot"] != boot:
        return False
    if found["namespace"] != namespace:
        return None
    pid = int(found["pid"])
    return pid_exists(pid) and found["started"] == _start_time(pid)


def process_from_json(text: str) -> Process | None:
    """Rebuild a process from :meth:`Process.to_json`; None if the text is not one."""
    try:
        return Process(**json.loads(text))
    except (ValueError, TypeError):
        return None


def this_process() -> Process:
    """Return the process this is."""
    pid = os.getpid()
    return Process(
        machine=_machine(), boot=_read(_PROC / "sys/kernel/random/boot_id"),
        namespace=_namespace(), pid=pid, started=_start_time(pid),
    )  # fmt: skip


@functools.cache
def host_name() -> str:
    """Return this machine's name."""
    return socket.gethostname()


@functools.cache
def _machine() -> str:
    identity = f"{host_name()}/{_read(Path('/etc/machine-id'))}"
    return hashlib.sha256(identity.encode()).hexdigest()[:16]


def _short(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def _namespace(kind: str = "pid") -> str:
    try:
        return os.readlink(_PROC / "self/ns" / kind)  # noqa: PTH115
    except OSError:
        return ""


def pid_exists(pid: int) -> bool:
    """Tell whether there is a process of this number, whoever's it is."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _start_time(pid: int) -> str:
    # The second field is the command in parentheses, which may hold spaces and parentheses.
    fields = _read(_PROC / str(pid) / "stat").rpartition(")")[2].split()
    return fields[19] if len(fields) > 19 else ""


def _read(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""
