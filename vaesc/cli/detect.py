"""``vaesc detect``: find images unlike those that a registered model was made of.

OUT is a table with one row an image: score, conformal p-value, whether it is flagged, and the
standardised terms of the score (:mod:`vaesc.applications.anomaly.terms`).
"""

from __future__ import annotations

import argparse
import csv
import io
import json
from typing import TYPE_CHECKING, Any

from vaesc.cli.files import (
    NOTHING_KEPT,
    add_model,
    check_output,
    local,
    read_images,
    whole_or_absent,
)
from vaesc.errors import ConfigError

if TYPE_CHECKING:
    from vaesc.applications.anomaly.detector import Detector, Verdict

SHOWN = 8
"""Images explained in a picture."""


def add_commands(
    commands: argparse._SubParsersAction[argparse.ArgumentParser], common: argparse.ArgumentParser
) -> None:
    """Add this module's command to the parser."""
    what = "images (.npy) to anomaly scores, p-values and flags (.json or .csv)"
    parser = commands.add_parser(
        "detect", parents=[common], help=what,
        description=f"{what}. A usual image is flagged with at most the probability of the "
        "false-alarm rate.",
    )  # fmt: skip
    add_model(parser)
    parser.add_argument(
        "--false-alarm-rate", type=float, metavar="A",
        help="in (0, 0.5] (default: the setting anomaly.false_alarm_rate of the model's run)",
    )  # fmt: skip
    parser.add_argument(
        "--explain", type=local, metavar="FILE.png",
        help=f"also draw why the {SHOWN} most anomalous images are so: where, and by which atoms",
    )  # fmt: skip
    parser.add_argument("input", type=local, metavar="IN")
    parser.add_argument("output", type=local, metavar="OUT")
    parser.set_defaults(function=detect, kept=NOTHING_KEPT)


def detect(options: argparse.Namespace) -> int:
    """Score a file of images, and say how many are flagged.

    What can be wrong with the options and IN is found first: loading a model takes seconds.
    """
    _check(options)
    images = read_images(options.input)
    from vaesc.applications.anomaly.detector import Detector
    from vaesc.applications.threads import one_thread_everywhere
    from vaesc.registry import load_model

    model = load_model(options.model, device=options.device)
    detector = Detector.of(model)
    rate = options.false_alarm_rate
    rate = detector.false_alarm_rate if rate is None else rate
    with one_thread_everywhere():
        verdict = detector.detect(images)
        picture = _explained(detector, images, verdict) if options.explain else b""
    write = _json if options.output.suffix == ".json" else _csv
    text = write(detector, verdict, rate)
    if options.explain:
        with whole_or_absent(options.explain) as out:
            out.write(picture)
    with whole_or_absent(options.output) as out:
        out.write(text.encode())
    n_flagged = int(verdict.flags(rate).sum())
    print(f"{n_flagged} of {len(images)} images are anomalous at a false-alarm rate of {rate:g}")
    if not verdict.flags(rate).any() and _smallest(detector) > rate:
        print(
            f"none could be: with {len(detector.memory.calibration)} calibration images the "
            f"smallest p-value is {_smallest(detector):.3g}"
        )
    print(f"{options.input} -> {options.output}")
    return 0


def _check(options: argparse.Namespace) -> None:
    if options.output.suffix not in (".json", ".csv"):
        raise ConfigError(f"OUT of vaesc detect must end in .json or .csv, got {options.output}")
    rate = options.false_alarm_rate
    if rate is not None and not 0 < rate <= 0.5:
        raise ConfigError(f"--false-alarm-rate must be in (0, 0.5], got {rate}")
    if options.explain is not None:
        if options.explain.suffix != ".png":
            raise ConfigError(f"--explain must end in .png, got {options.explain}")
        check_output(options.explain, options.input)
    check_output(options.output, options.input)


def _explained(detector: Detector, images: Any, verdict: Verdict) -> bytes:  # noqa: ANN401
    import numpy as np

    from vaesc.applications.anomaly.draw import draw
    from vaesc.applications.anomaly.explain import explain
    from vaesc.report.style import LIGHT_THEME, png_of

    rows = np.argsort(-verdict.scores, kind="stable")[:SHOWN]
    explained = explain(detector, detector.model.to_unit(images)[rows])
    return png_of(lambda theme: draw(explained, [str(r) for r in rows], theme), LIGHT_THEME)


def _smallest(detector: Detector) -> float:
    return 1 / (len(detector.memory.calibration) + 1)


def _rows(verdict: Verdict, rate: float) -> list[dict[str, Any]]:
    flags = verdict.flags(rate)
    return [
        {
            "image": i,
            "score": round(float(verdict.scores[i]), 6),
            "p_value": round(float(verdict.p_values[i]), 6),
            "anomalous": bool(flags[i]),
            **{
                name: round(float(value), 6)
                for name, value in zip(verdict.names, verdict.terms[i], strict=True)
            },
        }
        for i in range(len(flags))
    ]


def _json(detector: Detector, verdict: Verdict, rate: float) -> str:
    facts = {
        "model": detector.model.digest,
        "false_alarm_rate": rate,
        "n_calibration": len(detector.memory.calibration),
        "n_anomalous": int(verdict.flags(rate).sum()),
        "images": _rows(verdict, rate),
    }
    return json.dumps(facts, indent=1, allow_nan=False) + "\n"


def _csv(detector: Detector, verdict: Verdict, rate: float) -> str:
    rows = _rows(verdict, rate)
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()
