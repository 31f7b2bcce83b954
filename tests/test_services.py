"""The whole house on real servers, as a team has them: PostgreSQL, S3, passwords on everything.

One stack for the module, and one story told in order: a run registers a champion; a worker serves
a schedule; the worker is killed; at last everything that was said is searched for secrets.
"""

import json
import os
import signal
import subprocess
import sys
from contextlib import suppress

import pytest
from project import STEPS, Project, assignments, content_of, files_below, states
from services import ROOT, Servers, alive, descendants, need_postgres, wait_for

pytestmark = [pytest.mark.service, pytest.mark.slow, pytest.mark.timeout(420)]

SAID = []
"""What every command of this module has written."""


class Client(Project):
    """A user of the servers, with a home of its own; what is said to it is remembered."""

    def __init__(self, home, servers, **changes):
        super().__init__(home)
        self.env |= {**servers.environment, **changes}

    def vaesc(self, *arguments, folder=None):
        done = subprocess.run(
            [sys.executable, "-m", "vaesc", *arguments],
            env=self.env, cwd=folder or self.home, capture_output=True, text=True, timeout=1500,
        )  # fmt: skip
        SAID.append(done.stdout + done.stderr)
        return done


@pytest.fixture(scope="module")
def servers():
    need_postgres()
    running = Servers()
    yield running
    running.close()


@pytest.fixture(scope="module")
def client(servers, tmp_path_factory):
    return Client(tmp_path_factory.mktemp("services") / "home", servers)


@pytest.fixture(scope="module")
def first(client):
    return client.run()


def test_a_run_registers_a_champion(client, first):
    assert states(first) == dict.fromkeys(STEPS, "computed")
    assert first["model"]["aliases"] == ["champion"]
    assert not (client.home / "mlflow.db").exists()
    assert not (client.home / "prefect").exists()


def s3_client(storage, **changes):
    import boto3

    storage = {**storage, **changes}
    return boto3.client(
        "s3", endpoint_url=storage["MLFLOW_S3_ENDPOINT_URL"],
        aws_access_key_id=storage["AWS_ACCESS_KEY_ID"],
        aws_secret_access_key=storage["AWS_SECRET_ACCESS_KEY"],
        region_name=storage["AWS_DEFAULT_REGION"],
    )  # fmt: skip


def test_artifacts_lie_in_s3_for_whoever_has_the_key(client, first, servers):
    from botocore.exceptions import ClientError

    listed = s3_client(servers.storage).list_objects_v2(Bucket="vaesc", Prefix="mlflow/")
    keys = [each["Key"] for each in listed["Contents"]]
    assert any(key.endswith("bundle/bundle.json") for key in keys)
    assert not list(client.home.rglob("mlartifacts"))
    with pytest.raises(ClientError, match=r"40[13]|SignatureDoesNotMatch|AccessDenied"):
        s3_client(servers.storage, AWS_SECRET_ACCESS_KEY="wrong").list_objects_v2(Bucket="vaesc")


def test_a_large_artifact_comes_back_as_it_was(client, first, tmp_path):
    """S3 takes more than eight megabytes in parts."""
    there, back = tmp_path / "large.bin", tmp_path / "back"
    there.write_bytes(os.urandom(20_000_000))
    back.mkdir()
    client.python(f"""
from vaesc.registry.tracking import connect
mlflow = connect().client
mlflow.log_artifact({first["run_id"]!r}, {str(there)!r})
mlflow.download_artifacts({first["run_id"]!r}, "large.bin", {str(back)!r})
""")
    assert (back / "large.bin").read_bytes() == there.read_bytes()


DEPLOYMENTS = """
deployments:
  - name: often
    entrypoint: flows/retrain.py:retrain
    parameters: {{preset: digits, settings: {settings}}}
    work_pool: {{name: team}}
    concurrency_limit: {{limit: 1, collision_strategy: CANCEL_NEW}}
    schedules: [{{cron: "* * * * *", timezone: UTC, slug: often}}]
  - name: endless
    entrypoint: tests/endless_flow.py:retrain
    work_pool: {{name: team}}
"""
KEEP_SECRET = """
import os
from prefect.blocks.system import Secret
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import WorkPoolUpdate
Secret(value=os.environ["MLFLOW_TRACKING_PASSWORD"]).save("mlflow-password")
with get_client(sync_client=True) as client:
    template = client.read_work_pool("team").base_job_template
    environment = template["variables"]["properties"]["env"]["default"]
    environment["MLFLOW_TRACKING_PASSWORD"] = "{{ prefect.blocks.secret.mlflow-password }}"
    client.update_work_pool("team", WorkPoolUpdate(base_job_template=template))
"""
SILENCE = 100
PATIENCE = f"""
from datetime import timedelta
from flows.automations import crash_zombies, install
install([crash_zombies(timedelta(seconds={SILENCE}))])
"""


@pytest.fixture(scope="module")
def deployed(client, first, servers):
    """What is deployed, on a pool that has MLflow's password from a block; by name."""
    file = client.home / "deployments.yaml"
    file.write_text(DEPLOYMENTS.format(settings=json.dumps(assignments())))

    def deploy():
        done = client.vaesc("deploy", "--file", str(file), folder=ROOT)
        assert done.returncode == 0, done.stderr[-3000:]
        return servers.ask("/automations/filter", {})

    before = deploy()
    client.python(KEEP_SECRET)
    assert deploy() == before, "deploying again touches no automation"
    found = servers.ask("/deployments/filter", {})
    return {each["name"]: each for each in found}


@pytest.fixture(scope="module")
def worker(client, deployed, servers):
    """A worker that has just been started, and given a run that never ends."""
    environment = {k: v for k, v in client.env.items() if k != "MLFLOW_TRACKING_PASSWORD"}
    log = client.home / "worker.log"
    with log.open("wb") as sink:
        process = subprocess.Popen(
            [sys.executable, "-m", "prefect", "worker", "start", "--pool", "team"],
            env=environment, cwd=ROOT, stdout=sink, stderr=sink, start_new_session=True,
        )  # fmt: skip
    once = {"idempotency_key": "endless"}
    servers.ask(f"/deployments/{deployed['endless']['id']}/create_flow_run", once)
    # Not the 90 s of production: an automation can be changed, too.
    client.python(PATIENCE)
    automations = servers.ask("/automations/filter", {})
    assert sorted(each["trigger"]["within"] for each in automations) == [SILENCE, 3600]
    yield process
    for pid in descendants(process.pid):
        os.kill(pid, signal.SIGKILL)
    process.wait()
    SAID.append(log.read_text())


def runs_of(servers, deployment, *states):
    return servers.ask(
        "/flow_runs/filter",
        {
            "deployments": {"id": {"any_": [deployment["id"]]}},
            "flow_runs": {"state": {"type": {"any_": list(states)}}},
        },
    )


def test_the_pool_tells_its_runs_what_vaesc_expects(servers, deployed):
    template = servers.ask("/work_pools/filter", {})[0]["base_job_template"]
    environment = template["variables"]["properties"]["env"]["default"]
    assert environment["PREFECT_FLOWS_HEARTBEAT_FREQUENCY"] == "30"
    assert environment["PREFECT_RESULTS_DEFAULT_SERIALIZER"] == "json"
    assert environment["MLFLOW_TRACKING_PASSWORD"].startswith("{{ prefect.blocks.secret.")


# While the worker works and the minute passes:


def test_the_champion_is_used_from_elsewhere(client, worker, servers, tmp_path):
    elsewhere = Client(tmp_path / "empty", servers)
    said = elsewhere.python("""
import numpy as np
from sklearn.datasets import load_digits
from vaesc import load_model
images = (load_digits().images / 16).astype(np.float32)[:50]
model = load_model("champion")
codes = model.encode(images)
print(codes.shape[0], float(np.mean((model.decode(codes).reshape(images.shape) - images) ** 2)))
""")
    n, error = said.split()
    assert int(n) == 50
    assert 0 < float(error) < 0.2  # a blank picture's is 0.2 or so
    assert not list(elsewhere.home.glob("mlflow*"))


def test_the_second_run_computes_nothing(client, first, worker):
    assert states(client.run()) == dict.fromkeys(STEPS, "cached")


def one_sentence(done):
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    *_, last = done.stderr.strip().splitlines()
    assert last.startswith("vaesc: ")
    return last


def test_a_wrong_password_is_one_sentence(client, servers, worker, tmp_path):
    wrong = Client(tmp_path / "a", servers, PREFECT_API_AUTH_STRING="vaesc:guessed")
    done = wrong.vaesc("run", "--config", str(wrong.config))
    assert "refuses our credentials; set PREFECT_API_AUTH_STRING" in one_sentence(done)
    assert done.stderr.count("\n") == 1
    assert wrong.vaesc("doctor").returncode == 1

    nobody = Client(tmp_path / "b", servers, MLFLOW_TRACKING_PASSWORD="guessed")
    for command in (["models", "list"], ["run", "--config", str(nobody.config)]):
        said = one_sentence(nobody.vaesc(*command))
        assert "refuses our credentials" in said
        assert "MLFLOW_TRACKING_PASSWORD" in said


def test_the_schedule_fires_and_the_worker_completes_the_run(client, worker, servers, deployed):
    def log():
        return (client.home / "worker.log").read_text()[-5000:]

    done = wait_for(lambda: runs_of(servers, deployed["often"], "COMPLETED"), 400, log)[0]
    assert done["auto_scheduled"]
    assert done["work_pool_name"] == "team"


def test_the_runs_of_a_killed_worker_crash(client, worker, servers, deployed):
    (endless,) = wait_for(
        lambda: runs_of(servers, deployed["endless"], "RUNNING"), 180, lambda: "it does not run"
    )
    heartbeats = {
        "event": {"name": ["prefect.flow-run.heartbeat"]},
        "resource": {"id": [f"prefect.flow-run.{endless['id']}"]},
    }
    wait_for(  # it has lived on heartbeats so far
        lambda: len(servers.ask("/events/filter", {"filter": heartbeats})["events"]) >= 2,
        2 * SILENCE, lambda: "fewer than two heartbeats",
    )  # fmt: skip
    doomed = descendants(worker.pid)
    assert any("prefect.engine" in line for line in doomed.values())
    os.kill(worker.pid, signal.SIGKILL)  # first: it would tell the server of the others' end
    for pid in doomed:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    crashed = wait_for(
        lambda: runs_of(servers, deployed["endless"], "CRASHED"), SILENCE + 150,
        lambda: (servers.folder / "prefect.log").read_text()[-3000:],
    )  # fmt: skip
    assert crashed[0]["id"] == endless["id"]
    assert "no heartbeat" in crashed[0]["state"]["message"]
    # The pipeline that it had called is a run of its own.
    running = {"flow_runs": {"state": {"type": {"any_": ["RUNNING"]}}}}
    wait_for(lambda: not servers.ask("/flow_runs/filter", running), 120, lambda: "one runs on")


def secrets_in(text, servers):
    text = text if isinstance(text, bytes) else text.encode()
    return [n for n, secret in enumerate(servers.secrets) if secret.encode() in text]


def test_no_secret_is_told_anywhere(client, servers, first, deployed):
    """Looked for where the run's own id is found, so that the search is known to find."""
    assert len(servers.secrets) == 6
    assert first["run_id"] in (said := "".join(SAID))
    assert not secrets_in(said, servers)

    mlflow = client.python("""
import json
from vaesc.registry.tracking import connect
mlflow = connect().client
runs = mlflow.search_runs([e.experiment_id for e in mlflow.search_experiments()], max_results=1000)
print(json.dumps([r.to_dictionary() for r in runs]))
for version in mlflow.search_model_versions():
    print(version)
""")
    assert first["run_id"] in mlflow
    assert not secrets_in(mlflow, servers)

    paths = ("flow_runs", "task_runs", "logs", "deployments", "work_pools", "block_documents",
             "artifacts", "automations", "variables", "concurrency_limits")  # fmt: skip
    prefect = json.dumps([servers.ask(f"/{path}/filter", {}) for path in paths])
    prefect += json.dumps(servers.ask("/events/filter", {"filter": {}}))
    assert first["flow_run_id"] in prefect
    assert not secrets_in(prefect, servers)

    commands = "\n".join(servers.processes().values())
    assert "mlflow" in commands
    assert not secrets_in(commands, servers)

    holders = files_below(client.home)
    holders += [f for f in files_below(servers.folder) if f.name != "secrets.json"]
    assert any(first["run_id"].encode() in content_of(f) for f in servers.folder.glob("*.log"))
    assert [f for f in holders if secrets_in(content_of(f), servers)] == []
    assert (servers.folder / "secrets.json").stat().st_mode & 0o077 == 0


def test_nothing_outlives_a_killed_stack(servers):
    """The last test: there are no servers after it."""
    pids = servers.processes()
    for program in ("/postgres ", "/rclone ", "/mlflow ", "/prefect "):
        assert any(program in line for line in pids.values()), pids
    servers.process.kill()
    wait_for(lambda: not alive(pids), 40, lambda: [pids[p] for p in alive(pids)])
