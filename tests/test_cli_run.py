"""``vaesc run``: what can be seen at once to be wrong is said before any service is started."""

import sys
from types import SimpleNamespace

import httpx
import pytest

from vaesc.cli import main


@pytest.fixture
def connections(monkeypatch):
    seen = []
    monkeypatch.setitem(sys.modules, "tasks.server", SimpleNamespace(connect=seen.append))
    return seen


@pytest.mark.parametrize("source", ["arrays", "folder"])
def test_data_that_is_not_there_is_missed_before_prefect_starts(
    tmp_path, connections, capsys, source
):
    path = tmp_path / "nothing.npy"
    code = main(["run", "--preset", source, "--set", f"dataset.path={path}"])
    assert code == 1
    assert capsys.readouterr().err == f"vaesc: {path} does not exist; check the path\n"
    assert connections == []


def test_labels_that_are_not_there_are_missed_too(tmp_path, connections, capsys):
    (tmp_path / "x.npy").write_bytes(b"")
    path, labels = tmp_path / "x.npy", tmp_path / "y.npy"
    settings = [f"--set=dataset.path={path}", f"--set=dataset.labels={labels}"]
    assert main(["run", "--preset=arrays", *settings]) == 1
    assert capsys.readouterr().err == f"vaesc: {labels} does not exist; check the path\n"
    assert connections == []


@pytest.mark.parametrize(
    "assignment",
    ["dataset.labels=y.npy", "runtime.device=gpu", "registry.model_name=o'b", "preset=mnist"],
)
def test_wrong_settings_exit_with_2_before_prefect_starts(connections, capsys, assignment):
    assert main(["run", "--set", assignment]) == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert connections == []


def test_a_prefect_that_fails_is_one_sentence(monkeypatch, capsys):
    request = httpx.Request("GET", "http://127.0.0.1:4200/api/flow_runs/1")
    refused = httpx.HTTPStatusError("Server error '500'", request=request, response=None)

    def fail():
        raise refused

    monkeypatch.setitem(sys.modules, "tasks.server", SimpleNamespace(connect=fail))
    assert main(["run"]) == 1
    said = capsys.readouterr().err
    assert said.startswith("vaesc: Prefect's API failed (Server error '500')")
    assert said.count("\n") == 1
