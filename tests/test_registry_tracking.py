"""Runs in MLflow: a database that is whole or absent, and runs that say what they are."""

import hashlib
import os
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from registry_homes import enter_home

from vaesc import processes
from vaesc.errors import RegistryError
from vaesc.processes import process_from_json, this_process
from vaesc.records import Dataset
from vaesc.registry import connection, system
from vaesc.registry.entries import param_text
from vaesc.registry.failures import AbsentError, shown
from vaesc.registry.tracking import connect


@pytest.fixture
def home(tmp_path, monkeypatch):
    return enter_home(tmp_path / "home", monkeypatch)


@pytest.fixture
def empty_home(tmp_path, monkeypatch):
    return enter_home(tmp_path / "a home", monkeypatch, database=False)


@pytest.fixture
def mlflow_runs(home):
    return connect("test")


def schema(database):
    """Return a database's revision, and each table's and index's columns and constraints."""
    with closing(sqlite3.connect(database)) as db:
        revision = db.execute("SELECT version_num FROM alembic_version").fetchall()
        made = db.execute("SELECT type, name, coalesce(sql, '') FROM sqlite_master").fetchall()
    # The order of a table's constraints comes from a set: it varies from one creation to the next.
    return revision, {
        (kind, name): sorted(line.strip(" \t,") for line in sql.splitlines())
        for kind, name, sql in made
    }


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


# which MLflow


def test_a_new_database_has_the_schema_that_mlflow_makes_in_place(empty_home, tmp_path):
    connection.prepare_environment()
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    with ThreadPoolExecutor(4) as pool:
        ids = set(pool.map(lambda _: connect("test").experiment_id, range(4)))
    SqlAlchemyStore(f"sqlite:///{tmp_path / 'in_place.db'}", str(tmp_path / "artifacts"))

    assert len(ids) == 1
    assert schema(empty_home / "mlflow.db") == schema(tmp_path / "in_place.db")
    assert {p.name for p in empty_home.iterdir()} <= {"mlflow.db", "mlflow.db.lock"}


def test_a_database_whose_creation_fails_is_not_there(empty_home, monkeypatch):
    from mlflow.store.tracking import sqlalchemy_store

    class Broken:
        def __init__(self, uri, _):
            Path(uri.removeprefix("sqlite:///")).write_bytes(b"half")
            raise OSError("disk full")

    monkeypatch.setattr(sqlalchemy_store, "SqlAlchemyStore", Broken)
    with pytest.raises(RegistryError, match="disk full"):
        connect("test")

    assert [p.name for p in empty_home.iterdir()] == ["mlflow.db.lock"]


def test_a_lookup_creates_nothing(empty_home):
    with pytest.raises(AbsentError, match="set VAESC_HOME or MLFLOW_TRACKING_URI"):
        connect(create=False)

    assert list(empty_home.iterdir()) == []


def test_a_damaged_database_is_refused_at_once(home):
    (home / "mlflow.db").write_bytes(b"not a database" * 100)
    start = time.perf_counter()
    with pytest.raises(RegistryError, match="cannot be read"):
        connect()

    assert time.perf_counter() - start < 5


@pytest.mark.parametrize("create", [True, False])
def test_a_server_that_is_not_there_is_refused_at_once(home, monkeypatch, create):
    port = free_port()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://me:secret@127.0.0.1:{port}")
    start = time.perf_counter()
    with pytest.raises(RegistryError, match=f"nothing answers at .*127.0.0.1:{port}") as raised:
        connect(create=create)

    assert time.perf_counter() - start < 10
    assert "secret" not in str(raised.value)
    assert not isinstance(raised.value, AbsentError)


def test_a_database_server_that_is_not_there_is_refused_at_once(home, monkeypatch):
    uri = f"postgresql://me:secret@127.0.0.1:{free_port()}/mlflow"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    with pytest.raises(RegistryError, match="postgresql://me:\\*\\*\\*@") as raised:
        connect()

    assert "secret" not in str(raised.value)


@pytest.mark.parametrize("uri", ["file:///somewhere/mlruns", "mlruns"])
def test_a_folder_of_runs_is_refused(home, monkeypatch, uri):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    with pytest.raises(RegistryError, match="databases only"):
        connect()


def test_the_users_choice_stands(tmp_path, home, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'mine.db'}")
    runs = connect("test")

    assert (tmp_path / "mine.db").exists()
    experiment = runs.client.get_experiment(runs.experiment_id)
    assert experiment.artifact_location == (home / "mlartifacts").as_uri()


@pytest.mark.parametrize(
    ("uri", "text"),
    [
        ("http://me:secret@host:5000/x", "http://me:***@host:5000/x"),
        ("postgresql+psycopg2://u:a%40b@h/db", "postgresql+psycopg2://u:***@h/db"),
        ("sqlite:////a/b@c:d/e.db", "sqlite:////a/b@c:d/e.db"),
        ("http://host:5000", "http://host:5000"),
    ],
)
def test_no_password_is_shown(uri, text):
    assert shown(uri) == text


def test_importing_the_registry_imports_nothing_heavy():
    code = (
        "import sys, vaesc.registry; print({'mlflow', 'torch', 'sqlalchemy'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert done.stdout.strip() == "set()"


# runs


def test_a_run_says_who_where_and_which_code(mlflow_runs, home):
    parent = mlflow_runs.start_run("flow", tags={"vaesc.preset": "digits"}, device="cpu")
    child = mlflow_runs.start_run("train", parent=parent)
    tags = mlflow_runs.client.get_run(parent).data.tags

    assert tags["vaesc.preset"] == "digits"
    assert tags["system.python"] == ".".join(map(str, sys.version_info[:3]))
    assert tags["system.device"] == "cpu"
    assert tags["system.torch"] == system.version("torch")
    assert process_from_json(tags["vaesc.process"]) == this_process()
    assert mlflow_runs.client.get_run(child).data.tags["mlflow.parentRunId"] == parent
    frozen = next((home / "mlartifacts").rglob("requirements.txt")).read_text().splitlines()
    assert f"numpy=={system.version('numpy')}" in frozen
    assert frozen == sorted(frozen, key=str.lower)
    assert not list((home / "mlartifacts" / child).rglob("*")), "the parent's list is enough"


def test_the_commit_is_gits(monkeypatch):
    system.git_tags.cache_clear()
    root = Path(system.__file__).parent
    asked = subprocess.run(
        ["git", "-C", root, "rev-parse", "HEAD"], capture_output=True, text=True
    )
    if asked.returncode:
        pytest.skip("vaesc does not run from a git checkout here")
    assert system.git_tags()["mlflow.source.git.commit"] == asked.stdout.strip()

    system.git_tags.cache_clear()
    monkeypatch.setenv("PATH", "")
    assert system.git_tags() == {}
    system.git_tags.cache_clear()


def test_metrics_arrive_in_batches_and_infinity_as_nan(mlflow_runs):
    run = mlflow_runs.start_run("x")
    values = {f"test/mse_k{i}": i / 7 for i in range(2500)}
    mlflow_runs.log_metrics(run, values, step=3)
    mlflow_runs.log_metrics(run, {"test/odd": float("inf")})
    data = mlflow_runs.client.get_run(run).data

    assert {k: data.metrics[k] for k in values} == values
    assert mlflow_runs.client.get_metric_history(run, "test/mse_k9")[0].step == 3
    assert data.metrics["test/odd"] != data.metrics["test/odd"]


def test_a_history_is_logged_epoch_by_epoch(mlflow_runs):
    run = mlflow_runs.start_run("x")
    history = [(epoch, {"train/kl": epoch / 7, "train/odd": 0.0}) for epoch in range(1, 801)]
    mlflow_runs.log_history(run, history)
    logged = mlflow_runs.client.get_metric_history(run, "train/kl")
    found = sorted((metric.step, metric.value) for metric in logged)
    assert found == [(epoch, row["train/kl"]) for epoch, row in history]


def test_settings_are_logged_as_text_or_json(mlflow_runs):
    params = {f"a.b{i}": i for i in range(150)} | {"s": "a b", "l": [1, 2], "n": None, "t": True}
    run = mlflow_runs.start_run("x", params=params)
    mlflow_runs.log_params(run, params)  # A retried step logs the same again.
    logged = mlflow_runs.client.get_run(run).data.params

    expected = {"s": "a b", "l": "[1, 2]", "n": "null", "t": "true", "a.b7": "7"}
    assert {k: logged[k] for k in expected} == expected
    assert len(logged) == len(params)
    with pytest.raises(RegistryError, match="log parameters"):
        mlflow_runs.log_params(run, {"s": "other"})


@given(st.text(min_size=0, max_size=50), st.integers(0, 20_000))
def test_long_settings_are_cut_but_stay_different(text, length):
    value = text + "x" * length
    logged = param_text(value)

    assert len(logged) <= 6000
    assert logged == value or logged.endswith(hashlib.sha256(value.encode()).hexdigest())


def test_a_dataset_is_named_with_its_whole_digest(mlflow_runs, tmp_path):
    record = Dataset(
        uri=str(tmp_path), digest="d" * 64, content="0123456789abcdef" * 4, run_id="",
        source="digits", n_train=10, n_validation=2, n_test=3, shape=(8, 8),
    )  # fmt: skip
    run = mlflow_runs.start_run("x")
    mlflow_runs.log_dataset(run, record, {"licence": "BSD"})
    (logged,) = mlflow_runs.client.get_run(run).inputs.dataset_inputs
    from mlflow.data import get_source

    assert (logged.dataset.name, logged.dataset.digest) == ("digits", record.content[:32])
    assert {t.key: t.value for t in logged.tags}["vaesc.content"] == record.content
    assert '"licence": "BSD", "n_test": 3' in logged.dataset.profile
    assert Path(get_source(logged.dataset).load()) == tmp_path


@pytest.mark.parametrize("stumbles", [1, 2, 3])
def test_runs_that_name_one_dataset_at_once_all_do(mlflow_runs, monkeypatch, tmp_path, stumbles):
    """MLflow looks for the dataset's row and then inserts it: another may do so in between."""
    from mlflow.exceptions import MlflowException

    record = Dataset(
        uri=str(tmp_path), digest="d" * 64, content="0123456789abcdef" * 4, run_id="",
        source="digits", n_train=10, n_validation=2, n_test=3, shape=(8, 8),
    )  # fmt: skip
    run, genuine, tried = mlflow_runs.start_run("x"), mlflow_runs.client.log_inputs, []

    def stumbling(*arguments):
        tried.append(arguments)
        if len(tried) <= stumbles:
            raise MlflowException("(sqlite3.IntegrityError) UNIQUE constraint failed: datasets")
        genuine(*arguments)

    monkeypatch.setattr(mlflow_runs.client, "log_inputs", stumbling)
    if stumbles == 3:
        with pytest.raises(RegistryError, match="UNIQUE constraint"):
            mlflow_runs.log_dataset(run, record)
        return
    mlflow_runs.log_dataset(run, record)
    assert len(mlflow_runs.client.get_run(run).inputs.dataset_inputs) == 1


def test_artifacts_may_be_a_file_or_a_folder(mlflow_runs, tmp_path, home):
    (tmp_path / "figures").mkdir()
    (tmp_path / "figures" / "a.png").write_bytes(b"a")
    run = mlflow_runs.start_run("x")
    mlflow_runs.log_artifacts(run, tmp_path / "figures", "figures")
    mlflow_runs.log_artifacts(run, tmp_path / "figures" / "a.png")

    kept = home / "mlartifacts" / run / "artifacts"
    assert (kept / "figures" / "a.png").read_bytes() == (kept / "a.png").read_bytes() == b"a"


def test_nothing_is_written_where_the_command_was_typed(mlflow_runs, tmp_path, monkeypatch):
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    mlflow_runs.finish(mlflow_runs.start_run("x"))

    assert list(Path.cwd().iterdir()) == []


def test_a_deleted_experiment_is_not_brought_back_silently(mlflow_runs):
    mlflow_runs.client.delete_experiment(mlflow_runs.experiment_id)
    with pytest.raises(RegistryError, match="was deleted; restore it, or name another"):
        connect("test").start_run("x")


# stale runs


@pytest.fixture(scope="module")
def dead_process():
    """A process that has just been killed, as it described itself."""
    code = (
        "from vaesc.processes import this_process\n"
        "print(this_process().to_json(), flush=True)\n"
        "input()"
    )
    child = subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    process = process_from_json(child.stdout.readline())
    assert not process.is_dead()
    child.send_signal(signal.SIGKILL)
    child.communicate()
    return process


needs_proc = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs /proc")


@needs_proc
def test_only_certain_death_counts(dead_process):
    me = this_process()
    assert dead_process.is_dead()
    assert not me.is_dead()
    assert replace(me, started="1").is_dead(), "my number, but an earlier process"
    assert replace(me, boot="an earlier one").is_dead()
    assert not replace(dead_process, machine="another").is_dead()
    assert not replace(dead_process, namespace="pid:[1]").is_dead()
    assert not replace(dead_process, boot="").is_dead()


@needs_proc
def test_runs_of_dead_processes_are_closed_and_no_others(mlflow_runs, dead_process):
    def opened_by(process):
        run = mlflow_runs.start_run("x")
        mlflow_runs.set_tags(run, {"vaesc.process": process})
        return run

    stale = {opened_by(dead_process.to_json()) for _ in range(3)}
    others = {
        opened_by(this_process().to_json()),
        opened_by(replace(dead_process, machine="another").to_json()),
        opened_by("not JSON"),
    }
    finished = opened_by(dead_process.to_json())
    mlflow_runs.finish(finished)

    assert set(mlflow_runs.close_stale_runs()) == stale
    assert mlflow_runs.close_stale_runs() == []
    status = {
        run: mlflow_runs.client.get_run(run).info.status for run in stale | others | {finished}
    }
    assert {status[run] for run in stale} == {"KILLED"}
    assert {status[run] for run in others} == {"RUNNING"}
    assert status[finished] == "FINISHED"


def test_a_process_of_another_user_is_alive(monkeypatch):
    def denied(*_):
        raise PermissionError

    monkeypatch.setattr(os, "kill", denied)
    assert processes.pid_exists(1)
