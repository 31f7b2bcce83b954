"""One thread for all libraries: the same last bits on any number of cores."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def one_thread_everywhere() -> Iterator[None]:
    """Let torch, BLAS and scikit-learn compute on one thread; what was set before returns.

    What several threads add up ends in other last bits than one thread's sum. A part that is
    registered must be the same bytes on any number of cores, and so must what a command makes of
    a registered model.
    """
    import sklearn.cluster  # noqa: F401 - it has an OpenMP of its own, found only once loaded
    from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

    from vaesc.sparse._blocks import single_threaded_blas
    from vaesc.training.threads import one_thread

    with one_thread(), single_threaded_blas(), threadpool_limits(1, user_api="openmp"):
        yield
