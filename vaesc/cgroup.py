"""How much memory and how many cores a container has: less than its machine says.

Linux limits a container's, a pod's or a service's memory by a control group. ``/proc/meminfo`` and
``sysconf`` know nothing of it: they speak of the machine, and whoever believes them is killed.
Whoever believes its number of cores is slowed down.
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
    for controller, *files in _FILES:
        for group in _groups(controller, proc, mounted):
            found = _allowed_and_left(group, *files)
            if found is not None:
                yield found


def cores(proc: Path = _PROC, mounted: Path = _MOUNTED) -> float | None:
    """Return how many cores' time this process's control groups allow; None: nothing limits it.

    Args:
        proc: What says which groups the process is in.
        mounted: Where groups are mounted.
    """
    found = [_share(group / "cpu.max") for group in _groups("", proc, mounted)]
    for group in _groups("cpu", proc, mounted):
        found.append(_share(group / "cpu.cfs_quota_us", group / "cpu.cfs_period_us"))
    return min((each for each in found if each is not None), default=None)


def _groups(controller: str, proc: Path, mounted: Path) -> list[Path]:
    """Return a controller's group of this process and those above it; version 2's has no name."""
    try:
        lines = proc.read_text().splitlines()
    except OSError:
        return []
    parts = [line.split(":", 2) for line in lines]
    path = next((p[2] for p in parts if len(p) == 3 and controller in p[1].split(",")), None)
    if path is None:
        return []
    # In a container the path may be the machine's name for it, and only the root be there.
    folder = mounted / controller
    group = folder / path.lstrip("/")
    return [each for each in [group, *group.parents] if each == folder or folder in each.parents]


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


def _share(*files: Path) -> float | None:
    """Return the microseconds allowed in each period, over those of the period."""
    try:
        allowed, period = " ".join(file.read_text() for file in files).split()
        return int(allowed) / int(period) if int(allowed) > 0 else None
    except (OSError, ValueError):  # not there, or "max"
        return None
