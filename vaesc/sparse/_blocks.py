"""Work over fixed blocks of samples, on several threads, with the same result on any number."""

import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cache
from typing import Any

DEFAULT_BLOCK_BYTES = 1 << 20
"""Size of one thread's block of correlations; the default fits the second-level cache."""
AMORTISED_ROWS = 4096
"""Samples that a network codes at once."""


def allowed_cores() -> int:
    """Number of cores that this process may run on."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None
    return allowed or os.cpu_count() or 1


def resolve_threads(n_threads: int | None) -> int:
    """Number of threads to use: the cores this process may run on, unless told otherwise.

    Args:
        n_threads: A positive number, or None for all cores (``OMP_NUM_THREADS`` is obeyed).

    Raises:
        ValueError: `n_threads` is below 1.
    """
    if n_threads is None:
        cores = allowed_cores()
        limit = os.environ.get("OMP_NUM_THREADS", "")
        return min(cores, int(limit)) if limit.isdigit() and int(limit) > 0 else cores
    if n_threads < 1:
        raise ValueError(
            f"n_threads must be at least 1, got {n_threads}; pass None to use every core"
        )
    return n_threads


def block_rows(row_bytes: int, block_bytes: int, *, most: int = 2048) -> int:
    """Rows of `row_bytes` that fit in `block_bytes`: from 16 to `most`, a multiple of 16.

    Raises:
        ValueError: `block_bytes` is not positive.
    """
    if block_bytes < 1:
        raise ValueError(f"block_bytes must be positive, got {block_bytes}")
    return max(16, min(most, block_bytes // max(row_bytes, 1) // 16 * 16))


@cache
def _blas() -> list[Any]:
    """Return what sets the threads of each BLAS in this process."""
    import scipy.linalg  # noqa: F401 - it has a BLAS of its own, found only once loaded
    from threadpoolctl import ThreadpoolController  # type: ignore[import-untyped]

    return list(ThreadpoolController().select(user_api="blas").lib_controllers)


def _set_threads(library: Any, n_threads: int) -> None:  # noqa: ANN401
    # threadpoolctl (3.8) obeys one thread alone: that which first set a limit, while it lives.
    # Here the count decides, and who leaves last is often not who came first.
    getattr(library, "_real_set_num_threads", library.set_num_threads)(n_threads)


class _SharedLimit:
    """Process-wide "BLAS on one thread", counted, because BLAS keeps one setting per process."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.users = 0
        self.before: list[int] = []
        """Threads of each BLAS when nobody limits them."""

    def enter(self) -> None:
        with self.lock:
            if self.users == 0:
                self.before = [library.get_num_threads() for library in _blas()]
                for library in _blas():
                    _set_threads(library, 1)
            self.users += 1

    def leave(self) -> None:
        with self.lock:
            self.users -= 1
            if self.users == 0:
                for library, n_threads in zip(_blas(), self.before, strict=True):
                    _set_threads(library, n_threads)


_LIMIT = _SharedLimit()


@contextmanager
def single_threaded_blas() -> Iterator[None]:
    """Run matrix products on the calling thread only.

    Threads over blocks of samples are faster than threads inside small products, and a product
    on one thread adds in one order, whatever the machine's number of cores.
    """
    _LIMIT.enter()
    try:
        yield
    finally:
        _LIMIT.leave()


class BlockRunner:
    """Runs a function over blocks of rows on `n_threads` threads; a context manager."""

    def __init__(self, n_threads: int | None) -> None:
        self.n_threads = resolve_threads(n_threads)
        self._pool = ThreadPoolExecutor(self.n_threads) if self.n_threads > 1 else None
        self._blas: Any = None

    def __enter__(self) -> "BlockRunner":
        self._blas = single_threaded_blas()
        self._blas.__enter__()
        return self

    def __exit__(self, *exc: object) -> None:
        if self._pool is not None:
            self._pool.shutdown()
        self._blas.__exit__(None, None, None)

    def run(self, work: Callable[[int, int], None], n_rows: int, rows_per_block: int) -> None:
        """Call ``work(start, stop)`` for each block of `rows_per_block` rows; any order.

        What `work` raises ends the run; of several errors that of the first block is raised.
        """
        starts = range(0, n_rows, rows_per_block)
        spans = [(start, min(start + rows_per_block, n_rows)) for start in starts]
        if self._pool is None or len(spans) == 1:
            for start, stop in spans:
                work(start, stop)
            return
        left, stopped = iter(spans), threading.Event()
        errors: dict[int, Exception] = {}

        def drain() -> None:
            # One task a thread, from one iterator: handing over a task costs a hundred samples.
            for start, stop in left:
                if stopped.is_set():
                    return
                try:
                    work(start, stop)
                except Exception as error:
                    errors[start] = error
                    stopped.set()

        try:
            n_tasks = min(self.n_threads, len(spans))
            for future in [self._pool.submit(drain) for _ in range(n_tasks)]:
                future.result()
        finally:  # also if the caller is interrupted: no further block is begun
            stopped.set()
        if errors:  # blocks before the first bad one were begun, so it is the same every time
            raise errors[min(errors)]
