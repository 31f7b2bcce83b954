"""Scoring as a flow: a real Prefect server, a real MLflow, a real run that an event starts.

One story, told once, since every process of it costs seconds: a broken batch, one like the model's
own data, one that is foreign, and that one again.
"""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from project import clean_environment
from test_deployments import ask

ROOT = Path(__file__).parents[1]

pytestmark = [pytest.mark.service, pytest.mark.timeout(420)]

SET_UP = """
from pathlib import Path
import numpy as np
from registry_homes import images, tiny_model
from vaesc.drift.reference import described
from vaesc.errors import ConfigError
from vaesc.registry import connect, promotion, register

tracking, own = connect(), images(500, seed=1)
for seed in (0, 1):
    model = tiny_model(seed)
    model.reference = described(model.encode(own), model.score(own))
    model.save(Path(f"model-{seed}"))
    record = register(Path(f"model-{seed}"), tracking, run_id=tracking.start_run("by hand"))
    if seed == 0:
        print(record.digest)
assert (promotion.champion_of(tracking, "vaesc"), record.version) == (1, 2)

from flows.drift_automation import drift_automation
from flows.retrain import retrain
try:
    drift_automation()
except ConfigError as error:
    print(error)
retrain.to_deployment("nightly").apply()
drift_automation().create()
np.save("like.npy", images(800, seed=3))
np.save("foreign.npy", np.ones((800, 4, 5), np.float32))
np.save("broken.npy", np.full((3, 4, 5), np.nan))
"""

SCORE = """
import json, sys
from flows.score import score
from vaesc.errors import DataError
from vaesc.registry import connect
found = {}
for name in sys.argv[1:]:
    try:
        found[name] = score(f"{name}.npy")
    except DataError as error:
        found[name] = str(error)
tracking = connect(create=False)
runs = list(tracking.find_runs("tags.`vaesc.step` = 'score'"))
found["runs"] = {
    run.info.run_id: {
        "status": run.info.status, "tags": run.data.tags, "metrics": run.data.metrics,
        "files": [a.path for a in tracking.client.list_artifacts(run.info.run_id)],
    }
    for run in runs
}
print(json.dumps(found))
"""


class Worker:
    """A home with a Prefect server, and programs that are run in it."""

    def __init__(self, home, env, url):
        self.home, self.env, self.url = home, env, url

    def python(self, *arguments):
        done = subprocess.run(
            [sys.executable, *arguments],
            env=self.env, cwd=self.home, capture_output=True, text=True, timeout=1500,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr[-3000:]
        return done.stdout

    def score(self, *names):
        return json.loads(self.python("-c", SCORE, *names).splitlines()[-1])

    def retrainings(self, wanted, seconds=150):
        """Return the runs of the one deployment, once so many are there or time is up."""
        return within(seconds, wanted, lambda: [
            run for run in ask(self.url, "/flow_runs/filter", {}) if run["deployment_id"]
        ])  # fmt: skip

    def events(self, wanted=0, seconds=150):
        """Return the events of drift, likewise."""
        body = {"filter": {"event": {"name": ["vaesc.drift"]}}}
        found = lambda: ask(self.url, "/events/filter", body)["events"]  # noqa: E731
        return within(seconds, wanted, found)


def within(seconds, wanted, read):
    deadline = time.monotonic() + seconds
    while len(found := read()) < wanted and time.monotonic() < deadline:
        time.sleep(1)
    return found


@pytest.fixture(scope="module")
def worker(tmp_path_factory):
    home = tmp_path_factory.mktemp("score")
    path = os.pathsep.join([str(ROOT), str(ROOT / "tests")])
    env = {
        **clean_environment(),
        "VAESC_HOME": str(home),
        "PREFECT_HOME": str(home / "p"),
        "PYTHONPATH": path,
    }
    tool = [sys.executable, "-m", "tasks.server"]
    subprocess.run([*tool, "start"], env=env, cwd=ROOT, check=True)
    try:
        url = json.loads((home / "prefect" / "server.json").read_text())["url"]
        yield Worker(home, {**env, "PREFECT_API_URL": url}, url)
    finally:
        subprocess.run([*tool, "stop"], env=env, cwd=ROOT, check=True)


def test_drift_starts_one_retraining_and_its_absence_none(worker):
    digest, refusal = worker.python("-c", SET_UP).splitlines()[-2:]
    assert refusal.endswith("no deployment 'retrain/nightly'; run `vaesc deploy` first")

    scored = worker.score("broken", "like")
    assert scored["broken"].startswith("broken.npy: image 0 holds NaN or infinity")
    like = scored["like"]
    assert like["drift"]["drifted"] is like["event"] is False
    assert worker.retrainings(1, seconds=5) == worker.events() == []
    assert_recorded(worker, like, scored["runs"], digest)

    # The command line tells the server, too; what another version makes of it trains nothing.
    other = worker.python("-m", "vaesc", "score", "--model", "2", "foreign.npy", "two", "--json")
    assert json.loads(other)["event"] is True
    (event,) = worker.events(1)
    assert event["resource"]["vaesc.is-champion"] == "no"
    assert worker.retrainings(1, seconds=5) == []

    foreign = worker.score("foreign")["foreign"]
    assert foreign["drift"]["drifted"] is foreign["event"] is True
    (run,) = worker.retrainings(1)
    assert run["state_type"] == "SCHEDULED"
    assert run["parameters"]["reason"] == foreign["drift"]["reason"]
    event, _ = worker.events(2)  # the newest first
    assert event["resource"]["vaesc.is-champion"] == "yes"
    assert event["resource"]["prefect.resource.id"] == "vaesc.model.vaesc"
    assert event["payload"]["reason"] == foreign["drift"]["reason"]
    assert event["payload"]["statistics"] == foreign["drift"]["statistics"]
    assert event["payload"]["model"] == {"name": "vaesc", "version": 1, "digest": digest}

    # Within the hour that starts nothing more.
    said = worker.python("-m", "vaesc", "score", "foreign.npy", "again", "--json")
    assert json.loads(said)["event"] is True
    assert len(worker.events(3)) == 3
    assert len(worker.retrainings(2, seconds=5)) == 1


def assert_recorded(worker, found, runs, digest):
    """MLflow holds model, figures and summary of a batch; Prefect shows its verdict."""
    run = runs.pop(found["run_id"])
    assert run["status"] == "FINISHED"
    assert run["tags"]["vaesc.scored_model"] == "models:/vaesc/1"
    assert run["tags"]["vaesc.scored_version"] == "1"
    assert run["tags"]["vaesc.scored_digest"] == digest == found["model"]["digest"]
    assert run["metrics"]["batch/mse"] == pytest.approx(found["mse"])
    assert run["metrics"]["batch/drifted"] == 0
    assert {f"batch/{s['name']}" for s in found["drift"]["statistics"]} < set(run["metrics"])
    assert "summary.json" in run["files"]
    (failed,) = runs.values()  # the broken batch's
    assert failed["status"] == "FAILED"
    assert "image 0 holds NaN" in failed["tags"]["vaesc.error"]
    artifacts = ask(worker.url, "/artifacts/filter", {})
    (shown,) = (a for a in artifacts if a["key"] == "vaesc-drift")
    assert found["drift"]["reason"] in shown["data"]
    assert "| mse_distance |" in shown["data"]
    folder = Path(found["out"])
    assert folder.is_relative_to(worker.home / "scores")
    assert [p.name for p in folder.parent.iterdir()] == [folder.name]  # none of the broken one
