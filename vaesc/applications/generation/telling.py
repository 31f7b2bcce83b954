"""What was measured, in figures, tables and words."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from vaesc.applications.findings import Figure, Findings, Published, Table
from vaesc.applications.generation.features import Features
from vaesc.applications.generation.likelihood import FEW, MANY, BinaryBounds
from vaesc.applications.generation.scoring import FEWEST, N_COVERED, N_FLOOR, N_NEAREST, Scores

TITLE = "Generation"
LABELS = {
    "train": "training images (floor)",
    "pixels": "Gaussian of the pixels",
    "standard": "article's VAE, N(0, I)",
    "article_mixture": "article's VAE, mixture",
    "registered_standard": "registered, N(0, I)",
    "mixture": "registered, mixture",
    "coded": "registered, mixture coded",
    "sparse": "registered, sparse codes",
    "aggregated": "registered, aggregated",
}
"""What is scored: first what ours are held against, then the priors of the registered model."""
RIVALS = ("pixels", "standard", "article_mixture")
"""What the prior that validation images chose must beat: the best of these by each score."""
_EXPECTED = 0.01
"""Share of images like the test images that would count as memorised, by its definition."""
_PYTHAE = "Pythae, examples/scripts/reproducibility (re-run; the paper's own figure {})"
PUBLISHED = (
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
class Measured:
    """All that was measured."""

    features: Features
    scores: Mapping[str, Scores]
    agreement: float | None
    bounds: BinaryBounds | None
    best: str
    """The prior that was best on validation images."""
    validation: Mapping[str, float]
    """Fréchet distances on validation images, by which it was chosen."""
    n: int
    source: str


def told(found: Measured) -> dict[str, Any]:
    """Return the parts of the findings that are words and numbers, by name."""
    return {
        "title": TITLE, "sentence": _sentence(found), "figures": list(_figures(found)),
        "tables": list(_tables(found)), "notes": list(_notes(found)), "more": list(_more(found)),
    }  # fmt: skip


def _figures(found: Measured) -> Iterator[Figure]:
    """Yield the figures: the prior that validation images chose, and the sparse-code prior."""
    scores, n = found.scores, found.n
    ours, mixture = scores[found.best], scores["mixture"]
    method = LABELS[found.best].replace("registered", "registered model")
    against = f"{n} samples against {n} test images, features of variance 1"
    yield Figure(
        key="test/frechet_distance", what=f"Fréchet distance, {against}", ours=ours.frechet,
        method=f"{method} (chosen on validation images)", better="lower",
        **_best_rival(scores, "frechet"),
    )  # fmt: skip
    yield Figure(
        key="test/frechet_distance_sparse", what=f"Fréchet distance, {against}",
        ours=scores["sparse"].frechet, method="registered model, sparse codes", better="lower",
        baseline=mixture.frechet, baseline_name=LABELS["mixture"],
    )  # fmt: skip
    yield Figure(
        key="test/kernel_distance", what=f"kernel distance (MMD²), {against}", ours=ours.kernel,
        method=method, better="lower", **_best_rival(scores, "kernel"),
    )  # fmt: skip
    for name, what in (
        ("precision", "share of samples among the test images"),
        ("recall", "share of test images among the samples"),
    ):
        yield Figure(
            key=f"test/{name}", what=f"{name}: {what}",
            ours=getattr(ours, name), method=method, better="higher",
            **_best_rival(scores, name),
        )  # fmt: skip
    yield Figure(
        key="test/memorised_fraction", ours=ours.memorised, better="lower",
        what="share of samples nearer to a training image than 99 % of test images are",
        method=method, baseline=_EXPECTED,
        baseline_name="expected of real images, by the definition",
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


def _best_rival(scores: Mapping[str, Scores], score: str) -> dict[str, Any]:
    """Return the baseline of a figure, and its name: the best of the rivals by this score."""
    known = {name: getattr(scores[name], score) for name in RIVALS if name in scores}
    best = (max if score in ("precision", "recall") else min)(known, key=lambda name: known[name])
    return {"baseline": known[best], "baseline_name": LABELS[best]}


def _binary_figure(bounds: BinaryBounds, source: str) -> Figure:
    return Figure(
        key=f"test/binary_iwae_{MANY}", ours=bounds.many, better="lower",
        what=f"bound on -log p of binarised test images, k = {MANY}, nats per image",
        method=f"the article's VAE, trained on binarised images for {bounds.epochs} epochs",
        baseline=bounds.negative_elbo, baseline_name="its plain bound, the negative ELBO",
        published=PUBLISHED if source == "mnist" else (),
    )  # fmt: skip


def _tables(found: Measured) -> Iterator[Table]:
    yield Table(
        title=f"Every prior against {found.n} test images",
        head=("images of", "Fréchet", "kernel", "precision", "recall", "memorised"),
        rows=[
            (LABELS[name], s.frechet, s.kernel, s.precision, s.recall, s.memorised)
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
            (f"importance-weighted, k = {MANY} (see the notes)", bounds.many, bounds.n_many),
            ("  its standard error", bounds.error, bounds.n_many),
        ],
    )


def _more(found: Measured) -> Iterator[tuple[str, float]]:
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


def _notes(found: Measured) -> Iterator[str]:
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
    if found.validation:
        chosen = ", ".join(f"{LABELS[k]} {v:.3g}" for k, v in found.validation.items())
        yield f"The prior was chosen by its Fréchet distance to validation images: {chosen}."
    yield (
        "N(0, I) is the prior of the article's own VAE; the other priors are fitted to the "
        "training latents of the model named in their row."
    )
    yield (
        "The aggregated posterior hands out training images almost as they are: its distances say "
        "how well the decoder works, its memorised share that it makes nothing new."
    )
    yield (
        f"Precision and recall are of {min(found.n, N_COVERED)} images of each set, memorisation "
        f"of {min(found.n, N_NEAREST)} (training images: {N_FLOOR}), drawn at random."
    )
    yield (
        "Baselines are the best, by each score, of a Gaussian of the pixels and of the article's "
        "VAE with N(0, I) and with the same mixture; of the sparse-code prior, which chooses "
        "atoms besides, the mixture of the same model's latents."
    )
    if found.bounds is not None:
        yield (
            f"The bound of k = {MANY} is that of k = {FEW} on {found.bounds.n_few} test images, "
            f"less the mean gain on {found.bounds.n_many} drawn from them; its standard error is "
            f"{found.bounds.error:.2g} nats."
        )
        yield (
            "Training images are binarised anew in every epoch, test images once; published "
            "figures differ in layers, and the plain VAE's in its one fixed binarisation. Bounds "
            "of grey images are in the evaluation."
        )


def _sentence(found: Measured) -> str:
    ours, scores = found.scores[found.best], found.scores
    others = sorted((n for n in RIVALS if n in scores), key=lambda n: scores[n].frechet)
    better = [_against(n, scores) for n in others if scores[n].frechet > ours.frechet]
    worse = [_against(n, scores) for n in others if scores[n].frechet <= ours.frechet]
    verdicts = [
        f"{verb} {', '.join(than)}"
        for verb, than in (("LOSES to", worse), ("is nearer than", better))
        if than
    ]
    sparse, mixture = scores["sparse"].frechet, scores["mixture"].frechet
    words = (
        f"The prior that validation images chose ({LABELS[found.best]}) has samples at a Fréchet "
        f"distance of {ours.frechet:.3g} from the test images, training images being at "
        f"{scores['train'].frechet:.2g}: it {' and '.join(verdicts)}. The sparse-code prior is at "
        f"{sparse:.3g}, {'nearer' if sparse < mixture else 'FARTHER off'} than the mixture of the "
        f"same latents ({mixture:.3g}). {ours.memorised:.1%} of the samples are as near to a "
        "training image as the nearest 1 % of test images."
    )
    if found.bounds is None:
        return words
    bound = f"{words} The article's VAE reaches {found.bounds.many:.2f} nats on binarised images"
    bound += f" (k = {MANY}, standard error {found.bounds.error:.2g})"
    if found.source != "mnist":
        return bound + "."
    verdict = "below" if found.bounds.many < PUBLISHED[0].value else "above"
    return f"{bound}, {verdict} the {PUBLISHED[0].value} published for a VAE by another protocol."


def _against(name: str, scores: Mapping[str, Scores]) -> str:
    return f"{LABELS[name]} ({scores[name].frechet:.3g})"


def unscored(n: int, source: str, bounds: BinaryBounds | None) -> Findings:
    """Return what is found where there is nothing to compare samples with."""
    figures = [] if bounds is None else [_binary_figure(bounds, source)]
    return Findings(
        title=TITLE,
        sentence=f"Priors were fitted; their samples were compared with nothing, as the test "
        f"split has {n} images and at least {FEWEST} are needed.",
        figures=figures,
    )  # fmt: skip
