"""Compilation of the numba kernels: without the interpreter lock, cached on disk if possible."""

import logging
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from itertools import count
from pathlib import Path
from typing import Any

import numba
from numba.core import types
from numba.extending import intrinsic

logger = logging.getLogger(__name__)

Kernel = Callable[..., Any]

_OPTIONS = {"nogil": True, "fastmath": {"contract", "nsz"}, "error_model": "numpy"}


def compiled(function: Kernel) -> Kernel:
    """Compile `function` at first call, and keep the machine code on disk for later processes.

    Kernels are sequential and release the interpreter lock: parallelism comes from Python threads
    over fixed blocks of samples (:mod:`vaesc.sparse._blocks`), so results cannot depend on the
    number of threads, no threading layer is started and compilation stays short. ``contract``
    allows fused multiply-adds; sums are never reordered.

    numba keeps its cache beside the source, or in the user's cache directory when the install is
    read-only; where neither can be written the kernel is compiled anew in each process.
    """
    return _compile(function)


def compiled_without_memory(function: Kernel) -> Kernel:
    """The same for a kernel that allocates nothing, which then need not count references.

    Each count is an atomic instruction; there is one wherever a row of an array gets a name.
    """
    return _compile(function, _nrt=False)


def part(function: Kernel) -> Kernel:
    """Compile a part of a kernel that allocates nothing and is never called from Python.

    It goes without the wrapper that unpacks Python's arguments, and without a place on disk of
    its own: kernels on disk contain their parts. That halves the time of the first use.
    """
    options: Any = {
        **_OPTIONS,
        "_nrt": False,
        "no_cpython_wrapper": True,
        "no_cfunc_wrapper": True,
    }
    kernel: Kernel = numba.njit(**options)(function)
    return kernel


def _compile(function: Kernel, **more: bool) -> Kernel:
    options: Any = {**_OPTIONS, **more}
    kernel: Kernel
    try:
        kernel = numba.njit(cache=True, **options)(function)
        store = getattr(getattr(kernel, "_cache", None), "_cache_file", None)
        if store is not None:
            _stamp(store)
            _one_at_a_time(store)
    except RuntimeError as error:  # numba's "cannot cache function: no locator available"
        logger.warning("compiled kernels are not cached on disk: %s", error)
        kernel = numba.njit(**options)(function)
    return kernel


@cache
def _package_stamp() -> tuple[float, int]:
    """Latest change and total size of this package's sources."""
    states = [path.stat() for path in Path(__file__).parent.glob("_*.py")]
    return max(s.st_mtime for s in states), sum(s.st_size for s in states)


def _stamp(store: Any) -> None:  # noqa: ANN401 - numba's IndexDataCacheFile
    """Let cached machine code go stale when any kernel module changes.

    numba looks only at the file that a kernel is defined in, but kernels contain parts that are
    defined in others.
    """
    with suppress(OSError):
        if hasattr(store, "_source_stamp"):
            store._source_stamp = _package_stamp()


def _one_at_a_time(store: Any) -> None:  # noqa: ANN401 - numba's IndexDataCacheFile
    """Let processes that compile at once keep their machine code one after another.

    numba reads the index of what is there, writes it anew and then the code: of two that do so at
    once for other types, one's entry would name the other's code, for every process from then on.
    """

    def save(key: Any, code: Any) -> None:  # noqa: ANN401 - numba's protocol
        from filelock import FileLock

        with FileLock(f"{store._index_path}.lock"):
            known = store._load_index()
            names = map(store._data_name, count(1))
            name = known.get(key) or next(n for n in names if n not in known.values())
            store._save_data(name, code)  # before the index names it
            store._save_index({**known, key: name})

    store.save = save


def inlined(function: Kernel) -> Kernel:
    """Mark a part of a kernel, pasted into its callers before compilation.

    Passing arrays to a compiled function costs as much as 128 floats of work, and each function
    compiled on its own lengthens the first use.
    """
    kernel: Kernel = numba.njit(inline="always")(function)
    return kernel


@intrinsic
def float_bits(context: Any, value: Any) -> Any:  # noqa: ANN401 - numba's protocol
    """The bits of a float as a signed integer, inside a kernel: ``float_bits(x)``."""
    whole: Any = {types.float32: types.int32, types.float64: types.int64}[value]

    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:  # noqa: ANN401
        return builder.bitcast(values[0], context.get_value_type(signature.return_type))

    return whole(value), generate
