"""Deployments in pools of each type: what they ask for, and that a real server accepts them."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from project import ask

from tasks.pools import KINDS, PULL, kinds_of, template_of, with_requests
from vaesc.errors import ConfigError
from vaesc.resources import Requests

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "deployments" / "pools"
PREFECT_YAML = ROOT / "deployments" / "prefect.yaml"
NEEDS = Requests(memory_bytes=1536 << 20, cpus=4, gpus=2)


def entry(**pool):
    return {"name": "a", "entrypoint": "x.py:f", "work_pool": {"name": "p", **pool}}


def test_what_the_file_says_stands_before_what_was_reckoned():
    given = entry(
        type="kubernetes", job_variables={"memory_limit": "9Gi", "env": {"OMP_NUM_THREADS": "1"}}
    )
    made = with_requests(given, lambda _: NEEDS)
    variables = made["work_pool"]["job_variables"]
    assert variables["memory_limit"] == "9Gi"
    assert variables["memory_request"] == "1536Mi"
    assert variables["env"] == {"OMP_NUM_THREADS": "1"}
    assert made["pull"][0]["prefect.deployments.steps.set_working_directory"] == {
        "directory": "/app"
    }
    assert with_requests({**given, "pull": []}, lambda _: NEEDS)["pull"] == []
    assert with_requests(entry(), lambda _: NEEDS) == entry()


def test_the_files_own_way_to_the_code_stands(tmp_path, caplog):
    from flows.serve import _prefect_file

    clone = [{"prefect.deployments.steps.git_clone": {"repository": "somewhere"}}]
    file = tmp_path / "file.yaml"
    for pull, own in ((clone, None), (None, PULL)):
        one = entry(type="docker")
        file.write_text(yaml.safe_dump({"pull": pull, "deployments": [one]}))
        made = yaml.safe_load(_prefect_file(file, [one], tmp_path).read_text())
        assert made["pull"] == pull
        assert made["deployments"][0].get("pull") == own
    assert "its requests are those of the article's network" in caplog.text
    assert _prefect_file(file, [entry()], tmp_path) == file


def test_scoring_asks_for_what_its_own_options_start():
    from flows.serve import _requests_of

    def asked(settings=(), **parameters):
        trained = {"preset": "mnist", "settings": ["registry.model_name=m", *settings]}
        nightly = {**entry(), "entrypoint": "flows/retrain.py:retrain", "parameters": trained}
        score = {**entry(), "entrypoint": "flows/score.py:score"}
        score["parameters"] = {"path": "x", "name": "m", **parameters}
        return _requests_of([nightly, score], score)

    alone = asked()
    assert asked(["runtime.runner=dask", "runtime.workers=8"]) == alone
    assert asked(["runtime.ranks=4"]) == alone
    assert asked(workers=8) == alone
    assert asked(runner="dask://there:8786", workers=8) == alone
    many = asked(runner="dask", workers=8)
    assert many.cpus == 8
    assert 8 * alone.memory_bytes < many.memory_bytes <= 9 * alone.memory_bytes
    assert asked(block_size=1 << 20).memory_bytes > alone.memory_bytes
    with pytest.raises(ConfigError, match="must be threads, dask or dask://host:port"):
        asked(runner="ray")


@pytest.mark.parametrize(
    ("entries", "sentence"),
    [
        ([{"name": "a"}], "work_pool must have a name"),
        ([entry(type="ecs")], "must be one of process, docker, kubernetes, got 'ecs'"),
        ([entry(), entry(type="docker")], "is of type process in an earlier deployment"),
        ([entry(job_variables=[1])], "must hold values by name"),
        ([entry(job_variables={"env": [1]})], "must hold values by name"),
    ],
)
def test_a_pool_that_makes_no_sense_is_refused(entries, sentence):
    with pytest.raises(ConfigError, match=sentence):
        kinds_of(entries)


@pytest.mark.parametrize("text", [None, "[", "[]", "{}"])
def test_a_template_that_is_none_is_refused(tmp_path, text):
    if text is not None:
        (tmp_path / "docker.json").write_text(text)
    with pytest.raises(ConfigError, match=r"docker\.json"):
        template_of("docker", tmp_path)


def deployed(environment, file):
    return subprocess.run(
        [sys.executable, "-m", "vaesc", "deploy", "--file", str(file)],
        env=environment, cwd=ROOT, capture_output=True, text=True, timeout=600,
    )  # fmt: skip


@pytest.fixture(scope="module")
def all_kinds(tmp_path_factory):
    """Our deployments, in a pool of each type."""
    folder = tmp_path_factory.mktemp("kinds")
    (folder / "pools").symlink_to(FOLDER)
    content = yaml.safe_load(PREFECT_YAML.read_text())
    content["deployments"] = [
        {**each, "name": f"{each['name']}-{kind}", "work_pool": {"name": kind, "type": kind}}
        for kind in KINDS
        for each in content["deployments"]
    ]
    file = folder / "prefect.yaml"
    file.write_text(yaml.safe_dump(content))
    return file


@pytest.fixture(scope="module")
def said(served, all_kinds):
    """What `vaesc deploy` says of them."""
    done = deployed(served[0], all_kinds)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stderr


@pytest.mark.service
def test_a_real_server_accepts_every_pool_and_deployment(served, said):
    _, url = served
    pools = {p["name"]: p for p in ask(url, "/work_pools/filter", {})}
    assert {name: pools[name]["type"] for name in KINDS} == {kind: kind for kind in KINDS}
    for kind in KINDS:
        assert pools[kind]["base_job_template"] == template_of(kind, FOLDER)
    found = {d["name"]: d for d in ask(url, "/deployments/filter", {})}
    assert found["nightly-process"]["job_variables"] == {}
    assert found["nightly-docker"]["job_variables"]["mem_limit"].endswith("m")
    for name in ("nightly-kubernetes", "score-kubernetes"):  # score: what made its model
        variables = found[name]["job_variables"]
        assert re.fullmatch(r"\d+Mi", variables["memory_limit"])
        assert found[name]["pull_steps"][0].popitem()[1] == {"directory": "/app"}
        assert variables["memory_limit"] == variables["memory_request"]
        assert variables["env"] == {"OMP_NUM_THREADS": variables["cpu_request"]}
    assert "prefect worker start --pool kubernetes" in said


@pytest.mark.service
def test_a_pool_of_another_type_is_refused_in_one_sentence(served, said, all_kinds, tmp_path):
    environment, _ = served
    file = tmp_path / "prefect.yaml"
    (tmp_path / "pools").symlink_to(FOLDER)
    text = yaml.safe_load(all_kinds.read_text())
    (one, *_) = text["deployments"]
    one["work_pool"] = {"name": "process", "type": "kubernetes"}
    file.write_text(yaml.safe_dump({"deployments": [one]}))
    done = deployed(environment, file)
    assert done.returncode == 2
    assert done.stderr.strip().splitlines()[-1] == (
        "vaesc: work pool process is of type process on the Prefect server and of type "
        "kubernetes here; name another pool, or delete that one: prefect work-pool delete process"
    )
