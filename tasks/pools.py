"""Work pools of three kinds, processes, Docker and Kubernetes, and what each run asks of them.

``work_pool: {name: ..., type: ...}`` of a prefect.yaml says which (default: process). A pool is
made from the base job template ``pools/<type>.json`` beside that file, which
``deployments/templates.py`` writes, and whatever somebody has set in a pool since then stands. A
run's requests come from its config (:mod:`vaesc.resources`), or ``job_variables`` of the file.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import WorkPoolCreate, WorkPoolUpdate
from prefect.exceptions import ObjectNotFound
from prefect.workers.process import ProcessWorker

from tasks.server import ENVIRONMENT
from vaesc.errors import ConfigError
from vaesc.resources import Requests

EXPECTED = {k: v for k, v in ENVIRONMENT.items() if not k.startswith("PREFECT_SERVER_")}
"""What a run is to expect of Prefect; what only servers read is not among it."""
PROCESS, DOCKER, KUBERNETES = KINDS = ("process", "docker", "kubernetes")
PULL = [{"prefect.deployments.steps.set_working_directory": {"directory": "/app"}}]
"""Where the image of ``deployments/Dockerfile`` holds the flows, whoever deploys from where."""

Entry = Mapping[str, Any]


def kinds_of(entries: Sequence[Entry]) -> dict[str, str]:
    """Return the type of each pool that deployments name.

    Raises:
        ConfigError: A deployment names no pool, a type that there is none of, another type than
            an earlier one does for the same pool, or job variables without names.
    """
    found: dict[str, str] = {}
    for entry in entries:
        pool = entry.get("work_pool")
        if not isinstance(pool, dict) or not isinstance(pool.get("name"), str):
            raise ConfigError(f"deployment {entry['name']}: work_pool must have a name")
        variables = pool.get("job_variables") or {}
        if not isinstance(variables, dict) or not isinstance(variables.get("env") or {}, dict):
            raise ConfigError(
                f"deployment {entry['name']}: work_pool.job_variables, and env in it, must hold "
                "values by name"
            )
        name, kind = pool["name"], pool.get("type", PROCESS)
        if kind not in KINDS:
            raise ConfigError(
                f"deployment {entry['name']}: work_pool.type must be one of {', '.join(KINDS)}, "
                f"got {kind!r}"
            )
        if found.setdefault(name, kind) != kind:
            raise ConfigError(
                f"deployment {entry['name']}: work pool {name} is of type {found[name]} in an "
                f"earlier deployment and of type {kind} here; give one type, or name two pools"
            )
    return found


def template_of(kind: str, folder: Path) -> dict[str, Any]:
    """Return a type's base job template: the file in `folder`, or for processes Prefect's own.

    Raises:
        ConfigError: There is no such file, or it holds no template.
    """
    file = folder / f"{kind}.json"
    if kind == PROCESS and not file.exists():
        return copy.deepcopy(ProcessWorker.get_default_base_job_template())
    try:
        template = json.loads(file.read_text(encoding="utf-8"))
        template["variables"]["properties"], template["job_configuration"]
    except OSError as error:
        raise ConfigError(
            f"the template of {kind} pools, {file}, cannot be read ({error.strerror}); copy it "
            "from deployments/pools of the project"
        ) from error
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise ConfigError(
            f"{file} is no base job template: a JSON object with job_configuration and "
            "variables.properties"
        ) from error
    return dict(template)


def keep_pool(name: str, kind: str, folder: Path) -> None:
    """Create a pool, or see that the runs of one that is there get what vaesc expects of Prefect.

    The pool says it, since a worker is started by hand, and one without it would send heartbeats
    too rarely to be believed alive. What else somebody has set in the pool stands.

    Args:
        name: The pool.
        kind: Its type.
        folder: Where templates are.

    Raises:
        ConfigError: The pool is there and is of another type, or its template cannot be read.
    """
    with get_client(sync_client=True) as client:
        try:
            there = client.read_work_pool(name)
        except ObjectNotFound:
            template = with_environment(template_of(kind, folder))
            client.create_work_pool(
                WorkPoolCreate(name=name, type=kind, base_job_template=template)
            )
            return
        if there.type != kind:
            raise ConfigError(
                f"work pool {name} is of type {there.type} on the Prefect server and of type "
                f"{kind} here; name another pool, or delete that one: prefect work-pool delete "
                f"{name}"
            )
        template = with_environment(there.base_job_template)
        client.update_work_pool(name, WorkPoolUpdate(base_job_template=template))


def with_environment(template: dict[str, Any], **more: str) -> dict[str, Any]:
    """Return a template whose runs get what vaesc expects of Prefect, and `more`."""
    made = copy.deepcopy(template)
    variable = made["variables"]["properties"].setdefault("env", {})
    variable["default"] = {**(variable.get("default") or {}), **EXPECTED, **more}
    return made


def with_requests(entry: Entry, requests: Callable[[Entry], Requests]) -> dict[str, Any]:
    """Return a deployment with what its pool's type must be told: requests, and the code's place.

    Args:
        entry: One entry of a prefect.yaml; one of a process pool comes back as it is.
        requests: Says what a run of an entry needs.
    """
    pool = entry["work_pool"]
    kind = pool.get("type", PROCESS)
    if kind == PROCESS:
        return dict(entry)
    ours, given = job_variables(kind, requests(entry)), pool.get("job_variables") or {}
    merged = {**ours, **given, "env": {**ours["env"], **(given.get("env") or {})}}
    pull = PULL if entry.get("pull") is None else entry["pull"]
    return {**entry, "pull": pull, "work_pool": {**pool, "job_variables": merged}}


def job_variables(kind: str, requests: Requests) -> dict[str, Any]:
    """Return requests in the words of a type's template; processes have none.

    Memory is asked for and is the limit, too: a run that needs more than was reckoned ends as out
    of memory instead of taking its neighbours' with it. Cores are asked for without a limit, and
    libraries start as many threads as there are cores of ours, not of the machine.
    """
    environment = {"OMP_NUM_THREADS": str(requests.cpus)}
    if kind == DOCKER:
        gpus = {"count": requests.gpus, "capabilities": [["gpu"]]}
        return {
            "mem_limit": f"{requests.memory_mib}m",
            "cpu_shares": requests.cpu_shares,
            **({"device_requests": [gpus]} if requests.gpus else {}),
            "env": environment,
        }
    if kind == KUBERNETES:
        return {
            "cpu_request": str(requests.cpus),
            "memory_request": f"{requests.memory_mib}Mi",
            "memory_limit": f"{requests.memory_mib}Mi",
            **({"gpus": requests.gpus} if requests.gpus else {}),
            "env": environment,
        }
    return {}
