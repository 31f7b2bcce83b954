"""Memory that runs out: told from other failures, in one sentence, in whatever words it comes."""

import errno
import logging
import os
import sqlite3
import subprocess
import sys
import textwrap
import threading

import numpy as np
import pytest

from tasks.tracking import StepRun
from vaesc import memory
from vaesc.errors import DataError, MachineError, machine_told
from vaesc.memory import ran_out

WORDS = [
    "can't start new thread",
    "libscipy_openblas.so: failed to map segment from shared object",
    "libfoo.so: cannot open shared object file: Cannot allocate memory",
    "std::bad_alloc",
    "[enforce fail at alloc_cpu.cpp:117] err == 0. DefaultCPUAllocator: can't allocate memory: "
    "you tried to allocate 4000000 bytes. Error code 12 (Cannot allocate memory)",
    "DefaultCPUAllocator: not enough memory: you tried to allocate 4000000 bytes.",
    "CUDA out of memory. Tried to allocate 20.00 MiB",
    "LLVM ERROR: out of memory",
    "Unable to allocate internal buffer.",
    "Flow run encountered an exception: MemoryError",
]
OTHERS = [
    "lib.so: failed to map segment from shared object: Operation not permitted",
    "lib.so: cannot allocate memory in static TLS block",
    "the loss is not finite",
    "No such file or directory",
]


@pytest.mark.parametrize("words", WORDS)
def test_it_is_known_by_what_libraries_say_of_it(words):
    assert ran_out(RuntimeError(words))
    assert ran_out(ImportError(words))


@pytest.mark.parametrize("words", OTHERS)
def test_other_failures_are_not_taken_for_it(words):
    assert not ran_out(ImportError(words))


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        OSError(errno.ENOMEM, "no"),
        np._core._exceptions._ArrayMemoryError((2**40,), np.dtype(np.float64)),
        sqlite3.OperationalError("out of memory"),
        ExceptionGroup("several", [ValueError("x"), MemoryError()]),
    ],
)
def test_it_is_found_wherever_it_lies_in_the_chain(error):
    assert ran_out(error)
    outer = ValueError("outer")
    outer.__context__ = RuntimeError("between")
    outer.__context__.__cause__ = error
    assert ran_out(outer)
    outer.__suppress_context__ = True
    assert not ran_out(outer)


def test_a_chain_that_bites_its_tail_ends():
    one, two = ValueError("one"), ValueError("two")
    one.__context__, two.__context__ = two, one
    assert not ran_out(one)


def test_an_error_with_an_errno_of_its_own_is_judged_by_that():
    assert not ran_out(OSError(errno.ENOENT, "No such file", "/out of memory/x"))


def test_whatever_was_raised_becomes_the_sentence():
    for error in (MemoryError(), ImportError(WORDS[1]), KeyError("std::bad_alloc")):
        with pytest.raises(MachineError, match="not enough memory") as caught, machine_told():
            raise error
        assert caught.value.__cause__ is error


def test_what_is_no_matter_of_memory_passes_as_it_is():
    for error in (ValueError("x"), OSError(errno.ENOENT, "x"), DataError("x")):
        with pytest.raises(type(error)) as caught, machine_told():
            raise error
        assert caught.value is error


def test_a_file_that_claims_too_much_keeps_its_sentence():
    """Memory is not short only because a damaged header asks for a petabyte."""
    with pytest.raises(DataError, match="claims"), machine_told():
        raise DataError("the file claims 1 PB") from MemoryError()


def test_where_memory_is_short_nothing_is_begun(monkeypatch):
    """Compiled code that gets no memory may end the process, and no sentence would be said."""
    monkeypatch.setattr(memory, "_reserve", memory._Reserve())
    monkeypatch.setattr(memory, "_map", lambda _: None)
    begun = []
    with pytest.raises(MachineError, match="not enough memory"), machine_told():
        begun.append("compiled code")
    heard = StepRun("0", None, lambda *_, **__: begun.append("progress"))
    for tell in (lambda: heard.progress(1, 2), lambda: heard.epoch(1, {})):
        with pytest.raises(MachineError, match="not enough memory"):
            tell()
    assert begun == []


def test_a_log_line_of_it_has_no_traceback_and_others_have(monkeypatch, caplog):
    hushed(monkeypatch)
    for error in (ImportError(WORDS[1]), KeyError("a defect")):
        logging.getLogger("anybody").error("it failed", exc_info=error)
    assert [bool(record.exc_info) for record in caplog.records] == [False, True]


def hushed(monkeypatch):
    """Install the hooks for one test."""
    monkeypatch.setattr(sys, "unraisablehook", sys.unraisablehook)
    monkeypatch.setattr(logging, "raiseExceptions", True)
    monkeypatch.setattr(logging, "_logRecordFactory", logging.LogRecord)
    monkeypatch.setattr(sys, "_vaesc_hushed", False, raising=False)
    memory.without_tracebacks()


LIMITED = """
import resource, sys, threading
from vaesc import cli
from vaesc.cli import care

def command(options):
    used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + (8 << 20), resource.RLIM_INFINITY))
    exec(sys.argv[1], globals())

care.verify = command
sys.exit(cli.main(["verify"]))
"""


def limited(what, home):
    """Run a command of ours that does `what` with 8 MB left."""
    return subprocess.run(
        [sys.executable, "-c", LIMITED, textwrap.dedent(what)],
        capture_output=True, text=True, check=False, timeout=600,
        env={**os.environ, "VAESC_HOME": str(home), "OPENBLAS_NUM_THREADS": "1"},
    )  # fmt: skip


linux = pytest.mark.skipif(not os.path.exists("/proc/self/statm"), reason="needs Linux")  # noqa: PTH110


@linux
@pytest.mark.parametrize(
    "what",
    [
        "blocks = [bytearray(1 << 20) for _ in range(20)]",
        "hoard = []\nwhile True: hoard.append('x' * 100 + str(len(hoard)))",
        "import numpy.linalg",
        "import torch",
        "for _ in range(9): threading.Thread(target=threading.Event().wait, daemon=True).start()",
        "raise AttributeError('what an import left half done')",
        "class Cut(BaseException): pass\nraise Cut from MemoryError()",
        "async def half(): pass\nhalf = half()\nbytearray(1 << 30)",
        "__import__('logging').exception('it failed', exc_info=MemoryError()); raise MemoryError",
        "__import__('atexit').register(bytearray, 1 << 30)\nbytearray(1 << 30)",
    ],
)
def test_the_command_line_still_says_its_sentence(what, tmp_path):
    done = limited(what, tmp_path)
    assert done.returncode == 1, done.stderr
    assert "Traceback" not in done.stderr
    assert done.stderr.splitlines()[-1].startswith("vaesc: there is not enough memory;")


@linux
def test_the_reserve_lets_a_run_be_closed(tmp_path):
    """As Prefect closes it: with threads of its own, 8 MB of addresses each."""
    what = """
        from vaesc.errors import machine_told
        try:
            with machine_told():
                bytearray(1 << 30)
        finally:
            for _ in range(4):
                threading.Thread(target=threading.Event().wait, daemon=True).start()
            print("closed", flush=True)
    """
    done = limited(what, tmp_path)
    assert done.stdout == "closed\n", done.stderr
    assert done.stderr.splitlines()[-1].startswith("vaesc: there is not enough memory;")


def test_the_reserve_is_given_back_and_held_again_where_there_is_room(monkeypatch):
    monkeypatch.setattr(memory, "_reserve", memory._Reserve())
    memory.set_aside()
    held = memory._reserve.mapped
    assert len(held) >= 64 << 20
    assert not memory.is_short()
    memory.give_back()
    assert held.closed
    assert memory.is_short()
    memory.set_aside()
    assert memory._reserve.mapped is None
    with monkeypatch.context() as patch:
        patch.setattr(memory, "_map", lambda _: None)
        assert not memory.can_go_on()
    assert memory.can_go_on()
    assert not memory.is_short()
    assert not memory._reserve.mapped.closed


def test_a_thread_that_dies_of_it_is_silent_and_others_are_not(monkeypatch):
    said = []
    monkeypatch.setattr(threading, "excepthook", lambda args: said.append(args.exc_value))
    hushed(monkeypatch)
    for error in (MemoryError(), KeyError("a defect")):

        def die(error=error):
            raise error

        thread = threading.Thread(target=die)
        thread.start()
        thread.join()
    assert [type(error) for error in said] == [KeyError]
