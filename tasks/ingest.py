"""Images into the store; a download, if one is needed, is a task of its own that is retried."""

from __future__ import annotations

from prefect import task
from prefect.tasks import exponential_backoff

from tasks.step import may_pass, step_task
from tasks.tracking import current
from vaesc import datasets
from vaesc.config import DatasetConfig, PipelineConfig
from vaesc.records import Dataset
from vaesc.steps import INGEST, run_step
from vaesc.store import Artifact


def ingest(config: PipelineConfig) -> Dataset:
    """Ingest the images that `config` names; runs again only if their bytes changed."""
    if not datasets.is_present(config.dataset):
        download(config.dataset)
    return ingest_files(config, datasets.fingerprint(config.dataset))


@task(
    name="download", retries=3, retry_delay_seconds=exponential_backoff(5),
    retry_jitter_factor=0.5, retry_condition_fn=may_pass, timeout_seconds=3600,
    persist_result=False,
)  # fmt: skip
def download(config: DatasetConfig) -> None:
    """Fetch a data set that is nowhere on this machine."""
    datasets.download(config)


@step_task(INGEST, Dataset, timeout_seconds=6 * 3600)
def ingest_files(config: PipelineConfig, source: str) -> Artifact:
    """Validate, split and store the images; `source` is the fingerprint of their files."""
    with current().nested("ingest") as run:
        return run_step(INGEST, config, {"source": source}, run_id=run.id, listener=run)
