"""Pipelines side by side: one that fails spoils no other, and none lives on unwanted."""

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import pytest
from project import Project, artifacts, processes, stop_server, wait_until

from tasks import elsewhere, runs, slots
from tasks.children import free_port
from tasks.runs import Pipeline
from vaesc.config import RuntimeConfig
from vaesc.errors import ConfigError, VaescError

ONE = Pipeline("cell one", "digits", None, ())


def pipelines(n):
    return [Pipeline(f"cell {i}", "digits", None, ()) for i in range(n)]


@pytest.fixture
def fake(monkeypatch, tmp_path):
    """Let a function stand for the pipeline's process; return what runs them all."""
    monkeypatch.setenv("VAESC_HOME", str(tmp_path))

    def run(function, n, **runtime):
        with ThreadPoolExecutor(64) as pool:
            task = SimpleNamespace(submit=lambda *given: pool.submit(function, *given))
            monkeypatch.setattr(runs, "run_pipeline", task)
            return list(runs.run_all(pipelines(n), "parent", RuntimeConfig(**runtime)))

    return run


def test_whatever_one_pipeline_raises_is_listed_and_the_others_stand(fake):
    def run(pipeline, environment):
        if pipeline.name == "cell 1":
            raise KeyError("what nobody thought of")
        if pipeline.name == "cell 2":
            raise VaescError("a sentence")
        return {"name": pipeline.name}

    found = fake(run, 4)
    assert [found[0], found[3]] == [{"name": "cell 0"}, {"name": "cell 3"}]
    assert str(found[1]) == "the run of cell 1 failed: KeyError: 'what nobody thought of'"
    assert str(found[2]) == "a sentence"


def test_a_worker_can_be_sent_the_task():
    from distributed.protocol.pickle import dumps

    assert dumps(runs.run_pipeline.fn)


@pytest.fixture
def started(monkeypatch):
    monkeypatch.setattr(runs, "get_run_logger", lambda: SimpleNamespace(info=lambda *said: None))
    runs._OVER.clear()
    return lambda: runs.run_pipeline.fn(ONE, {})


def test_a_process_that_cannot_be_started_is_a_sentence(started, monkeypatch):
    def refuse(*given, **more):
        raise BlockingIOError(11, os.strerror(11))

    monkeypatch.setattr(runs.subprocess, "Popen", refuse)
    with pytest.raises(VaescError, match="cell one could not be started: Resource temporarily"):
        started()


def test_a_summary_that_is_none_is_a_sentence(started, monkeypatch):
    monkeypatch.setattr(Pipeline, "arguments", lambda self: ["--version"])
    with pytest.raises(VaescError, match="cell one ended well, but printed no summary"):
        started()


@pytest.mark.parametrize("n_workers", [1, 3])
def test_no_more_run_at_once_than_workers_says(fake, n_workers):
    now, most, lock = set(), [], threading.Lock()

    def run(pipeline, environment):
        with lock:
            now.add(pipeline.name)
            most.append(len(now))
        time.sleep(0.02)
        with lock:
            now.remove(pipeline.name)
        return {"name": pipeline.name}

    found = fake(run, 7, workers=n_workers)
    assert max(most) == n_workers
    assert [each["name"] for each in found] == [p.name for p in pipelines(7)]


def test_as_many_suit_as_the_process_may_use_cores(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(4)))
    monkeypatch.setattr(slots.cgroup, "cores", lambda: None)
    assert slots.at_once(RuntimeConfig(), 100) == 8
    monkeypatch.setattr(slots.cgroup, "cores", lambda: 1.5)
    assert slots.at_once(RuntimeConfig(), 100) == 4
    assert slots.at_once(RuntimeConfig(workers=9), 100) == 9
    assert slots.at_once(RuntimeConfig(runner="dask://head:1"), 100) == 100
    assert slots.at_once(RuntimeConfig(runner="dask://head:1", workers=3), 100) == 3


def test_each_slot_has_a_gpu_where_nobody_has_chosen(fake, monkeypatch):
    monkeypatch.setattr(slots, "n_gpus", lambda: 2)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)

    def run(pipeline, environment):
        time.sleep(0.01)
        return environment.get("CUDA_VISIBLE_DEVICES")

    assert set(fake(run, 9, workers=3)) == {"0", "1"}
    assert set(fake(run, 2, workers=2, device="cuda:1")) == {None}
    assert set(fake(run, 2, workers=2, ranks=2)) == {None}
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    assert set(fake(run, 2, workers=2)) == {None}


def test_a_pipeline_leaves_shards_and_workers_to_its_own_threads():
    words = Pipeline("x", "digits", None, ("runtime.runner=dask", "runtime.workers=7")).arguments()
    assert words[-4:] == ["--set", "runtime.runner=threads", "--set", "runtime.workers=0"]


def test_a_secret_is_not_handed_on(monkeypatch):
    monkeypatch.setenv("PREFECT_API_URL", "http://prefect:4200/api")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "https://me:secret@mlflow")
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "secret")
    assert elsewhere.handed_on() == {"PREFECT_API_URL": "http://prefect:4200/api"}
    assert "secret" not in str(elsewhere.facts("http://127.0.0.1:1/api"))


@pytest.mark.parametrize(
    ("theirs", "sentence"),
    [
        ({}, None),
        ({"VAESC_STORE": ""}, "has VAESC_STORE=(nothing), this process s3://team/vaesc"),
        ({"AWS_ENDPOINT_URL": "http://minio"}, "has AWS_ENDPOINT_URL=http://minio"),
        ({"PREFECT_API_AUTH_STRING": None}, "has no PREFECT_API_AUTH_STRING, as this process"),
        ({"MLFLOW_TRACKING_URI": None}, "has no MLFLOW_TRACKING_URI"),
        ({"reaches": False}, "does not reach Prefect's API http://prefect:4200/api, or"),
    ],
)
def test_a_worker_with_another_store_or_without_a_login_is_told_so(monkeypatch, theirs, sentence):
    own = {
        "VAESC_STORE": "s3://team/vaesc", "PREFECT_API_URL": "http://prefect:4200/api",
        "PREFECT_API_AUTH_STRING": "me:secret", "MLFLOW_TRACKING_URI": "https://me:secret@mlflow",
    }  # fmt: skip
    monkeypatch.setattr(elsewhere, "answers", lambda url: theirs.get("reaches", True))
    monkeypatch.setattr(elsewhere, "refuses", lambda url: False)

    def facts(environment):
        for name in (*elsewhere._SAME, *elsewhere._LOGINS, *elsewhere._ADDRESSES):
            monkeypatch.delenv(name, raising=False)
        for name, value in environment.items():
            if value is not None and name != "reaches":
                monkeypatch.setenv(name, value)
        return elsewhere.facts("http://prefect:4200/api")

    there = facts({**own, **theirs})
    found = elsewhere.unlike(facts(own), there)
    assert found is None if sentence is None else found.startswith(sentence)


@pytest.mark.parametrize("api", [None, "http://127.0.0.1:4200/api", "http://localhost:4200/api"])
def test_a_worker_of_another_machine_cannot_reach_a_loopback_api(monkeypatch, api):
    monkeypatch.setattr(elsewhere, "configured", lambda: api)
    hosts = {"tcp://there:1": elsewhere.socket.gethostname()}
    monkeypatch.setattr(elsewhere, "_asked", lambda *given: hosts)
    elsewhere.require_api("tcp://head:8786", "dask://head:8786")
    hosts["tcp://there:1"] = "there"
    with pytest.raises(ConfigError, match="tcp://there:1 is on the machine there, which cannot"):
        elsewhere.require_api("tcp://head:8786", "dask://head:8786")
    monkeypatch.setattr(elsewhere, "configured", lambda: "https://prefect.example/api")
    elsewhere.require_api("tcp://head:8786", "dask://head:8786")


def hold(told):
    """Run a process as a pipeline is run, in a task of a Dask worker."""
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(300)"])
    told.write_text(str(process.pid))
    runs._end_unwanted(process, elsewhere.unwanted())


def test_a_pipeline_ends_once_its_client_is_gone(tmp_path, monkeypatch):
    from distributed import Client, LocalCluster

    monkeypatch.setattr(runs, "_LOOK_SECONDS", 0.1)
    told = tmp_path / "pid"
    assert elsewhere.unwanted() is None  # this thread is no worker's
    with LocalCluster(
        n_workers=1, threads_per_worker=1, processes=False, dashboard_address=None
    ) as cluster:
        with Client(cluster, set_as_default=False) as client:
            future = client.submit(hold, told, pure=False)
            wait_until(lambda: told.exists() and told.read_text())
            process = Path("/proc", told.read_text())
            time.sleep(0.5)
            assert process.exists()
            assert not future.done()
        wait_until(lambda: not process.exists())


@pytest.fixture
def project(tmp_path):
    project = Project(tmp_path / "home")
    project.env["PYTHONPATH"] = os.pathsep.join([str(Path(__file__).parents[1]), *sys.path])
    yield project
    stop_server(project)


@pytest.mark.slow
@pytest.mark.service
@pytest.mark.long
@pytest.mark.timeout(600)
def test_cells_on_dask_make_what_cells_of_this_process_make(project):
    sweep = (
        "sweep", "--config", str(project.config), "--set", "refine.epochs=0", "--set",
        "evaluation.topk_epochs=0", "--metric", "test/mse_k2", "--json",
    )  # fmt: skip
    found = []
    for runner in ("dask", "threads"):
        settings = ("--set", f"runtime.runner={runner}", "--set", "runtime.workers=2")
        done = project.vaesc(*sweep, *settings, "--grid", "seed=0,1")
        assert done.returncode == 0, done.stderr[-3000:]
        found.append(json.loads(done.stdout)["cells"])
        if runner == "dask":
            made = artifacts(project.home)
            shutil.rmtree(project.home / "store")
    assert artifacts(project.home) == made
    assert [cell["metrics"] for cell in found[0]] == [cell["metrics"] for cell in found[1]]


@pytest.fixture
def cluster(tmp_path, project):
    """A project, and a Dask cluster of one worker that somebody else runs."""
    port = free_port()
    commands = [
        ("scheduler", "--host", "127.0.0.1", "--port", str(port), "--no-dashboard"),
        (
            "worker",
            f"tcp://127.0.0.1:{port}",
            "--nworkers",
            "1",
            "--nthreads",
            "2",
            "--no-dashboard",
        ),
    ]
    with (tmp_path / "dask.log").open("w") as log:
        processes = [
            subprocess.Popen(
                [sys.executable, "-m", "distributed.cli.dask_" + name, *options], env=project.env,
                stdout=log, stderr=log, cwd=tmp_path,
            )
            for name, *options in commands
        ]  # fmt: skip
        yield project, f"dask://127.0.0.1:{port}"
        for process in reversed(processes):
            process.terminate()
            process.wait(30)


@pytest.mark.slow
@pytest.mark.service
@pytest.mark.long
@pytest.mark.timeout(600)
@pytest.mark.parametrize("way", [signal.SIGTERM, signal.SIGKILL])
def test_a_sweep_that_is_given_up_ends_its_pipelines_on_workers_elsewhere(cluster, way):
    project, runner = cluster
    marker = f"training.epochs={4321 + way}"
    log = project.home / "sweep.log"
    sweep = subprocess.Popen(
        [sys.executable, "-m", "vaesc", "sweep", "--config", str(project.config), "--set", marker,
         "--set", "training.patience=0", "--set", f"runtime.runner={runner}", "--grid",
         "seed=0,1,2"],
        env=project.env, cwd=project.home, stdout=subprocess.DEVNULL, stderr=log.open("w"),
    )  # fmt: skip
    wait_until(lambda: len(processes(marker)) == 3 or sweep.poll() is not None, 180)
    assert sweep.poll() is None, log.read_text()  # it and two cells run
    time.sleep(5)  # until they train
    sweep.send_signal(way)
    sweep.wait(60)
    wait_until(lambda: not processes(marker))
