"""Every target, by name."""

from __future__ import annotations

from . import (
    array_targets,
    codec_targets,
    folder_targets,
    http_targets,
    model_targets,
    part_targets,
    text_targets,
)
from .target import Target

_MODULES = (
    text_targets, array_targets, folder_targets, model_targets, part_targets, codec_targets,
    http_targets,
)  # fmt: skip
TARGETS: dict[str, Target] = {t.name: t for module in _MODULES for t in module.TARGETS}
