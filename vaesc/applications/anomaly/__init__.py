r"""Anomaly detection: images unlike those that a model was made of.

============================= ==================================================================
module                        has
============================= ==================================================================
:mod:`.views`, :mod:`.atoms`  what is compared of images, and of codes
:mod:`.terms`                 the terms of the score, and their weights
:mod:`.detector`              the detector: score, conformal p-value, flag; :mod:`.part` keeps it
:mod:`.explain`, :mod:`.draw` why an image is anomalous
:mod:`.one_class`             the protocol that is published on, by :mod:`.small_model` per class
:mod:`.outliers`              images of another kind altogether
:mod:`.application`           all of it, as a step of the pipeline
============================= ==================================================================
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vaesc.applications.findings import Findings
    from vaesc.applications.subject import Subject
    from vaesc.config import AnomalyConfig


def apply(config: AnomalyConfig, subject: Subject) -> Findings:
    """Make the detector of a run's model, and measure it; see :mod:`.application`."""
    from vaesc.applications.anomaly.application import applied

    return applied(config, subject)
