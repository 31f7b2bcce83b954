"""Runs of vaesc by the hundred: imported once, forked for each.

Importing Prefect, MLflow and torch takes longer than a small run. One process imports them, and
the modules that its arguments name, and forks a child for every job it reads (JSON lines on its
standard input). The child is a process of its own from there on: it sets its environment, installs
the injector, runs the command.
"""

from __future__ import annotations

import json
import os
import sys
import time
from importlib import import_module
from pathlib import Path
from typing import Any

_IMPORTED = (
    "flows.pipeline", "mlflow", "mlflow.pyfunc", "mlflow.store.tracking.sqlalchemy_store",
    "mlflow.store.model_registry.sqlalchemy_store", "matplotlib.pyplot", "numba", "scipy.sparse",
    "scipy.stats", "sklearn.datasets", "sklearn.decomposition", "zarr", "safetensors.torch",
    "safetensors.numpy", "torch", "torch._inductor", "vaesc.cli.run", "vaesc.datasets.ingestion",
    "vaesc.evaluation", "vaesc.housekeeping", "vaesc.refinement.step", "vaesc.report.figures",
    "vaesc.report.html", "vaesc.sparse", "vaesc.sparse.amortised", "vaesc.training",
)  # fmt: skip


def main() -> None:
    """Read jobs until there are no more; answer each with one line of JSON."""
    _import_everything()
    print(json.dumps({"ready": True}), flush=True)
    for line in sys.stdin:
        job = json.loads(line)
        started = time.monotonic()
        pid = os.fork()
        if pid == 0:
            _child(job)
        code = _wait(pid, job["seconds"])
        answer = {"code": code, "seconds": round(time.monotonic() - started, 2)}
        print(json.dumps(answer), flush=True)


def _import_everything() -> None:
    """Import what a run imports, and no more: nothing may be started that a fork would lose."""
    for name in (*_IMPORTED, *sys.argv[1:]):
        import_module(name)
    import torch

    torch.set_num_threads(1)


def _child(job: dict[str, Any]) -> None:
    """Become the run; does not return."""
    code = 70
    try:
        with open(os.devnull) as nothing:
            os.dup2(nothing.fileno(), 0)
        for number, name in ((1, "out"), (2, "err")):
            with open(job[name], "ab") as sink:
                os.dup2(sink.fileno(), number)
        os.setsid()
        os.environ.update(job["environment"])
        from tests.faults.injector import Injection, Injector

        injection = Injection.from_json(job["injection"]) if job["injection"] else None
        trace = Path(job["trace"]) if job["trace"] else None
        if injection or trace:
            Injector(Path(job["environment"]["VAESC_HOME"]), injection, trace).install()
        from vaesc.cli import main as vaesc

        code = vaesc(job["arguments"])
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 1
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _wait(pid: int, seconds: float) -> int:
    """Return the exit code, negative for a signal; -1000 if it hung and had to be killed."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.02)
    os.kill(pid, 9)
    os.waitpid(pid, 0)
    return -1000


if __name__ == "__main__":
    main()
