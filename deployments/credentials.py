"""The secrets of a stack: made once for a folder, kept in a file that only its owner can read."""

from __future__ import annotations

import json
import os
import secrets
from dataclasses import asdict, dataclass
from pathlib import Path


@dataclass(frozen=True, kw_only=True)
class Secrets:
    """What only this stack knows."""

    postgres: str
    s3_key: str
    s3_secret: str
    mlflow: str
    mlflow_cookies: str
    prefect: str

    @classmethod
    def of(cls, folder: Path) -> Secrets:
        """Return the secrets kept in `folder`, making them if there are none."""
        path = folder / "secrets.json"
        if path.exists():
            return cls(**json.loads(path.read_text()))
        made = cls(**{name: secrets.token_hex(20) for name in cls.__dataclass_fields__})
        write_private(path, json.dumps(asdict(made)))
        return made


def write_private(path: Path, text: str) -> None:
    """Write a file that only its owner can read, at no time anybody else."""
    path.unlink(missing_ok=True)
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(text)
