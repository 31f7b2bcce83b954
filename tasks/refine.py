"""After step 3: train encoder, dictionary and decoder on what the decoder will really see, D a."""

from __future__ import annotations

from tasks.step import step_task
from tasks.tracking import current
from vaesc.config import PipelineConfig
from vaesc.records import Dataset, Record, Refined
from vaesc.steps import REFINE, run_step
from vaesc.store import Artifact


@step_task(REFINE, Refined, timeout_seconds=24 * 3600)
def refine(config: PipelineConfig, dataset: Dataset, start: Refined | None = None) -> Artifact:
    """Refine a VAE and a dictionary for every sparsity level.

    `start` is an earlier refinement, whose levels these start from.
    """
    inputs: dict[str, Record | str] = {"dataset": dataset}
    if start is not None:
        inputs["start"] = start
    with current().nested("refine") as run:
        return run_step(REFINE, config, inputs, run_id=run.id, listener=run)
