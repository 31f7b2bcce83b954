"""What came out against what the run recorded: files by their SHA-256, metrics by their value."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

from vaesc.registry.recorded import RecordedStep
from vaesc.store import MANIFEST, SUMMARY, Artifact

Outcome = Literal["identical", "differs", "follows", "not run"]


@dataclass(frozen=True, kw_only=True)
class Difference:
    """One file that is not as recorded."""

    file: str
    """Its path in the artifact; empty if the run recorded no files, only their common digest."""
    expected: str
    """The recorded SHA-256; empty if there was no such file."""
    got: str
    """The SHA-256 now; empty if there is no such file."""


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What became of one step."""

    step: str
    outcome: Outcome
    cause: str = ""
    """The step that this one follows."""
    expected_digest: str
    """The recorded address: what went in."""
    digest: str = ""
    expected_content: str
    """The recorded content: what came out."""
    content: str = ""
    other_input: tuple[str, ...] = ()
    """What went in and was not the same: ``source``, ``inputs.vae``, ``config``."""
    differences: tuple[Difference, ...] = ()
    seconds: float = 0.0

    def to_json(self) -> dict[str, Any]:
        """Return the verdict as plain JSON values."""
        return asdict(self)


def judged(
    name: str, expected: RecordedStep, made: Artifact, cause: str | None, seconds: float
) -> Verdict:
    """Hold an artifact against the recorded one.

    Args:
        name: The step.
        expected: What the run recorded of it.
        made: What came out now.
        cause: An input's step that was not identical; None if all were.
        seconds: How long it took.
    """
    manifest = json.loads((made.path / MANIFEST).read_bytes())
    same = made.content == expected.content
    other = tuple(_other_inputs(expected.manifest, manifest)) if expected.manifest else ()
    if made.digest != expected.digest and not expected.manifest:
        other = ("config, inputs or source",)
    return Verdict(
        step=name, outcome="identical" if same else "follows" if cause else "differs",
        cause="" if same else cause or "", expected_digest=expected.digest, digest=made.digest,
        expected_content=expected.content, content=made.content, other_input=other,
        differences=() if same else tuple(_differences(expected, manifest)),
        seconds=round(seconds, 3),
    )  # fmt: skip


def judged_model(
    expected: RecordedStep, digest: str, cause: str | None, seconds: float
) -> Verdict:
    """Hold the digest of a model against that of the registered one."""
    same = digest == expected.content
    return Verdict(
        step="register", outcome="identical" if same else "follows" if cause else "differs",
        cause="" if same else cause or "", expected_digest=expected.digest, digest=digest,
        expected_content=expected.content, content=digest, seconds=round(seconds, 3),
        differences=() if same else (_whole(expected.content, digest),),
    )  # fmt: skip


def not_run(name: str, expected: RecordedStep, cause: str) -> Verdict:
    """Return the verdict on a step that is not worth running after `cause`."""
    return Verdict(
        step=name, outcome="not run", cause=cause, expected_digest=expected.digest,
        expected_content=expected.content,
    )  # fmt: skip


def other_metrics(expected: Mapping[str, float], got: Mapping[str, float]) -> list[dict[str, Any]]:
    """Return the metrics that are not the recorded ones: name, expected, got (None: no number).

    MLflow holds an infinite metric as NaN, so these two are the same here.
    """
    return [
        {"name": name, "expected": _plain(expected.get(name)), "got": _plain(value)}
        for name, value in sorted(got.items())
        if _plain(expected.get(name)) != _plain(value) or name not in expected
    ]


def _other_inputs(expected: Mapping[str, Any], got: Mapping[str, Any]) -> Iterator[str]:
    for name in ("config", "source"):
        if expected[name] != got[name]:
            yield name
    names = sorted({*expected["inputs"], *got["inputs"]})
    yield from (f"inputs.{n}" for n in names if expected["inputs"].get(n) != got["inputs"].get(n))


def _differences(expected: RecordedStep, got: Mapping[str, Any]) -> Iterator[Difference]:
    """Yield every file that is not as recorded; the summary, drawn from the others, last."""
    if expected.manifest is None:
        yield _whole(expected.content, got["content"])
        return
    before, here = expected.manifest["files"], got["files"]
    for name in sorted({*before, *here}, key=lambda n: (n == SUMMARY, n)):
        was, now = (files.get(name, {}).get("sha256", "") for files in (before, here))
        if was != now:
            yield Difference(file=name, expected=was, got=now)


def _whole(expected: str, got: str) -> Difference:
    return Difference(file="", expected=expected, got=got)


def _plain(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None
