"""``vaesc models compare|promote|rollback|history``: which version is champion, and why."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from typing import Any

from vaesc.errors import RegistryError

Actions = Any
"""argparse's private class of sub-parsers."""


def add_actions(actions: Actions, common: argparse.ArgumentParser) -> None:
    """Add this module's actions to ``vaesc models``."""
    for name, function, what in (
        ("compare", compare, "two versions on the frozen split; nothing is changed"),
        ("promote", promote, "make a version champion, if the gate lets it pass"),
        ("rollback", rollback, "make the champion before the current one champion again"),
        ("history", history, "every move of the champion alias, and why"),
    ):
        parser = actions.add_parser(name, parents=[common], help=what, description=what)
        parser.add_argument("--name", default="vaesc", help="registered model (default: vaesc)")
        parser.add_argument("--json", action="store_true", help="print JSON, nothing else")
        parser.set_defaults(function=function)
        if name in ("compare", "promote"):
            parser.add_argument("ref", help="alias (challenger), version (3) or run id")
            parser.add_argument("--device", default="auto", help="auto, cpu, cuda, mps")
        if name == "compare":
            parser.add_argument(
                "against", nargs="?", default="champion", help="compared with (default: champion)"
            )
        if name in ("promote", "rollback"):
            parser.add_argument("--reason", default="", help="one sentence, kept with the move")
        if name == "promote":
            parser.add_argument(
                "--force", action="store_true", help="whatever the gate says; kept with the move"
            )


def compare(options: argparse.Namespace) -> int:
    """Print the comparison of two versions."""
    from vaesc.registry import candidates, connect

    weighed = candidates.weigh(
        connect(create=False), options.ref, name=options.name, against=options.against,
        device=options.device,
    )  # fmt: skip
    _print(weighed.to_json(), options)
    return 0


def promote(options: argparse.Namespace) -> int:
    """Compare a version with the champion, and promote it if it passes or is forced."""
    from vaesc.registry import candidates, connect, promotion
    from vaesc.registry.lookup import ATOMS_TAG

    tracking = connect(create=False)
    weighed = candidates.weigh(tracking, options.ref, name=options.name, device=options.device)
    decision = weighed.to_json()
    rejected = decision["outcome"] == "rejected"
    if rejected and not options.force:
        raise RegistryError(
            f"version {decision['candidate']} of {decision['model']!r} stays where it is: "
            f"{decision['reason']}; `vaesc models compare` shows all numbers, --force promotes it "
            "all the same"
        )
    tags = {ATOMS_TAG: candidates.atoms_text(weighed.atoms)}
    promotion.keep_decision(tracking, weighed.candidate, candidates.short(decision), tags)
    reason = "; ".join(filter(None, [options.reason, decision["reason"]]))
    move = promotion.promote(
        tracking, weighed.candidate, expected=weighed.champion, reason=reason,
        kind="force" if rejected else "promote",
    )  # fmt: skip
    _print_move(move.to_json(), options)
    return 0


def rollback(options: argparse.Namespace) -> int:
    """Go back to the champion before."""
    from vaesc.registry import connect, promotion

    move = promotion.roll_back(connect(create=False), options.name, reason=options.reason)
    _print_move(move.to_json(), options)
    return 0


def history(options: argparse.Namespace) -> int:
    """Print every move of the champion alias, newest first."""
    from vaesc.registry import connect, promotion

    found = [move.to_json() for move in promotion.history(connect(create=False), options.name)]
    if options.json:
        print(json.dumps(found))
        return 0
    for move in reversed(found):
        print(_line(move))
    if not found:
        print(f"the champion of {options.name!r} was never moved")
    return 0


def _print_move(move: Mapping[str, Any], options: argparse.Namespace) -> None:
    print(json.dumps(move) if options.json else _line(move))


def _line(move: Mapping[str, Any]) -> str:
    before, after = (
        f"version {move[which]}" if move[which] else "nothing" for which in ("previous", "version")
    )
    undone = "" if move["carried_out"] else "  (not carried out: interrupted)"
    return (
        f"{move['at']}  {move['kind']:<9}{before} -> {after}{undone}\n"
        f"{'':27}{move['reason']}  [{move['by']}]"
    )


def _print(decision: Mapping[str, Any], options: argparse.Namespace) -> None:
    print(json.dumps(decision) if options.json else told(decision))


def told(decision: Mapping[str, Any]) -> str:
    """Return a decision as people read it."""
    lines = [
        f"version {decision['candidate']} of {decision['model']} against version "
        f"{decision['champion']}, {decision['n_images']:,} images of the frozen split"
        + (f" ({decision['n_seen']:,} left out: trained on)" if decision["n_seen"] else ""),
        "",
        f"{'metric':<17}{'candidate':>11}{'champion':>11}{'ratio':>8}   95 % interval    "
        "may reach  shown",
        *map(_comparison, decision["comparisons"]),
        "",
        *map(_check, decision["checks"]),
        "",
        *_atoms(decision["atoms"]),
        f"would be {decision['outcome']}: {decision['reason']}",
    ]
    return "\n".join(lines)


def _comparison(c: Mapping[str, Any]) -> str:
    return (
        f"{c['metric']:<17}{c['candidate']:>11.5g}{c['champion']:>11.5g}{c['ratio']:>8.3f}   "
        f"{c['low']:.3f} to {c['high']:.3f}   {1 + c['margin']:>9.3f}  {c['verdict']}"
    )


def _check(check: Mapping[str, Any]) -> str:
    word = "passes" if check["passes"] else "FAILS"
    return f"{check['name']:<17}{check['value']:>11.4g}   limit {check['limit']:<9.4g}{word}"


def _atoms(atoms: Mapping[str, Any] | None) -> Sequence[str]:
    if atoms is None:
        return ()
    drifted = [each["atom"] for each in atoms["drifted"]]
    return (
        f"atoms: {atoms['n_persisted']} persist, {len(drifted)} of them drifted "
        f"({_some(drifted)}), {len(atoms['born'])} born ({_some(atoms['born'])}), "
        f"{len(atoms['died'])} died ({_some(atoms['died'])})",
        "",
    )


def _some(numbers: Sequence[int]) -> str:
    return ", ".join(map(str, numbers[:8])) + (", ..." if len(numbers) > 8 else "") or "none"
