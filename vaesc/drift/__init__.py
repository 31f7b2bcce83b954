r"""Whether new images are still like those that a model was made for, and which are not.

A model carries a :class:`Reference` with it: what its own encode makes of at most 4,096
validation images, that is, each image's error and the atoms it uses. Against it stand

- one image: :meth:`Reference.p_values`, a conformal p-value of its error;
- a batch: its :class:`Statistics`, sums and counts that are added over blocks without any loss,
  which :func:`compare` turns into a :class:`Drift`: how the batch uses atoms, how many, and how
  large its errors are, each with a threshold of a stated false-alarm rate and a floor below which
  nobody would care.

::

    reference = model.reference
    statistics = Statistics.of(reference, model.encode(images), model.score(images))
    drift = compare(reference, statistics)
    drift.drifted, drift.reason
"""

from __future__ import annotations

from vaesc.drift.comparison import Drift, Floors, Statistic, compare
from vaesc.drift.null import ALPHA, thresholds
from vaesc.drift.reference import Reference, load_reference, reference_of, save_reference
from vaesc.drift.statistics import Statistics

__all__ = [
    "ALPHA",
    "Drift",
    "Floors",
    "Reference",
    "Statistic",
    "Statistics",
    "compare",
    "load_reference",
    "reference_of",
    "save_reference",
    "thresholds",
]
