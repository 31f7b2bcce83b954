"""Inputs on disk: the regression cases of each target, and what a search starts from."""

from __future__ import annotations

import hashlib
from pathlib import Path

from .target import Target

CORPUS = Path(__file__).with_name("corpus")


def cases(name: str) -> list[Path]:
    """Return the files of a target's regression cases."""
    return sorted(p for p in (CORPUS / name).glob("*") if p.is_file())


def start(target: Target) -> list[bytes]:
    """Return valid inputs and every case, to be damaged further."""
    return [*target.seeds(), *(path.read_bytes() for path in cases(target.name))]


def save(folder: Path, data: bytes) -> Path:
    """Write an input under the digest of its bytes."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / hashlib.sha256(data).hexdigest()[:16]
    path.write_bytes(data)
    return path
