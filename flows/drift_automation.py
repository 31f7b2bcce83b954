"""What follows from drift: the model is trained again, at most once an hour, and told why.

The event ``vaesc.drift`` comes from :mod:`tasks.score`; that of an older version, scored by hand,
trains nothing. The reason travels with it: it becomes the parameter ``reason`` of the run that it
starts. A model has one such automation, whichever deployment it runs.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from datetime import timedelta

from prefect.automations import Automation
from prefect.client.orchestration import get_client
from prefect.events.actions import RunDeployment
from prefect.events.schemas.automations import AutomationCore, EventTrigger, Posture
from prefect.events.schemas.events import ResourceSpecification
from prefect.exceptions import ObjectNotFound

from flows.automations import OURS
from tasks.events import DRIFT, resource_of
from tasks.score import IS_CHAMPION
from vaesc.errors import ConfigError


def drift_automation(
    deployment: str = "retrain/nightly",
    *,
    model: str = "vaesc",
    at_most_every: timedelta = timedelta(hours=1),
) -> Automation:
    """Return the automation that retrains a model whose batches have drifted; not created yet.

    Args:
        deployment: What is run, ``flow/deployment``; it must be on the server already.
        model: The registered model whose champion's drift counts.
        at_most_every: Time from a first event in which later ones start nothing.

    Raises:
        ConfigError: The server has no such deployment.
    """
    with get_client(sync_client=True) as client:
        try:
            found = client.read_deployment_by_name(deployment)
        except ObjectNotFound as error:
            raise ConfigError(
                f"the Prefect server has no deployment {deployment!r}; run `vaesc deploy` first"
            ) from error
    reason = {"__prefect_kind": "jinja", "template": "{{ event.payload.reason }}"}
    return Automation(
        name=f"{OURS}drift of {model}",
        description=f"A batch that has drifted from what {model} is made for runs {deployment}.",
        trigger=EventTrigger(
            expect={DRIFT},
            match=ResourceSpecification(
                {"prefect.resource.id": resource_of(model), IS_CHAMPION: ["yes", "unknown"]}
            ),
            posture=Posture.Reactive,
            threshold=1,
            within=at_most_every,
        ),
        actions=[
            RunDeployment(
                source="selected",
                deployment_id=found.id,
                parameters={"reason": reason},
                job_variables=None,
            )
        ],
    )


def is_anothers(
    automation: AutomationCore, *, models: Mapping[str, str], deployments: Collection[str]
) -> bool:
    """Tell whether an automation is the drift automation of another file than the one deployed.

    Several files may be deployed to one server, each with models of its own.

    Args:
        automation: One on the server that the file does not call for.
        models: What the file retrains, by registered model.
        deployments: What the file has deployed, ``flow/deployment``.

    Returns:
        True if it runs a deployment that is there and not the file's, for a model not the file's.
    """
    runs = [a.deployment_id for a in automation.actions if isinstance(a, RunDeployment)]
    trigger = automation.trigger
    if not runs or runs[0] is None or not isinstance(trigger, EventTrigger):
        return False
    watched = trigger.match.get("prefect.resource.id") or []
    if any(resource_of(model) in watched for model in models):
        return False
    with get_client(sync_client=True) as client:
        try:
            found = client.read_deployment(runs[0])
            flow = client.read_flow(found.flow_id)
        except ObjectNotFound:
            return False
    return f"{flow.name}/{found.name}" not in deployments
