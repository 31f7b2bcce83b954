"""Many workers: the shards of a step as Prefect tasks on a Dask cluster.

``runtime.runner`` chooses: ``threads`` is this process; ``dask`` a cluster of processes on this
machine, started when the first shards are due and ended with the run; ``dask://host:port`` one
that somebody else runs. Every shard is a Prefect task named for what it does. One whose worker is
lost is computed again by another; the others' parts are kept (:mod:`vaesc.shards`).

Workers need the same vaesc, libraries and instructions (:mod:`tasks.worker_side`), and must see
the folder of ``VAESC_HOME`` and that of the parts: all is checked before anything is computed.
They report to Prefect only; MLflow is written by the process that runs the flow.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec

from tasks.crew import Crew
from tasks.elsewhere import require_api
from vaesc.config import RuntimeConfig
from vaesc.errors import ConfigError
from vaesc.shards import running


@contextmanager
def workers(runtime: RuntimeConfig) -> Iterator[None]:
    """Let the workers that a config asks for run the shards of the block's steps.

    Raises:
        ConfigError: Dask is not installed, or the cluster does not answer, or its workers do not
            see the store or are of another kind; or a number of workers is of no effect.
    """
    if runtime.workers and runtime.runner != "dask":
        raise ConfigError(
            _NO_EFFECT.format(runtime=runtime, why=_WHY[runtime.runner == "threads"])
        )
    if runtime.runner == "threads":
        yield
        return
    with crew_of(runtime) as crew, running(crew):
        yield


_NO_EFFECT = "workers={runtime.workers} has no effect with runner={runtime.runner}: {why}"
_WHY = (
    "that cluster has the workers that were started there; leave it out, or 0",
    "steps take a thread a core (OMP_NUM_THREADS says otherwise); leave it 0, or set "
    "runtime.runner=dask for so many processes",
)


@contextmanager
def crew_of(runtime: RuntimeConfig) -> Iterator[Crew]:
    """Provide a Dask cluster for the time of the block."""
    if missing := [name for name in ("distributed", "prefect_dask") if find_spec(name) is None]:
        raise ConfigError(
            f"runtime.runner={runtime.runner} needs {' and '.join(missing)}: "
            'pip install "vaesc[dask]"'
        )
    crew = Crew(runtime)
    try:
        if crew.remote:
            # What cannot be reached is said before anything is computed.
            require_api(crew.address(), runtime.runner)
        yield crew
    finally:
        crew.close()


def runtime_of(runner: str, n_workers: int | None) -> RuntimeConfig:
    """Return the settings of somebody who has two options instead of a config.

    Args:
        runner: Who computes.
        n_workers: How many at once. Of ``threads``, which need no cluster, the caller starts them.

    Raises:
        ConfigError: One of them breaks its rule.
    """
    try:
        return RuntimeConfig(runner=runner, workers=0 if runner == "threads" else n_workers or 0)
    except ValueError as error:
        raise ConfigError(str(error)) from error
