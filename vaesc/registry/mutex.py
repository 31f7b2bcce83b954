"""One promotion at a time, whichever machines it is tried from.

MLflow can set an alias but not compare and set it: the last writer wins. What it does guarantee is
that the name of a registered model is unique, so creating one is a test-and-set that every client
of one registry shares. A promotion holds ``<name>.promotion`` while it looks and moves, which is
about a second; a holder that was killed is recognised by its process, or from other machines by
its age.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from vaesc.errors import RegistryError
from vaesc.registry.connection import AbsentError
from vaesc.registry.entries import PROCESS_TAG
from vaesc.registry.processes import process_from_json, this_process
from vaesc.registry.tracking import Tracking, now

SUFFIX = ".promotion"
WAIT_SECONDS = 120.0
STALE_SECONDS = 600.0
"""No promotion holds it for so long: who does has gone without a word."""
_POLL_SECONDS = 0.2


@contextmanager
def promoting(tracking: Tracking, name: str) -> Iterator[None]:
    """Hold the right to move the champion of the registered model `name`.

    Raises:
        RegistryError: Somebody else holds it for two minutes, or MLflow cannot be reached.
    """
    lock = name + SUFFIX
    begun = time.monotonic()
    while not _taken(tracking, lock):
        _break_if_stale(tracking, lock)
        if time.monotonic() - begun > WAIT_SECONDS:
            raise RegistryError(
                f"another promotion of {name!r} has been under way for {WAIT_SECONDS:.0f} s; try "
                f"again, or, if none is, delete the registered model {lock!r} in MLflow"
            )
        time.sleep(_POLL_SECONDS)
    try:
        yield
    finally:
        with suppress(AbsentError):
            _release(tracking, lock)


def _taken(tracking: Tracking, lock: str) -> bool:
    """Try to create the lock; False if there is one."""
    from mlflow.exceptions import MlflowException

    tags = {PROCESS_TAG: this_process().to_json(), "vaesc.since": str(now())}
    with tracking.explained(f"take the lock {lock!r}"):
        try:
            tracking.client.create_registered_model(
                lock, tags, "Held while a champion is promoted; gone a second later."
            )
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
            return False
    return True


def _break_if_stale(tracking: Tracking, lock: str) -> None:
    try:
        with tracking.explained(f"look at the lock {lock!r}"):
            tags = tracking.client.get_registered_model(lock).tags
    except AbsentError:
        return  # released meanwhile
    holder = process_from_json(tags.get(PROCESS_TAG, ""))
    age = (now() - int(tags.get("vaesc.since", "0"))) / 1000
    if (holder is not None and holder.is_dead()) or age > STALE_SECONDS:
        with suppress(AbsentError):
            _release(tracking, lock)


def _release(tracking: Tracking, lock: str) -> None:
    with tracking.explained(f"release the lock {lock!r}"):
        tracking.client.delete_registered_model(lock)
