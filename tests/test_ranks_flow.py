"""``vaesc run`` with ranks, as users run it: below Prefect, and ended with it."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from project import Project, states, stop_server, wait_until

from benchmarks.ranks import ranks_below
from vaesc.store import read_artifact

pytestmark = [
    pytest.mark.slow, pytest.mark.service, pytest.mark.long, pytest.mark.timeout(600)
]  # fmt: skip
RANKS = ("--set", "runtime.ranks=2", "--set", "runtime.device=cpu")


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    project = Project(tmp_path_factory.mktemp("ranks"))
    project.env["PYTHONPATH"] = os.pathsep.join([str(Path(__file__).parents[1]), *sys.path])
    yield project
    stop_server(project)


def test_a_run_in_ranks_is_recorded_and_cached_as_any(project):
    small = ("--set", "refine.epochs=0", "--set", "evaluation.topk_epochs=0")
    small += ("--set", "training.on_collapse=continue")
    shared = project.run(*small, *RANKS)
    assert set(states(shared).values()) == {"computed"}
    made = [read_artifact(path) for path in project.home.glob("store/vae/??/*")]
    assert [vae.summary["engine"]["ranks"] for vae in made] == [2]
    program = f"""
import json
from vaesc.registry.tracking import connect
client = connect(create=False).client
run = client.get_run({shared["run_id"]!r})
(train,) = client.search_runs([run.info.experiment_id],
    f"tags.`mlflow.parentRunId` = '{{run.info.run_id}}' and tags.`mlflow.runName` = 'train'")
history = client.get_metric_history(train.info.run_id, "validation/negative_elbo")
print(json.dumps([point.step for point in history if point.step]))
"""
    assert json.loads(project.python(program)) == [1, 2, 3]
    assert states(project.run(*small))["train"] == "cached"


def test_ranks_end_with_the_run_that_is_terminated(project):
    process = subprocess.Popen(
        [sys.executable, "-m", "vaesc", "run", "--config", str(project.config), *RANKS,
         "--set", "training.epochs=4321", "--set", "training.patience=0"],
        env=project.env, cwd=project.home, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    wait_until(lambda: len(ranks_below(process.pid)) == 3, 180)
    ranks = ranks_below(process.pid)
    time.sleep(5)  # until they train
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) != 0
    wait_until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in ranks), 180)
