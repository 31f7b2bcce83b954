"""One process, one target: search until so many CPU seconds are spent.

``python -m tests.fuzzing.worker TARGET SECONDS SEED FOLDER``: crashes, corpus and ``stats.json``
go to FOLDER. With atheris, libFuzzer keeps what reaches new code; without, inputs are damaged at
random and nothing is kept.
"""

from __future__ import annotations

import json
import logging
import os
import random
import sys
import time
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path

try:
    import atheris
except ImportError:
    atheris = None

from .oracle import Sandbox, Violation, judge

sys.dont_write_bytecode = True
_INSTRUMENTED = ["vaesc", "flows.serve", "tomllib", "yaml", "PIL", "zarr", "numcodecs"]
_COMPILED = ["vaesc.applications.neighbours"]
"""Imported while others are instrumented, and numba compiles no instrumented code."""
if atheris is not None:
    with atheris.instrument_imports(include=_INSTRUMENTED, exclude=_COMPILED):
        from .targets import TARGETS
else:
    from .targets import TARGETS

from vaesc.errors import VaescError  # noqa: E402

from . import corpus  # noqa: E402 - what it imports must be instrumented, too
from .mutation import mutate  # noqa: E402

_MOST_BYTES = 2**16


@dataclass
class Stats:
    """What a search has done so far."""

    target: str
    guided: bool
    executions: int = 0
    refused: int = 0
    cpu_seconds: float = 0.0
    peak_mb: int = 0
    slowest_ms: int = 0
    crashes: dict[str, str] = field(default_factory=dict)
    """What was found by where it was found, and the shortest input's file."""


class Search:
    """Judges inputs, and remembers each kind of violation once."""

    def __init__(self, name: str, seconds: float, seed: int, folder: Path) -> None:
        self.target, self.seconds, self.folder = TARGETS[name], seconds, folder
        self.rng, self.sandbox = random.Random(seed), Sandbox()
        self.stats = Stats(target=name, guided=atheris is not None)
        self.target.prepare()
        self.starts = corpus.start(self.target)
        for data in self.target.seeds():  # late imports and compilers, unwatched and untimed
            self.sandbox.clean()
            with suppress(VaescError):
                self.target.run(data, self.sandbox.inside)
        self._begin, self._written = time.process_time(), 0.0

    def one(self, data: bytes) -> None:
        """Judge one input; end the process when the time is up."""
        start = time.process_time()
        try:
            judged = judge(self.target.run, data, self.sandbox)
        except Violation as found:
            self._found(found, data)
        else:
            self.stats.refused += judged.refused
            self.stats.peak_mb = max(self.stats.peak_mb, judged.peak >> 20)
        now = time.process_time()
        self.stats.executions += 1
        self.stats.slowest_ms = max(self.stats.slowest_ms, int(1000 * (now - start)))
        if now - self._written > 2:
            self._write(now)
        if now - self._begin > self.seconds:
            self._write(now)
            self.sandbox.close()
            os._exit(0)  # libFuzzer would go on, or end with a code of its own

    def damaged(self, data: bytes) -> bytes:
        """Return `data` with damages that its format is sensitive to."""
        return mutate(self.rng, data, self.target.words, self.starts)[:_MOST_BYTES]

    def _found(self, found: Violation, data: bytes) -> None:
        key = f"{found.kind} {found.where}"
        known = self.stats.crashes.get(key)
        if known and Path(known.split(" ", 1)[0]).stat().st_size <= len(data):
            return
        path = corpus.save(self.folder / "crashes", data)
        self.stats.crashes[key] = f"{path} {found}"

    def _write(self, now: float) -> None:
        self.stats.cpu_seconds, self._written = round(now - self._begin, 1), now
        (self.folder / "stats.json").write_text(json.dumps(asdict(self.stats), indent=1))


def main(arguments: list[str]) -> None:
    """Search."""
    name, seconds, seed, folder = arguments
    logging.disable(logging.CRITICAL)
    search = Search(name, float(seconds), int(seed), Path(folder))
    if atheris is None:
        while True:
            search.one(search.damaged(search.rng.choice(search.starts)))
    found = Path(folder) / "corpus"
    for data in search.starts:
        corpus.save(found, data)

    def changed(data: bytes, most: int, seed: int) -> bytes:
        search.rng.seed(seed)
        both = search.rng.random() < 0.5
        return (search.damaged(data) if both else atheris.Mutate(data, most))[:most]

    atheris.Setup(
        ["fuzz", f"-seed={int(seed) + 1}", f"-max_len={_MOST_BYTES}", "-rss_limit_mb=0",
         "-timeout=60", "-len_control=0", f"-artifact_prefix={folder}/killed-", str(found)],
        search.one, custom_mutator=changed,
    )  # fmt: skip
    atheris.Fuzz()


if __name__ == "__main__":
    main(sys.argv[1:])
