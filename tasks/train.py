"""Step 1 of the article: train a VAE by maximising the ELBO."""

from __future__ import annotations

from tasks.step import step_task
from tasks.tracking import current
from vaesc.config import PipelineConfig
from vaesc.records import Dataset, Record, TrainedVAE
from vaesc.steps import TRAIN, run_step
from vaesc.store import Artifact


@step_task(TRAIN, TrainedVAE, timeout_seconds=24 * 3600)
def train(config: PipelineConfig, dataset: Dataset, start: TrainedVAE | None = None) -> Artifact:
    """Train the VAE on `dataset`; every epoch's metrics go to MLflow as they come.

    `start` is a VAE trained before, whose weights training starts from.
    """
    inputs: dict[str, Record | str] = {"dataset": dataset}
    if start is not None:
        inputs["start"] = start
    with current().nested("train") as run:
        return run_step(TRAIN, config, inputs, run_id=run.id, listener=run)
