"""What Prefect hears of a model: events of the resource ``vaesc.model.<name>``.

``vaesc.drift`` is said by :mod:`tasks.score`, ``vaesc.promoted`` and ``vaesc.rejected`` by
:mod:`tasks.gate`. What follows from one is an automation's business (:mod:`flows.automations`).
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from prefect.events import emit_event
from prefect.events.worker import EventsWorker

logger = logging.getLogger(__name__)

DRIFT = "vaesc.drift"
PROMOTED = "vaesc.promoted"
REJECTED = "vaesc.rejected"

_SEND_SECONDS = 30.0


def resource_of(model: str) -> str:
    """Return the id under which Prefect knows a registered model."""
    return f"vaesc.model.{model}"


def send(
    event: str, model: str, payload: Mapping[str, Any], labels: Mapping[str, str] | None = None
) -> bool:
    """Tell Prefect what happened to a model, and wait until the event is on its way.

    Args:
        event: One of this module's names.
        model: The registered model.
        payload: What there is to say: ``reason`` for people, and the numbers.
        labels: Further labels of the resource, which an automation's trigger can ask for.

    Returns:
        Whether the event was sent; a warning says so if not, and nothing fails.
    """
    resource = {
        "prefect.resource.id": resource_of(model), "prefect.resource.name": model,
        **(labels or {}),
    }  # fmt: skip
    emitted = emit_event(event, resource=resource, payload=dict(payload))
    done: Any = EventsWorker.drain_all(timeout=_SEND_SECONDS, at_exit=False)
    sent = emitted is not None and not done.not_done
    if not sent:
        logger.warning("Prefect could not be told of the event %s of %s", event, model)
    return sent
