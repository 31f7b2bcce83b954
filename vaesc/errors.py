"""What can go wrong for a reason the user can act on: one clear sentence each.

The command line prints the sentence and exits with :attr:`VaescError.exit_code`; anything that is
not a :class:`VaescError` is a defect of vaesc, and says so.
"""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager

from vaesc.memory import can_go_on, give_back, is_short, ran_out

_KEPT = "finished steps are kept, and the next run goes on from them"
_REMEDIES = {
    errno.ENOSPC: "free some space",
    errno.EDQUOT: "free some of your quota",
    errno.EROFS: "make it writable, or set VAESC_HOME to a folder that is",
    errno.EACCES: "make it writable, or set VAESC_HOME to a folder that is",
    errno.EIO: "check that disk",
    errno.EFBIG: "raise the limit on the size of files",
}
_WORDS = {
    r"\[Errno (\d+)\]": 0, r"\(os error (\d+)\)": 0, "database or disk is full": errno.ENOSPC,
    "disk I/O error": errno.EIO, "attempt to write a readonly database": errno.EROFS,
}  # fmt: skip
"""How those say it who raise no OSError: a copied tree, Rust (safetensors), SQLite."""
NO_MEMORY = f"there is not enough memory; free some, or use smaller blocks or batches ({_KEPT})"
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")
"""What would break a line, or tell a terminal to do something."""


class VaescError(Exception):
    """Base of every error whose message is written for the user."""

    exit_code = 1

    def __str__(self) -> str:
        """Return the sentence in one line: names in it may hold line breaks, or worse."""
        return _CONTROL.sub(lambda found: repr(found[0])[1:-1], super().__str__())


class ConfigError(VaescError, ValueError):
    """A setting is unknown, of the wrong type, or breaks a rule; exit code 2 (wrong usage)."""

    exit_code = 2


class DataError(VaescError, ValueError):
    """Input data is missing, damaged, or not what the step needs."""


class StoreError(VaescError):
    """An artifact is missing, damaged, or cannot be written."""


class MachineError(VaescError):
    """The machine gives out: its disk is full, read-only or broken, or its memory is used up."""


class TrainingError(VaescError, ArithmeticError):
    """Training cannot go on: the loss is not finite."""


class RegistryError(VaescError, LookupError):
    """The model registry is unreachable, empty, or has no such model, version or alias."""


class ServingError(VaescError, ConnectionError):
    """A served model does not answer, or not as one does."""


def _number(error: BaseException) -> int:
    """Return the system's number of an error; who is no OSError may have it in the words."""
    if isinstance(error, OSError) and error.errno is not None:
        return error.errno
    if isinstance(error, VaescError):
        return 0
    for pattern, number in _WORDS.items():
        if found := re.search(pattern, str(error)):
            return number or int(found[1])
    return 0


@contextmanager
def machine_told() -> Iterator[None]:
    """Turn what the disk or the memory refuse within the block into one sentence.

    Raises:
        MachineError: They did, or memory is short before the block; other errors pass as they are.
    """
    require_memory()
    try:
        yield
    except Exception as error:
        sentence = told(error)
        if sentence is error:
            raise
        raise sentence from error


def require_memory() -> None:
    """Refuse to go on where memory is short: compiled code that gets none may end the process.

    Raises:
        MachineError: It is.
    """
    if not can_go_on():
        raise MachineError(NO_MEMORY)


def told(error: Exception) -> Exception:
    """Return an error as one sentence if the disk or the memory refused, else as it is.

    A file that claims to be larger than any memory has its own sentence, and memory is not short
    then. Where it is short, an error that nothing explains is its doing: what a failed import left
    half done breaks the next one in any way.
    """
    if isinstance(error, MachineError):
        return error
    if isinstance(error, VaescError):
        return MachineError(NO_MEMORY) if ran_out(error) and is_short() else error
    if ran_out(error):
        give_back()
        return MachineError(NO_MEMORY)
    for each in (error, error.__cause__):
        number = _number(each) if each else 0
        if remedy := _REMEDIES.get(number):
            where = getattr(each, "filename", None) or "a file"
            return MachineError(f"{where}: {os.strerror(number)}; {remedy} ({_KEPT})")
    return MachineError(NO_MEMORY) if is_short() else error
