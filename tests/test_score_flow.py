"""Scoring as a flow: a real Prefect server, a real MLflow, a real run that an event starts.

One server and one registered model serve all tests; each scores in a process of its own, as a
worker would.
"""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from test_deployments import ask

ROOT = Path(__file__).parents[1]

pytestmark = [pytest.mark.service, pytest.mark.timeout(420)]

REGISTER = """
from pathlib import Path
import numpy as np
from registry_homes import images, tiny_model
from vaesc.drift.reference import described
from vaesc.registry import connect, register
model = tiny_model()
own = images(500, seed=1)
model.reference = described(model.encode(own), model.score(own))
model.save(Path("model"))
tracking = connect()
run = tracking.start_run("made by hand")
print(register(Path("model"), tracking, run_id=run).digest)
"""

AUTOMATE = """
from flows.retrain import retrain
retrain.to_deployment("nightly").apply()
from flows.drift_automation import drift_automation
drift_automation().create()
"""

SCORE = """
import json, sys
from flows.score import score
print(json.dumps(score(sys.argv[1])))
"""


@pytest.fixture(scope="module")
def worker(tmp_path_factory):
    """A home with a server, a registered champion, and the automation; runs programs in it."""
    home = tmp_path_factory.mktemp("score")
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("PREFECT", "MLFLOW"))}
    path = os.pathsep.join([str(ROOT), str(ROOT / "tests")])
    env = {**clean, "VAESC_HOME": str(home), "PREFECT_HOME": str(home / "p"), "PYTHONPATH": path}
    tool = [sys.executable, "-m", "tasks.server"]
    subprocess.run([*tool, "start"], env=env, cwd=ROOT, check=True)
    url = json.loads((home / "prefect" / "server.json").read_text())["url"]
    worker = Worker(home, {**env, "PREFECT_API_URL": url}, url)
    try:
        worker.digest = worker.python(REGISTER).split()[-1]
        worker.python(AUTOMATE)
        rng = np.random.default_rng(3)
        np.save(home / "like.npy", rng.random((800, 4, 5), dtype=np.float32))
        np.save(home / "foreign.npy", np.ones((800, 4, 5), np.float32))
        yield worker
    finally:
        subprocess.run([*tool, "stop"], env=env, cwd=ROOT, check=True)


class Worker:
    digest = ""

    def __init__(self, home, env, url):
        self.home, self.env, self.url = home, env, url

    def python(self, program, *arguments):
        done = subprocess.run(
            [sys.executable, "-c", program, *arguments],
            env=self.env, cwd=self.home, capture_output=True, text=True, timeout=200,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr[-3000:]
        return done.stdout

    def score(self, name):
        return json.loads(self.python(SCORE, name).splitlines()[-1])

    def vaesc(self, *arguments):
        return subprocess.run(
            [sys.executable, "-m", "vaesc", *arguments],
            env=self.env, cwd=self.home, capture_output=True, text=True, timeout=200,
        )  # fmt: skip

    def retrainings(self, wanted, seconds=30):
        """Return the runs of the deployment, once there are as many as wanted or time is up."""
        deadline = time.monotonic() + seconds
        while True:
            deployment = ask(self.url, "/deployments/filter", {})[0]["id"]
            runs = ask(self.url, "/flow_runs/filter", {})
            found = [r for r in runs if r["deployment_id"] == deployment]
            if len(found) >= wanted or time.monotonic() > deadline:
                return found
            time.sleep(1)

    def events(self):
        body = {"filter": {"event": {"name": ["vaesc.drift"]}}}
        return ask(self.url, "/events/filter", body)["events"]


def test_drift_starts_a_retraining_and_its_absence_does_not(worker):
    like = worker.score("like.npy")
    assert like["drift"]["drifted"] is like["event"] is False
    assert worker.retrainings(1, seconds=8) == []
    assert worker.events() == []

    foreign = worker.score("foreign.npy")
    assert foreign["drift"]["drifted"] is foreign["event"] is True
    (run,) = worker.retrainings(1)
    assert run["parameters"]["reason"] == foreign["drift"]["reason"]
    assert run["state_type"] == "SCHEDULED"

    (event,) = worker.events()
    assert event["resource"]["prefect.resource.id"] == "vaesc.model.vaesc"
    assert event["payload"]["reason"] == foreign["drift"]["reason"]
    assert event["payload"]["model"] == {"name": "vaesc", "version": 1, "digest": worker.digest}
    assert event["payload"]["statistics"] == foreign["drift"]["statistics"]

    # The command line tells the server too; within the hour that starts nothing more.
    done = worker.vaesc("score", "foreign.npy", "again", "--json")
    assert done.returncode == 0, done.stderr[-2000:]
    assert json.loads(done.stdout)["event"] is True
    deadline = time.monotonic() + 30
    while len(worker.events()) < 2 and time.monotonic() < deadline:
        time.sleep(1)
    assert len(worker.events()) == 2
    assert len(worker.retrainings(2, seconds=8)) == 1


def test_a_batch_is_recorded_in_mlflow_and_shown_in_prefect(worker):
    found = worker.score("like.npy")
    program = f"""
import json
from vaesc.registry import connect
client = connect(create=False).client
run = client.get_run({found["run_id"]!r})
files = [a.path for a in client.list_artifacts(run.info.run_id)]
print(json.dumps([run.info.status, run.data.tags, run.data.metrics, files]))
"""
    status, tags, metrics, files = json.loads(worker.python(program))
    assert status == "FINISHED"
    assert tags["vaesc.scored_model"] == "models:/vaesc/1"
    assert tags["vaesc.scored_version"] == "1"
    assert tags["vaesc.scored_digest"] == worker.digest == found["model"]["digest"]
    assert metrics["batch/mse"] == pytest.approx(found["mse"])
    assert metrics["batch/drifted"] == 0
    assert {f"batch/{s['name']}" for s in found["drift"]["statistics"]} < set(metrics)
    assert "summary.json" in files
    artifacts = ask(worker.url, "/artifacts/filter", {"sort": "CREATED_DESC"})
    shown = next(a for a in artifacts if a["key"] == "vaesc-drift")
    assert found["drift"]["reason"] in shown["data"]
    assert "| mse_distance |" in shown["data"]
    assert Path(found["out"]).is_relative_to(worker.home / "scores")


def test_a_mistake_is_one_sentence_and_ends_the_mlflow_run(worker):
    np.save(worker.home / "broken.npy", np.full((3, 4, 5), np.nan))
    done = worker.vaesc("score", "broken.npy", "never")
    assert done.returncode == 1
    assert done.stderr.splitlines() == [
        "vaesc: broken.npy: image 0 holds NaN or infinity; every pixel must be finite, so remove "
        "or repair the image"
    ]
    with pytest.raises(AssertionError, match=r"broken\.npy: image 0 holds NaN"):
        worker.score("broken.npy")
    program = """
from vaesc.registry import connect
runs = connect(create=False).find_runs("tags.`vaesc.step` = 'score'")
print([r.data.tags.get("vaesc.error", "") for r in runs if r.info.status == "FAILED"])
"""
    assert "broken.npy: image 0 holds NaN" in worker.python(program)
    assert not (worker.home / "never").exists()


def test_without_the_deployment_there_is_no_automation(worker):
    program = """
from flows.drift_automation import drift_automation
from vaesc.errors import ConfigError
try:
    drift_automation("retrain/weekly")
except ConfigError as error:
    print(error)
"""
    assert "no deployment 'retrain/weekly'; run `vaesc deploy` first" in worker.python(program)
