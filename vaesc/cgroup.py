"""How much memory a container has left, which is less than its machine says it has.

Linux limits a container's, a pod's or a service's memory by a control group. ``/proc/meminfo`` and
``sysconf`` know nothing of it: they speak of the machine, and whoever believes them is killed.
"""

from __future__ import annotations

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
    try:
        lines = proc.read_text().splitlines()
    except OSError:
        return None
    left = []
    for controller, limit, usage, droppable in _FILES:
        path = next((p for p in map(_path_of, lines) if p and p[0] == controller), None)
        if path is None:
            continue
        # In a container the path may be the machine's name for it, and only the root be there.
        folder = mounted / controller
        group = folder / path[1].lstrip("/")
        for each in [group, *group.parents]:
            if each == folder or folder in each.parents:
                left.append(_left(each, limit, usage, droppable))
    return min((each for each in left if each is not None), default=None)


def _path_of(line: str) -> tuple[str, str] | None:
    """Return (controller, path) of a line ``number:controllers:path``; version 2's has none."""
    parts = line.split(":", 2)
    if len(parts) != 3:
        return None
    names = parts[1].split(",")
    return ("memory" if "memory" in names else parts[1], parts[2])


def _left(folder: Path, limit: str, usage: str, droppable: str) -> int | None:
    try:
        allowed, used = (int((folder / name).read_text()) for name in (limit, usage))
        lines = (folder / "memory.stat").read_text().splitlines()
    except (OSError, ValueError):  # not there, or "max"
        return None
    if allowed >= 1 << 60:  # version 1 says so that there is none
        return None
    stat = dict(line.split(" ", 1) for line in lines if " " in line)
    return max(0, allowed - used + int(stat.get(droppable, 0)))
