"""The application: fit the priors, score their samples, bound the likelihood."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from vaesc.applications.findings import Findings, Picture
from vaesc.applications.generation.features import fit_features
from vaesc.applications.generation.fitting import (
    class_name,
    fit_priors,
    posteriors,
    training_rows,
)
from vaesc.applications.generation.likelihood import BinaryBounds, binary_bounds
from vaesc.applications.generation.mixtures import fit_mixture
from vaesc.applications.generation.pictures import (
    draw_classes,
    draw_samples,
    draw_switched,
    draw_ways,
)
from vaesc.applications.generation.sampler import PRIORS, Sampler
from vaesc.applications.generation.scoring import (
    FEWEST,
    Draw,
    Judge,
    Scores,
    best_prior,
    class_agreement,
    pixel_gaussian,
    prior_draw,
)
from vaesc.applications.generation.telling import LABELS, Measured, told, unscored
from vaesc.applications.subject import Subject
from vaesc.config import GenerationConfig, derive_seed
from vaesc.parts import PART, save_part


def apply(config: GenerationConfig, subject: Subject) -> Findings:
    """Fit every prior, keep them for the registered model, and score their samples.

    Args:
        config: Sizes of priors and of the comparison.
        subject: The model, its data, where to write ``part.safetensors`` and pictures.
    """
    sampler = Sampler(subject.model, fit_priors(config, subject))
    features = fit_features(subject)
    best, validation = best_prior(sampler, subject, features, config.n_samples)
    sampler = Sampler(subject.model, replace(sampler.priors, best=best))
    save_part(sampler.priors.part(), subject.folder / PART)
    bounds = _bounds(config, subject)
    if subject.dataset.n("test") < FEWEST:
        return unscored(subject.dataset.n("test"), subject.dataset.source, bounds)
    judge = Judge(subject, features, config.n_samples)
    scores = _scores(config, sampler, judge)
    measured = Measured(
        features=features, scores=scores,
        agreement=class_agreement(sampler, judge, _names(subject, sampler)),
        bounds=bounds, best=best, validation=validation, n=judge.n,
        source=subject.dataset.source,
    )  # fmt: skip
    return Findings(**told(measured), pictures=_pictures(sampler, judge, scores))


def _bounds(config: GenerationConfig, subject: Subject) -> BinaryBounds | None:
    """Return bounds of binarised images where grey values are probabilities; else None."""
    bernoulli = subject.article.vae.config.likelihood == "bernoulli"
    there = min(subject.dataset.n("test"), subject.dataset.n("validation"))
    return binary_bounds(config, subject) if bernoulli and config.binary_epochs and there else None


def _scores(config: GenerationConfig, sampler: Sampler, judge: Judge) -> dict[str, Scores]:
    """Return the scores of everything in the order of :data:`LABELS`."""
    subject = judge.subject
    draws = _draws(config, sampler, subject)
    found = {"train": judge.floor()}
    for i, name in enumerate(name for name in LABELS if name in draws):
        found[name] = judge.scores(name, draws[name])
        subject.listener.progress(i + 1, len(draws))
    return found


def _draws(config: GenerationConfig, sampler: Sampler, subject: Subject) -> dict[str, Draw]:
    article = subject.article
    means, _ = posteriors(article, subject, training_rows(subject))
    seed = derive_seed(subject.seed, "generation/article")
    mixture = fit_mixture(means, config.n_components, seed=seed)

    draws: dict[str, Draw] = {
        "article_mixture": lambda n, rng: article.unit_images(mixture.sample(n, rng)),
        "standard": lambda n, rng: article.unit_images(
            rng.standard_normal((n, article.latent_dim), "float32")
        ),
        **{prior: prior_draw(sampler, prior) for prior in PRIORS if prior != "standard"},
    }
    if subject.model is not article:
        draws["registered_standard"] = prior_draw(sampler, "standard")
    pixels = pixel_gaussian(subject)
    return draws if pixels is None else {"pixels": pixels, **draws}


def _names(subject: Subject, sampler: Sampler) -> dict[str, int]:
    """Return the label of each class that has a mixture."""
    labels = subject.dataset.labels("train")
    known = set() if labels is None else {int(label) for label in labels}
    named = {class_name(subject.dataset.classes, label): label for label in sorted(known)}
    return {name: named[name] for name in sampler.priors.by_class}


def _pictures(sampler: Sampler, judge: Judge, scores: Mapping[str, Scores]) -> list[Picture]:
    shown = {name: scores[name] for name in LABELS if name in scores and name != "train"}
    pictures = [
        draw_samples(judge, shown, LABELS, (sampler.priors.best, "sparse", "aggregated")),
        draw_switched(sampler, judge),
        draw_ways(sampler, judge),
    ]
    return [*pictures, draw_classes(sampler, judge)] if sampler.priors.by_class else pictures
