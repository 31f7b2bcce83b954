"""Who is told: a JSON message to a webhook when a run fails or the gate rejects a candidate.

The webhook's address may be a secret (Slack's is), so it lies in a Webhook block on the Prefect
server, encrypted, and nowhere else. Without that block nobody is told. The server sends the
messages; neither runs nor workers know the address. It may send one twice (what it could not write
down it does again), so each says by its ``id`` which it is.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Mapping
from urllib.parse import urlsplit
from uuid import UUID

from prefect.automations import Automation
from prefect.blocks.webhook import Webhook
from prefect.client.orchestration import get_client
from prefect.events.actions import CallWebhook
from prefect.events.schemas.automations import EventTrigger, Posture
from prefect.events.schemas.events import ResourceSpecification
from prefect.exceptions import ObjectNotFound
from prefect.types import SecretDict
from pydantic import SecretStr

from flows.automations import OURS
from tasks.events import REJECTED, resource_of
from vaesc.errors import ConfigError

logger = logging.getLogger(__name__)

BLOCK = "vaesc-alerts"
"""Name of the Webhook block that is called."""

URL_VARIABLE = "VAESC_WEBHOOK_URL"
"""Environment variable with the address, from which ``vaesc deploy`` makes the block."""

WATCHED = ("retrain", "score", "claim", "sweep")
"""Flows whose failure is told. The pipeline's is told by the retraining that called it: once."""

_FAILURES = ("Failed", "Crashed", "TimedOut")

# Expressions of Jinja, which the server evaluates when it sends.
_SHORT = "| string | truncate(2000)"
_NAME = "event.resource['prefect.resource.name']"
_STATE = "event.resource['prefect.state-name']"
_WHY_FAILED = f"(event.resource['prefect.state-message'] {_SHORT})"
_WHY_REJECTED = f"(event.payload.reason {_SHORT})"
_LINK = "(flow_run | ui_url)"
_RUN = {"flow": "flow.name", "run": "flow_run.name", "link": _LINK}
_FAILED = {
    "text": f"'vaesc: run ' ~ {_NAME} ~ ' of ' ~ flow.name ~ ': ' ~ {_STATE} ~ '. ' "
    f"~ {_WHY_FAILED} ~ ' ' ~ ({_LINK} or '')",
    # A state may be set twice, by a request that is repeated, too; a run that is started again by
    # hand and fails again is news.
    "id": "event.resource['prefect.resource.id'] ~ '.' ~ flow_run.run_count ~ '.' ~ " + _STATE,
    **_RUN,
    "state": _STATE,
    "reason": _WHY_FAILED,
}
_REJECTED = {
    "text": f"'vaesc: version ' ~ event.payload.candidate ~ ' of ' ~ {_NAME} ~ ' was rejected. ' "
    f"~ {_WHY_REJECTED} ~ ' ' ~ ({_LINK} or '')",
    "id": "event.id | string",
    **_RUN,
    "state": "event.payload.outcome",
    "reason": _WHY_REJECTED,
    "model": _NAME,
    "candidate": "event.payload.candidate",
    "champion": "event.payload.champion",
    "mlflow_run": "event.payload.run_id",
    "health": f"event.payload.health {_SHORT}",
}


def notifications() -> list[Automation]:
    """Return the automations that call the webhook; none, and a line how to, without its block.

    Raises:
        ConfigError: ``VAESC_WEBHOOK_URL`` is set, and is no address.
    """
    _keep_webhook()
    with get_client(sync_client=True) as client:
        try:
            block = client.read_block_document_by_name(
                BLOCK, Webhook.get_block_type_slug(), include_secrets=False
            )
        except ObjectNotFound:
            logger.warning(
                "nobody is told of failed runs and rejected models: to be, set %s and do this "
                "again, or save a Webhook block %r in Prefect's UI first", URL_VARIABLE, BLOCK,
            )  # fmt: skip
            return []
    return [
        Automation(
            name=f"{OURS}tell of failed runs",
            description=f"Calls the webhook {BLOCK} when a run of ours fails, crashes, times out.",
            trigger=_failure(),
            actions=[_call(block.id, _FAILED)],
        ),
        Automation(
            name=f"{OURS}tell of rejected models",
            description=f"Calls the webhook {BLOCK} when the gate rejects a candidate.",
            trigger=EventTrigger(
                expect={REJECTED},
                match=ResourceSpecification({"prefect.resource.id": resource_of("*")}),
                posture=Posture.Reactive,
                threshold=1,
            ),
            actions=[_call(block.id, _REJECTED)],
        ),
    ]


def _call(block: UUID, expressions: Mapping[str, str]) -> CallWebhook:
    return CallWebhook(block_document_id=block, payload=payload_of(expressions))


def payload_of(expressions: Mapping[str, str]) -> str:
    """Return the template of a JSON object whose values are what the expressions come to.

    One that comes to nothing is told as null, since a template that fails sends no message.
    """
    pairs = [
        f"{json.dumps(name)}: {{{{ ({each}) | default(none) | tojson }}}}"
        for name, each in expressions.items()
    ]
    return "{" + ", ".join(pairs) + "}"


def _failure() -> EventTrigger:
    return EventTrigger(
        expect={f"prefect.flow-run.{state}" for state in _FAILURES},
        match=ResourceSpecification({"prefect.resource.id": ["prefect.flow-run.*"]}),
        match_related=ResourceSpecification(
            {"prefect.resource.role": ["flow"], "prefect.resource.name": list(WATCHED)}
        ),
        posture=Posture.Reactive,
        threshold=1,
    )


def _keep_webhook() -> None:
    """Save the address that the environment names, if any, in the block; no message shows it."""
    url = os.environ.get(URL_VARIABLE, "").strip()
    if not url:
        return
    if not _is_address(url):
        raise ConfigError(
            f"{URL_VARIABLE} must be an address that begins with http:// or https://"
        )
    # Without the header some receivers take the message for a form.
    block = Webhook(url=SecretStr(url), headers=SecretDict({"Content-Type": "application/json"}))
    block.save(BLOCK, overwrite=True)


def _is_address(url: str) -> bool:
    try:
        parts = urlsplit(url)
    except ValueError:
        return False
    return parts.scheme in ("http", "https") and bool(parts.hostname)
