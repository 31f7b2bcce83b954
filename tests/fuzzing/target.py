"""What a fuzzing target is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, kw_only=True)
class Target:
    """One parser, and valid inputs for it to be damaged."""

    name: str
    what: str
    """The functions it drives, in a few words."""
    run: Callable[[bytes, Path], None]
    """Gives bytes to the parser; all its files are to be made in the folder."""
    seeds: Callable[[], list[bytes]]
    prepare: Callable[[], None] = lambda: None
    """Imports what is imported late, so that it is neither timed nor watched."""
    words: tuple[bytes, ...] = ()
    """What the format is made of."""
