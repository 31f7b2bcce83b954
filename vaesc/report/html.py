"""The report of one run: one HTML file that needs nothing else, neither network nor script.

It is put together from the files of the evaluation artifact, so it costs milliseconds and neither
torch nor matplotlib, also when every step was cached.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from vaesc.report.applications import applications_sections
from vaesc.report.cards import cards_section
from vaesc.report.compared import methods_section
from vaesc.report.equal_bits import equal_bits_section
from vaesc.report.names import title
from vaesc.report.numbers import error_table, interval_table, measure_table, random_section
from vaesc.report.page import details, document, figure, head, section
from vaesc.report.pictures import reconstructions_section
from vaesc.report.provenance import provenance
from vaesc.report.text import escape, number, table


def render_report(
    evaluation_folder: Path,
    *,
    history: Sequence[Mapping[str, Any]],
    run: Mapping[str, Any],
    applied: Sequence[Path] = (),
) -> str:
    """Return the report as one self-contained HTML document.

    Args:
        evaluation_folder: Artifact of :func:`vaesc.evaluation.evaluate`.
        history: The VAE's epochs, from its ``history.json``.
        run: What is known of the run; every key may be missing: ``run_id``, ``flow_run_id``,
            ``config`` (nested settings), ``config_digest``, ``steps`` (dicts with name, state,
            seconds, digest), ``tags`` (versions, machine, git commit), ``commands``, ``health``
            (what was not as it should be).
        applied: Artifacts of the applications of the run's model.

    Raises:
        OSError: A file of the evaluation is missing.
        DataError: An application's findings are missing.
    """
    folder = Path(evaluation_folder)
    results = json.loads((folder / "results.json").read_bytes())
    return document(
        f"vaesc: {results['source']}",
        [
            _head(results),
            _curve(results, folder),
            _numbers(results),
            random_section(results),
            equal_bits_section(results, folder),
            reconstructions_section(folder),
            cards_section(folder, _coherence(results)),
            *applications_sections(applied),
            methods_section(results),
            _training(results, history, folder, (run or {}).get("health", ())),
            provenance(run, results),
        ],
    )


def _head(results: Mapping[str, Any]) -> str:
    facts = (
        f"{results['source']}, {results['n_train']:,} training and {results['n_test']:,} test "
        f"images of {' x '.join(map(str, results['shape']))}; latent dimension "
        f"{results['latent_dim']}; {results['n_atoms']} atoms, learned at "
        f"k = {results['n_nonzero_coefs']}."
    )
    return head(
        "vaesc · sparse codes of latents against sparse codes of pixels",
        results["verdict"],
        results["claim"],
        [escape(facts)],
    )


def _curve(results: Mapping[str, Any], folder: Path) -> str:
    first, last = results["levels"][0], results["levels"][-1]
    ends = "; ".join(
        f"{title(results['methods'], name)} from {number(curve['mse'][0])} to "
        f"{number(curve['mse'][-1])}"
        for name, curve in _in_order(results)
    )
    alt = (
        f"Test mean squared error against sparsity level, k = {first} to {last}: {ends}; "
        f"the VAE itself {number(results['vae']['mse'])}."
    )
    caption = (
        "Above: mean squared error on the test split of every method at equal k and equal number "
        "of atoms, with 95 % intervals as bands for those that are compared; controls are grey. "
        "Below: the ratio that the verdict is on, below 1 where the claim holds; bars are 95 % "
        "intervals from 2,000 paired resamples of the test images, one trained model each. "
        "Dotted: where the curves cross."
    )
    return section("Error against sparsity", figure(folder, "curve", alt, caption))


def _in_order(results: Mapping[str, Any]) -> list[tuple[str, Mapping[str, Any]]]:
    return [(name, results["methods"][name]) for name in results["order"]]


def _numbers(results: Mapping[str, Any]) -> str:
    notes = "".join(f"<li>{escape(note)}</li>" for note in results["notes"])
    fvu = measure_table(results, "fvu", number)
    return section(
        "The numbers",
        "<p>Mean squared error per pixel on the test split, pixels in [0, 1]; bold: the lowest "
        "of a column; a dash: not measured at that level.</p>"
        + error_table(results)
        + (f'<ul class="notes">{notes}</ul>' if notes else "")
        + details("95 % intervals", interval_table(results))
        + details("PSNR in dB", measure_table(results, "psnr_db", "{:.2f}".format))
        + (details("Fraction of the latents' variance unexplained (FVU)", fvu) if fvu else ""),
    )


def _coherence(results: Mapping[str, Any]) -> str:
    metrics = results["metrics"]
    return (
        f"<p>Of the article's dictionary, {100 * metrics['test/dead_fraction']:.1f} % of the "
        f"{results['n_atoms']} atoms are used by no test image; its mutual coherence is "
        f"{metrics['train/mutual_coherence']:.3f}.</p>"
    )


def _training(
    results: Mapping[str, Any],
    history: Sequence[Mapping[str, Any]],
    folder: Path,
    health: Sequence[str],
) -> str:
    m = results["metrics"]
    unsound = "".join(f"<li>{escape(sentence)}</li>" for sentence in health)
    notes = f'<p>Not as it should be:</p><ul class="notes">{unsound}</ul>' if unsound else ""
    facts = (
        f"<p>On the test split: negative ELBO <b>{m['test/negative_elbo']:.2f}</b> nats per image "
        f"= distortion {m['test/distortion']:.2f} + beta &times; KL ({m['test/kl']:.2f}). "
        f"{_bounds(results)}"
        f"{m['test/active_units']:.0f} of {results['latent_dim']} latent dimensions are active. "
        f"Reconstruction from the latent: mean squared error {number(results['vae']['mse'])}, "
        f"{results['vae']['psnr_db']:.2f} dB.</p>"
    )
    alts = {
        "learning": "Negative ELBO of the VAE over the epochs, on training and validation split.",
        "posterior": "KL of each latent dimension over the epochs, and sorted after the last one.",
        "refining": "Validation mean squared error of the refined model of each level, by epoch.",
    }
    figures = "".join(figure(folder, name, alt) for name, alt in alts.items())
    return section(
        "Training", f'{notes}{facts}<div class="small">{figures}</div>{_epochs(history)}'
    )


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
    return details("Every epoch", table(["epoch", *map(escape, keys)], rows))
