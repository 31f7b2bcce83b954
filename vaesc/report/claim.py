"""The report of a claim over several seeds: one HTML file, as that of a run.

Every seed is a whole pipeline, so the bands and intervals here cover both which images were drawn
for the test and how training came out; reconstructions and atom cards are those of the first seed.
"""

from __future__ import annotations

import json
import shlex
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from vaesc.report.cards import cards_section
from vaesc.report.compared import methods_section
from vaesc.report.equal_bits import equal_bits_section
from vaesc.report.names import label, title
from vaesc.report.numbers import (
    claim_table,
    error_table,
    interval_table,
    method_table,
    random_section,
)
from vaesc.report.page import details, document, figure, head, section
from vaesc.report.pictures import reconstructions_section
from vaesc.report.provenance import provenance
from vaesc.report.text import NOTHING, escape, number, table


def render_claim(
    found: Mapping[str, Any], evaluation_folders: Sequence[Path], *, run: Mapping[str, Any]
) -> str:
    """Return the report as one self-contained HTML document.

    Args:
        found: What ``vaesc claim --json`` prints; ``rate``, ``encode_seconds`` (method -> seconds
            an image at each level), ``vae`` and ``verdict`` (a sentence) may be missing.
        evaluation_folders: Artifact of each seed's evaluation, in the order of ``seeds``.
        run: As for :func:`vaesc.report.html.render_report`; ``commands`` is what makes it again
            and is put together from ``config`` and the seeds where it is missing.

    Raises:
        OSError: A file of an evaluation is missing.
    """
    folder = Path(evaluation_folders[0])
    found = _with_titles(found, folder)
    with tempfile.TemporaryDirectory() as drawn:
        sections = [
            _head(found),
            _curve(found, Path(drawn)),
            _numbers(found),
            random_section(found, found["seeds"]),
            _bits(found, Path(drawn)),
            _time(found),
            reconstructions_section(folder),
            cards_section(folder, f"<p>These are the atoms of seed {found['seeds'][0]}.</p>"),
            methods_section(found),
            _seeds(found),
            provenance(_with_command(found, run), found),
        ]
    return document(f"vaesc claim: {found['dataset']}", sections)


def _with_titles(found: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """Return `found` with what the first seed's evaluation says of methods and of dictionaries."""
    said = json.loads((folder / "results.json").read_bytes())
    kept = {key: said[key] for key in ("coder", "relearn", "n_nonzero_coefs")}
    words = {
        name: {key: said["methods"].get(name, {}).get(key, "") for key in ("title", "about")}
        for name in found["methods"]
    }
    methods = {name: {**words[name], **curve} for name, curve in found["methods"].items()}
    return {**kept, **found, "methods": methods}


def verdict_sentence(found: Mapping[str, Any]) -> str:
    """Return the outcome in a sentence: the one it brings, else one drawn from its claims."""
    if found.get("verdict"):
        return str(found["verdict"])
    claims = found["claim"]
    better = [str(c["k"]) for c in claims if c["verdict"] == "better"]
    worse = [str(c["k"]) for c in claims if c["verdict"] == "worse"]
    where = "at every" if len(better) == len(claims) else f"at {len(better)} of {len(claims)}"
    opening = (
        f"The claim held {where} sparsity level{'s' if len(better) != len(claims) else ''}"
        if better
        else "The claim did not hold at any sparsity level"
    )
    parts = [f"better at k = {', '.join(better)}"] if better else []
    parts += [f"worse at k = {', '.join(worse)}"] if worse else []
    if len(better) + len(worse) < len(claims):
        parts.append("elsewhere no difference is shown")
    return (
        f"{opening}: over {len(found['seeds'])} seeds, decoding {label(found['claimant'])} "
        f"against {label('pixel')} is {'; '.join(parts)}."
    )


def _head(found: Mapping[str, Any]) -> str:
    middle = found["geometric_mean"]
    facts = [
        f"{found['dataset']}, {found['n_test']:,} test images, {found['n_atoms']} atoms, seeds "
        f"{', '.join(map(str, found['seeds']))}.",
        f"Geometric mean of the ratios over all k: {number(middle['ratio'])} (95 % interval "
        f"{number(middle['low'])} to {number(middle['high'])}).",
    ]
    return head(
        f"vaesc · {label(found['claimant'])} against sparse pixels, {len(found['seeds'])} seeds",
        verdict_sentence(found),
        found["claim"],
        [escape(fact) for fact in facts],
    )


def _curve(found: Mapping[str, Any], drawn: Path) -> str:
    from vaesc.report.curves import draw_curve

    draw_curve(found, drawn)
    ends = "; ".join(
        f"{label(name)} from {number(curve['mse'][0])} to {number(curve['mse'][-1])}"
        for name, curve in found["methods"].items()
    )
    alt = f"Test mean squared error against sparsity level, means over seeds: {ends}."
    caption = (
        "Above: mean over seeds, with 95 % intervals over seeds and test images as bands; thin "
        "lines are single seeds. Below: the ratio that the verdict is on, with its interval; "
        "ticks are single seeds. With few seeds the interval says little about seeds: see how "
        "far they lie apart."
    )
    return section("Error against sparsity", figure(drawn, "curve", alt, caption))


def _numbers(found: Mapping[str, Any]) -> str:
    words = (
        "<p>Mean squared error per pixel on the test split, mean over seeds, pixels in [0, 1]; "
        "bold: the lowest of a column; a dash: not measured at that level.</p>"
    )
    return section(
        "The numbers",
        "<h3>The claim</h3>"
        + claim_table(found["claim"], "latents are", found["seeds"])
        + "<h3>Errors</h3>"
        + words
        + error_table(found)
        + details("95 % intervals over seeds and images", interval_table(found))
        + _article(found),
    )


def _article(found: Mapping[str, Any]) -> str:
    """The stronger rival, and the article's own recipe, where the claim is that of another."""
    if found["claimant"] == "article":
        return ""
    rival = ""
    if found.get("descended_claim"):
        rival = "<h3>Against pixel codes that descend the clipped error, too</h3>" + claim_table(
            found["descended_claim"], "latents are", found["seeds"]
        )
    return (
        rival
        + "<h3>The article's own recipe, unrefined</h3>"
        + claim_table(found["article_claim"], "latents are", found["seeds"])
    )


def _bits(found: Mapping[str, Any], drawn: Path) -> str:
    """Error at equal bits; the curves are those of the first seed, the ratios of all."""
    from vaesc.report.rate import draw_rate

    draw_rate(found["rate"], drawn)
    return equal_bits_section(found, drawn)


def _time(found: Mapping[str, Any]) -> str:
    seconds = found.get("encode_seconds")
    if not seconds:
        return ""

    def cell(name: str, i: int) -> str:
        value = seconds[name][i]
        return NOTHING if value is None else number(1e6 * value)

    shown = {**found, "order": [name for name in found["order"] if name in seconds]}
    return section(
        "Time to encode",
        "<p>Microseconds an image, from its pixels to its code, many images at once, on the "
        "machine of this report; for the methods the verdict is on. Refined codes descend through "
        "a decoder, which is what they take their time for.</p>" + method_table(shown, cell),
    )


def _seeds(found: Mapping[str, Any]) -> str:
    """Each seed's run, and what it held in networks and dictionaries."""
    rows = [
        [f"seed {seed}", f"<code>{escape(run)}</code>", f"<code>vaesc report {escape(run)}</code>"]
        for seed, run in zip(found["seeds"], found["runs"], strict=True)
    ]
    sizes = [
        [escape(title(found["methods"], name)), *[f"{max(held):,}" if held else NOTHING]]
        for name, held in (found.get("parameters") or {}).items()
        if name in found["methods"]
    ]
    held = (
        "<h3>Numbers held</h3><p>In networks and dictionary, for each model: budgets are equal "
        "for each image, not for what is learned once.</p>" + table(["", "numbers"], sizes)
        if sizes
        else ""
    )
    runs = '<div class="pairs">' + table(["", "MLflow run", "its report"], rows) + "</div>"
    return section("Every seed", runs + held)


def _with_command(found: Mapping[str, Any], run: Mapping[str, Any]) -> dict[str, Any]:
    from vaesc.report.provenance import commands

    if run.get("commands") or not run.get("config"):
        return dict(run)
    words = shlex.split(commands(run)[0])
    words[1:2] = ["claim"]
    return {**run, "commands": [shlex.join([*words, "--seeds", str(len(found["seeds"]))])]}
