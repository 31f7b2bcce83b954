"""How much memory a container has, and has left: less than its machine says.

Linux limits a container's, a pod's or a service's memory by a control group. ``/proc/meminfo`` and
``sysconf`` know nothing of it: they speak of the machine, and whoever believes them is killed.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

_PROC = Path("/proc/self/cgroup")
_MOUNTED = Path("/sys/fs/cgroup")
_FILES = (
    ("", "memory.max", "memory.current", "inactive_file"),
    ("memory", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
)
"""Where version 2 and version 1 keep limit, usage, and what of it is files that may be dropped."""


def free_bytes(proc: Path = _PROC, mounted: Path = _MOUNTED) -> int | None:
    """Return how much more memory this process's control groups allow; None: nothing limits it.

    Args:
        proc: What says which groups the process is in.
        mounted: Where groups are mounted.

    Returns:
        The least that the process's group and those above it leave, 0 at least. Pages of files
        that the kernel would drop first do not count as used.
    """
    return min((each for _, each in _limits(proc, mounted)), default=None)


def allowed_bytes(proc: Path = _PROC, mounted: Path = _MOUNTED) -> int | None:
    """Return how much memory this process's control groups allow in all; None: nothing limits it.

    Args:
        proc: As for :func:`free_bytes`.
        mounted: As for :func:`free_bytes`.
    """
    return min((each for each, _ in _limits(proc, mounted)), default=None)


def _limits(proc: Path, mounted: Path) -> Iterator[tuple[int, int]]:
    """Yield what each group that limits the process allows, and what it has left."""
    try:
        lines = proc.read_text().splitlines()
    except OSError:
        return
    for controller, limit, usage, droppable in _FILES:
        path = next((p for p in map(_path_of, lines) if p and p[0] == controller), None)
        if path is None:
            continue
        # In a container the path may be the machine's name for it, and only the root be there.
        folder = mounted / controller
        group = folder / path[1].lstrip("/")
        for each in [group, *group.parents]:
            if each == folder or folder in each.parents:
                found = _allowed_and_left(each, limit, usage, droppable)
                if found is not None:
                    yield found


def _path_of(line: str) -> tuple[str, str] | None:
    """Return (controller, path) of a line ``number:controllers:path``; version 2's has none."""
    parts = line.split(":", 2)
    if len(parts) != 3:
        return None
    names = parts[1].split(",")
    return ("memory" if "memory" in names else parts[1], parts[2])


def _allowed_and_left(
    folder: Path, limit: str, usage: str, droppable: str
) -> tuple[int, int] | None:
    try:
        allowed, used = (int((folder / name).read_text()) for name in (limit, usage))
        lines = (folder / "memory.stat").read_text().splitlines()
    except (OSError, ValueError):  # not there, or "max"
        return None
    if allowed >= 1 << 60:  # version 1 says so that there is none
        return None
    stat = dict(line.split(" ", 1) for line in lines if " " in line)
    return allowed, max(0, allowed - used + int(stat.get(droppable, 0)))
