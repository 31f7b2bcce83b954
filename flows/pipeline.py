"""The article's four steps, with ingestion before and the registry after.

::

    python -m vaesc run --preset digits          # or: make run
"""

from __future__ import annotations

from typing import Any

from prefect import flow

from tasks import logs
from tasks.alive import on_record
from tasks.apply import apply
from tasks.evaluate import evaluate
from tasks.extract import extract
from tasks.ingest import ingest
from tasks.learn import learn
from tasks.publish import publish
from tasks.refine import refine
from tasks.register import register
from tasks.retrain import Start, check_candidate, started_from
from tasks.tracking import pipeline_run
from tasks.train import train
from tasks.workers import workers
from vaesc.applications.requirements import check_applications, check_outliers
from vaesc.config import PipelineConfig


@flow(name="pipeline", flow_run_name="{config.preset}-seed-{config.seed}", persist_result=False)
def pipeline(
    config: PipelineConfig = PipelineConfig(),
    start: Start | None = None,
    candidate: bool = False,
) -> dict[str, Any]:
    """Turn a dataset into a registered sparse model; steps whose inputs are unchanged are cached.

    Args:
        config: Every setting of the run.
        start: What training and refinement start from; default: from random weights, and from
            pixel dictionaries.
        candidate: Whether the gate decides on the version, which is not made champion before.

    Returns:
        The summary that ``vaesc run --json`` prints.
    """
    logs.install()
    tags = started_from(start, config)
    with (
        on_record(),
        pipeline_run(config, tags=tags, candidate=candidate) as run,
        workers(config.runtime),
    ):
        check_applications(config)
        dataset = ingest(config)
        check_outliers(config, dataset.shape)
        if candidate:
            check_candidate(config, dataset)
        # 1. train a VAE by maximising the ELBO
        vae = train(config, dataset, start.vae if start else None)
        latents = extract(config, dataset, vae)  # 2. encode every image to its latent z
        dictionary = learn(config, latents)  # 3. sparse-code the latents, z ~ D a
        refined = None
        if config.refine.epochs:  # no part of the article
            refined = refine(config, dataset, start.refined if start else None)
        # 4. reconstruct from D a
        evaluation = evaluate(config, dataset, vae, latents, dictionary, refined)
        # What a VAE is for, as far as the preset names it.
        applied = tuple(
            apply(name, config, dataset, vae, latents, dictionary, refined)
            for name in config.applications
        )
        register(config, dataset, vae, dictionary, evaluation, refined, applied)
        return publish(run)
