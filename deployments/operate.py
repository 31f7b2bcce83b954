"""A week of operation in minutes, on real servers: what ``make operate`` runs.

::

    python -m deployments.operate [--json]

Brings up PostgreSQL, S3, MLflow and Prefect (:mod:`deployments.stack`), deploys, starts a worker,
and then: the schedule fires and a first model becomes champion; a retraining with worse settings
is rejected, and the reason kept; one with better settings is promoted; a rollback; and a batch of
negatives arrives, which the champion calls drifted, so that the server has it trained again on a
source that now holds them. Each decision is printed with its numbers as it stands in the registry;
the last line is one JSON object. Any step that does not come out as it must ends it with exit
code 1.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deployments.stack import Stack
from tasks.children import Child
from vaesc.errors import VaescError

logger = logging.getLogger(__name__)

_ROOT = Path(__file__).parents[1]
_MINUTES = 15
_DATA = "images.npz"
_QUICK = [
    "dataset.source=arrays", "dataset.split=content",
    "training.epochs=10", "training.batch_size=32", "dictionary.n_atoms=32",
    "dictionary.n_nonzero_coefs=2", "dictionary.max_epochs=5", "refine.epochs=0",
    "evaluation.sparsity_levels=[2]",
    "evaluation.topk_epochs=0", "evaluation.iwae_samples=[5]", "evaluation.iwae_images=[20]",
]  # fmt: skip
_WORSE = [*_QUICK, "vae.latent_dim=2"]
_BETTER = [*_QUICK, "training.epochs=60"]
_DEPLOYMENT = """\
name: operate
pull: null
deployments:
  - name: nightly
    entrypoint: flows/retrain.py:retrain
    parameters: {settings}
    work_pool:
      name: operate
    concurrency_limit:
      limit: 1
      collision_strategy: ENQUEUE
    schedules:
      - cron: "* * * * *"
        timezone: UTC
        slug: every-minute
        active: true
"""


def digits() -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Return scikit-learn's digits, shape (1797, 8, 8), in [0, 1], and what they show."""
    from sklearn.datasets import load_digits

    found = load_digits()
    return np.asarray(found.images / 16, np.float32), np.asarray(found.target, np.int64)


class Operation:
    """The stack as a client sees it, and what was decided on it so far."""

    def __init__(self, folder: Path, environment: dict[str, str]) -> None:
        self.folder = folder
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("PREFECT_", "MLFLOW_"))}
        self.environment = {
            **kept, **environment, "VAESC_HOME": str(folder / "home"),
            "PREFECT_HOME": str(folder / "client"), "PYTHONPATH": str(_ROOT),
        }  # fmt: skip
        self.told: list[dict[str, Any]] = []

    def run(self, *arguments: str) -> str:
        """Run a Python module as a client does, and return what it printed.

        Raises:
            VaescError: It failed; the sentence holds its last words.
        """
        done = subprocess.run(
            [sys.executable, "-m", *arguments], env=self.environment, cwd=_ROOT,
            capture_output=True, text=True, timeout=600, check=False,
        )  # fmt: skip
        if done.returncode:
            last = (done.stderr.strip() or done.stdout.strip()).splitlines()[-1:]
            raise VaescError(f"`{' '.join(arguments[:4])} ...` failed: {''.join(last)}")
        return done.stdout

    def deploy(self) -> None:
        """Hand the deployment to the server; it is due every minute."""
        file = self.folder / "prefect.yaml"
        self.bring(*digits())
        parameters = json.dumps({"preset": "digits", "settings": self.settings(_QUICK)})
        file.write_text(_DEPLOYMENT.replace("{settings}", parameters))
        self.run("vaesc", "deploy", "--file", str(file))

    def bring(self, images: NDArray[np.float32], labels: NDArray[np.int64]) -> None:
        """Put images into the source, all that it holds from now on."""
        np.savez(self.folder / _DATA, x=images, y=labels)

    def settings(self, some: Sequence[str]) -> list[str]:
        """Return the settings of a run on the source."""
        return [*some, f"dataset.path={self.folder / _DATA}"]

    def worker(self) -> Child:
        """Start a worker of the pool."""
        command = [sys.executable, "-m", "prefect", "worker", "start", "--pool", "operate"]
        return Child(
            "the worker", command, log=self.folder / "worker.log", environment=self.environment,
            folder=_ROOT,
        )  # fmt: skip

    def versions(self) -> list[dict[str, Any]]:
        """Return the registered versions, oldest first; none before the first one."""
        program = (
            "import json\nfrom vaesc.registry import list_models\n"
            "from vaesc.registry.failures import AbsentError\n"
            "try: found = list_models()\nexcept AbsentError: found = []\nprint(json.dumps(found))"
        )
        return list(reversed(json.loads(self.run_program(program))))

    def run_program(self, program: str) -> str:
        """Run a program that reads the registry, and return what it printed."""
        done = subprocess.run(
            [sys.executable, "-c", program], env=self.environment, capture_output=True, text=True,
            timeout=120, check=False, cwd=_ROOT,
        )  # fmt: skip
        if done.returncode:
            raise VaescError(f"the registry cannot be read: {done.stderr.strip()[-300:]}")
        return done.stdout

    def decision(self, version: int) -> dict[str, Any] | None:
        """Return what was decided on a version, once it is."""
        shown = json.loads(self.run("vaesc", "models", "show", str(version), "--json"))
        found: dict[str, Any] | None = shown["decision"]
        return found

    def reason_of(self, version: int) -> str:
        """Return why a version was trained, as its run has kept it; empty: by schedule."""
        program = (
            "from vaesc.registry import connect, show_model\n"
            "client = connect().client\n"
            f"run = client.get_run(show_model({version})['run_id'])\n"
            "parent = run.data.tags.get('mlflow.parentRunId', run.info.run_id)\n"
            "print(client.get_run(parent).data.tags.get('vaesc.retrain_reason', ''))"
        )
        return self.run_program(program).strip()

    def champion(self) -> int | None:
        """Return the version that is champion now."""
        named = [v["version"] for v in self.versions() if "champion" in v["aliases"]]
        return named[0] if named else None

    def await_decision(self, number: int, check: Callable[[], None]) -> dict[str, Any]:
        """Wait until the `number`-th version is there and decided on."""
        deadline = time.monotonic() + 60 * _MINUTES
        while time.monotonic() < deadline:
            check()
            versions = self.versions()
            if len(versions) >= number:
                found = self.decision(versions[number - 1]["version"])
                if found is not None:
                    return found
            time.sleep(3)
        raise VaescError(f"no decision on a version {number} within {_MINUTES} minutes")

    def tell(self, event: str, facts: dict[str, Any]) -> None:
        """Print what has happened, and remember it."""
        facts = {"event": event, "champion_now": self.champion(), **facts}
        self.told.append(facts)
        print(f"\n== {event}: champion is version {facts['champion_now']}")
        print(f"   {facts.get('reason', '')}")
        for c in facts.get("comparisons", ()):
            print(
                f"   {c['metric']:<16}{c['ratio']:>8.3f}  ({c['low']:.3f} to {c['high']:.3f}, may "
                f"reach {1 + c['margin']:.3f})  {c['verdict']}"
            )
        sys.stdout.flush()


def operate(folder: Path) -> dict[str, Any]:
    """Go through the story, and return its figures.

    Raises:
        VaescError: Something did not come out as it must.
    """
    started = time.perf_counter()
    print("bringing up PostgreSQL, S3, MLflow and Prefect", flush=True)
    with Stack(folder / "stack") as stack:
        up = time.perf_counter() - started
        week = Operation(folder, stack.environment)
        week.deploy()
        worker = week.worker()

        def check() -> None:
            stack.check()
            worker.check()

        try:
            _story(week, check)
        finally:
            worker.stop()
    return {
        "outcome": "as it must", "seconds": round(time.perf_counter() - started, 1),
        "seconds_to_bring_up": round(up, 1), "events": week.told,
    }  # fmt: skip


def _story(week: Operation, check: Callable[[], None]) -> None:
    first = week.await_decision(1, check)
    _await(lambda: week.champion() == 1)
    week.tell("the schedule fired, and the first model is champion", _short(first))
    _must(first["outcome"] == "promoted" and week.champion() == 1, "a first champion", first)
    week.run("prefect", "--no-prompt", "deployment", "schedule", "pause", "--all")

    _trigger(week, _WORSE)
    worse = week.await_decision(2, check)
    week.tell("a retraining with worse settings", _short(worse))
    _must(worse["outcome"] == "rejected" and week.champion() == 1, "a rejection", worse)

    _trigger(week, _BETTER)
    better = week.await_decision(3, check)
    _must(better["outcome"] == "promoted", "a promotion", better)
    _await(lambda: week.champion() == 3)
    week.tell("a retraining with better settings", _short(better))

    moved = json.loads(week.run("vaesc", "models", "rollback", "--reason", "a drill", "--json"))
    week.tell("rolled back", moved)
    _must(moved["version"] == 1 and week.champion() == 1, "a rollback to version 1", moved)

    images, labels = digits()
    np.save(week.folder / "batch.npy", 1 - images[:400])
    week.bring(np.concatenate([images, 1 - images]), np.concatenate([labels, labels]))
    scored = json.loads(week.run(
        "vaesc", "score", str(week.folder / "batch.npy"), str(week.folder / "scores"), "--json"
    ))  # fmt: skip
    drift = scored["drift"]
    week.tell("negatives arrive", {"reason": drift["reason"], "event": scored["event"]})
    _must(drift["drifted"] and scored["event"], "a drift, and its event", drift)
    again = week.await_decision(4, check)
    week.tell("the drift had it trained again", _short(again))
    _must(again["outcome"] in ("promoted", "rejected"), "a decision", again)
    why = week.reason_of(4)
    _must(why == drift["reason"], "a retraining that knows of the drift", why)


def _await(holds: Callable[[], bool]) -> None:
    """The alias moves after the decision is kept: wait for it."""
    deadline = time.monotonic() + 60
    while not holds() and time.monotonic() < deadline:
        time.sleep(1)
    _must(holds(), "the champion alias to follow the decision", None)


def _trigger(week: Operation, settings: Sequence[str]) -> None:
    """Start a run of the deployment with other settings, as one does by hand."""
    given = json.dumps(week.settings(settings))
    week.run("prefect", "deployment", "run", "retrain/nightly", "--param", f"settings={given}")


def _short(decision: dict[str, Any]) -> dict[str, Any]:
    kept = ("candidate", "champion", "outcome", "reason", "n_images", "comparisons", "atoms")
    return {name: decision[name] for name in kept}


def _must(holds: bool, what: str, found: Any) -> None:  # noqa: ANN401
    if not holds:
        raise VaescError(f"expected {what}, got {json.dumps(found)[:400]}")


def main(arguments: list[str] | None = None) -> int:
    """Run it in a folder of its own that is removed afterwards."""
    logging.basicConfig(format="%(message)s")
    parser = argparse.ArgumentParser(prog="python -m deployments.operate", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--keep", type=Path, metavar="DIR", help="work in DIR, and leave it there")
    options = parser.parse_args(arguments)
    try:
        if options.keep:
            options.keep.mkdir(parents=True, exist_ok=True)
            figures = operate(options.keep.resolve())
        else:
            with tempfile.TemporaryDirectory(prefix="vaesc-operate-") as folder:
                Path(folder).chmod(0o711)  # as root, PostgreSQL runs as another user inside it
                figures = operate(Path(folder))
    except VaescError as error:
        print(f"operate: {error}", file=sys.stderr)
        return 1
    print(json.dumps(figures))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
