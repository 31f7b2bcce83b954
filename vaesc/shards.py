"""Work cut into shards: each makes a part, whole or absent, wherever it runs.

A shard is a function of this package, named, and arguments that JSON can hold; it writes its bulk
into a *part*, a folder of its own, and returns a few numbers. Where one shard ends depends on the
data alone, and a shard computes on one thread or in groups that are computed on one thread each.
So it gives the same bytes in this process and in a worker on another machine, and what is made of
all parts, in order, depends on no number of workers.

A part names its function, arguments and source, the type of device, libraries and instructions
(:mod:`vaesc.arithmetic`), and the SHA-256 of each file. It is written beside its place and
renamed. A shard whose part is there, of all the same, and is still what was written is not
computed again: that of a worker which was lost is recomputed alone, and a step that was killed
goes on.

Who runs shards is a :class:`Runner`: :data:`HERE`, or workers that the floors above provide for
the time of a block (:func:`running`).
"""

from __future__ import annotations

import json
import logging
import shutil
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import lru_cache, wraps
from importlib import import_module
from pathlib import Path
from threading import Lock
from typing import Any, ParamSpec, Protocol, TypeVar, cast

from vaesc.arithmetic import arithmetic
from vaesc.config import canonical_json
from vaesc.errors import DataError, StoreError, machine_told
from vaesc.scratch import own_name
from vaesc.source import source_digest
from vaesc.store import file_digest

logger = logging.getLogger(__name__)

NOTE = "part.json"

T = TypeVar("T")
R = TypeVar("R")
P = ParamSpec("P")
Summary = dict[str, Any]
_HELD: list[Callable[[], None]] = []


@dataclass(frozen=True, kw_only=True)
class Shard:
    """One piece of work."""

    name: str
    """What people read: ``extract test/3``."""
    function: str
    """``module:name`` of a function of vaesc: ``name(folder, **arguments, **how)`` writes its
    files into the empty `folder` and returns what JSON can hold."""
    part: Path
    """Folder that it becomes; every worker must see it."""
    arguments: Mapping[str, Any]
    """What is computed: strings, numbers, lists of them."""
    how: Mapping[str, Any] = field(default_factory=dict)
    """How it is computed: no part of the result, but for the last bits that the type of its
    ``device`` decides."""

    def identity(self) -> Summary:
        """Return what a part must have been made of, and with, to be this shard's."""
        module, _, _ = self.function.partition(":")
        return {
            "function": self.function,
            "arguments": _plain(dict(self.arguments)),
            "source": source_digest(module),
            "device": str(self.how.get("device", "cpu")).partition(":")[0],
            "arithmetic": arithmetic(),
        }

    def to_json(self) -> Summary:
        """Return the shard as strings and numbers."""
        return {
            "name": self.name, "function": self.function, "part": str(self.part),
            "arguments": dict(self.arguments), "how": dict(self.how),
        }  # fmt: skip

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Shard:
        """Return the shard that :meth:`to_json` described."""
        return cls(**{**values, "part": Path(values["part"])})


Then = Callable[[Shard, Summary], None]
"""Hears of each shard, in order, in the calling process, once its part is there."""


class Runner(Protocol):
    """Whoever runs shards."""

    def map(self, shards: Sequence[Shard], then: Then) -> None:
        """Compute every shard and call ``then(shard, summary)`` for each, in order.

        Raises:
            VaescError: What a shard raised, or that its worker was lost too often.
        """


class Here:
    """Runs shards one after the other in this process, whose threads each may use."""

    def map(self, shards: Sequence[Shard], then: Then) -> None:
        """See :class:`Runner`."""
        for shard in shards:
            then(shard, compute(shard))


HERE = Here()
_RUNNER: ContextVar[Runner] = ContextVar("vaesc_runner", default=HERE)


def runner() -> Runner:
    """Return who runs the shards of the steps that are computed now."""
    return _RUNNER.get()


@contextmanager
def running(by: Runner) -> Iterator[None]:
    """Let `by` run the shards of the block's steps."""
    token = _RUNNER.set(by)
    try:
        yield
    finally:
        _RUNNER.reset(token)


def compute(shard: Shard) -> Summary:
    """Make the part of a shard, unless it is there, and return the shard's summary.

    Raises:
        StoreError: The folder of the parts is not there; what was cleared away stays away.
        VaescError: What the function raised, or what the disk refused.
    """
    identity = shard.identity()
    if (found := _made(shard, identity)) is not None:
        return found
    folder = shard.part.with_name(own_name(shard.part.name.replace(".", "-")))
    with machine_told():
        _make(folder, shard)
        try:
            summary = _function(shard.function)(folder, **shard.arguments, **shard.how)
            note = {**identity, "summary": summary, "files": _digests(folder)}
            (folder / NOTE).write_text(canonical_json(note), encoding="utf-8")
            _publish(folder, shard, identity)
        finally:
            shutil.rmtree(folder, ignore_errors=True)
    return _plain(summary)


def held(function: Callable[P, R]) -> Callable[P, R]:
    """Keep what `function` returned last, which the shards of a step share, until it is let go.

    It is made once, however many threads ask. Its arguments name the step: a path that is reused
    may hold something else by then.
    """
    cached, lock = lru_cache(maxsize=1)(function), Lock()
    kept = cast("Callable[P, R]", cached)
    _HELD.append(cached.cache_clear)

    @wraps(function)
    def once(*arguments: P.args, **named: P.kwargs) -> R:
        with lock:
            return kept(*arguments, **named)

    return once


def let_go() -> None:
    """Let go of what this process has :func:`held`: the step's shards are over."""
    for forget in _HELD:
        forget()


def in_order(function: Callable[[T], R], items: Iterable[T], n_threads: int) -> Iterator[R]:
    """Yield ``function(item)`` of each item, in order; a few are computed ahead, side by side.

    Each thread computes on one core: the caller sees to its own (``one_thread``).
    """
    if n_threads == 1:
        yield from map(function, items)
        return
    waiting: deque[Future[R]] = deque()
    with ThreadPoolExecutor(n_threads, "vaesc-shard", _one_core) as pool:
        try:
            for item in items:
                waiting.append(pool.submit(function, item))
                if len(waiting) > n_threads:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for each in waiting:
                each.cancel()


def _one_core() -> None:
    """Tell torch for this thread: whatever the caller has set, a new one's products share all."""
    import torch

    torch.set_num_threads(1)


@contextmanager
def parts_folder(checkpoints: Path | None, folder: Path) -> Iterator[Path]:
    """Provide the folder of a step's parts: in its checkpoints, else beside `folder` for a while.

    Either way it is where every machine that shares the store's folder sees it.
    """
    if checkpoints is not None:
        (checkpoints / "parts").mkdir(parents=True, exist_ok=True)
        yield (checkpoints / "parts").resolve()
        return
    parts = folder.resolve().parent / own_name("parts")
    parts.mkdir()
    try:
        yield parts
    finally:
        shutil.rmtree(parts, ignore_errors=True)


def name_of(shard: str) -> str:
    """Return the name of a folder for a part that people can tell apart: ``extract-test-3``."""
    return "".join(c if c.isalnum() or c in "_-" else "-" for c in shard)


def spans(n: int, rows: int) -> list[range]:
    """Return the rows of each shard of n: `rows` of them, and what is left."""
    return [range(i, min(i + rows, n)) for i in range(0, n, rows)]


def _make(folder: Path, shard: Shard) -> None:
    try:
        folder.mkdir()
    except FileNotFoundError as error:
        raise StoreError(
            f"{shard.part.parent}, where {shard.name} is to be, is not there: all machines must "
            "share that folder, and it must stay while shards are computed"
        ) from error


def _publish(folder: Path, shard: Shard, identity: Summary) -> None:
    """Rename; a second worker that was thought lost may have been as fast, with the same bytes."""
    try:
        folder.rename(shard.part)
    except OSError:
        if _made(shard, identity) is None:
            raise


def _made(shard: Shard, identity: Summary) -> Summary | None:
    """Return the summary of the shard's part if it is there and whole; else clear its place."""
    try:
        note = json.loads((shard.part / NOTE).read_bytes())
        known = {key: note[key] for key in identity} == identity
        if known and note["files"] == _digests(shard.part):
            summary: Summary = note["summary"]
            return summary
    except (OSError, ValueError, KeyError, TypeError):
        if not shard.part.exists():
            return None
    logger.warning(
        "the part of %s is damaged, of other work or of another machine: it is made again",
        shard.name,
    )
    shutil.rmtree(shard.part, ignore_errors=True)
    return None


def _plain(values: Summary) -> Summary:
    """Return what JSON makes of it, as it comes back from a part's note."""
    plain: Summary = json.loads(canonical_json(values))
    return plain


def _digests(folder: Path) -> dict[str, str]:
    files = sorted(p for p in folder.rglob("*") if p.is_file() and p != folder / NOTE)
    return {p.relative_to(folder).as_posix(): file_digest(p) for p in files}


def _function(name: str) -> Callable[..., Summary]:
    module, _, attribute = name.partition(":")
    if module.partition(".")[0] != "vaesc" or not attribute:
        raise DataError(f"a shard's function is one of vaesc, named module:name, got {name!r}")
    found: Callable[..., Summary] = getattr(import_module(module), attribute)
    return found
