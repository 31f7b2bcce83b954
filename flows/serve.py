"""Schedules, served from this process or handed to a Prefect server.

Both read ``deployments/prefect.yaml``, so that a schedule tried out with ``make serve`` is the one
that a server runs.
"""

from __future__ import annotations

import logging
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml
from prefect import Flow
from prefect import serve as prefect_serve
from prefect.client.schemas.objects import ConcurrencyLimitConfig, ConcurrencyLimitStrategy
from prefect.deployments.runner import RunnerDeployment
from prefect.flows import load_flow_from_entrypoint
from prefect.schedules import Cron, Interval, Schedule

from vaesc.errors import ConfigError

logger = logging.getLogger(__name__)


def read_deployments(file: Path) -> list[dict[str, Any]]:
    """Return the deployments of a prefect.yaml.

    Raises:
        ConfigError: The file cannot be read or lists no deployment.
    """
    try:
        content = yaml.safe_load(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"deployments file {file} cannot be read: {error.strerror}") from error
    except yaml.YAMLError as error:
        raise ConfigError(f"deployments file {file} is not valid YAML: {error}") from error
    deployments = content.get("deployments") if isinstance(content, dict) else None
    if not deployments:
        raise ConfigError(f"deployments file {file} lists no deployments")
    return list(deployments)


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
    """Run every deployment's schedule in this process, until interrupted."""
    deployments = [runner_deployment(entry) for entry in read_deployments(file)]
    prefect_serve(*deployments, pause_on_shutdown=True, limit=1)


def deploy(file: Path) -> None:
    """Create the work pools that are missing, then every deployment.

    Raises:
        ConfigError: Prefect refused; its own words are above on stderr.
    """
    entries = read_deployments(file)
    for entry in entries:
        runner_deployment(entry)
    for pool in sorted({entry["work_pool"]["name"] for entry in entries}):
        _prefect("work-pool", "create", pool, "--type", "process", "--overwrite")
    _prefect("--no-prompt", "deploy", "--all", "--prefect-file", str(file))
    logger.warning("start a worker with: prefect worker start --pool %s", pool)


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
