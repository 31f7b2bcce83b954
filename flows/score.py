"""New images through the registered champion; a batch that has drifted is announced.

::

    prefect deployment run score/score -p path=/data/incoming.npy
    vaesc score incoming.npy scores              # the same without Prefect
"""

from __future__ import annotations

from typing import Any

from prefect import flow

from tasks import logs
from tasks.alive import on_record
from tasks.score import announce, score_batch, show_drift


@flow(name="score", flow_run_name="score-{name}-{model}", persist_result=False)
def score(
    path: str,
    model: str = "champion",
    name: str = "vaesc",
    out: str | None = None,
    block_size: int = 8192,
    workers: int | None = None,
    alpha: float = 1e-3,
    runner: str = "threads",
) -> dict[str, Any]:
    """Score a batch of images, compare it with what the model is made for, and say if it drifted.

    Args:
        path: A folder of image files, or a .npy, .npz, .zarr or IDX file.
        model: Alias, version, address or run id of the model; resolved once.
        name: The registered model, where `model` does not name one.
        out: Folder to write, which must not exist; default: one in ``scores`` of the home, copied
            to the artifacts of the MLflow run, since a home may be a pod's and go with it.
        block_size: Images in memory at once, for each worker.
        workers: Blocks computed at once, by threads or by as many processes of ``dask``; default:
            one a core. ``dask://host:port`` has as many as were started there, and takes none.
        alpha: Largest probability of an alarm on images that are like the model's own.
        runner: Who scores: ``threads``, ``dask`` or ``dask://host:port``.

    Returns:
        What was found and where the scores lie, as ``vaesc score --json`` prints it.
    """
    logs.install()
    with on_record():
        summary = score_batch(path, model, name, out, block_size, workers, alpha, runner)
        show_drift(summary)
        summary["event"] = summary["drift"]["drifted"] and announce(summary)
        return summary
