"""What a parser may do with any bytes at all: read them, or refuse them in one sentence.

Not allowed, whatever the input: another exception than a :class:`vaesc.errors.VaescError`, a
sentence of several lines, more than ten seconds of CPU time, memory out of proportion to the
input, a file opened outside the input's own folder (also through a symbolic link), unpickling,
and a process or connection started.
"""

from __future__ import annotations

import os
import resource
import shutil
import signal
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

SECONDS = 10.0
MEMORY = 128 * 2**20
PER_BYTE = 4 * 1032
"""Deflate unpacks one byte to at most 1032; a copy or two of that is fair."""
_ADDRESS_SPACE = 4 * 2**30
"""What may be reserved beyond what was at the start: an absurd request fails, and is seen."""
_FORBIDDEN = (
    "pickle.find_class", "subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "os.fork",
    "socket.connect",
)  # fmt: skip
_NUMBA_CACHE = str(Path("numba", "core", "caching.py"))
_REPOSITORY = Path(__file__).resolve().parents[2]
_READABLE = tuple(
    f"{Path(p).resolve()}{os.sep}"
    for p in (*sys.path, sys.prefix, sys.base_prefix, _REPOSITORY, "/proc", "/sys",
              "/usr/share/zoneinfo", "/usr/lib")
    if p and Path(p).resolve() != Path("/")
)  # fmt: skip
_DEVICES = ("/dev/null", "/dev/urandom", "/etc/localtime", "/etc/mime.types")


@dataclass
class Violation(Exception):
    """An input did what no input may do."""

    kind: str
    detail: str
    where: str = ""
    """Last frame of vaesc and last frame at all: what tells two findings apart."""

    def __str__(self) -> str:
        return f"{self.kind}: {self.detail}"


class _TooLong(BaseException):
    """Not an Exception: no parser may take it for a fault of its bytes."""


@dataclass
class Sandbox:
    """A folder for one input after the other, with a secret beside it."""

    root: Path = field(default_factory=lambda: Path(tempfile.mkdtemp(prefix="vaesc-fuzz-")))

    def __post_init__(self) -> None:
        self.root = self.root.resolve()
        self.inside, self.outside = self.root / "in", self.root / "outside"
        self.inside.mkdir()
        self.outside.mkdir()
        (self.outside / "secret").write_bytes(b"what no input may have read")
        os.environ["VAESC_HOME"] = str(self.inside / "home")

    def clean(self) -> None:
        """Make room for the next input."""
        with suppress(OSError):
            shutil.rmtree(self.inside)
        self.inside.mkdir(exist_ok=True)

    def close(self) -> None:
        """Remove everything."""
        shutil.rmtree(self.root, ignore_errors=True)


@dataclass(frozen=True)
class Judgement:
    """What came of an input that did nothing wrong."""

    refused: bool
    sentence: str
    peak: int
    """Bytes of memory it needed."""


def judge(run: Callable[[bytes, Path], None], data: bytes, sandbox: Sandbox) -> Judgement:
    """Give `data` to a parser.

    Raises:
        Violation: The parser did something that no input may make it do.
    """
    from vaesc.errors import VaescError

    sandbox.clean()
    sentence = ""
    before = _reset_peak()
    with _watched(sandbox) as opened, _limited():
        try:
            run(data, sandbox.inside)
        except VaescError as error:
            sentence = str(error)
            _check_sentence(error)
        except _TooLong as error:
            raise Violation("hang", f"{SECONDS:g} s of CPU time", _place(error)) from None
        except Exception as error:
            said = f"{type(error).__name__}: {str(error)[:200]}"
            raise Violation("traceback", said, _place(error)) from error
    peak = max(0, _memory("VmHWM") - before)
    if opened:
        raise Violation("forbidden", opened[0], opened[0].split(" ")[0])
    if peak > MEMORY + PER_BYTE * len(data):
        raise Violation("memory", f"{peak >> 20} MiB for {len(data)} bytes", sentence[-60:])
    return Judgement(refused=bool(sentence), sentence=sentence, peak=peak)


def _check_sentence(error: BaseException) -> None:
    if "\n" in str(error) or not str(error).strip():
        raise Violation("sentence", repr(str(error)[:300]), _place(error))
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, MemoryError):
            raise Violation("memory", f"more than there is was asked for: {cause}", _place(cause))
        cause = cause.__cause__ or cause.__context__


def _place(error: BaseException) -> str:
    """Name the innermost frame of vaesc and the innermost frame of all."""
    frames = traceback.extract_tb(error.__traceback__)
    ours = [f for f in frames if "/vaesc/" in f.filename or "/flows/" in f.filename]
    told = [f"{Path(f.filename).name}:{f.name}" for f in (*ours[-1:], *frames[-1:])]
    return f"{type(error).__name__} {' '.join(told)}"


# What is watched

_watching: tuple[Sandbox, list[str]] | None = None
_hooked = False


@contextmanager
def _watched(sandbox: Sandbox) -> Iterator[list[str]]:
    """Note what is opened, started or unpickled while the block runs."""
    global _watching, _hooked
    if not _hooked:  # an audit hook can never be taken away again
        sys.addaudithook(_audit)
        _hooked = True
    found: list[str] = []
    _watching = (sandbox, found)
    try:
        yield found
    finally:
        _watching = None


def _audit(event: str, arguments: tuple[Any, ...]) -> None:
    if _watching is None:
        return
    sandbox, found = _watching
    if event == "pickle.find_class" and _is_numba_reading_its_cache():
        return
    if event in _FORBIDDEN:
        found.append(f"{event} {str(arguments)[:200]}")
        raise PermissionError(f"{event} is not allowed here")
    if event != "open" or isinstance(arguments[0], int) or arguments[0] is None:
        return
    path, flags = os.path.realpath(os.fsdecode(arguments[0])), arguments[2] or 0
    if path.startswith(f"{sandbox.inside}{os.sep}") or path == str(sandbox.inside):
        return
    writes = flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
    is_ours = path.startswith(_READABLE) and (not writes or "__pycache__" in path)
    if not is_ours and path not in _DEVICES:
        found.append(f"open {path}")
        raise PermissionError(f"{path} is outside the input's folder")


def _is_numba_reading_its_cache() -> bool:
    """Tell whether what is unpickled is numba's own index of compiled kernels, no input's."""
    frame: FrameType | None = sys._getframe(2)
    while frame is not None:
        if frame.f_code.co_filename.endswith(_NUMBA_CACHE):
            return True
        frame = frame.f_back
    return False


# What is limited


@contextmanager
def _limited() -> Iterator[None]:
    """Bound CPU time and address space while the block runs."""
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    old = signal.signal(signal.SIGPROF, _too_long)
    resource.setrlimit(resource.RLIMIT_AS, (_memory("VmSize") + _ADDRESS_SPACE, hard))
    signal.setitimer(signal.ITIMER_PROF, SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, old)
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def _too_long(*_: object) -> None:
    raise _TooLong


def _reset_peak() -> int:
    """Forget the largest memory so far, and return that of now; Linux only, elsewhere 0."""
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")
    return _memory("VmRSS")


def _memory(name: str) -> int:
    try:
        with open("/proc/self/status", "rb") as status:  # noqa: PTH123 - once an input
            text = status.read()
    except OSError:
        return 0
    return int(text.split(name.encode() + b":", 1)[1].split(None, 1)[0]) * 1024
