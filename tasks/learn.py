"""Step 3 of the article: learn a dictionary and sparse-code the latents, z ~ D a."""

from __future__ import annotations

from tasks.step import step_task
from tasks.tracking import current
from vaesc.config import PipelineConfig
from vaesc.records import Dictionary, Latents
from vaesc.steps import LEARN, run_step
from vaesc.store import Artifact


@step_task(LEARN, Dictionary, timeout_seconds=12 * 3600)
def learn(config: PipelineConfig, latents: Latents) -> Artifact:
    """Learn the dictionary on the training latents and code every split in it."""
    with current().nested("learn") as run:
        return run_step(LEARN, config, {"latents": latents}, run_id=run.id, listener=run)
