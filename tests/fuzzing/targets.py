"""Every target, by name."""

from __future__ import annotations

from . import array_targets, folder_targets, http_targets, model_targets, text_targets
from .target import Target

_MODULES = (text_targets, array_targets, folder_targets, model_targets, http_targets)
TARGETS: dict[str, Target] = {t.name: t for module in _MODULES for t in module.TARGETS}
