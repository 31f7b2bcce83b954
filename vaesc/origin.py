"""Where a model in memory came from: which version of which registry, and as of when."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime


@dataclass(frozen=True, kw_only=True)
class Origin:
    """What :func:`vaesc.load_model` was asked for, and what that meant."""

    ref: str
    """The reference as it was given: ``champion``, ``3``, ``models:/vaesc@champion``, a folder."""
    digest: str
    """SHA-256 of the model's ``bundle.json``, which lists that of every other file."""
    uri: str
    """The registry that was asked, without its password; of a folder, its absolute path."""
    resolved: datetime
    """When the reference was last looked up where it is kept, in UTC."""
    name: str = ""
    """The registered model; empty for a folder."""
    version: int | None = None
    """The version that the reference named at `resolved`; None for a folder."""
    offline: bool = False
    """Whether the registry did not answer, so that an alias may have moved since `resolved`."""
