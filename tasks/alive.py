"""Flow runs whose process was killed are not left "Running": the next flow here ends them.

A process that is killed cannot tell Prefect that its run is over. Each flow run is therefore noted
in a file of the home, under the name of its process, for as long as it goes on; whoever finds the
file of a dead process calls its run Crashed. On a server for many machines the automation of
:mod:`flows.automations` does the same by heartbeats, later; this works without any.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from uuid import UUID

import httpx
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.exceptions import ObjectNotFound, PrefectException
from prefect.states import Crashed

from tasks.tracking import flow_run_id
from vaesc.config import home
from vaesc.memory import ran_out
from vaesc.scratch import is_abandoned, own_name

logger = logging.getLogger(__name__)


@contextmanager
def on_record() -> Iterator[None]:
    """Note the current flow run while the block goes on; first, end those of dead processes.

    A home that cannot be written costs this note, not the run: what it cannot do is said later.
    """
    end_runs_of_the_dead()
    note = _folder() / own_name(flow_run_id())
    try:
        _folder().mkdir(parents=True, exist_ok=True)
        note.touch()
    except OSError as error:
        logger.warning("the run is not noted in %s (%s)", _folder(), error.strerror)
    try:
        yield
    except BaseException as error:
        # Where memory or Prefect fails, Prefect may not hear how the run ended: the next run sees.
        if not ran_out(error) and not isinstance(error, (PrefectException, httpx.HTTPError)):
            _forget(note)
        raise
    _forget(note)


def _forget(note: Path) -> None:
    with suppress(OSError):  # what stays is swept once this process is dead
        note.unlink(missing_ok=True)


def end_runs_of_the_dead() -> list[str]:
    """Call Crashed what dead processes of this machine left Running, and return those runs."""
    notes = [path for path in sorted(_folder().glob("*.*.*")) if is_abandoned(path)]
    if not notes:
        return []
    ended = []
    try:
        with get_client(sync_client=True) as client:
            for note in notes:
                run = note.name.partition(".")[0]
                if _crash(client, run):
                    ended.append(run)
                note.unlink(missing_ok=True)
    except (PrefectException, httpx.HTTPError) as error:  # the other notes wait for the next run
        logger.warning("runs of dead processes may still be shown as running: %s", error)
    except OSError as error:
        logger.warning("a note of a dead process stays in %s (%s)", _folder(), error.strerror)
    if ended:
        logger.info("marked %d flow runs of dead processes as crashed", len(ended))
    return ended


def _crash(client: SyncPrefectClient, run: str) -> bool:
    try:
        found = client.read_flow_run(UUID(run))
    except (ObjectNotFound, ValueError):
        return False  # of another server, or deleted
    if found.state is not None and found.state.is_final():
        return False
    client.set_flow_run_state(found.id, Crashed(message="its process was killed"), force=True)
    return True


def _folder() -> Path:
    return home() / "alive"
