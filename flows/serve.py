"""Schedules, served from this process or handed to a Prefect server.

Both read ``deployments/prefect.yaml``, so that a schedule tried out with ``make serve`` is the one
that a server runs.
"""

from __future__ import annotations

import json
import logging
import re
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import yaml
from prefect import Flow
from prefect import serve as prefect_serve
from prefect.client.schemas.objects import ConcurrencyLimitConfig, ConcurrencyLimitStrategy
from prefect.deployments.runner import RunnerDeployment
from prefect.flows import load_flow_from_entrypoint
from prefect.schedules import Cron, Interval, Schedule

from flows.automations import automations, install, remove_others
from flows.drift_automation import drift_automation, is_anothers
from flows.notifications import notifications
from tasks.pools import PROCESS, keep_pool, kinds_of, with_requests
from tasks.workers import runtime_of
from vaesc.config import PipelineConfig
from vaesc.config_files import load_config, read_settings
from vaesc.errors import ConfigError
from vaesc.resources import Requests, requests_for

logger = logging.getLogger(__name__)

RETRAIN = "flows/retrain.py:retrain"
SCORE = "flows/score.py:score"

_BLOCK = "prefect.blocks."
_MOST_VALUES = 100_000
_DEEPEST = 100


def read_deployments(file: Path) -> list[dict[str, Any]]:
    """Return the deployments of a prefect.yaml.

    Raises:
        ConfigError: The file cannot be read, lists no deployment, or would give a secret away.
    """
    try:
        text = read_settings(file)
        if _depth(text) > _DEEPEST:  # each level costs YAML's reader time at every later word
            raise ValueError(f"it is nested deeper than {_DEEPEST} brackets")
        content = yaml.safe_load(text)
    except OSError as error:
        raise ConfigError(f"deployments file {file} cannot be read: {error.strerror}") from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # also text, dates, nesting
        said = " ".join(str(error).split())
        raise ConfigError(f"deployments file {file} is not valid YAML: {said}") from error
    deployments = content.get("deployments") if isinstance(content, dict) else None
    if not deployments:
        raise ConfigError(f"deployments file {file} lists no deployments")
    if not isinstance(deployments, list) or not all(map(_is_deployment, deployments)):
        raise ConfigError(
            f"deployments file {file} must list deployments, each with a name, an entrypoint and "
            "perhaps parameters by name"
        )
    if _expanded_size(deployments) > _MOST_VALUES:
        raise ConfigError(
            f"deployments file {file} has more than {_MOST_VALUES} values, with its aliases "
            "written out; use fewer"
        )
    try:
        written = json.dumps(deployments, default=str, skipkeys=True)
    except ValueError as error:  # a number of thousands of digits, which YAML takes in hexadecimal
        raise ConfigError(
            f"deployments file {file} holds what no deployment can: {error}; correct it"
        ) from error
    # Aliases are the same object: in the text each stands once.
    if _BLOCK in text or _BLOCK in written:
        # Prefect would put the block's value there now, for all to read, not when the run starts.
        raise ConfigError(
            f"deployments file {file} refers to a block in a deployment, which would store its "
            "secret in plain text; refer to it in the work pool's environment instead"
        )
    return list(deployments)


def _depth(text: str) -> int:
    """Return how deep brackets are nested, whatever is between them."""
    depth = deepest = 0
    for bracket in re.findall(r"[\[\]{}]", text):
        depth += 1 if bracket in "[{" else -1
        deepest = max(deepest, depth)
    return deepest


def _is_deployment(entry: Any) -> bool:  # noqa: ANN401
    return (
        isinstance(entry, dict)
        and all(isinstance(entry.get(key), str) for key in ("name", "entrypoint"))
        and isinstance(entry.get("parameters") or {}, dict)
    )


def _expanded_size(value: Any) -> int:  # noqa: ANN401
    """Count the values in `value`, aliases each time; stops soon after there are too many."""
    waiting, n = [value], 0
    while waiting and n <= _MOST_VALUES:
        n, one = n + 1, waiting.pop()
        waiting += (
            [*one.values()] if isinstance(one, dict) else one if isinstance(one, list) else []
        )
    return n


def runner_deployment(entry: dict[str, Any]) -> RunnerDeployment:
    """Turn one entry of a prefect.yaml into a deployment that this process can serve.

    Raises:
        ConfigError: The parameters are not the flow's; Prefect would notice in the run only.
    """
    flow: Flow[..., Any] = load_flow_from_entrypoint(entry["entrypoint"])
    try:
        flow.validate_parameters(entry.get("parameters", {}))
    except Exception as error:
        raise ConfigError(f"deployment {entry['name']}: {error}") from error
    limit = entry.get("concurrency_limit")
    made = flow.to_deployment(
        name=entry["name"],
        description=entry.get("description"),
        tags=entry.get("tags"),
        parameters=entry.get("parameters"),
        schedules=[_schedule(s) for s in entry.get("schedules", [])],
        concurrency_limit=limit and ConcurrencyLimitConfig(
            limit=limit["limit"],
            collision_strategy=ConcurrencyLimitStrategy(limit["collision_strategy"]),
        ),
    )  # fmt: skip
    assert isinstance(made, RunnerDeployment)
    return made


def serve(file: Path) -> None:
    """Run every deployment's schedule in this process, until interrupted.

    Raises:
        ConfigError: The file, or a deployment in it, is not as it must be.
    """
    entries = read_deployments(file)
    retrained = retrained_on_drift(entries)
    deployments = [runner_deployment(entry) for entry in entries]
    for deployment in deployments:
        deployment.apply()  # an automation names what it runs by the server's id
    keep_automations(entries, retrained)
    prefect_serve(*deployments, pause_on_shutdown=True, limit=1)


def deploy(file: Path) -> None:
    """Create or update the work pools, the automations and every deployment.

    Raises:
        ConfigError: Prefect refused; its own words are above on stderr.
    """
    entries = read_deployments(file)
    retrained = retrained_on_drift(entries)
    kinds = kinds_of(entries)
    for entry in entries:
        runner_deployment(entry)
    for pool, kind in sorted(kinds.items()):
        keep_pool(pool, kind, file.parent / "pools")
    with tempfile.TemporaryDirectory(prefix="vaesc-deploy-") as scratch:
        read = _prefect_file(file, entries, Path(scratch))
        _prefect("--no-prompt", "deploy", "--all", "--prefect-file", str(read))
    keep_automations(entries, retrained)
    for pool, kind in sorted(kinds.items()):
        needs = "" if kind == PROCESS else f" (of vaesc[pools], where {kind} can be reached)"
        logger.warning("start a worker%s with: prefect worker start --pool %s", needs, pool)


def retrained_on_drift(entries: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """Return which deployment, ``flow/name``, a drift of each registered model runs.

    It is the first that retrains the model: two would train the same thing at once. One whose
    settings are in a file of another machine is left out, with a warning.

    Raises:
        ConfigError: The settings of a deployment cannot be read.
    """
    found: dict[str, str] = {}
    for entry in entries:
        if entry["entrypoint"] != RETRAIN:
            continue
        if file := _absent_file(entry):
            logger.warning(
                "deployment %s: no drift starts it, since its config_file %s, which may name its "
                "model, is not on this machine", entry["name"], file,
            )  # fmt: skip
            continue
        found.setdefault(_settings_of(entry).registry.model_name, f"retrain/{entry['name']}")
    return found


def _absent_file(entry: Mapping[str, Any]) -> str | None:
    """Return the file that a deployment's settings are in, if it is not here to be read."""
    file = (entry.get("parameters") or {}).get("config_file")
    return str(file) if file and not Path(file).is_file() else None


def _settings_of(entry: Mapping[str, Any]) -> PipelineConfig:
    """Return the settings that a deployment's flow will run with."""
    given: dict[str, Any] = {"preset": "digits", "config_file": None, "settings": None}
    given |= entry.get("parameters") or {}
    preset, file, assignments = (given[key] for key in ("preset", "config_file", "settings"))
    fits = isinstance(preset, str) and isinstance(file, str | None)
    if not fits or not isinstance(assignments, list | None):
        raise ConfigError(
            f"deployment {entry['name']}: preset and config_file must be text, settings a list of "
            "texts"
        )
    try:
        return load_config(
            preset, Path(file) if file else None, [str(a) for a in assignments or ()]
        )
    except ConfigError as error:
        raise ConfigError(f"deployment {entry['name']}: {error}") from error


def keep_automations(entries: Sequence[Mapping[str, Any]], retrained: Mapping[str, str]) -> None:
    """Create, update and delete automations, so that they are those of these deployments.

    Args:
        entries: Every deployment of a file; they must be on the server already.
        retrained: What :func:`retrained_on_drift` says of them.

    Raises:
        ConfigError: A deployment is not there, or the webhook's address is none.
    """
    on_drift = [drift_automation(name, model=model) for model, name in retrained.items()]
    wanted = [*automations(), *on_drift, *notifications()]
    install(wanted)
    # What another machine has said of a file that is not here stands, too.
    read = {f"retrain/{e['name']}" for e in entries if not _absent_file(e)}
    remove_others(wanted, partial(is_anothers, models=retrained, deployments=read))


def _prefect_file(file: Path, entries: Sequence[Mapping[str, Any]], folder: Path) -> Path:
    """Return the file that `prefect deploy` is to read: with requests, if a pool needs any."""
    written = [with_requests(entry, partial(_requests_of, entries)) for entry in entries]
    if written == [dict(entry) for entry in entries]:
        return file
    content = yaml.safe_load(read_settings(file))
    if content.get("pull"):  # the user's own way to the code serves every deployment without one
        for entry, before in zip(written, entries, strict=True):
            if before.get("pull") is None:
                entry.pop("pull", None)
    made = folder / "prefect.yaml"
    made.write_text(yaml.safe_dump({**content, "deployments": written}), encoding="utf-8")
    return made


def _requests_of(entries: Sequence[Mapping[str, Any]], entry: Mapping[str, Any]) -> Requests:
    """Return what a run of a deployment asks for: by its settings, or those of its model."""
    name = (entry.get("parameters") or {}).get("name")
    trained = [e for e in entries if e["entrypoint"] == RETRAIN and not _absent_file(e)]
    if entry in trained:
        return requests_for(_settings_of(entry))
    settings = (_settings_of(each) for each in trained)
    found = next((s for s in settings if s.registry.model_name == name), None)
    if found is None:
        logger.warning(
            "deployment %s: its settings are not known here, so its requests are those of the "
            "article's network; say others in work_pool.job_variables", entry["name"],
        )  # fmt: skip
    config = found or PipelineConfig()
    if entry["entrypoint"] == SCORE:  # trains nothing, and has options of its own
        given: dict[str, Any] = {"runner": "threads", "workers": None, "block_size": 8192}
        given |= entry.get("parameters") or {}
        own = runtime_of(given["runner"], given["workers"])
        how = replace(own, device=config.runtime.device, block_size=given["block_size"])
        config = replace(config, runtime=how)
    return requests_for(config)


def _schedule(entry: dict[str, Any]) -> Schedule:
    """Return a schedule given by `cron`, or by `interval` in seconds, as Prefect reads it."""
    common = {name: entry[name] for name in ("active", "parameters", "slug") if name in entry}
    zone = entry.get("timezone", "UTC")
    if "interval" in entry:
        return Interval(entry["interval"], timezone=zone, **common)
    return Cron(entry["cron"], timezone=zone, **common)


def _prefect(*arguments: str) -> None:
    done = subprocess.run([sys.executable, "-m", "prefect", *arguments], check=False)
    if done.returncode:
        raise ConfigError(f"`prefect {' '.join(arguments)}` failed with {done.returncode}")
