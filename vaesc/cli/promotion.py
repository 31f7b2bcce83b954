"""``vaesc models compare|promote|rollback|history|freeze``: which version is champion, and why."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from typing import Any

from vaesc.cli.files import local
from vaesc.config import GateConfig
from vaesc.errors import RegistryError

Actions = Any
"""argparse's private class of sub-parsers."""


def add_actions(actions: Actions, common: argparse.ArgumentParser) -> None:
    """Add this module's actions to ``vaesc models``."""
    for name, function, what in (
        ("compare", compare, "two versions on the frozen split; nothing is changed"),
        ("promote", promote, "make a version champion, if the gate lets it pass"),
        ("rollback", rollback, "make the champion before the current one champion again"),
        ("history", history, "every move of the champion alias and of the frozen split, and why"),
        (
            "freeze",
            freeze,
            "judge candidates on the test split of this version's data from now on",
        ),
    ):
        parser = actions.add_parser(name, parents=[common], help=what, description=what)
        parser.add_argument("--name", default="vaesc", help="registered model (default: vaesc)")
        parser.add_argument("--json", action="store_true", help="print JSON, nothing else")
        parser.set_defaults(function=function)
        if name in ("compare", "promote"):
            parser.add_argument("ref", help="alias (challenger), version (3) or run id")
            parser.add_argument("--device", default="auto", help="auto, cpu, cuda, mps")
            parser.add_argument(
                "--config", type=local, metavar="FILE.toml", help="margins and limits, as [gate]"
            )
            parser.add_argument(
                "--set", action="append", default=[], metavar="gate.x=y", help="one of them"
            )
        if name == "compare":
            parser.add_argument(
                "against", nargs="?", default="champion", help="compared with (default: champion)"
            )
        if name == "freeze":
            parser.add_argument("ref", help="alias (challenger), version (3) or run id")
        if name in ("promote", "rollback", "freeze"):
            parser.add_argument("--reason", default="", help="one sentence, kept on record")
        if name == "promote":
            parser.add_argument(
                "--force", action="store_true", help="whatever the gate says; kept with the move"
            )


def compare(options: argparse.Namespace) -> int:
    """Print the comparison of two versions."""
    from vaesc.registry import candidates, connect

    weighed = candidates.weigh(
        connect(create=False), options.ref, name=options.name, against=options.against,
        policy=_policy(options), device=options.device,
    )  # fmt: skip
    _print(weighed.to_json(), options)
    return 0


def promote(options: argparse.Namespace) -> int:
    """Compare a version with the champion, and promote it if it passes or is forced."""
    from vaesc.registry import candidates, connect, decisions, freezing, promotion
    from vaesc.registry.lookup import find_version

    tracking = connect(create=False)
    version = find_version(tracking, options.ref, options.name)
    against = promotion.champion_of(tracking, version.name)
    try:
        weighed = candidates.weigh(
            tracking, options.ref, name=options.name, against=against, policy=_policy(options),
            device=options.device,
        )  # fmt: skip
    except RegistryError as error:
        if not options.force:
            raise
        reason, forced, judged_on = f"not compared: {error}", True, None
    else:
        rejected = weighed.decision.outcome == "rejected"
        if rejected and not options.force:
            raise RegistryError(
                f"version {version.version} of {version.name!r} stays where it is: "
                f"{weighed.decision.reason}; `vaesc models compare` shows all numbers, --force "
                "promotes it all the same"
            )
        reason, forced, judged_on = weighed.decision.reason, rejected, weighed.frozen
        freezing.freeze_first(tracking, against or int(version.version), version.name)
        decisions.record(tracking, weighed, str(version.run_id), forced=rejected)
    reason = "; ".join(filter(None, [options.reason, reason]))
    move = promotion.promote(
        tracking,
        version,
        expected=against,
        judged_on=judged_on,
        reason=reason,
        kind="force" if forced else "promote",
    )
    _print_move(move.to_json(), options)
    return 0


def _policy(options: argparse.Namespace) -> GateConfig:
    """Return margins and limits: the defaults, or what --config and --set say of [gate]."""
    from vaesc.config_files import load_config

    return load_config("digits", options.config, options.set).gate


def rollback(options: argparse.Namespace) -> int:
    """Go back to the champion before."""
    from vaesc.registry import connect, promotion

    move = promotion.roll_back(connect(create=False), options.name, reason=options.reason)
    _print_move(move.to_json(), options)
    return 0


def history(options: argparse.Namespace) -> int:
    """Print every move of the champion alias and every choice of a split, newest first."""
    from vaesc.registry import connect, freezing, promotion

    tracking = connect(create=False)
    found = [move.to_json() for move in promotion.history(tracking, options.name)]
    found += [choice.to_json() for choice in freezing.freezes(tracking, options.name)]
    found.sort(key=lambda entry: str(entry["at"]))
    if options.json:
        print(json.dumps(found))
        return 0
    for move in reversed(found):
        print(_line(move))
    if not found:
        print(f"the champion of {options.name!r} was never moved")
    return 0


def freeze(options: argparse.Namespace) -> int:
    """Change what candidates are judged on."""
    from vaesc.registry import candidates, connect

    choice = candidates.freeze_anew(
        connect(create=False), options.ref, options.name, options.reason
    ).to_json()
    if options.json:
        print(json.dumps(choice))
        return 0
    before = f"dataset {choice['previous'][:12]}" if choice["previous"] else "none"
    print(
        f"from now on candidates of {options.name!r} are judged on the test split of version "
        f"{choice['version']}'s data, dataset {choice['address'][:12]} (before: {before})"
    )
    return 0


def _print_move(move: Mapping[str, Any], options: argparse.Namespace) -> None:
    print(json.dumps(move) if options.json else _line(move))


def _line(move: Mapping[str, Any]) -> str:
    if move["kind"] == "freeze":
        split = f"judged on the test split of version {move['version']}'s data from here"
        return f"{move['at']}  freeze   {split}\n{'':27}{move['reason']}  [{move['by']}]"
    before = f"version {move['previous']}" if move["previous"] else "nothing"
    undone = "" if move["carried_out"] else "  (not carried out: interrupted)"
    return (
        f"{move['at']}  {move['kind']:<9}{before} -> version {move['version']}{undone}\n"
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
