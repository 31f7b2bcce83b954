r"""The decision: promoted or rejected, with the numbers it rests on and one sentence of reason.

Candidate and champion code the same n images. For each metric m, a ratio

.. math:: r = m(\text{candidate}) / m(\text{champion}),

below 1 where the candidate is ahead, with the 95 % percentile interval of a bootstrap that draws
images in pairs: one resample serves both models and all metrics. A candidate passes when

- no metric's interval reaches above 1 + its margin (non-inferiority: it is *shown* not to be
  worse by more than the margin; a small split shows nothing, and rejects);
- the primary metric, the mean error, is shown to be better (interval below 1), or, under the
  policy ``not-worse``, passes like the others;
- it is healthy: finite, with active latents and living atoms, no copies among them, not too slow.

References:
    Piaggio et al., "Reporting of Noninferiority and Equivalence Randomized Trials", JAMA 2012.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from vaesc.config import GateConfig
from vaesc.evaluation.verdict import interval, ratio, resample_counts
from vaesc.gate.measurement import Measurement

PRIMARY = "mse"
TAIL = 0.95
_RESAMPLES = 2000
_BLOCK = 250
_ROUNDING = 1e-5
"""One image computed in two ways differs by as much."""

Outcome = Literal["promoted", "rejected"]
Word = Literal["better", "not worse", "worse", "not shown"]


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """One metric of both models on the frozen images."""

    metric: str
    """``mse``, ``mse_p95``, ``mse_worst_class`` or ``l0``; less is better for each."""
    candidate: float
    champion: float
    ratio: float
    low: float
    high: float
    """95 % interval of the ratio."""
    margin: float
    """The ratio may reach 1 + this."""
    verdict: Word
    """``not shown``: the interval reaches above the margin, but does not lie above 1."""

    @property
    def passes(self) -> bool:
        """Whether the candidate is shown not to be worse by more than the margin."""
        return self.verdict in ("better", "not worse")


@dataclass(frozen=True, kw_only=True)
class Check:
    """One question of health."""

    name: str
    value: float
    limit: float
    passes: bool


@dataclass(frozen=True, kw_only=True)
class Decision:
    """What was decided, and why."""

    outcome: Outcome
    reason: str
    """One sentence."""
    policy: str
    n_images: int
    """Frozen images that both models were judged on."""
    n_seen: int
    """Frozen images left out, since a model was trained on them."""
    comparisons: tuple[Comparison, ...]
    checks: tuple[Check, ...]

    def to_json(self) -> dict[str, Any]:
        """Return the decision as plain JSON values."""
        return asdict(self)


def decide(
    candidate: Measurement,
    champion: Measurement,
    *,
    policy: GateConfig,
    seconds: Sequence[float],
    labels: NDArray[np.int64] | None = None,
    n_seen: int = 0,
    seed: int = 0,
) -> Decision:
    """Decide whether the candidate may replace the champion.

    Args:
        candidate: Measured on the frozen images.
        champion: Measured on the same ones.
        policy: Margins and limits.
        seconds: Time to encode an image, the candidate's and the champion's.
        labels: Class of each image, shape (n,), if there are any.
        n_seen: Frozen images that were left out.
        seed: Seed of the resamples.
    """
    checks = health(candidate, policy, seconds)
    comparisons: tuple[Comparison, ...] = ()
    if candidate.is_finite and champion.is_finite:
        comparisons = compare(candidate, champion, policy=policy, labels=labels, seed=seed)
    outcome, reason = _judged(comparisons, checks, policy, len(candidate.errors))
    return Decision(
        outcome=outcome, reason=reason, policy=policy.policy, n_images=len(candidate.errors),
        n_seen=n_seen, comparisons=comparisons, checks=checks,
    )  # fmt: skip


def compare(
    candidate: Measurement,
    champion: Measurement,
    *,
    policy: GateConfig,
    labels: NDArray[np.int64] | None = None,
    seed: int = 0,
) -> tuple[Comparison, ...]:
    """Compare two models metric by metric, see :func:`decide`."""
    margins = {"mse": policy.margin, "mse_p95": policy.tail_margin, "l0": policy.margin}
    if labels is not None:
        margins["mse_worst_class"] = policy.tail_margin
    n = len(candidate.errors)
    once = np.ones((1, n), np.float32)
    points = [_statistics(m, once, labels) for m in (candidate, champion)]
    drawn: list[dict[str, NDArray[np.float64]]] = []
    rng = np.random.default_rng(seed)
    for _ in range(_RESAMPLES // _BLOCK):
        counts = resample_counts(rng, _BLOCK, n).astype(np.float32)
        ours, theirs = (_statistics(m, counts, labels) for m in (candidate, champion))
        drawn.append({name: ratio(ours[name], theirs[name]) for name in margins})
    return tuple(
        _comparison(
            name, float(points[0][name][0]), float(points[1][name][0]),
            interval(np.concatenate([each[name] for each in drawn])), margin,
        )
        for name, margin in margins.items()
    )  # fmt: skip


def health(
    candidate: Measurement, policy: GateConfig, seconds: Sequence[float]
) -> tuple[Check, ...]:
    """Ask what no comparison of means would notice, see :class:`GateConfig` for the limits.

    Args:
        candidate: Measured on the frozen images.
        policy: The limits.
        seconds: Time to encode an image, the candidate's and, if there is one, the champion's.
    """
    checks = [
        _at_least("finite", float(candidate.is_finite), 1.0),
        _at_least("active_units", candidate.active_units, float(policy.min_active_units)),
        _at_most("dead_fraction", candidate.dead_fraction, policy.max_dead_fraction),
        _at_most("mutual_coherence", candidate.mutual_coherence, policy.max_coherence),
    ]
    if len(seconds) == 2:
        times = seconds[0] / max(seconds[1], 1e-9)
        checks.append(_at_most("latency_ratio", times, policy.max_latency_ratio))
    return tuple(checks)


def _statistics(
    measured: Measurement, counts: NDArray[np.float32], labels: NDArray[np.int64] | None
) -> dict[str, NDArray[np.float64]]:
    """Return each metric of every resample, given how often each holds each image, (r, n)."""
    errors, n = measured.errors, counts.sum(axis=1, dtype=np.float64)
    found = {
        "mse": _weighted(counts, errors) / n,
        "l0": _weighted(counts, measured.l0) / n,
        "mse_p95": _quantiles(errors, counts, TAIL),
    }
    if labels is not None:
        classes = np.equal.outer(labels, np.unique(labels)).astype(np.float32)
        sums = counts @ (classes * errors[:, None])
        sizes = counts @ classes
        # A class that a resample happens to leave out is not its worst one.
        found["mse_worst_class"] = (sums / np.maximum(sizes, 1)).max(axis=1).astype(np.float64)
    return found


def _weighted(counts: NDArray[np.float32], values: NDArray[Any]) -> NDArray[np.float64]:
    """Return the sums of `values` in each resample; centred, so that float32 loses nothing."""
    centre = float(values.mean(dtype=np.float64))
    centred = (values - centre).astype(np.float32)
    total = counts.sum(axis=1, dtype=np.float64)
    return np.asarray(centre * total + counts @ centred, np.float64)


def _quantiles(
    errors: NDArray[np.float32], counts: NDArray[np.float32], share: float
) -> NDArray[np.float64]:
    """Return the smallest error that at least `share` of each resample's images do not exceed."""
    order = np.argsort(errors, kind="stable")
    reached = np.cumsum(counts[:, order], axis=1, dtype=np.float64)
    at = (reached < share * reached[:, -1:]).sum(axis=1)
    return np.asarray(errors[order][at], np.float64)


def _comparison(
    name: str, ours: float, theirs: float, ends: tuple[float, float], margin: float
) -> Comparison:
    low, high = ends
    word: Word = "not shown"
    if high < 1 - _ROUNDING:
        word = "better"
    elif high <= 1 + margin + _ROUNDING:
        word = "not worse"
    elif low > 1 + _ROUNDING:
        word = "worse"
    return Comparison(
        metric=name, candidate=ours, champion=theirs, ratio=float(ratio(ours, theirs)), low=low,
        high=high, margin=margin, verdict=word,
    )  # fmt: skip


def _at_least(name: str, value: float, limit: float) -> Check:
    return Check(name=name, value=value, limit=limit, passes=value >= limit)


def _at_most(name: str, value: float, limit: float) -> Check:
    return Check(name=name, value=value, limit=limit, passes=value <= limit)


def _judged(
    comparisons: Sequence[Comparison], checks: Sequence[Check], policy: GateConfig, n: int
) -> tuple[Outcome, str]:
    if ill := illness(checks):
        return "rejected", ill
    if n < policy.min_images:
        return "rejected", (
            f"only {n} frozen images were seen by neither model in training, and "
            f"gate.min_images asks for {policy.min_images}"
        )
    if not comparisons:
        return "promoted", "the champion's own errors are not finite: there is nothing to compare"
    failed = [c for c in comparisons if not c.passes]
    if failed:
        return "rejected", f"not shown to be no worse: {'; '.join(map(_words, failed))}"
    primary = next(c for c in comparisons if c.metric == PRIMARY)
    if policy.policy == "better" and primary.verdict != "better":
        return "rejected", f"no better beyond doubt: {_words(primary)}"
    return "promoted", f"{_words(primary)}, and no other metric is worse by more than its margin"


def illness(checks: Sequence[Check]) -> str:
    """Return what is wrong with a candidate's health in words; '' if nothing is."""
    failed = [
        f"{check.name} is {check.value:.4g}, the limit is {check.limit:.4g}"
        for check in checks
        if not check.passes
    ]
    return f"the candidate is not healthy: {'; '.join(failed)}" if failed else ""


def _words(c: Comparison) -> str:
    return (
        f"{c.metric} is {c.ratio:.3f} times the champion's (95 % interval {c.low:.3f} to "
        f"{c.high:.3f}, allowed {1 + c.margin:.3g})"
    )
