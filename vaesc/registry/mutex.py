"""One promotion at a time, whichever machines it is tried from.

MLflow can set an alias but not compare and set it: the last writer wins. What it does guarantee is
that the name of a registered model is unique, so creating one is a test-and-set that every client
of one registry shares. A promotion holds ``<name>.promotion`` while it looks and moves, which is
about a second, and knows its own lock by a token.

A holder that was killed leaves its lock behind. It is recognised by its process, or from another
machine by the same token standing there for longer than any promotion takes, as this waiter has
watched it: clocks are not compared. The lock is then *renamed* to a name that holds the dead
token. Of two waiters who break the same lock, the second finds that name taken, and so cannot
take away what the first has locked by then.
"""

from __future__ import annotations

import logging
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from vaesc.errors import RegistryError
from vaesc.processes import process_from_json, this_process
from vaesc.registry.entries import PROCESS_TAG
from vaesc.registry.failures import AbsentError, UnreachableError
from vaesc.registry.rescue import keep_copy
from vaesc.registry.tracking import Tracking

logger = logging.getLogger(__name__)

SUFFIX = ".promotion"
WAIT_SECONDS = 120.0
STALE_SECONDS = 60.0
"""No promotion holds it for so long: who does has gone without a word."""
_POLL_SECONDS = 0.2
_TOKEN = "vaesc.token"


class BusyError(UnreachableError):
    """Another promotion is under way; it may be over soon."""


@contextmanager
def promoting(tracking: Tracking, name: str) -> Iterator[Callable[[], None]]:
    """Hold the right to move the champion of the registered model `name`.

    Yields:
        What raises a :class:`BusyError` if the lock is not ours any more; to be called last before
        the alias is moved.

    Raises:
        BusyError: Somebody else holds it for two minutes.
        RegistryError: MLflow cannot be asked.
    """
    lock, token = name + SUFFIX, uuid.uuid4().hex
    broken = _take(tracking, lock, token)

    def check() -> None:
        if _holder(tracking, lock)[0] != token:
            raise BusyError(f"the lock {lock!r} was taken over by another promotion; try again")

    try:
        yield check
    finally:
        if _holder(tracking, lock)[0] == token:
            _remove(tracking, lock)
        for each in broken:
            _remove(tracking, each)
        keep_copy()


def sweep_locks(tracking: Tracking) -> list[str]:
    """Remove the locks of promotions that were killed on this machine, and return their names."""
    with tracking.explained("look for locks"):
        found = tracking.client.search_registered_models(f"name LIKE '%{SUFFIX}%'")
    dead = []
    for lock in found:
        holder = process_from_json(lock.tags.get(PROCESS_TAG, ""))
        if holder is None or not holder.is_dead():
            continue
        broken = lock.name
        if lock.name.endswith(SUFFIX):
            # Renamed first: by now it may be somebody else's.
            broken = next(iter(_broken(tracking, lock.name, lock.tags.get(_TOKEN, ""))), "")
        if broken:
            _remove(tracking, broken)
            dead.append(lock.name)
    return dead


def _take(tracking: Tracking, lock: str, token: str) -> list[str]:
    """Wait for the lock and take it; returns the names of locks that were broken for it."""
    begun = since = time.monotonic()
    seen, broken = "", list[str]()
    while not _taken(tracking, lock, token):
        held, process = _holder(tracking, lock)
        if held != seen:
            seen, since = held, time.monotonic()
        dead = process_from_json(process)
        if held and ((dead and dead.is_dead()) or time.monotonic() - since > STALE_SECONDS):
            broken += _broken(tracking, lock, held)
            continue
        if time.monotonic() - begun > WAIT_SECONDS:
            raise BusyError(
                f"another promotion holds {lock!r} for {WAIT_SECONDS:.0f} s; try again, or, if "
                "none is under way, delete that registered model in MLflow"
            )
        time.sleep(_POLL_SECONDS)
    return broken


def _taken(tracking: Tracking, lock: str, token: str) -> bool:
    """Try to create the lock; False if somebody else holds it."""
    from mlflow.exceptions import MlflowException

    tags = {PROCESS_TAG: this_process().to_json(), _TOKEN: token}
    with tracking.explained(f"take the lock {lock!r}"):
        try:
            tracking.client.create_registered_model(
                lock, tags, "Held while a champion is promoted; gone a second later."
            )
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
            # It may be ours: a client whose answer was lost asks again by itself.
            return _holder(tracking, lock)[0] == token
    return True


def _holder(tracking: Tracking, lock: str) -> tuple[str, str]:
    """Return the token and the process of whoever holds the lock; empty if nobody does."""
    try:
        with tracking.explained(f"look at the lock {lock!r}"):
            tags = tracking.client.get_registered_model(lock).tags
    except AbsentError:
        return "", ""
    return tags.get(_TOKEN, "nobody's"), tags.get(PROCESS_TAG, "")


def _broken(tracking: Tracking, lock: str, token: str) -> list[str]:
    """Rename a dead holder's lock; empty if somebody else was faster."""
    aside = f"{lock}.{token}"
    try:
        with tracking.explained(f"break the lock {lock!r}"):
            tracking.client.rename_registered_model(lock, aside)
    except UnreachableError:
        raise
    except RegistryError as error:
        logger.info("the lock %s is not there to be broken any more: %s", lock, error)
        return []
    logger.warning("took over the lock %s of a promotion that was killed", lock)
    return [aside]


def _remove(tracking: Tracking, lock: str) -> None:
    with suppress(AbsentError), tracking.explained(f"release the lock {lock!r}"):
        tracking.client.delete_registered_model(lock)
