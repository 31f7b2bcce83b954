"""The page's section on what was compared, in words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from vaesc.report.names import grouped, title
from vaesc.report.page import section
from vaesc.report.text import escape


def methods_section(results: Mapping[str, Any]) -> str:
    """Return the section that says what every method does and how it was fitted."""
    methods = results["methods"]
    lists = "".join(
        f"<h3>{escape(heading)}</h3><dl>"
        + "".join(
            f"<dt>{escape(title(methods, name))}</dt><dd>{escape(methods[name].get('about', ''))}"
            "</dd>"
            for name in names
        )
        + "</dl>"
        for heading, names in grouped(results["order"])
    )
    floor = (
        "<h3>Floor</h3><dl><dt>VAE itself, nothing coded</dt><dd>The latent decoded without any "
        "coding. More coefficients bring the article's method here, and no further.</dd></dl>"
    )
    return section(
        "What was compared",
        "<p>Every method is fitted on the training split and measured on the test split, at the "
        f"same sparsity level k. Dictionaries have {results['n_atoms']} atoms and share learner, "
        f"settings and coder ({escape(results['coder']).upper()}); {_learned(results)}.</p>"
        f"{lists}{floor}",
    )


def _learned(results: Mapping[str, Any]) -> str:
    k = results["n_nonzero_coefs"]
    if results["relearn"]:
        return f"each is learned anew for every k, the model's own at k = {k}"
    return f"each is learned once, at k = {k}, and used at every k"
