"""A worker: what it must be, what it does for a shard, and that it stops where that is given up.

It is a process that somebody else may have started, elsewhere and earlier. It computes a shard
only if it has the vaesc, the libraries and the instructions of the process that leads.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from threading import Lock
from typing import Any

from vaesc import __version__
from vaesc.arithmetic import arithmetic
from vaesc.errors import ConfigError, VaescError
from vaesc.shards import Shard, Summary, compute
from vaesc.source import digest_of_source

_SOURCE = digest_of_source()
"""Of what is loaded: the files may be edited later."""
_AT_WORK: Counter[str] = Counter()
_GIVEN_UP: set[str] = set()
_LOCK = Lock()


def own_kind(*, computes: bool = True) -> dict[str, str]:
    """Return what all processes that compute one result must have in common.

    Where a worker only starts pipelines, it `computes` nothing, and torch is not imported.
    """
    return {"version": __version__, "source": _SOURCE, **(arithmetic() if computes else {})}


def facts_of_worker(seen: str, computes: bool = True) -> dict[str, Any]:
    """Return what this process is, and whether it sees a file of the process that leads."""
    return {
        "kind": own_kind(computes=computes), "sees": Path(seen).exists(), "pid": os.getpid(),
    }  # fmt: skip


def unlike(who: str, there: Mapping[str, str], here: Mapping[str, str]) -> str:
    """Return a sentence that says in what a worker differs; empty if in nothing."""
    if there["source"] != here["source"] or there["version"] != here["version"]:
        return (
            f"{who} has another vaesc (version {there['version']}, source "
            f"{there['source']:.12}) than the process that leads: install the same one on every "
            "machine, and restart the workers"
        )
    other = [name for name in here if there.get(name) != here[name]]
    if not other:
        return ""
    told = (" ".join(f"{n}={kind.get(n)}" for n in other) for kind in (there, here))
    return (
        f"{who} computes with {next(told)}, the process that leads with {next(told)}: use one "
        "version of each library, and one kind of machine, or no bytes would be reproducible"
    )


def require_alike(answers: Mapping[str, Any], kind: Mapping[str, str], folder: Path | str) -> None:
    """Refuse workers that are of another kind, or do not see a file in a folder of ours.

    Args:
        answers: What :func:`facts_of_worker` said in each, or why it did not.
        kind: What this process is.
        folder: What people call the folder.
    """
    for worker, facts in sorted(answers.items()):
        who = f"the worker {worker}"
        if not isinstance(facts, dict):
            raise ConfigError(
                f"{who} cannot use vaesc ({facts}); install vaesc[dask] {__version__} there"
            )
        if sentence := unlike(who, facts["kind"], kind):
            raise ConfigError(sentence)
        if not facts["sees"]:
            raise ConfigError(unseen(who, folder))


def unseen(who: str, folder: Path | str) -> str:
    """Return a sentence about a worker that does not see a folder."""
    return (
        f"{who} does not see what this process writes to {folder}: mount one file system there, "
        "for this run and all of its workers (on Kubernetes one ReadWriteMany claim, see "
        "docs/scale.md), or set runtime.runner=threads"
    )


def computed_alike(shard: Mapping[str, Any], leader: Mapping[str, str], batch: str) -> Summary:
    """Compute a shard if this process is of the leader's kind, and the batch is still wanted.

    Raises:
        ConfigError: This process came late, and is of another kind.
        VaescError: The batch was given up, or what the shard's function raised.
    """
    if sentence := unlike("a worker", own_kind(), leader):
        raise ConfigError(sentence)
    with _at_work(batch):
        return compute(Shard.from_json(shard))


@contextmanager
def _at_work(batch: str) -> Iterator[None]:
    with _LOCK:
        if batch in _GIVEN_UP:
            raise VaescError("the shard was not computed: its batch was given up")
        _AT_WORK[batch] += 1
    try:
        yield
    finally:
        with _LOCK:
            _AT_WORK[batch] -= 1
            if not _AT_WORK[batch]:
                del _AT_WORK[batch]


def give_up(batch: str) -> int:
    """Begin no more shards of a batch, and return how many this process is still at work on."""
    with _LOCK:
        _GIVEN_UP.add(batch)
        return _AT_WORK[batch]
