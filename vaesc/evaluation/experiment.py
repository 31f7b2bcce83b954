"""The step *evaluate*: fit every method, measure it on the test split, and write it down."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vaesc.bundle import SparseVAE
from vaesc.config import DictionaryConfig, EvaluationConfig, derive_seed
from vaesc.dictionary import HISTORY, SPLITS
from vaesc.evaluation import results
from vaesc.evaluation.batches import Split
from vaesc.evaluation.comparison import Measured, measure
from vaesc.evaluation.dictionaries import (
    Dictionaries,
    PixelDictionary,
    Plan,
    learn_dictionaries,
    load_pixels,
    n_fits,
)
from vaesc.evaluation.methods import fit_methods
from vaesc.evaluation.refined import open_refined
from vaesc.progress import Listener

if TYPE_CHECKING:
    from vaesc.datasets.reader import ImageDataset
    from vaesc.latents import LatentStore


def evaluate(
    config: EvaluationConfig,
    dictionary_config: DictionaryConfig,
    inputs: Mapping[str, Path],
    folder: Path,
    *,
    seed: int,
    device: str,
    block_size: int,
    listener: Listener,
) -> dict[str, Any]:
    """Compare all methods on the test split, at equal k and K.

    Writes ``results.json``, ``table.csv``, ``errors.safetensors`` (each image's squared error by
    method and k), the dictionaries it learned (see :mod:`vaesc.evaluation.dictionaries`), their
    ``history.json`` (one dict an epoch), the figures (see :mod:`vaesc.report.figures`), and what
    they show in words: ``cards.json`` and ``reconstructions.json``.

    Args:
        config: Sparsity levels, how dictionaries are learned for them, and sizes of samples.
        dictionary_config: Settings of the model's dictionary, which all others share.
        inputs: Folders of the artifacts ``dataset``, ``vae``, ``latents`` and ``dictionary``, and
            ``refined`` if the run refines: its models are then compared too, and the claim is
            theirs; they started from the very pixel dictionaries they are compared with.
        folder: Empty folder to write into.
        seed: The run's seed.
        device: Where torch computes.
        block_size: Images held in memory at once; no result depends on it.
        listener: Hears of progress and of the epochs of every dictionary.

    Returns:
        Summary: ``n_test``, ``metrics``, ``verdict`` (a sentence) and ``crossover``.

    Raises:
        DataError: The dictionary was learned on another VAE's latents, or an artifact is damaged.
    """
    subject = _open(inputs, device)
    own = subject.model.n_nonzero_coefs
    levels = tuple(sorted({*config.sparsity_levels, own}))
    plan = Plan(own=own, levels=levels, relearn=config.relearn)
    splits = {name: Split(subject.dataset, name, block_size) for name in SPLITS}
    pixels = _pixels_of(inputs, plan)
    heard = _Progress(
        listener, splits, plan, subject.model, dictionary_config.max_epochs,
        None if pixels else math.prod(subject.model.shape),
    )  # fmt: skip
    learned, history = learn_dictionaries(
        dictionary_config, plan, subject.model.dictionary, subject.latents, splits, folder,
        seed=seed, listener=heard, pixels=pixels,
    )  # fmt: skip
    (folder / HISTORY).write_text(json.dumps(history, indent=1, sort_keys=True) + "\n")
    measured, written = _compare(subject, splits, plan, learned, seed=seed, heard=heard)
    written["metrics"] |= _model_metrics(
        config, subject, measured, seed=seed, block_size=block_size
    )
    written["bounds"] = _bounds(config, subject, seed=seed, block_size=block_size)
    written["metrics"] |= {
        f"test/iwae_{bound['samples']}_samples": bound["nats"] for bound in written["bounds"]
    }
    results.write(written, measured, folder)
    _draw(config, subject, splits["test"], written, learned, inputs, folder)
    return {
        "n_test": written["n_test"],
        "metrics": written["metrics"],
        "verdict": written["verdict"],
        "crossover": written["crossover"],
    }


@dataclass(frozen=True)
class _Subject:
    """What is evaluated."""

    model: SparseVAE
    dataset: ImageDataset
    latents: LatentStore
    refined: Mapping[int, SparseVAE] | None


def _pixels_of(inputs: Mapping[str, Path], plan: Plan) -> dict[int, PixelDictionary] | None:
    """Return the pixel dictionaries that refinement started from, learned by the same call."""
    usable = "refined" in inputs and plan.relearn
    return load_pixels(plan, inputs["refined"]) if usable else None


def _open(inputs: Mapping[str, Path], device: str) -> _Subject:
    from vaesc.datasets.reader import open_dataset
    from vaesc.latents import open_latents

    model = SparseVAE.from_artifacts(
        inputs["dataset"], inputs["vae"], inputs["dictionary"], device=device
    )
    refined = None
    if "refined" in inputs:
        refined = open_refined(inputs["dataset"], inputs["refined"], device=device)
    return _Subject(
        model, open_dataset(inputs["dataset"]), open_latents(inputs["latents"]), refined
    )


def _compare(
    subject: _Subject,
    splits: Mapping[str, Split],
    plan: Plan,
    learned: Dictionaries,
    *,
    seed: int,
    heard: _Progress,
) -> tuple[Measured, dict[str, Any]]:
    """Fit on the training split, measure on the test split."""
    model, latents = subject.model, subject.latents
    methods = fit_methods(
        splits["train"], latents, model.dictionary, learned, seed=seed, on_rows=heard.add,
        refined=subject.refined,
    )  # fmt: skip
    measured = measure(model, methods, splits["test"], latents, learned.latents, on_rows=heard.add)
    stream = derive_seed(seed, "evaluate/bootstrap")
    facts = {**_facts(subject), "relearn": plan.relearn}
    written = results.assemble(measured, methods, facts, seed=stream)
    return measured, {**written, "metrics": results.metrics_of(written)}


def _facts(subject: _Subject) -> dict[str, Any]:
    model, dataset = subject.model, subject.dataset
    return {
        "source": dataset.source,
        "shape": list(dataset.shape),
        "n_train": dataset.n("train"),
        "n_test": dataset.n("test"),
        "latent_dim": model.latent_dim,
        "n_atoms": model.n_atoms,
        "n_nonzero_coefs": model.n_nonzero_coefs,
        "coder": model.dictionary.coder,
        "test_sha256": dataset.sha256["test"],
        "parameters": _parameters(subject),
    }


def _parameters(subject: _Subject) -> dict[str, list[int]]:
    """Numbers that networks and dictionaries hold, which an image's own k numbers do not count.

    One list entry for each distinct model: the article's VAE serves every k, all else is
    learned for each.
    """
    model = subject.model

    def count(one: SparseVAE) -> int:
        return sum(w.numel() for w in one.vae.parameters()) + one.dictionary.dictionary.size

    refined = {id(m): m for m in (subject.refined or {}).values()}
    return {
        "article": [count(model)],
        "pixel": [model.n_atoms * math.prod(model.shape)],
        "refined": [count(m) for m in refined.values()],
    }


def _model_metrics(
    config: EvaluationConfig,
    subject: _Subject,
    measured: Measured,
    *,
    seed: int,
    block_size: int,
) -> dict[str, float]:
    """Metrics of the VAE and of the dictionary that are no part of a curve."""
    from vaesc import metrics
    from vaesc.models import evaluate_elbo

    elbo = evaluate_elbo(
        subject.model.vae, subject.dataset, "test", n_samples=config.elbo_samples, seed=seed,
        block_size=block_size,
    )  # fmt: skip
    return {
        **{f"test/{name}": value for name, value in elbo.items()},
        "test/active_units": metrics.active_units(subject.latents.latents("test")),
        "test/dead_fraction": float((measured.atoms.share == 0).mean()),
        "train/mutual_coherence": metrics.mutual_coherence(subject.model.dictionary.dictionary),
    }


def _bounds(
    config: EvaluationConfig, subject: _Subject, *, seed: int, block_size: int
) -> list[dict[str, Any]]:
    """Importance-weighted bounds on the negative log-likelihood, each with what it is taken on."""
    from vaesc.models import evaluate_iwae

    n_test = subject.dataset.n("test")
    return [
        {
            "samples": n_samples,
            "images": min(n_images, n_test),
            "nats": evaluate_iwae(
                subject.model.vae, subject.dataset, "test", n_samples=n_samples,
                n_images=n_images, seed=seed, block_size=block_size,
            ),
        }
        for n_samples, n_images in zip(config.iwae_samples, config.iwae_images, strict=True)
    ]  # fmt: skip


class _Progress(Listener):
    """Counts passes over images, so that learning, fitting and measuring share one scale."""

    def __init__(
        self, listener: Listener, splits: Mapping[str, Split], plan: Plan, model: SparseVAE,
        max_epochs: int, n_pixels: int | None,
    ) -> None:  # fmt: skip
        self.listener, self.done = listener, 0
        self.n_train = len(splits["train"])
        passes = max_epochs * n_fits(plan, model.dictionary, n_pixels) + 1
        self.total = self.n_train * passes + len(splits["test"])

    def add(self, n: int) -> None:
        """Hear that `n` more images were passed over."""
        self.done += n
        self.listener.progress(self.done, self.total)

    def epoch(self, epoch: int, metrics: Mapping[str, float]) -> None:
        """Pass on an epoch of a dictionary."""
        self.listener.epoch(epoch, metrics)

    def progress(self, done: float, total: float, **figures: float) -> None:
        """Hear that the learner has passed over all training samples once more."""
        self.add(self.n_train)


def _draw(
    config: EvaluationConfig,
    subject: _Subject,
    test: Split,
    written: Mapping[str, Any],
    learned: Dictionaries,
    inputs: Mapping[str, Path],
    folder: Path,
) -> None:
    """Draw the figures and write the cards of the default model's atoms."""
    from vaesc.evaluation.cards import atom_cards, write_cards
    from vaesc.evaluation.examples import reconstructions, write_reconstructions
    from vaesc.report.figures import (
        draw_curve,
        draw_history,
        draw_posterior,
        draw_rate,
        draw_refinement,
    )

    draw_curve(written, folder)
    if written.get("rate"):
        draw_rate(written["rate"], folder)
    rows = reconstructions(
        config, subject.model, test, subject.latents, learned, written, subject.refined
    )
    write_reconstructions(rows, folder)
    name = "refined" if subject.refined else "article"
    model = subject.refined[subject.model.n_nonzero_coefs] if subject.refined else subject.model
    write_cards(atom_cards(model, test, name=name), folder)
    if "refined" in inputs:
        draw_refinement(_read(inputs["refined"] / HISTORY), folder)
    if (inputs["vae"] / "history.json").exists():
        draw_history(_read(inputs["vae"] / "history.json"), folder)
    if (inputs["vae"] / "posterior.json").exists():
        posterior = _read(inputs["vae"] / "posterior.json")
        draw_posterior(posterior["validation/kl_per_dimension"], folder)


def _read(path: Path) -> Any:  # noqa: ANN401 - whatever the file holds
    return json.loads(path.read_bytes())
