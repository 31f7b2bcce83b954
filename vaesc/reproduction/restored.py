"""The config of a recorded run, and what is not as it was when it ran."""

from __future__ import annotations

import copy
import difflib
from collections.abc import Iterator, Sequence
from dataclasses import fields

from vaesc.config import DatasetConfig, PipelineConfig, RuntimeConfig, config_digest
from vaesc.config_files import config_from_mapping, parse_assignment
from vaesc.errors import ConfigError, RegistryError
from vaesc.registry.environment import differences, environment_now
from vaesc.registry.recorded import RecordedRun
from vaesc.source import source_digest
from vaesc.steps import APPLICATIONS, STEPS

HOW = tuple(
    f"{section}.{field.name}"
    for section, cls in (("dataset", DatasetConfig), ("runtime", RuntimeConfig))
    for field in fields(cls)
    if field.metadata.get("how")
)
"""Settings that a reproduction may be given: where the data lies now, and how to compute."""


def restored_config(run: RecordedRun, assignments: Sequence[str] = ()) -> PipelineConfig:
    """Return the config of a run.

    Args:
        run: The run.
        assignments: Settings that say where or how, each ``section.name=value``.

    Raises:
        ConfigError: An assignment is wrong, or of a setting that makes another run.
        RegistryError: The recorded settings are not those of this vaesc.
    """
    values = copy.deepcopy(dict(run.settings))
    try:
        config_from_mapping(values)
    except ConfigError as error:
        there = f"; check out commit {run.commit}" if run.commit else ""
        raise RegistryError(
            f"the settings of run {run.run_id} are not of this version of vaesc ({error}){there}"
        ) from error
    for assignment in assignments:
        key = assignment.partition("=")[0].strip()
        above = parse_assignment(assignment)
        if key not in HOW:
            near = difflib.get_close_matches(key, HOW, n=1)
            hint = f"did you mean {near[0]}?" if near else f"--set takes {', '.join(HOW)}"
            raise ConfigError(f"{key} is not to be set in a reproduction; {hint}")
        for section, setting in above.items():
            values[section] = {**values.get(section, {}), **setting}
    return config_from_mapping(values)


def config_warnings(run: RecordedRun, config: PipelineConfig) -> Iterator[str]:
    """Yield one sentence for each way in which the restored config is not what it was."""
    digest = config_digest(config)
    if run.config_digest and digest != run.config_digest:
        yield (
            f"the config's digest was {run.config_digest} and is {digest} now: settings were "
            "added, removed or altered since"
        )
    before = run.settings.get("runtime", {})
    for field in fields(RuntimeConfig):
        was, is_now = before.get(field.name), getattr(config.runtime, field.name)
        if field.name in before and was != is_now:
            yield f"runtime.{field.name} was {was} and is {is_now} now"


def environment_warnings(run: RecordedRun, device: str) -> Iterator[str]:
    """Yield one sentence for each thing that is not as it was when a step was computed.

    A step that came from a cache is held to what it was computed in, not to the run it served.

    Args:
        run: The run.
        device: The setting ``runtime.device``.

    Raises:
        ConfigError: This machine has no such device.
    """
    now = environment_now(device)
    found: dict[str, list[str]] = {}
    for name, step in run.steps.items():
        unknown = "the run that computed it is not in this MLflow, so neither is what it ran in"
        said = differences(step.environment, now) if step.environment else [unknown]
        for sentence in said:
            found.setdefault(sentence, []).append(name)
    for sentence, names in found.items():
        whole = len(names) == len(run.steps)
        yield sentence if whole else f"{', '.join(_in_order(names))}: {sentence}"
    changed = [
        step.name
        for step in (*STEPS, *APPLICATIONS.values())
        if (manifest := (recorded.manifest if (recorded := run.steps.get(step.name)) else None))
        and manifest["source"] != source_digest(step.module)
    ]
    if changed:
        yield f"{', '.join(changed)}: the library's source is not the one that computed it"


def _in_order(names: Sequence[str]) -> list[str]:
    order = [step.name for step in (*STEPS, *APPLICATIONS.values())]
    return sorted(names, key=lambda n: order.index(n) if n in order else len(order))
