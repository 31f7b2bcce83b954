"""The model card: what MLflow's page of a version tells of it, written from the run's own numbers.

Nothing is measured here. The numbers are those of the dataset's summary, of the evaluation's
``results.json`` and of the model's own reference; what they do not say is left out, so that a
model registered by hand has a shorter card and no wrong one. No path is told, and whatever a user
named is text, never Markdown.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import vaesc
from vaesc.registry.card_facts import Facts
from vaesc.registry.markdown import between, plain, rows
from vaesc.registry.system import git_tags
from vaesc.report.text import number

if TYPE_CHECKING:
    from vaesc.bundle import SparseVAE

LENGTH = 5000
"""Most characters of a description: the width of MLflow's column, which PostgreSQL insists on."""
_LEVELS = 12
"""Most sparsity levels in the card's table; the report has all."""


def model_card(model: SparseVAE, facts: Facts, uri: str, report: str = "") -> str:
    """Return a version's card as Markdown of at most :data:`LENGTH` characters.

    Args:
        model: The registered model.
        facts: What is known of it.
        uri: The version's address, ``models:/NAME/VERSION``.
        report: Id of the MLflow run that holds the report; empty if there is none.
    """
    name, _, version = uri.removeprefix("models:/").rpartition("/")
    title = f"# {plain(name)}, version {version}\n\n{opening(model)}"
    parts = [
        title, _data(facts, model), _method(facts, model), _metrics(facts, model),
        _limits(facts, model), _use(uri, report if facts.results else ""),
    ]  # fmt: skip
    while len(card := "\n\n".join(filter(None, parts))) > LENGTH:
        parts.remove(max(parts[1:-1], key=len))
    return card


def opening(model: SparseVAE) -> str:
    """Say in a sentence what the model does, from its numbers."""
    return (
        f"Sparse codes of {_size(model.shape)} images: {model.n_atoms} atoms, "
        f"{model.n_nonzero_coefs} for each image, over {model.latent_dim} latent dimensions of a "
        "VAE."
    )


def _size(shape: Sequence[int]) -> str:
    return "x".join(map(str, shape))


def _section(title: str, lines: Sequence[str]) -> str:
    return f"## {title}\n\n" + "\n".join(f"- {line}" for line in lines) if lines else ""


def _data(facts: Facts, model: SparseVAE) -> str:
    span = f"images of shape {_size(model.shape)}, range {model.low:g} to {model.high:g}"
    if facts.dataset is None:
        return _section("Data", [f"{span}; which data it was trained on is not on record"])
    data, licence = facts.dataset, facts.summary.get("licence")
    lines = [
        f"source: {plain(data.source)}" + (f"; licence: {plain(licence)}" if licence else ""),
        f"{data.n_train:,} training, {data.n_validation:,} validation, {data.n_test:,} test "
        f"images; {span}",
        f"dataset digest: `{plain(data.digest)}`",
    ]
    return _section("Data", lines)


def _method(facts: Facts, model: SparseVAE) -> str:
    vae, active = model.vae.config, facts.results.get("metrics", {}).get("test/active_units")
    network = f"VAE: {vae.architecture} ({_listed(vae.hidden)}), {vae.likelihood} likelihood"
    latents = f"{model.latent_dim} latent dimensions"
    if active is not None and not facts.refined:
        latents += f", {active:.0f} active on test images"
    coded = (
        f"K = {model.n_atoms} atoms, k = {model.n_nonzero_coefs}, coder {model.dictionary.coder}"
    )
    lines = [f"{network}; {latents}", coded]
    if facts.results:
        recipe = "refined: VAE and atoms trained through the sparse code"
        lines.append(recipe if facts.refined else "the article's own recipe, not refined")
    if model.parts:
        lines.append(f"it carries what these need: {', '.join(sorted(model.parts))}")
    return _section("Method", [*lines, _origin(facts.seed)])


def _origin(seed: int | None) -> str:
    git = git_tags()
    commit, dirty = git.get("mlflow.source.git.commit"), git.get("vaesc.git.dirty") == "true"
    parts = [f"seed {seed}" if seed is not None else "", f"vaesc {vaesc.__version__}"]
    if commit:
        parts.append(f"commit `{commit[:12]}`" + (" with uncommitted changes" if dirty else ""))
    return ", ".join(filter(None, parts))


def _listed(widths: Sequence[int]) -> str:
    return "-".join(map(str, widths)) or "no hidden layer"


def _metrics(facts: Facts, model: SparseVAE) -> str:
    found, i = facts.results, facts.own
    if i is None:
        return ""
    ours, pixel = (found["methods"][name] for name in (found["claimant"], "pixel"))
    table = [
        ["MSE (95 % interval)", *(between(m["mse"][i], m["low"][i], m["high"][i])
                                  for m in (ours, pixel))],
        ["PSNR", *(f"{number(m['psnr_db'][i])} dB" for m in (ours, pixel))],
    ]  # fmt: skip
    l0 = _l0(facts, model, i)
    table += [[*l0, number(None)]] if l0 else []
    heads = [f"{found['n_test']:,} test images", "this model", "pixel dictionary, same K and k"]
    each = "each k has a model of its own; this version is that of" if facts.refined else "own"
    words = (
        f"Test MSE over the pixel dictionary's, by k ({each} k = {found['n_nonzero_coefs']}; "
        "below 1 this method is ahead):"
    )
    shown = [rows(heads, table), words, _claims(found), _elbo(facts)]
    return "\n\n".join(["## Metrics", *shown])


def _l0(facts: Facts, model: SparseVAE, i: int) -> list[str]:
    """Return name and value of L0; that of a refined model is known on its own reference only."""
    if not facts.refined:
        return ["L0", number(facts.results["l0"][i])]
    if model.reference is None:
        return []
    l0 = model.reference.l0
    return [f"L0, {len(l0):,} validation images", number(sum(l0) / len(l0))]


def _claims(found: Mapping[str, Any]) -> str:
    """Return the table of ratios; beside them, if there are, those to the stronger rival."""
    against = {"ratio (95 % interval)": found["claim"]}
    if found.get("descended_claim"):
        against["to descended pixels"] = found["descended_claim"]
    lines = [
        [str(claims[0]["k"]), *(_ratio(c) for c in claims)]
        for claims in list(zip(*against.values(), strict=True))[:_LEVELS]
    ]
    return rows(["k", *against], lines)


def _ratio(claim: Mapping[str, Any]) -> str:
    return f"{between(claim['ratio'], claim['low'], claim['high'])}: {claim['verdict']}"


def _elbo(facts: Facts) -> str:
    m = facts.results["metrics"]
    whose = "of the VAE before refinement" if facts.refined else "of the VAE"
    return (
        f"Test negative ELBO {whose}: {number(m['test/negative_elbo'])} nats per image "
        f"(distortion {number(m['test/distortion'])} + KL {number(m['test/kl'])})."
    )


def _limits(facts: Facts, model: SparseVAE) -> str:
    lines = [*map(plain, facts.health), *_compared(facts), *_idle(facts, model)]
    kind = f" ({plain(facts.dataset.source)})" if facts.dataset else ""
    lines.append(
        f"it knows only {_size(model.shape)} images like those it was trained on{kind}; any other "
        "is coded as if it were one"
    )
    if model.reference is None:
        lines.append("it carries no reference of its own data: drift cannot be seen")
    else:
        n = model.reference.n_images
        lines.append(
            f"drift is judged against {n:,} validation images: no anomaly p-value is below "
            f"{number(1 / (n + 1))}"
        )
    return _section("Limits", lines)


def _compared(facts: Facts) -> list[str]:
    """Say where the model is not shown to be better, and what the intervals do not cover."""
    if not facts.results:
        return ["it was not compared with anything: no evaluation is on record"]
    claims = facts.results["claim"]
    lines = []
    for word in ("worse", "no difference shown"):
        if ks := [str(c["k"]) for c in claims if c["verdict"] == word]:
            lines.append(f"against the pixel dictionary: {word} at k = {', '.join(ks)}")
    return [*lines, "the intervals cover the choice of test images, not that of the seed"]


def _idle(facts: Facts, model: SparseVAE) -> list[str]:
    """Say which atoms and latents do nothing, and what the comparison at equal k leaves out."""
    lines, found = [], facts.results
    if model.reference is not None:
        dead = int((model.reference.uses == 0).sum())
        n = model.reference.n_images
        lines.append(f"dead atoms: {dead} of {model.n_atoms} on {n:,} validation images")
    if not found:
        return lines
    whose = ", in the VAE before refinement" if facts.refined else ""
    idle = found["latent_dim"] - int(found["metrics"]["test/active_units"])
    lines.append(f"inactive latents: {idle} of {found['latent_dim']} on test images{whose}")
    held = sum(w.numel() for w in model.vae.parameters()) + model.dictionary.dictionary.size
    theirs = found["parameters"]["pixel"][0]
    lines.append(f"it holds {held:,} numbers, the pixel dictionary {theirs:,}; k counts neither")
    return lines


def _use(uri: str, report: str) -> str:
    code = f"from vaesc import load_model\n\nmodel = load_model({json.dumps(uri)})"
    words = f"## How to use\n\n```python\n{code}\n```"
    if not report:
        return words
    return f"{words}\n\nReport: `report.html`, an artifact of the MLflow run `{report}`."
