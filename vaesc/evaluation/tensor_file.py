"""A safetensors file that is filled piece by piece: it may be larger than memory.

Its bytes are those that ``safetensors.numpy.save_file`` would write of whole float32 arrays.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray


class TensorFile:
    """Float32 arrays of one file, each written in any order; a context manager.

    Args:
        path: The new file.
        shapes: Name -> shape of each array.
    """

    def __init__(self, path: Path, shapes: Mapping[str, tuple[int, ...]]) -> None:
        header, starts, end = dict[str, Any](), dict[str, int](), 0
        for name in sorted(shapes):
            start, end = end, end + 4 * math.prod(shapes[name])
            starts[name], shape = start, list(shapes[name])
            header[name] = {"dtype": "F32", "shape": shape, "data_offsets": [start, end]}
        text = json.dumps(header, separators=(",", ":")).encode()
        text += b" " * (-len(text) % 8)
        head = len(text).to_bytes(8, "little") + text
        self._starts = {name: len(head) + start for name, start in starts.items()}
        self._row_bytes = {name: 4 * math.prod(shape[1:]) for name, shape in shapes.items()}
        self._file = path.open("wb", buffering=0)
        self._file.write(head)
        self._file.truncate(len(head) + end)

    def write(self, name: str, row: int, values: NDArray[Any]) -> None:
        """Put rows into an array, from a row on."""
        self._file.seek(self._starts[name] + row * self._row_bytes[name])
        left = np.ascontiguousarray(values, "<f4").tobytes()
        while left:  # a raw file may take less than it is given
            left = left[self._file.write(left) :]

    def __enter__(self) -> TensorFile:
        return self

    def __exit__(self, *error: object) -> None:
        self._file.close()
