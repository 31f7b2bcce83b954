r"""The detector: a model, usual images to compare with, and scores of usual images to rank among.

Three disjoint sets of usual images make it. On the first it is *fitted*: neighbours, atoms of
strokes, use of the model's atoms. The second *standardises* the terms (:mod:`.terms`). The scores
of the third are the *calibration*: a new usual image is exchangeable with these, and so its rank
among them is uniform, whatever the model is worth. An image is called anomalous if its conformal
p-value (:func:`vaesc.drift.reference.conformal_p_values`) is at most the false-alarm rate
:math:`\alpha`: with m calibration images that happens to a usual image with a probability of
:math:`\lfloor \alpha (m + 1) \rfloor / (m + 1) \le \alpha`, exactly if no two scores are equal.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vaesc.applications.anomaly.atoms import AtomUse
from vaesc.applications.anomaly.part import (
    STROKE_ATOMS,
    STROKE_LEVEL,
    Memory,
    memory_of,
    part_of,
)
from vaesc.applications.anomaly.terms import (
    IN_NATS,
    NEIGHBOURS,
    WEIGHTS,
    Coded,
    Doubles,
    Floats,
    Seen,
    least_of,
    logarithm,
    term_names,
)
from vaesc.applications.threads import one_thread_everywhere
from vaesc.bundle import GROUP, SparseVAE
from vaesc.drift.reference import conformal_p_values
from vaesc.errors import ConfigError, DataError
from vaesc.parts import Part

REFERENCES = 6000
"""Most usual images that new ones are compared with."""
LEAST_IMAGES = 8
"""Usual images that each of the three sets needs at least."""


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What a detector says of n images."""

    scores: Doubles
    """Around 0 for usual images, shape (n,)."""
    p_values: Floats
    """In [1 / (m + 1), 1], shape (n,); small marks anomalies."""
    terms: Doubles
    """Standardised terms of the score, shape (n, T)."""
    names: tuple[str, ...]
    """Of the terms."""

    def flags(self, false_alarm_rate: float) -> NDArray[np.bool_]:
        """Return which images are anomalous, shape (n,).

        Args:
            false_alarm_rate: Probability with which a usual image may be called so, in (0, 0.5].
        """
        if not 0 < false_alarm_rate <= 0.5:
            raise ConfigError(f"the false-alarm rate must be in (0, 0.5], got {false_alarm_rate}")
        # p-values are float32: a rate that they can equal must not lie a rounding below it.
        return np.asarray(self.p_values <= np.float32(false_alarm_rate))


@dataclass(frozen=True)
class Detector:
    """A model and what it knows of usual images; make one with :meth:`fit` or :meth:`of`."""

    model: SparseVAE
    memory: Memory

    @classmethod
    def of(cls, model: SparseVAE) -> Detector:
        """Return the detector that was registered with a model.

        Raises:
            DataError: There is none, or its numbers are damaged or another model's.
        """
        return cls(model, memory_of(model.part("anomaly"), model))

    @classmethod
    def fit(
        cls,
        model: SparseVAE,
        usual: Floats,
        held_out: Floats,
        *,
        seed: int,
        false_alarm_rate: float = 0.05,
    ) -> Detector:
        """Make a detector.

        Args:
            model: Coded with; it may have been trained on `usual`.
            usual: Images in [0, 1], (n, *shape); the first :data:`REFERENCES` are compared with.
            held_out: Images that nothing was trained on: every other one standardises, the others
                are the calibration. (m, *shape), in random order.
            seed: Where chance comes from.
            false_alarm_rate: What :meth:`flags` takes if it is told nothing else.

        Raises:
            DataError: There are too few images.
        """
        standard, calibration = held_out[::2], held_out[1::2]
        for images in (usual, standard, calibration):
            if len(images) < LEAST_IMAGES:
                raise DataError(
                    f"a detector needs at least {LEAST_IMAGES} usual images to fit to, as many to "
                    f"standardise with and to calibrate on, got {len(usual)}, {len(standard)} and "
                    f"{len(calibration)}"
                )
        memory = _remembered(model, usual[:REFERENCES], seed, false_alarm_rate)
        raw = cls(model, memory)._raw_groups(standard)
        least = np.array([least_of(column) for column in raw.T])
        memory = memory.with_scale(_logged(raw, memory.names, least), least)
        scores = np.sort(cls(model, memory).judge(calibration).scores)
        return cls(model, memory.with_calibration(scores))

    @property
    def part(self) -> Part:
        """What the registered model keeps of it."""
        return part_of(self.memory)

    @property
    def false_alarm_rate(self) -> float:
        """The rate that it was made for."""
        return self.memory.false_alarm_rate

    def judge(self, unit: Floats) -> Verdict:
        """Return scores, p-values and terms of images in [0, 1], shape (n, *shape).

        Raises:
            DataError: They are not finite.
        """
        memory = self.memory
        logged = _logged(self._raw_groups(unit), memory.names, memory.least)
        terms = (logged - memory.centre) / memory.spread
        scores = terms @ self.weights
        if not np.isfinite(terms).all():
            raise DataError(
                "the model's detector of anomalies gives scores that are not finite: the model is "
                "damaged; register it again"
            )
        p_values = conformal_p_values(memory.calibration, scores)
        return Verdict(scores=scores, p_values=p_values, terms=terms, names=memory.names)

    @one_thread_everywhere()
    def detect(self, images: NDArray[Any]) -> Verdict:
        """Return what :meth:`judge` says of a user's images, in any form the model takes.

        Raises:
            DataError: The images have the wrong shape, dtype or range, are not finite, or none.
        """
        unit = self.model.to_unit(images)
        if not len(unit):
            raise DataError("there is no image to judge")
        return self.judge(unit)

    @cached_property
    def weights(self) -> Doubles:
        """Weight of each term, shape (T,); they sum to 1."""
        weights = np.array([WEIGHTS[name] for name in self.memory.names])
        return np.asarray(weights / weights.sum(), np.float64)

    def _raw_groups(self, unit: Floats) -> Doubles:
        groups = range(0, len(unit), GROUP)
        return np.concatenate([self._raw(unit[i : i + GROUP]) for i in groups])

    def _raw(self, unit: Floats) -> Doubles:
        """Return the terms before logarithm and scale, shape (n, T)."""
        memory, seen = self.memory, Seen.of(unit)
        coded = Coded.of(self.model, unit)
        found: dict[str, NDArray[Any]] = {
            "pixel_neighbours": mean_distance(seen.pixels, memory.pixels),
            "reconstruction": _squared(unit - coded.rebuilt),
            "negative_elbo": coded.negative_elbo,
            "latent_residual": coded.latent_residual,
            "code": memory.use.nats(coded.codes),
        }
        if seen.strokes is not None and memory.strokes is not None:
            found["stroke_neighbours"] = mean_distance(seen.strokes, memory.strokes)
            found["stroke_sparse"] = _squared(memory.stroke_residuals(seen.strokes))
        return np.stack([np.asarray(found[n], np.float64) for n in memory.names], axis=1)


def mean_distance(queries: Floats, reference: Floats) -> Floats:
    """Return the mean distance to the three nearest, shape (n,)."""
    from vaesc.applications.neighbours import nearest

    distances = nearest(queries, reference, min(NEIGHBOURS, len(reference)))[1]
    return np.asarray(distances.mean(axis=1), np.float32)


def _remembered(model: SparseVAE, usual: Floats, seed: int, false_alarm_rate: float) -> Memory:
    from scipy.sparse import vstack

    from vaesc.sparse import learn_dictionary

    seen = [Seen.of(usual[i : i + GROUP]) for i in range(0, len(usual), GROUP)]
    groups = (usual[i : i + GROUP] for i in range(0, len(usual), GROUP))
    codes = [Coded.of(model, unit).codes for unit in groups]
    known: dict[str, Any] = {}
    if all(s.strokes is not None for s in seen):
        strokes = np.concatenate([s.strokes for s in seen if s.strokes is not None])
        mean = strokes.mean(axis=0, dtype=np.float64).astype(np.float32)
        scale = np.float32(math.sqrt(float(np.square(strokes - mean).mean())) or 1.0)
        n_atoms = min(STROKE_ATOMS, max(1, len(strokes) // 2))
        level = min(STROKE_LEVEL, n_atoms)
        learned = learn_dictionary(
            (strokes - mean) / scale, n_atoms=n_atoms, n_nonzero_coefs=level, seed=seed,
            max_epochs=5,
        )  # fmt: skip
        known = {
            "strokes": strokes, "stroke_mean": mean, "stroke_scale": scale.reshape(1),
            "stroke_atoms": learned.dictionary,
        }  # fmt: skip
    return Memory(
        names=term_names(model.shape), false_alarm_rate=false_alarm_rate,
        pixels=np.concatenate([s.pixels for s in seen]), use=AtomUse.of(vstack(codes)), **known,
    )  # fmt: skip


def _logged(raw: Doubles, names: tuple[str, ...], least: Doubles) -> Doubles:
    columns = [
        raw[:, i] if name in IN_NATS else logarithm(raw[:, i], least[i])
        for i, name in enumerate(names)
    ]
    return np.stack(columns, axis=1)


def _squared(difference: Floats) -> Doubles:
    flat = difference.reshape(len(difference), -1)
    return np.asarray(np.square(flat, dtype=np.float64).sum(axis=1), np.float64)
