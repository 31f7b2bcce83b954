"""What runs when: every deployment fits its flow, and a real server accepts and runs it."""

import json
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from project import ask, assignments

ROOT = Path(__file__).parents[1]
FILE = ROOT / "deployments" / "prefect.yaml"
DEPLOYMENTS = yaml.safe_load(FILE.read_text())["deployments"]

FEW = ["training.epochs=1", "dictionary.max_epochs=1", "dataset.limit=200"]
TINY = f"""
deployments:
  - name: tiny
    entrypoint: flows/retrain.py:retrain
    parameters:
      preset: digits
      settings: {json.dumps([*FEW, *assignments("refine", "evaluation")])}
    work_pool: {{name: vaesc}}
    schedules: [{{interval: 15, timezone: UTC, slug: often}}]
"""


@pytest.mark.parametrize("deployment", DEPLOYMENTS, ids=lambda d: d["name"])
def test_parameters_fit_the_flow(deployment, monkeypatch):
    from flows.serve import runner_deployment
    from vaesc.config_files import load_config

    monkeypatch.chdir(ROOT)
    assert runner_deployment(deployment).name == deployment["name"]
    parameters = deployment["parameters"]
    if "preset" in parameters:
        assert load_config(parameters["preset"], assignments=parameters.get("settings", []))


def test_a_misspelt_parameter_is_refused_before_it_is_deployed(monkeypatch):
    from flows.serve import runner_deployment
    from vaesc.errors import ConfigError

    monkeypatch.chdir(ROOT)
    wrong = {**DEPLOYMENTS[0], "parameters": {"presett": "digits"}}
    with pytest.raises(ConfigError, match="presett"):
        runner_deployment(wrong)


@pytest.mark.parametrize("content", ["", "deployments: []", "a: [", "- 1"])
def test_a_file_without_deployments_is_refused(tmp_path, content):
    from flows.serve import read_deployments
    from vaesc.errors import ConfigError

    file = tmp_path / "prefect.yaml"
    file.write_text(content)
    with pytest.raises(ConfigError, match=r"prefect\.yaml"):
        read_deployments(file)


def test_a_block_in_a_deployment_is_refused(tmp_path):
    """`prefect deploy` would store the block's value with the deployment, for all to read."""
    from flows.serve import read_deployments
    from vaesc.errors import ConfigError

    entry = {**DEPLOYMENTS[0], "work_pool": {"name": "vaesc", "job_variables": {
        "env": {"MLFLOW_TRACKING_PASSWORD": "{{ prefect.blocks.secret.password }}"}}}}  # fmt: skip
    file = tmp_path / "prefect.yaml"
    file.write_text(yaml.safe_dump({"deployments": [entry]}))
    with pytest.raises(ConfigError, match="plain text; refer to it in the work pool"):
        read_deployments(file)


def test_a_drift_of_each_model_runs_the_first_deployment_that_retrains_it(monkeypatch):
    from flows.serve import RETRAIN, retrained_on_drift
    from vaesc.errors import ConfigError

    def entry(name, *given, entrypoint=RETRAIN):
        parameters = {"preset": "digits", "settings": [f"registry.model_name={m}" for m in given]}
        return {"name": name, "entrypoint": entrypoint, "parameters": parameters}

    other = entry("s", entrypoint="flows/score.py:score")
    entries = [other, entry("a"), entry("b", "letters"), entry("c", "letters"), entry("d")]
    assert retrained_on_drift(entries) == {"vaesc": "retrain/a", "letters": "retrain/b"}
    assert retrained_on_drift([{"name": "bare", "entrypoint": RETRAIN}]) == {
        "vaesc": "retrain/bare"
    }
    with pytest.raises(ConfigError, match=r"deployment bad: .*nosuch"):
        retrained_on_drift([{**entry("bad"), "parameters": {"preset": "nosuch"}}])


def test_settings_in_a_file_of_another_machine_are_left_out_with_a_warning(tmp_path, caplog):
    from flows.serve import RETRAIN, retrained_on_drift

    (tmp_path / "here.toml").write_text('[registry]\nmodel_name = "letters"\n')
    entries = [
        {"name": name, "entrypoint": RETRAIN, "parameters": {"config_file": str(tmp_path / file)}}
        for name, file in (("there", "there.toml"), ("here", "here.toml"))
    ]
    assert retrained_on_drift(entries) == {"letters": "retrain/here"}
    (warning,) = caplog.messages
    assert warning.startswith("deployment there: no drift starts it, since its config_file")
    assert "there.toml" in warning


def test_the_automations_know_every_flow():
    from flows.automations import FLOWS
    from flows.notifications import WATCHED

    sources = [path.read_text() for path in (ROOT / "flows").glob("*.py")]
    named = [re.findall(r'@flow\(\s*name="(\w+)"', source) for source in sources]
    assert sorted(FLOWS) == sorted(name for names in named for name in names)
    assert sum(len(re.findall(r"^@flow", source, re.M)) for source in sources) == len(FLOWS)
    assert {*WATCHED} == {*FLOWS} - {"pipeline"}


def test_a_run_is_given_three_heartbeats_time():
    from flows.automations import SILENCE, automations
    from tasks.server import ENVIRONMENT

    assert SILENCE.total_seconds() == 3 * int(ENVIRONMENT["PREFECT_FLOWS_HEARTBEAT_FREQUENCY"])
    names = [each.name for each in automations()]
    assert len(names) == len(set(names))


@pytest.mark.service
def test_the_server_takes_nulls(served):
    """A canary for the fastapi bound: with 0.151 and later, Prefect 3.8 answers 422 to nulls."""
    body = {"flows": None, "flow_runs": None, "task_runs": None, "limit": None}
    assert ask(served[1], "/flows/filter", body) == []


@pytest.mark.service
def test_a_real_server_accepts_every_deployment(served):
    environment, url = served
    done = subprocess.run(
        [sys.executable, "-m", "vaesc", "deploy"],
        env=environment, cwd=ROOT, capture_output=True, text=True, timeout=600,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    found = ask(url, "/deployments/filter", {})
    assert {d["name"] for d in found} >= {d["name"] for d in DEPLOYMENTS}
    nightly = next(d for d in found if d["name"] == "nightly")
    assert nightly["schedules"][0]["schedule"]["cron"] == DEPLOYMENTS[0]["schedules"][0]["cron"]
    assert nightly["parameters"] == DEPLOYMENTS[0]["parameters"]
    assert nightly["work_pool_name"] == "vaesc"


@pytest.mark.slow
@pytest.mark.service
@pytest.mark.timeout(420)
def test_a_served_schedule_fires_and_its_run_completes(served, tmp_path):
    """Also a canary for the SQLAlchemy bound: with 2.1, schedules silently never run."""
    environment, url = served
    (tmp_path / "tiny.yaml").write_text(TINY)
    server = subprocess.Popen(
        [sys.executable, "-m", "vaesc", "serve", "--file", str(tmp_path / "tiny.yaml")],
        env=environment, cwd=ROOT, stderr=subprocess.STDOUT, stdout=(tmp_path / "log").open("wb"),
    )  # fmt: skip
    try:
        finished = await_run(url, "COMPLETED", 1200)
    finally:
        server.send_signal(signal.SIGINT)
        server.wait(240)
    assert finished, (tmp_path / "log").read_text()[-3000:]
    assert finished["deployment_id"]


def await_run(url, state, seconds):
    """Return a scheduled run that reached `state`, or None when the time is up."""
    deadline = time.monotonic() + seconds
    wanted = {"flow_runs": {"state": {"type": {"any_": [state]}}}}
    while time.monotonic() < deadline:
        runs = [r for r in ask(url, "/flow_runs/filter", wanted) if r["deployment_id"]]
        if runs:
            return runs[0]
        time.sleep(2)
    return None
