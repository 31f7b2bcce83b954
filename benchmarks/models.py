"""A model to measure with, in a minute or a few: the pipeline's own steps, trained briefly."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from vaesc.config import PipelineConfig
from vaesc.config_files import load_config

if TYPE_CHECKING:
    from vaesc.records import Record

KINDS = ("article", "refined")


def briefly(
    preset: str, kind: str, *, folder: str | None = None, limit: int = 0
) -> PipelineConfig:
    """Return a preset's config with little training.

    Args:
        preset: Name of a preset.
        kind: ``article``: VAE, latents, dictionary; ``refined``: the default method.
        folder: Where the data set lies, in torchvision's layout.
        limit: Most images of each split; 0 takes all.
    """
    some = [f"dataset.folder={folder}"] if folder else []
    some += [f"dataset.limit={limit}"] if limit else []
    return load_config(
        preset,
        assignments=[
            "training.epochs=2", "training.warmup_epochs=0", "training.beta_schedule=constant",
            "dictionary.max_epochs=2", f"refine.epochs={int(kind == 'refined')}", *some,
        ],
    )  # fmt: skip


def make_model(config: PipelineConfig, home: Path) -> Path:
    """Train a model, with its reference, and return the folder it is saved in."""
    from vaesc.bundle import SparseVAE
    from vaesc.datasets import fingerprint
    from vaesc.drift import reference_of
    from vaesc.evaluation.refined import refined_folder
    from vaesc.steps import EXTRACT, INGEST, LEARN, REFINE, TRAIN, Step, run_step
    from vaesc.store import Store

    store, level = Store(home / "store"), config.dictionary.n_nonzero_coefs
    only = replace(config.evaluation, sparsity_levels=(level,))
    config = replace(config, evaluation=only)

    def made(step: Step, **inputs: Record | str) -> Record:
        return step.recorded(run_step(step, config, inputs, store=store))

    dataset = made(INGEST, source=fingerprint(config.dataset))
    if config.refine.epochs:
        network = atoms = refined_folder(Path(made(REFINE, dataset=dataset).uri), level)
    else:
        vae = made(TRAIN, dataset=dataset)
        latents = made(EXTRACT, dataset=dataset, vae=vae)
        network, atoms = Path(vae.uri), Path(made(LEARN, latents=latents).uri)
    model = SparseVAE.from_artifacts(Path(dataset.uri), network, atoms, device="cpu")
    model.reference = reference_of(model, Path(dataset.uri), seed=config.seed)
    folder = home / "model"
    model.save(folder)
    return folder
