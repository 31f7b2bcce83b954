"""The application: fit the priors, score their samples, bound the likelihood."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from vaesc.applications.findings import Figure, Findings, Picture, Published, Table
from vaesc.applications.generation.features import Features, fit_features
from vaesc.applications.generation.fitting import (
    class_name,
    fit_priors,
    posteriors,
    training_rows,
)
from vaesc.applications.generation.likelihood import FEW, MANY, BinaryBounds, binary_bounds
from vaesc.applications.generation.mixtures import fit_mixture
from vaesc.applications.generation.pictures import (
    draw_classes,
    draw_samples,
    draw_switched,
    draw_ways,
)
from vaesc.applications.generation.sampler import DEFAULT, PRIORS, Prior, Sampler
from vaesc.applications.generation.scoring import (
    FEWEST,
    N_COVERED,
    N_NEAREST,
    Draw,
    Judge,
    Scores,
    class_agreement,
    pixel_gaussian,
)
from vaesc.applications.subject import Subject
from vaesc.config import GenerationConfig, derive_seed
from vaesc.parts import PART, save_part

TITLE = "Generation"
_LABELS = {
    "train": "training images (floor)",
    "pixels": "Gaussian of the pixels",
    "standard": "article's VAE, N(0, I)",
    "article_mixture": "article's VAE, mixture",
    "registered_standard": "registered, N(0, I)",
    "mixture": "registered, mixture",
    "sparse": "registered, sparse codes",
    "aggregated": "registered, aggregated",
}
"""What is scored: first what ours are held against, then the priors of the registered model."""
_PYTHAE = "Pythae, examples/scripts/reproducibility (re-run; the paper's own figure {})"
_PUBLISHED = (
    Published(
        value=89.78, name="VAE",
        source=_PYTHAE.format("89.9") + "; one fixed binarisation, 200 importance samples",
    ),
    Published(
        value=86.82, name="IWAE, k = 50",
        source=_PYTHAE.format("87.1") + "; binarised anew each time, other layers",
    ),
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class _Measured:
    """All that was measured."""

    features: Features
    scores: Mapping[str, Scores]
    agreement: float | None
    bounds: BinaryBounds | None
    n: int
    source: str


def apply(config: GenerationConfig, subject: Subject) -> Findings:
    """Fit every prior, keep them for the registered model, and score their samples.

    Args:
        config: Sizes of priors and of the comparison.
        subject: The model, its data, where to write ``part.safetensors`` and pictures.
    """
    from vaesc.sparse._blocks import single_threaded_blas
    from vaesc.training.threads import one_thread

    with one_thread(), single_threaded_blas():
        sampler = Sampler(subject.model, fit_priors(config, subject))
        save_part(sampler.priors.part(), subject.folder / PART)
        bounds = _bounds(config, subject)
        if subject.dataset.n("test") < FEWEST:
            return _unscored(subject, bounds)
        judge = Judge(subject, fit_features(subject), config.n_samples)
        scores = _scores(config, sampler, judge)
        measured = _Measured(
            features=judge.features, scores=scores,
            agreement=class_agreement(sampler, judge, _names(subject, sampler)),
            bounds=bounds, n=judge.n, source=subject.dataset.source,
        )  # fmt: skip
        pictures = _pictures(sampler, judge, scores)
    return Findings(
        title=TITLE, sentence=_sentence(measured), figures=list(_figures(measured)),
        tables=list(_tables(measured)), pictures=pictures, notes=list(_notes(measured)),
        more=list(_more(measured)),
    )  # fmt: skip


def _bounds(config: GenerationConfig, subject: Subject) -> BinaryBounds | None:
    """Return bounds of binarised images where grey values are probabilities; else None."""
    bernoulli = subject.article.vae.config.likelihood == "bernoulli"
    there = min(subject.dataset.n("test"), subject.dataset.n("validation"))
    return binary_bounds(config, subject) if bernoulli and config.binary_epochs and there else None


def _scores(config: GenerationConfig, sampler: Sampler, judge: Judge) -> dict[str, Scores]:
    """Return the scores of everything in the order of :data:`_LABELS`."""
    subject = judge.subject
    draws = _draws(config, sampler, subject)
    found = {"train": judge.floor()}
    for i, name in enumerate(name for name in _LABELS if name in draws):
        found[name] = judge.scores(name, draws[name])
        subject.listener.progress(i + 1, len(draws))
    return found


def _draws(config: GenerationConfig, sampler: Sampler, subject: Subject) -> dict[str, Draw]:
    article = subject.article
    means, _ = posteriors(article, subject, training_rows(subject))
    seed = derive_seed(subject.seed, "generation/article")
    mixture = fit_mixture(means, config.n_components, seed=seed)

    def of_prior(prior: Prior) -> Draw:
        return lambda n, rng: sampler.model.unit_images(sampler.latents(n, rng, prior=prior))

    draws: dict[str, Draw] = {
        "article_mixture": lambda n, rng: article.unit_images(mixture.sample(n, rng)),
        "standard": lambda n, rng: article.unit_images(
            rng.standard_normal((n, article.latent_dim), "float32")
        ),
        **{prior: of_prior(prior) for prior in PRIORS if prior != "standard"},
    }
    if subject.model is not article:
        draws["registered_standard"] = of_prior("standard")
    pixels = pixel_gaussian(subject)
    return draws if pixels is None else {"pixels": pixels, **draws}


def _names(subject: Subject, sampler: Sampler) -> dict[str, int]:
    """Return the label of each class that has a mixture."""
    labels = subject.dataset.labels("train")
    known = set() if labels is None else {int(label) for label in labels}
    named = {class_name(subject.dataset.classes, label): label for label in sorted(known)}
    return {name: named[name] for name in sampler.priors.by_class}


def _pictures(sampler: Sampler, judge: Judge, scores: Mapping[str, Scores]) -> list[Picture]:
    shown = {name: scores[name] for name in _LABELS if name in scores and name != "train"}
    pictures = [
        draw_samples(judge, shown, _LABELS, ("mixture", "sparse", "aggregated")),
        draw_switched(sampler, judge),
        draw_ways(sampler, judge),
    ]
    return [*pictures, draw_classes(sampler, judge)] if sampler.priors.by_class else pictures


def _figures(found: _Measured) -> Iterator[Figure]:
    """Yield the figures: the best prior as it was named beforehand, and the sparse-code prior."""
    scores, n = found.scores, found.n
    ours, article = scores[DEFAULT], scores["standard"]
    base = scores.get("pixels", article)
    base_name = _LABELS["pixels" if "pixels" in scores else "standard"]
    against = f"{n} samples against {n} test images, features of variance 1"
    yield Figure(
        key="test/frechet_distance", what=f"Fréchet distance, {against}", ours=ours.frechet,
        method="registered model, mixture (named beforehand)", better="lower",
        baseline=base.frechet, baseline_name=base_name,
    )  # fmt: skip
    yield Figure(
        key="test/frechet_distance_sparse", what=f"Fréchet distance, {against}",
        ours=scores["sparse"].frechet, method="registered model, sparse codes", better="lower",
        baseline=article.frechet, baseline_name=_LABELS["standard"],
    )  # fmt: skip
    yield Figure(
        key="test/kernel_distance", what=f"kernel distance (MMD²), {against}", ours=ours.kernel,
        method="registered model, mixture", better="lower", baseline=base.kernel,
        baseline_name=base_name,
    )  # fmt: skip
    for name, what in (("precision", "look like test images"), ("recall", "of test images met")):
        yield Figure(
            key=f"test/{name}", what=f"{name} of samples: share that {what}"
            if name == "precision" else f"{name} of samples: share {what}",
            ours=getattr(ours, name), method="registered model, mixture", better="higher",
            baseline=getattr(article, name), baseline_name=_LABELS["standard"],
        )  # fmt: skip
    yield Figure(
        key="test/memorised_fraction", ours=ours.memorised, better="lower",
        what="share of samples nearer to a training image than 99 % of test images are",
        method="registered model, mixture", baseline=scores["aggregated"].memorised,
        baseline_name=_LABELS["aggregated"],
    )  # fmt: skip
    if found.agreement is not None:
        yield Figure(
            key="test/class_agreement", ours=found.agreement, better="higher",
            what="share of class-conditional samples that the classifier gives their class",
            method="registered model, a mixture for each class",
            baseline=found.features.accuracy, baseline_name="test images, their own class",
        )  # fmt: skip
    if found.bounds is not None:
        yield _binary_figure(found.bounds, found.source)


def _binary_figure(bounds: BinaryBounds, source: str) -> Figure:
    return Figure(
        key=f"test/binary_iwae_{MANY}", ours=bounds.many, better="lower",
        what=f"bound on -log p of binarised test images, k = {MANY}, nats per image",
        method=f"the article's VAE, trained on binarised images for {bounds.epochs} epochs",
        baseline=bounds.negative_elbo, baseline_name="its plain bound, the negative ELBO",
        published=_PUBLISHED if source == "mnist" else (),
    )  # fmt: skip


def _tables(found: _Measured) -> Iterator[Table]:
    yield Table(
        title=f"Every prior against {found.n} test images",
        head=("images of", "Fréchet", "kernel", "precision", "recall", "memorised"),
        rows=[
            (_LABELS[name], s.frechet, s.kernel, s.precision, s.recall, s.memorised)
            for name, s in found.scores.items()
        ],
    )  # fmt: skip
    if (bounds := found.bounds) is None:
        return
    yield Table(
        title="Bounds on -log p of binarised test images, article's VAE, nats per image",
        head=("bound", "nats", "images"),
        rows=[
            ("negative ELBO", bounds.negative_elbo, bounds.n_few),
            (f"importance-weighted, k = {FEW}", bounds.few, bounds.n_few),
            (f"importance-weighted, k = {MANY}", bounds.many, bounds.n_many),
            ("  its standard error over images", bounds.error, bounds.n_many),
        ],
    )


def _more(found: _Measured) -> Iterator[tuple[str, float]]:
    for name, scores in found.scores.items():
        for key, value in (
            ("frechet_distance", scores.frechet), ("kernel_distance", scores.kernel),
            ("precision", scores.precision), ("recall", scores.recall),
            ("memorised_fraction", scores.memorised),
        ):  # fmt: skip
            if (name, key) != ("sparse", "frechet_distance"):  # a figure of its own
                yield f"test/{key}_{name}", value
    if found.features.accuracy is not None:
        yield "test/feature_accuracy", found.features.accuracy
    if found.bounds is not None:
        yield f"test/binary_iwae_{FEW}", found.bounds.few
        yield "test/binary_negative_elbo", found.bounds.negative_elbo


def _notes(found: _Measured) -> Iterator[str]:
    features = found.features
    if features.accuracy is None:
        yield (
            "Features are the leading principal coordinates of the pixels: there are no labels to "
            "train a classifier with, so distances see less than they would."
        )
    else:
        yield (
            f"Features are the last hidden layer of a network of {features.n_weights} weights, "
            f"trained here; it classifies {features.accuracy:.1%} of the test images correctly. "
            "Distances compare within this run, not with published FIDs."
        )
    yield (
        "N(0, I) is the prior of the article's own VAE; the other priors are fitted to the "
        "training latents of the model named in their row."
    )
    yield (
        "The aggregated posterior hands out training images almost as they are: its distances say "
        "how well the decoder works, its memorised share that it makes nothing new."
    )
    yield (
        f"Precision and recall are of the first {min(found.n, N_COVERED)} images of each set, "
        f"memorisation of the first {min(found.n, N_NEAREST)} (training images: the first 16)."
    )
    if found.bounds is not None:
        yield (
            "Training images are binarised anew in every epoch, test images once; published "
            "figures differ in layers, and the plain VAE's in its one fixed binarisation. Bounds "
            "of grey images are in the evaluation."
        )


def _sentence(found: _Measured) -> str:
    ours, scores = found.scores[DEFAULT], found.scores
    base = "pixels" if "pixels" in scores else "standard"
    compared = "nearer than" if ours.frechet < scores[base].frechet else "no nearer than"
    sentence = (
        f"Samples of a mixture fitted to the latents lie at a Fréchet distance of "
        f"{ours.frechet:.3g} from the test images, {compared} {_LABELS[base]} "
        f"({scores[base].frechet:.3g}), with training images at {scores['train'].frechet:.2g}; "
        f"the article's VAE with its own prior reaches {scores['standard'].frechet:.3g}, samples "
        f"of sparse codes {scores['sparse'].frechet:.3g}. {ours.memorised:.1%} of the mixture's "
        "are as near to a training image as the nearest 1 % of test images"
    )
    if found.bounds is None:
        return sentence + "."
    return (
        f"{sentence}. On binarised images the article's VAE reaches {found.bounds.many:.2f} nats "
        f"(k = {MANY})."
    )


def _unscored(subject: Subject, bounds: BinaryBounds | None) -> Findings:
    """Return what is found where there is nothing to compare samples with."""
    n = subject.dataset.n("test")
    figures = [] if bounds is None else [_binary_figure(bounds, subject.dataset.source)]
    return Findings(
        title=TITLE,
        sentence=f"Priors were fitted; their samples were compared with nothing, as the test "
        f"split has {n} images and at least {FEWEST} are needed.",
        figures=figures,
    )  # fmt: skip
