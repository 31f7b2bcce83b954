"""What the Prefect server does by itself: automations, which ``vaesc deploy`` and ``serve`` keep.

Here is how they are kept, and the one that every server has. A flow run whose process is killed
says no last word; if its worker is killed with it, nobody else says one either, and the run stays
"Running" for ever: it holds its deployment's concurrency slot, so the schedule stops, silently. A
living run sends a heartbeat every thirty seconds. Where heartbeats cease and no end is reported,
the server is to call the run Crashed.

To add another: a function that returns it, named in :func:`automations`; its name begins with
:data:`OURS`. Those that depend on the deployments or on the server's blocks are in
:mod:`flows.drift_automation` and :mod:`flows.notifications`.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from datetime import timedelta
from typing import Any

from prefect.automations import Automation
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.objects import StateType
from prefect.events.actions import ChangeFlowRunState
from prefect.events.schemas.automations import Automation as Installed
from prefect.events.schemas.automations import AutomationCore, EventTrigger, Posture
from prefect.events.schemas.events import ResourceSpecification

from tasks.server import ENVIRONMENT

logger = logging.getLogger(__name__)

FLOWS = ("pipeline", "retrain", "claim", "score", "sweep")
"""The flows that are ours: others on the same server may send heartbeats more rarely, or none."""

OURS = "vaesc: "
"""How the name of every automation of ours begins, and of nobody else's: others we delete."""

SILENCE = timedelta(seconds=3 * int(ENVIRONMENT["PREFECT_FLOWS_HEARTBEAT_FREQUENCY"]))
"""After how long without a heartbeat a run counts as dead: two may be lost, or late."""

_HEARTBEAT = "prefect.flow-run.heartbeat"
_ENDS = ("Completed", "Failed", "Cancelled", "Crashed", "Suspended")
"""States after which no more heartbeats are due."""


def automations() -> list[Automation]:
    """Return every automation that a server of ours has, each with a name of its own."""
    return [crash_zombies()]


def crash_zombies(silence: timedelta = SILENCE) -> Automation:
    """Call a run Crashed that has sent heartbeats and sends none any more.

    Args:
        silence: How long to wait for the next one; Prefect sends them every 30 s at most.
    """
    return Automation(
        name=f"{OURS}crash runs whose heartbeats have ceased",
        description="A killed process cannot end its run; without this it stays Running for ever.",
        trigger=EventTrigger(
            after={_HEARTBEAT},
            expect={_HEARTBEAT, *(f"prefect.flow-run.{end}" for end in _ENDS)},
            match=ResourceSpecification({"prefect.resource.id": ["prefect.flow-run.*"]}),
            match_related=ResourceSpecification(
                {"prefect.resource.role": ["flow"], "prefect.resource.name": list(FLOWS)}
            ),
            for_each={"prefect.resource.id"},
            posture=Posture.Proactive,
            threshold=1,
            within=silence,
        ),
        actions=[
            ChangeFlowRunState(
                name="Crashed",
                state=StateType.CRASHED,
                force=False,  # a run that has ended stays as it ended
                message=f"no heartbeat for {silence.total_seconds():.0f} s: its process is dead",
            )
        ],
    )


def install(wanted: Sequence[Automation]) -> None:
    """Create the automations that the server does not have, and update those that differ.

    One that is there and the same is not touched: an update would make the server forget which
    runs it is listening for. One that somebody has switched off stays off.
    """
    with get_client(sync_client=True) as client:
        for each in wanted:
            _install(client, each)


def remove_others(
    wanted: Sequence[Automation], spared: Callable[[Installed], bool] = lambda _: False
) -> None:
    """Delete the automations of ours that are not wanted any more.

    Args:
        wanted: What stays, by name.
        spared: What stays besides, such as what belongs to somebody else's deployments.
    """
    names = {each.name for each in wanted}
    with get_client(sync_client=True) as client:
        for each in list(_there(client)):
            if each.name.startswith(OURS) and each.name not in names and not spared(each):
                client.delete_automation(each.id)
                logger.warning("deleted the automation %r, which nothing calls for", each.name)


def _there(client: SyncPrefectClient) -> Iterator[Installed]:
    """Yield every automation on the server, ours or not."""
    offset = 0
    while found := client.read_automations(offset=offset):  # as many as the server gives at once
        yield from found
        offset += len(found)


def _install(client: SyncPrefectClient, wanted: Automation) -> None:
    found = client.read_automations_by_name(wanted.name)
    if not found:
        client.create_automation(AutomationCore(**wanted.model_dump(exclude={"id"})))
        logger.info("created the automation %r", wanted.name)
        return
    there = found[0]
    if _comparable(there) == _comparable(wanted):
        return
    kept = wanted.model_copy(update={"enabled": there.enabled})
    client.update_automation(
        there.id, AutomationCore(**kept.model_dump(exclude={"id", "owner_resource"}))
    )
    logger.info("updated the automation %r", wanted.name)


def _comparable(automation: AutomationCore) -> dict[str, Any]:
    """Return what an automation does, without the order of sets and the server's own numbers."""
    plain = automation.model_dump(mode="json", include={"description", "trigger", "actions"})
    trigger = plain["trigger"]
    trigger.pop("id", None)
    for name in ("after", "expect", "for_each"):
        trigger[name] = sorted(trigger.get(name, ()))
    return plain
