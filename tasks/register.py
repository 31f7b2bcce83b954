"""VAE, scaling, dictionary and coder become one version of the registered model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from prefect.client.schemas.objects import State
from prefect.states import Completed
from prefect.tasks import exponential_backoff

from tasks.step import step_task
from tasks.tracking import current
from vaesc.config import PipelineConfig
from vaesc.records import (
    Applied,
    Dataset,
    Dictionary,
    Evaluation,
    ModelVersion,
    Refined,
    TrainedVAE,
)
from vaesc.registry.bundling import save_bundle
from vaesc.registry.connection import tracking_uri
from vaesc.scratch import scratch
from vaesc.source import source_digest
from vaesc.steps import Step
from vaesc.store import Spec


@dataclass(frozen=True, kw_only=True)
class RegisterStep(Step):
    """The step whose outcome lies in MLflow: its key holds the model's name and the registry."""

    def spec(self, config: PipelineConfig, inputs: Mapping[str, str]) -> Spec:
        """Return what goes into the model version."""
        where = {
            "model_name": config.registry.model_name,
            "registry": tracking_uri(),
            "seed": config.seed,  # it chooses the images of the reference
        }
        return Spec(
            kind=self.kind, config=where, inputs=dict(inputs), source=source_digest(self.module)
        )


def _not_an_artifact(*_: object) -> Mapping[str, object]:
    raise TypeError("the register step makes a model version, not an artifact")


REGISTER = RegisterStep(
    name="register", kind="model", record=ModelVersion, settings=(),
    module="vaesc.registry.registration", build=_not_an_artifact,
)  # fmt: skip


@step_task(
    REGISTER, ModelVersion, timeout_seconds=1800,
    retries=3, retry_delay_seconds=exponential_backoff(5)(3),
)  # fmt: skip
def register(
    config: PipelineConfig,
    dataset: Dataset,
    vae: TrainedVAE,
    dictionary: Dictionary,
    evaluation: Evaluation,
    refined: Refined | None = None,
    applied: tuple[Applied, ...] = (),
) -> ModelVersion | State[ModelVersion]:
    """Register the run's model as a version, unless an equal one is registered already.

    That one is shown as cached: an identical run was faster, or Prefect's record of it was lost.
    """
    from vaesc.registry.registration import register as register_bundle

    run = current()
    with run.nested("register") as step_run, scratch("register") as folder:
        bundle = folder / "bundle"
        save_bundle(bundle, dataset, vae, dictionary, refined, applied, seed=config.seed)
        version = register_bundle(
            bundle,
            run.tracking,
            name=config.registry.model_name,
            run_id=step_run.id,
            candidate=run.candidate,
            records=run.records,
            metrics=run.metrics if refined is None else _of_refined(run.metrics),
        )
    if version.run_id == step_run.id:
        return version
    return Completed(name="Cached", data=version)


def _of_refined(metrics: Mapping[str, float]) -> dict[str, float]:
    """Return those metrics that are of the refined model; the others are of the article's VAE."""
    own = ("test/mse_k", "test/mse_ratio_k", "test/psnr_db_k", "validation/refined_")
    return {name: value for name, value in metrics.items() if name.startswith(own)}
