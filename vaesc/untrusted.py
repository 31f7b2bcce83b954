"""Files that somebody else may have written: JSON, arrays, and links that lead nowhere.

Python's own reader accepts what no writer of ours writes (NaN, the same key twice), and answers to
nesting and to numbers without end with errors of many kinds. Here they are all one. So it is with
safetensors, which has types that numpy lacks.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from numpy.typing import NDArray

_MOST_BYTES = 256 * 2**20
"""No JSON of ours comes near; beyond it a file is a mistake or an attack."""
MOST = 1e15
"""Numbers beyond it are nobody's, and sums of their squares soon beyond float32."""
_TYPES = ("BOOL", "U8", "I8", "U16", "I16", "U32", "I32", "U64", "I64", "F16", "F32", "F64")
"""Names of the types of safetensors that an array of numpy can have, and that we write."""


def parse_json(text: bytes | str) -> Any:  # noqa: ANN401
    """Return what a JSON text says.

    Raises:
        ValueError: It is none, is nested too deeply, holds NaN, infinity, a number beyond floats
            or a key twice.
    """
    try:
        return json.loads(
            text, parse_constant=_refused, parse_float=_finite, object_pairs_hook=_unique
        )
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def read_json(path: Path) -> Any:  # noqa: ANN401
    """Return what a JSON file of a folder says.

    Raises:
        ValueError: As :func:`parse_json`; or it is a link to outside its folder, or absurdly long.
        OSError: It cannot be read.
    """
    check_inside(path, path.parent)
    if path.stat().st_size > _MOST_BYTES:
        raise ValueError(f"it is larger than {_MOST_BYTES} bytes")
    return parse_json(path.read_bytes())


def read_arrays(path: Path) -> tuple[dict[str, NDArray[Any]], dict[str, str]]:
    """Return the arrays of a safetensors file, and what its header says beside them.

    Raises:
        ValueError: It is none, is a link to outside its folder, or an array's type is none of
            numpy's.
        OSError: It cannot be read.
    """
    from safetensors import SafetensorError, safe_open

    check_inside(path, path.parent)
    try:
        with safe_open(path, "np") as file:
            names = file.keys()
            for name in names:
                if (kind := file.get_slice(name).get_dtype()) not in _TYPES:
                    raise ValueError(f"{name[:80]!r} is of type {kind}, which no model holds")
            return {name: file.get_tensor(name) for name in names}, file.metadata() or {}
    except SafetensorError as error:
        raise ValueError(str(error)) from error


def is_moderate(values: NDArray[Any]) -> bool:
    """Tell whether all of some real numbers are finite, and none beyond :data:`MOST`."""
    least, most = float(values.min(initial=0)), float(values.max(initial=0))
    return least >= -MOST and most <= MOST  # NaN is neither


def check_inside(path: Path, folder: Path) -> None:
    """Refuse a file of `folder` that is a link to outside of it, or a device or pipe.

    Raises:
        ValueError: It is one. (What is not there is not.)
    """
    try:
        real = path.resolve()
    except RuntimeError:
        raise ValueError(f"{path.name} is a link in circles") from None
    if not real.is_relative_to(folder.resolve()):
        raise ValueError(f"{path.name} is a link to outside its folder; put the file itself there")
    try:
        is_other = real.exists() and not real.is_file()
    except OSError as error:  # a link to a name that is too long
        raise ValueError(f"{path.name} cannot be looked at ({error.strerror})") from None
    if is_other:
        raise ValueError(f"{path.name} is no file")


def check_all_inside(folder: Path) -> None:
    """Refuse a folder in which a file is a link to outside of it or none, or a folder is a link.

    Links to folders may go in circles.

    Raises:
        ValueError: There is one.
    """
    for path in _links(folder):
        check_inside(path, folder)


def _links(folder: Path) -> Iterator[Path]:
    for base, folders, names in os.walk(folder):
        for name in folders:
            if Path(base, name).is_symlink():
                raise ValueError(f"{name} is a link to a folder; put the files themselves there")
        paths = (Path(base, name) for name in names)
        yield from (p for p in paths if p.is_symlink() or not p.is_file())


def _finite(word: str) -> float:
    number = float(word)
    if math.isinf(number):
        raise ValueError(f"{word[:80]} is beyond floats")
    return number


def _refused(word: str) -> None:
    raise ValueError(f"{word} is no number of JSON")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("it has the same key twice")
    return found
