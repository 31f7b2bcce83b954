"""What a detector remembers, and how the registered model keeps it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from vaesc.applications.anomaly.atoms import AtomUse
from vaesc.applications.anomaly.terms import Seen, term_names
from vaesc.errors import DataError
from vaesc.parts import Part
from vaesc.untrusted import MOST, is_moderate

if TYPE_CHECKING:
    from vaesc.bundle import SparseVAE

STROKE_ATOMS, STROKE_LEVEL = 128, 8
"""Atoms of strokes, and how many of them one image may use."""

_FORMAT = 1
_LEAST_NORM, _MOST_NORM = 1e-6, 1.01

Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]


def _none() -> Doubles:
    return np.empty(0)


@dataclass(frozen=True, kw_only=True)
class Memory:
    """Usual images as far as a detector needs them; T terms, R reference images."""

    names: tuple[str, ...]
    """Of the terms."""
    false_alarm_rate: float
    pixels: Floats
    """Of the reference images, shape (R, P)."""
    use: AtomUse
    """How usual images use the model's atoms."""
    strokes: Floats | None = None
    """Of the reference images, shape (R, F); None for flat images, and so are the next three."""
    stroke_mean: Floats | None = None
    """Shape (F,)."""
    stroke_scale: Floats | None = None
    """Shape (1,)."""
    stroke_atoms: Floats | None = None
    """Atoms of scaled strokes, unit rows."""
    least: Doubles = field(default_factory=_none)
    """Floor of each term that is a logarithm, shape (T,)."""
    centre: Doubles = field(default_factory=_none)
    """Mean of each term, shape (T,)."""
    spread: Doubles = field(default_factory=_none)
    """Standard deviation of each term, shape (T,)."""
    calibration: Doubles = field(default_factory=_none)
    """Scores of usual images, increasing, shape (m,)."""

    def with_scale(self, terms: Doubles, least: Doubles) -> Memory:
        """Return the same, standardising like `terms`, shape (n, T)."""
        spread = terms.std(axis=0)
        # A term that never varies says nothing; and is not to be divided by zero.
        spread = np.where(spread > 1e-9 * np.abs(terms).max(axis=0), spread, 1.0)
        return replace(self, centre=terms.mean(axis=0), spread=spread, least=least)

    def with_calibration(self, scores: Doubles) -> Memory:
        """Return the same, calibrated on these scores."""
        return replace(self, calibration=np.asarray(scores, np.float64))

    def stroke_residuals(self, strokes: Floats) -> Floats:
        """Return what is left of strokes, shape (n, F), after coding in usual ones' atoms.

        Raises:
            DataError: Mean and scale are of no strokes.
        """
        from vaesc.sparse import orthogonal_matching_pursuit

        assert self.stroke_atoms is not None
        assert self.stroke_mean is not None
        assert self.stroke_scale is not None
        with np.errstate(over="ignore"):  # which is looked for next
            scaled = (strokes - self.stroke_mean) / self.stroke_scale
        if not is_moderate(scaled):
            raise DataError(
                "the model's detector of anomalies gives strokes that are absurdly large: its "
                "stroke_mean and stroke_scale are damaged; register the model again"
            )
        level = min(STROKE_LEVEL, *self.stroke_atoms.shape)
        codes = orthogonal_matching_pursuit(scaled, self.stroke_atoms, level)
        return np.asarray(scaled - codes @ self.stroke_atoms, np.float32)


_ARRAYS: tuple[tuple[str, Callable[[Memory], Any], type[np.generic]], ...] = (
    ("pixels", lambda m: m.pixels, np.float32),
    ("strokes", lambda m: m.strokes, np.float32),
    ("stroke_mean", lambda m: m.stroke_mean, np.float32),
    ("stroke_scale", lambda m: m.stroke_scale, np.float32),
    ("stroke_atoms", lambda m: m.stroke_atoms, np.float32),
    ("atom_probability", lambda m: m.use.probability, np.float64),
    ("atom_mean", lambda m: m.use.mean, np.float64),
    ("atom_std", lambda m: m.use.std, np.float64),
    ("least", lambda m: m.least, np.float64),
    ("centre", lambda m: m.centre, np.float64),
    ("spread", lambda m: m.spread, np.float64),
    ("calibration", lambda m: m.calibration, np.float64),
)
"""Name in the file, where it is, and its type."""


def part_of(memory: Memory) -> Part:
    """Return what the registered model keeps."""
    arrays = {name: get(memory) for name, get, _ in _ARRAYS if get(memory) is not None}
    facts = {
        "format": _FORMAT, "terms": list(memory.names),
        "false_alarm_rate": memory.false_alarm_rate,
    }  # fmt: skip
    return Part(arrays=arrays, facts=facts)


def memory_of(part: Part, model: SparseVAE) -> Memory:
    """Return what :func:`part_of` kept, checked against the model that it came with.

    Raises:
        DataError: Its numbers are damaged, or another model's.
    """
    if fault := _fault(part, model):
        raise DataError(f"the model's detector of anomalies {fault}; register the model again")
    a = part.arrays
    use = AtomUse(probability=a["atom_probability"], mean=a["atom_mean"], std=a["atom_std"])
    plain = {name: array for name, array in a.items() if not name.startswith("atom_")}
    return Memory(
        names=tuple(part.facts["terms"]), false_alarm_rate=float(part.facts["false_alarm_rate"]),
        use=use, **plain,
    )  # fmt: skip


def _fault(part: Part, model: SparseVAE) -> str | None:
    """Say what is wrong with a part, which may come from any file; None if nothing is."""
    facts, names = part.facts, term_names(model.shape)
    if facts.get("format") != _FORMAT or facts.get("terms") != list(names):
        return f"has format {facts.get('format')!r} and terms {facts.get('terms')!r}"
    rate = facts.get("false_alarm_rate")
    if type(rate) is not float or not 0 < rate <= 0.5:
        return f"must have a false-alarm rate in (0, 0.5], got {rate!r}"
    shapes = _shapes(part, model, len(names))
    wanted = {name: kind for name, _, kind in _ARRAYS if name in shapes}
    if set(part.arrays) != set(wanted):
        return f"must hold {', '.join(sorted(wanted))}, got {', '.join(sorted(part.arrays))}"
    for name, kind in wanted.items():
        array = part.arrays[name]
        if array.dtype != kind or array.shape != shapes[name] or not array.size:
            return (
                f"must keep {name} as {kind.__name__} of shape {shapes[name]}, got {array.dtype} "
                f"of shape {array.shape}"
            )
        if not is_moderate(array):
            return f"holds {name} that are not finite, or beyond {MOST:g}"
    a = part.arrays
    if not ((a["atom_probability"] > 0) & (a["atom_probability"] < 1)).all():
        return "must hold probabilities of atoms in (0, 1)"
    for name in ("atom_std", "spread", "least", "stroke_scale"):
        if name in a and not (a[name] >= 1 / MOST).all():
            return f"must hold {name} above 0"
    if "stroke_atoms" in a and not _are_atoms(a["stroke_atoms"]):
        return "must hold stroke_atoms of norm 1"
    if (np.diff(a["calibration"]) < 0).any():
        return "must hold calibration scores in increasing order"
    return None


def _are_atoms(atoms: Floats) -> bool:
    """Tell whether rows have the norm 1; one that nothing uses may be short, or nothing."""
    norms = np.linalg.norm(atoms.astype(np.float64), axis=1)
    return bool(((norms == 0) | ((norms >= _LEAST_NORM) & (norms <= _MOST_NORM))).all())


def _shapes(part: Part, model: SparseVAE, n_terms: int) -> dict[str, tuple[int, ...]]:
    """Return the shape that each array must have; what is free is as it is there."""

    def length(name: str) -> int:
        array = part.arrays.get(name)
        return len(array) if array is not None and array.ndim else 0

    one = Seen.of(np.zeros((1, *model.shape), np.float32))
    k, references = model.n_atoms, length("pixels")
    shapes: dict[str, tuple[int, ...]] = {
        "pixels": (references, one.pixels.shape[1]), "atom_probability": (k,), "atom_mean": (k,),
        "atom_std": (k,), "least": (n_terms,), "centre": (n_terms,), "spread": (n_terms,),
        "calibration": (length("calibration"),),
    }  # fmt: skip
    if one.strokes is not None:
        width = one.strokes.shape[1]
        shapes |= {
            "strokes": (references, width), "stroke_mean": (width,), "stroke_scale": (1,),
            "stroke_atoms": (length("stroke_atoms"), width),
        }  # fmt: skip
    return shapes
