"""Parts that an application adds to the registered model: numbers beside VAE and dictionary.

A part is one file, ``<application>.safetensors``: arrays, and facts as JSON in its header. The
model carries it as it is; only the application that wrote it knows what it means, and checks it
when it is used.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_args

import numpy as np
from numpy.typing import NDArray

from vaesc.config import Application, canonical_json
from vaesc.errors import DataError
from vaesc.untrusted import parse_json, read_arrays

PART = "part.safetensors"
"""File of an application's artifact that goes into the model."""
NAMES: tuple[Application, ...] = get_args(Application)
_FACTS = "facts"


def part_file(application: str) -> str:
    """Return the file of a model that holds the part of an application."""
    return f"{application}.safetensors"


@dataclass(frozen=True, kw_only=True)
class Part:
    """Arrays and facts of one application."""

    arrays: Mapping[str, NDArray[Any]]
    facts: Mapping[str, Any] = field(default_factory=dict)
    """Plain JSON values."""


def save_part(part: Part, path: Path) -> None:
    """Write a part; equal parts, equal bytes."""
    from safetensors.numpy import save_file

    arrays = {name: np.ascontiguousarray(part.arrays[name]) for name in sorted(part.arrays)}
    save_file(arrays, path, metadata={_FACTS: canonical_json(dict(part.facts))})


def load_part(path: Path) -> Part:
    """Read what :func:`save_part` wrote.

    Raises:
        DataError: It is not there, or is no part.
    """
    try:
        arrays, header = read_arrays(path)
        facts = parse_json(header[_FACTS])
        if not isinstance(facts, dict):
            raise TypeError("its facts are no object")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path} holds no part of a model ({error}); fetch it again") from error
    return Part(arrays=arrays, facts=facts)
