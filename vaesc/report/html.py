"""The report of one run: one HTML file that needs nothing else, neither network nor script.

It is put together from the files of the evaluation artifact, so it costs milliseconds and neither
torch nor matplotlib, also when every step was cached. A content security policy in the file itself
forbids it to load anything.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from vaesc.report.provenance import provenance
from vaesc.report.stylesheet import CSS
from vaesc.report.text import escape, number, table

_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
_SHORT = {"better": "better", "worse": "worse", "no difference shown": "no difference"}


def render_report(
    evaluation_folder: Path, *, history: Sequence[Mapping[str, Any]], run: Mapping[str, Any]
) -> str:
    """Return the report as one self-contained HTML document.

    Args:
        evaluation_folder: Artifact of :func:`vaesc.evaluation.evaluate`.
        history: The VAE's epochs, from its ``history.json``.
        run: What is known of the run; every key may be missing: ``run_id``, ``flow_run_id``,
            ``config`` (nested settings), ``config_digest``, ``steps`` (dicts with name, state,
            seconds, digest), ``tags`` (versions, machine, git commit), ``commands``.

    Raises:
        OSError: A file of the evaluation is missing.
    """
    folder = Path(evaluation_folder)
    results = json.loads((folder / "results.json").read_bytes())
    body = "\n".join(
        [
            _head(results, run),
            _curve(results, folder),
            _numbers(results),
            _reconstructions(results, folder),
            _methods(results),
            _atoms(results, folder),
            _vae(results, history, folder),
            provenance(run, results),
        ]
    )
    title = escape(f"vaesc: {results['source']}")
    return (
        f'<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">\n'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f'<meta name="color-scheme" content="light dark">\n'
        f"<title>{title}</title>\n<style>{CSS}</style>\n</head>\n<body>\n<main>\n{body}\n</main>\n"
        f"</body>\n</html>\n"
    )


def ordered(results: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Return the methods in the order in which they are shown."""
    return [results["methods"][name] for name in results["order"]]


def _head(results: Mapping[str, Any], run: Mapping[str, Any]) -> str:
    chips = "".join(_chip(claim) for claim in results["claim"])
    facts = (
        f"{results['source']}, {results['n_train']:,} training and {results['n_test']:,} test "
        f"images of {' x '.join(map(str, results['shape']))}; latent dimension "
        f"{results['latent_dim']}; {results['n_atoms']} atoms, learned at "
        f"k = {results['n_nonzero_coefs']}"
    )
    return (
        f'<header>\n<p class="kicker">vaesc · sparse codes of latents against sparse codes of '
        f"pixels</p>\n{_verdict(results['verdict'])}\n"
        f'<ul class="chips">{chips}</ul>\n<p class="facts">{escape(facts)}.</p>\n</header>'
    )


def _verdict(sentence: str) -> str:
    """Return the verdict, its first clause as the page's heading; no break inside ``k = 8``."""
    opening, _, rest = sentence.partition(": ")
    words = escape(rest[:1].upper() + rest[1:]).replace("k = ", "k&nbsp;=&nbsp;")
    return f'<h1>{escape(opening)}</h1>\n<p class="verdict">{words}</p>'


def _chip(claim: Mapping[str, Any]) -> str:
    """One sparsity level: its verdict, the ratio of errors and its interval."""
    word = claim["verdict"]
    return (
        f'<li class="{escape(_SHORT[word]).split()[0]}"><b>k = {claim["k"]}</b> '
        f"<span>{escape(_SHORT[word])}</span> "
        f"<small>error &times; {number(claim['ratio'])}</small>"
        f"<small>({number(claim['low'])} to {number(claim['high'])})</small></li>"
    )


def _curve(results: Mapping[str, Any], folder: Path) -> str:
    first, last = results["levels"][0], results["levels"][-1]
    had = [(c["title"], [e for e in c["mse"] if e is not None]) for c in ordered(results)]
    ends = "; ".join(f"{title} from {number(e[0])} to {number(e[-1])}" for title, e in had)
    alt = (
        f"Test mean squared error against sparsity level, k = {first} to {last}: {ends}; "
        f"the VAE itself {number(results['vae']['mse'])}."
    )
    caption = (
        "Above: mean squared error of every method at equal k and equal number of atoms, with "
        "95 % intervals as bands for those that are compared. Below: the ratio that the verdict "
        "is on, below 1 where the claim holds; bars are 95 % intervals from 2,000 paired "
        "resamples of the test images, one trained model each."
    )
    return _section("Error against sparsity", _figure(folder, "curve", alt, caption))


def _numbers(results: Mapping[str, Any]) -> str:
    levels, methods = results["levels"], ordered(results)
    # A method without a level has null there.
    best = [
        min(m["mse"][i] for m in methods if m["mse"][i] is not None) for i in range(len(levels))
    ]
    rows = [
        [escape(m["title"])]
        + [
            f"<b>{number(mse)}</b>" if mse == best[i] else number(mse)
            for i, mse in enumerate(m["mse"])
        ]
        for m in methods
    ]
    rows.append(["VAE itself (the floor)", *[number(results["vae"]["mse"])] * len(levels)])
    heads = [f"k = {k}" for k in levels]
    fvu = [[escape(m["title"]), *map(number, m["fvu"])] for m in methods if "fvu" in m]
    psnr = [
        [escape(m["title"]), *(number(p) if p is None else f"{p:.2f}" for p in m["psnr_db"])]
        for m in methods
    ]
    notes = "".join(f"<li>{escape(note)}</li>" for note in results["notes"])
    return _section(
        "The numbers",
        "<p>Mean squared error per pixel on the test split, pixels in [0, 1]; bold: the lowest "
        "of a column.</p>"
        + table(["", *heads], rows)
        + (f'<ul class="notes">{notes}</ul>' if notes else "")
        + _details("PSNR in dB", table(["", *heads], psnr))
        + _details(
            "Fraction of the latents' variance unexplained (FVU)", table(["", *heads], fvu)
        ),
    )


def _reconstructions(results: Mapping[str, Any], folder: Path) -> str:
    alt = (
        "Test images in the first row; below them the VAE's reconstructions, then at several "
        "sparsity levels the reconstructions from sparse codes of latents and of pixels."
    )
    caption = (
        "The same test images throughout (the first of each class, where there are labels). "
        "Right: mean squared error over the whole test split."
    )
    return _section("Reconstructions", _figure(folder, "reconstructions", alt, caption))


def _methods(results: Mapping[str, Any]) -> str:
    items = "".join(
        f"<dt>{escape(m['title'])}</dt><dd>{escape(m['about'])}</dd>" for m in ordered(results)
    )
    floor = (
        "<dt>VAE itself (the floor)</dt><dd>The latent decoded without any coding. More "
        "coefficients bring the article's method here, and no further.</dd>"
    )
    return _section(
        "What was compared",
        "<p>Every method is fitted on the training split and measured on the test split, at the "
        f"same sparsity level k. Dictionaries have {results['n_atoms']} atoms and share learner, "
        f"settings and coder ({escape(results['coder']).upper()}); {_learned(results)}.</p>"
        f"<dl>{items}{floor}</dl>",
    )


def _learned(results: Mapping[str, Any]) -> str:
    k = results["n_nonzero_coefs"]
    if results["relearn"]:
        return f"each is learned anew for every k, the model's own at k = {k}"
    return f"each is learned once, at k = {k}, and used at every k"


def _atoms(results: Mapping[str, Any], folder: Path) -> str:
    metrics = results["metrics"]
    alt = "The mean latent decoded, then the atoms that carry most of the codes' energy, decoded."
    caption = (
        "First: the mean latent, decoded. Then the atoms that carry most of the codes' energy "
        "(the sum of their squared coefficients), most first: the decoded image of the mean "
        "latent plus the atom times the mean coefficient of its commoner sign. Below each, the "
        f"share of test images whose code at k = {results['n_nonzero_coefs']} holds it."
    )
    facts = (
        f"<p>Of {results['n_atoms']} atoms, {100 * metrics['test/dead_fraction']:.1f} % are used "
        f"by no test image. Mutual coherence {metrics['train/mutual_coherence']:.3f}.</p>"
    )
    return _section("What atoms look like", facts + _figure(folder, "atoms", alt, caption))


def _vae(results: Mapping[str, Any], history: Sequence[Mapping[str, Any]], folder: Path) -> str:
    m = results["metrics"]
    facts = (
        f"<p>On the test split: negative ELBO <b>{m['test/negative_elbo']:.2f}</b> nats per image "
        f"= distortion {m['test/distortion']:.2f} + beta &times; KL ({m['test/kl']:.2f}). "
        f"{_bounds(results)}"
        f"{m['test/active_units']:.0f} of {results['latent_dim']} latent dimensions are active. "
        f"Reconstruction from the latent: mean squared error {number(results['vae']['mse'])}, "
        f"{results['vae']['psnr_db']:.2f} dB.</p>"
    )
    alt = "Negative ELBO of the VAE over the epochs, on the training and the validation split."
    figure = _figure(folder, "learning", alt, "") if (folder / "learning.png").exists() else ""
    alt = "KL of each latent dimension over the epochs, and sorted after the last one."
    if (folder / "posterior.png").exists():
        figure += _figure(folder, "posterior", alt, "")
    return _section("The VAE", facts + figure + _epochs(history))


def _bounds(results: Mapping[str, Any]) -> str:
    """Importance-weighted bounds on the negative log-likelihood, and which images they are of."""
    return "".join(
        f"With {b['samples']:,} importance-weighted samples, on the first {b['images']:,} test "
        f"images, the bound on the negative log-likelihood is <b>{b['nats']:.2f}</b>. "
        for b in results.get("bounds", ())
    )


def _epochs(history: Sequence[Mapping[str, Any]]) -> str:
    if not history:
        return ""
    keys = list(history[0])
    rows = [[str(i), *(number(e[k]) for k in keys)] for i, e in enumerate(history, 1)]
    return _details("Every epoch", table(["epoch", *map(escape, keys)], rows))


def _figure(folder: Path, name: str, alt: str, caption: str) -> str:
    """Return a figure in both themes; printing and browsers without themes take the light one."""
    light, dark = ((folder / f"{name}{end}.png").read_bytes() for end in ("", "-dark"))
    width, height = (int.from_bytes(light[i : i + 4], "big") for i in (16, 20))  # PNG's header
    words = f"<figcaption>{escape(caption)}</figcaption>" if caption else ""
    return (
        f'<figure><picture><source media="screen and (prefers-color-scheme: dark)" '
        f'srcset="{_data(dark)}"><img src="{_data(light)}" width="{width}" height="{height}" '
        f'alt="{escape(alt)}"></picture>{words}</figure>'
    )


def _data(png: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(png).decode()


def _section(title: str, content: str) -> str:
    return f"<section>\n<h2>{escape(title)}</h2>\n{content}\n</section>"


def _details(summary: str, content: str) -> str:
    return f"<details><summary>{escape(summary)}</summary>{content}</details>"
