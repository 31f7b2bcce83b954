"""What a home holds: whole or partial artifacts, what was left behind, who still claims to run."""

from __future__ import annotations

import json
import os
import sqlite3
import threading
import urllib.request
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

from vaesc.registry.files import fault
from vaesc.store import DamagedError, Store, read_artifact

VERSION = "model version"
_PASSING = ("tmp", "part")
_LOCKS = "SELECT name FROM registered_models WHERE name LIKE '%.promotion%'"
_RUNNING = "SELECT run_uuid FROM runs WHERE status IN ('RUNNING', 'SCHEDULED')"
_VERSIONS = """
SELECT v.version, v.storage_location, t.value FROM model_versions v
JOIN model_version_tags t ON t.name = v.name AND t.version = v.version
WHERE t.key = 'vaesc.model_digest'
"""


@dataclass
class Home:
    """One home and its Prefect server, seen from outside."""

    folder: Path
    scratch: Path
    """Where its processes put temporary files."""
    prefect: str
    """URL of its Prefect API."""
    partial: list[str] = field(default_factory=list)

    def contents(self) -> dict[str, str]:
        """Return the content of every whole artifact by ``kind/address``; note those that are not.

        An artifact that is in the store and not whole is what no reader may ever see.
        """
        found = {}
        for folder in Store(self.folder / "store").folders():
            try:
                artifact = read_artifact(folder)
            except DamagedError as error:
                self.partial.append(f"{folder.parents[1].name}: {error}")
            else:
                found[f"{artifact.kind}/{artifact.digest}"] = artifact.content
        return found

    def models(self) -> dict[str, str]:
        """Return the digest of every version whose files are whole; note those that are not."""
        found = {}
        for version, place, digest in self._rows(_VERSIONS):
            bundle = self._folder(str(place)) / "artifacts" / "bundle"
            if wrong := fault(bundle, digest):
                self.partial.append(f"{VERSION} {version}: {wrong}")
            else:
                found[str(version)] = str(digest)
        return found

    def _folder(self, place: str) -> Path:
        served = "mlflow-artifacts:/"
        if place.startswith(served):
            return self.folder / "mlartifacts" / place.removeprefix(served)
        return Path(place.removeprefix("file://"))

    def leftovers(self) -> list[str]:
        """Return what a dead process left: temporary files, locks, runs that claim to go on."""
        return [
            *self._temporary(),
            *(f"MLflow run {run} runs" for (run,) in self._rows(_RUNNING)),
            *(f"lock {name}" for (name,) in self._rows(_LOCKS)),
            *(f"Prefect run {name} runs" for name in self._prefect_runs()),
        ]

    def _temporary(self) -> list[str]:
        found = [f"{p.name} in the scratch folder" for p in self.scratch.glob("vaesc-*")]
        found += [f"store/tmp/{p.name}" for p in (self.folder / "store" / "tmp").glob("*")]
        for base, _, names in os.walk(self.folder):
            if "/prefect" not in base:
                found += [
                    os.path.join(base, name)
                    for name in names
                    if name.rpartition(".")[2] in _PASSING or name.startswith(".mlflow")
                ]
        return found

    def _prefect_runs(self) -> list[str]:
        body = {"flow_runs": {"state": {"type": {"any_": ["RUNNING", "PENDING"]}}}}
        request = urllib.request.Request(
            f"{self.prefect}/flow_runs/filter", json.dumps(body).encode(),
            {"content-type": "application/json"},
        )  # fmt: skip
        with urllib.request.urlopen(request, timeout=30) as answer:
            return [run["name"] for run in json.loads(answer.read())]

    def _rows(self, statement: str) -> list[tuple[Any, ...]]:
        path = self.folder / "mlflow.db"
        if not path.exists():
            return []
        with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=30)) as database:
            try:
                return database.execute(statement).fetchall()
            except sqlite3.OperationalError as error:
                if "no such table" in str(error):
                    return []
                raise


class Reader:
    """Reads every artifact, over and over, while runs go on: what is there must be whole.

    Args:
        root: The store, from which nobody takes anything away meanwhile.
    """

    def __init__(self, root: Path) -> None:
        self._store, self._over = Store(root), threading.Event()
        self._thread = threading.Thread(target=self._read, daemon=True)
        self.n_read = 0
        self.partial: set[str] = set()
        """What it saw and no reader may see."""

    def __enter__(self) -> Reader:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:  # fmt: skip
        self._over.set()
        self._thread.join()

    def _read(self) -> None:
        while not self._over.wait(0.1):
            for folder in self._store.folders():
                try:
                    read_artifact(folder)
                except DamagedError as error:
                    self.partial.add(f"{folder.parents[1].name}: {error}")
                else:
                    self.n_read += 1
