"""Latents, sparse codes and local codes as features: what probes and clusters make of them.

VAE, anchors and layout see images only. Labels enter in three places: the probes, which are the
measure of features; the votes of neighbours; and the comparison of finished clusters with classes.

=================== ======================================================================
module              holds
=================== ======================================================================
:mod:`.coordinates` local codes of latents, whose linear functions are curved ones of them
:mod:`.clusters`    groups found without labels, and the rule that tells new images' groups
:mod:`.part`        both as part of the registered model: :class:`Representation`
:mod:`.features`    the features that are compared
:mod:`.probes`      how features are judged
:mod:`.application` the measurement: :func:`apply`
:mod:`.figures`     figures beside baselines, published ones and goals
=================== ======================================================================
"""

from vaesc.applications.representation.application import apply
from vaesc.applications.representation.part import Representation

__all__ = ["Representation", "apply"]
