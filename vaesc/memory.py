"""Memory that is used up: told from every other failure, and survived for one more sentence.

Libraries say it in words of their own, some of them in an error of another kind: a module that
cannot be mapped is an ``ImportError``, SQLite's is an ``OperationalError``, a thread that cannot
start a ``RuntimeError``. Others only stumble over what an earlier failure left half done. So an
error is judged by its whole chain of causes, and what nothing explains by a look at the memory.

Saying one sentence and closing a run takes memory, too. :func:`set_aside` maps a reserve that is
given back when memory has run out; it is never written to, so it costs addresses and no memory.
"""

from __future__ import annotations

import errno
import logging
import mmap
import re
import sys
import threading
import warnings
from collections.abc import Iterator
from typing import Any

_RESERVE = 96 << 20
"""Room for some threads (8 MB of addresses each), a few imports and a request or two."""
_LITTLE = 32 << 20
"""Where so much cannot be had, memory is short."""
_SAID = re.compile(
    r"""
    can.?t\ start\ new\ thread | can.?not\ start\ (a\ )?new\ thread
    | can(no|')?t\ allocate\ (memory(?!\ in\ static\ TLS)|\d)
    | (unable|failed)\ to\ allocate | could\ not\ allocate | allocation\ failed | alloc_failed
    | out\ of\ memory | not\ enough\ memory | insufficient\ memory | bad[_ ]alloc
    | memoryerror | mmap\ failed | enomem
    | failed\ to\ map\ segment(?!.*(permi|noexec)) | cannot\ map\ (zero-fill|file)
    | cannot\ create\ (shared\ object|search\ path|cache)
    """,
    re.IGNORECASE | re.VERBOSE | re.DOTALL,
)
"""What they say who raise no MemoryError: Python, the dynamic linker, NumPy, torch, LLVM, SQLite,
the C++ library, and Prefect of what it has only as text. A folder that is mounted "noexec" maps
nothing either, and thread-local storage runs out by itself: neither is a matter of memory."""


class _Reserve:
    """Addresses set aside; :attr:`spent` once they were given back."""

    def __init__(self) -> None:
        self.mapped: mmap.mmap | None = None
        self.spent = False

    def give_back(self) -> None:
        if self.mapped is not None:
            self.mapped.close()
            self.mapped, self.spent = None, True


_reserve = _Reserve()


def set_aside() -> None:
    """Map the reserve, if there is none and memory is not short already."""
    if _reserve.mapped is None and not _reserve.spent:
        _reserve.mapped = _map(_RESERVE)


def ran_out(error: BaseException | None) -> bool:
    """Say whether an error, or one of those it came from, is that memory could not be had."""
    return any(_says_so(each) for each in _chain(error))


def give_back() -> None:
    """Let the process have what was set aside."""
    _reserve.give_back()
    # Of what is left half done Python remarks on at its end: coroutines never awaited.
    warnings.simplefilter("ignore", RuntimeWarning)


def is_short() -> bool:
    """Say whether memory is short now, or was so short that the reserve had to be given back.

    The reserve is given back if it is: whoever asks has something left to do.
    """
    if _reserve.spent:
        return True
    little = _map(_LITTLE)
    if little is not None:
        little.close()
        return False
    give_back()
    return True


def can_go_on() -> bool:
    """Say whether there is memory to begin something with, and the reserve is, or can be, held.

    A process of several runs may have lost one to a batch that was too large, and have memory.
    """
    if _reserve.spent:
        room = _map(_RESERVE + _LITTLE)
        if room is None:
            return False
        room.close()
        _reserve.spent = False
        set_aside()
    return not is_short()


def without_tracebacks() -> None:
    """Keep off standard error what threads, destructors and loggers say of memory that ran out.

    The command line says it, in its last line; everything else they have to say stays.
    """
    if getattr(sys, "_vaesc_hushed", False):
        return
    sys._vaesc_hushed = True  # type: ignore[attr-defined]
    logging.raiseExceptions = False
    of_threads, of_destructors = threading.excepthook, sys.unraisablehook

    def in_thread(said: threading.ExceptHookArgs) -> None:
        if not _met(said.exc_value):
            of_threads(said)

    def in_destructor(said: Any) -> None:  # noqa: ANN401 - the type has no public name
        if not _met(said.exc_value):
            of_destructors(said)

    threading.excepthook, sys.unraisablehook = in_thread, in_destructor
    make = logging.getLogRecordFactory()

    def in_one_line(*args: Any, **kwargs: Any) -> logging.LogRecord:  # noqa: ANN401
        record = make(*args, **kwargs)
        if record.exc_info and _met(record.exc_info[1]):
            record.exc_info = None
        return record

    logging.setLogRecordFactory(in_one_line)


def _met(error: BaseException | None) -> bool:
    """Say whether memory has run out, and if so let whoever reports it have the reserve."""
    if not ran_out(error):
        return False
    is_short()  # gives the reserve back where it is
    return True


def _says_so(error: BaseException) -> bool:
    if isinstance(error, MemoryError):
        return True
    if isinstance(error, OSError) and error.errno is not None:
        return error.errno == errno.ENOMEM
    return bool(_SAID.search(str(error)))


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """Yield an error and all that it came from, as a traceback would show them."""
    waiting, seen = [error], set[int]()
    while waiting:
        each = waiting.pop()
        if each is None or id(each) in seen:
            continue
        seen.add(id(each))
        yield each
        waiting.append(each.__cause__)
        if not each.__suppress_context__:
            waiting.append(each.__context__)
        if isinstance(each, BaseExceptionGroup):
            waiting += each.exceptions


def _map(n_bytes: int) -> mmap.mmap | None:
    try:
        if sys.platform == "win32":
            return mmap.mmap(-1, n_bytes)
        return mmap.mmap(-1, n_bytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    except (OSError, MemoryError):
        return None
