"""A recorded run, run again and compared byte by byte.

All that is needed comes from MLflow (:mod:`vaesc.registry.recorded`): the config, what went into
each step, the SHA-256 of every file that came out, the metrics. The steps run in a store of their
own, so that none comes from a cache, with neither Prefect nor anything written to MLflow: a proof
rests on as little as possible, and changes nothing.

A step is *identical* if every file that it makes is. If one is not, the step *differs*, and those
that work on it *follow*: their bytes say nothing more, but they are run all the same, since their
metrics say how far the difference goes. Only other data ends it: that makes another run.
"""

from __future__ import annotations

from vaesc.reproduction.comparison import Verdict
from vaesc.reproduction.restored import config_warnings, environment_warnings, restored_config
from vaesc.reproduction.steps import reproduce

__all__ = [
    "Verdict",
    "config_warnings",
    "environment_warnings",
    "reproduce",
    "restored_config",
]
