"""Folders that are a process's own while it lives, and nobody's once it is dead.

What is written beside its place before it is renamed lies in such a folder. A process that ends
removes its own; one that is killed cannot, so the next run on the same machine does. The name says
whose it is: ``<label>.<mark of the process>.<random>``.
"""

from __future__ import annotations

import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from vaesc.config import home
from vaesc.processes import is_of_the_dead, is_of_the_living, mark


def own_name(label: str) -> str:
    """Return a new name for a file or folder of this process; `label` holds no dot."""
    return f"{label}.{mark()}.{uuid.uuid4().hex[:8]}"


def is_abandoned(path: Path) -> bool:
    """Tell whether a path with such a name is of a process of this machine that is dead."""
    parts = path.name.split(".")
    return len(parts) == 3 and is_of_the_dead(parts[1])


def owner_at_work(path: Path) -> bool:
    """Tell whether a path with such a name is of a process of this machine that lives."""
    parts = path.name.split(".")
    return len(parts) == 3 and is_of_the_living(parts[1])


def sweep(folder: Path) -> list[Path]:
    """Delete what dead processes of this machine left in `folder`, and return it."""
    found = [path for path in sorted(folder.glob("*.*.*")) if is_abandoned(path)]
    for path in found:
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)
    return found


@contextmanager
def scratch(label: str) -> Iterator[Path]:
    """Provide an empty folder in ``tmp`` of the home, which is gone after the block."""
    folder = home() / "tmp" / own_name(label)
    folder.mkdir(parents=True)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
