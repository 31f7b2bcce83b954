"""Who is told of what, and which automations stay: a real Prefect server, a real HTTP receiver."""

import json
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
from project import Project, ask, content_of, files_below, stop_server
from test_retrain import QUICK, digits

pytestmark = [pytest.mark.service, pytest.mark.timeout(300)]

SECRET = "T0P-s3cr3t-t0ken"

AUTOMATIONS = """
import json, os, sys
from flows.retrain import retrain
from flows.serve import RETRAIN, keep_automations, retrained_on_drift
from prefect.client.orchestration import get_client
from prefect.events.schemas.automations import AutomationCore

def entry(name, model):
    retrain.to_deployment(name).apply()
    settings = {"preset": "digits", "settings": ["registry.model_name=" + model]}
    return {"name": name, "entrypoint": RETRAIN, "parameters": settings}

def deploy(*entries):
    keep_automations(entries, retrained_on_drift(entries))
    return there()

def there():
    with get_client(sync_client=True) as client:
        return {a.name: a.model_dump(mode="json") for a in client.read_automations()}

def rename(old, new):
    with get_client(sync_client=True) as client:
        (found,) = client.read_automations_by_name(old)
        copied = found.model_dump(exclude={"id"}) | {"name": new}
        client.create_automation(AutomationCore(**copied))

told = {}
own, other = entry("own", "vaesc"), entry("other", "letters")
told["own"] = deploy(own)
rename("vaesc: drift of vaesc", "vaesc: drift of vaesc -> retrain/own")  # as we once named it
rename("vaesc: drift of vaesc", "drift, somebody's own")
told["old names"] = there()
told["renamed"] = deploy(entry("renamed", "vaesc"))
told["another file's"] = deploy(other)
told["another model"] = deploy(entry("renamed", "digits"))
print("line", file=sys.stderr)
os.environ["VAESC_WEBHOOK_URL"] = sys.stdin.readline().strip()
told["webhook"] = deploy(own)
told["again"] = deploy(own)
told["deployments"] = {}
with get_client(sync_client=True) as client:
    for name in ("own", "other", "renamed"):
        found = client.read_deployment_by_name("retrain/" + name)
        told["deployments"][str(found.id)] = name
print(json.dumps(told))
"""

RUNS = """
import json
from flows.retrain import retrain
from prefect import flow
from prefect.client.orchestration import get_client
from prefect.states import Completed, Crashed, State
from vaesc.errors import ConfigError

told = {}
try:
    retrain("nosuch")
except ConfigError as error:
    told["failed"] = str(error)
here = ["dataset.path=images.npy"]
collapsed = [*here, "vae.beta=1000", "training.epochs=1"]
for name, settings in (("promoted", here), ("nothing new", here), ("rejected", collapsed)):
    if name == "rejected":
        settings = [*settings, "registry.model_name=ill"]
    told[name] = retrain("arrays", settings, "small.toml")

# What no process of the run's own says.
pipeline = flow(name="pipeline")(lambda: None)
ends = {
    "crashed": (retrain, Crashed(message="no heartbeat for 90 s")),
    "timed out": (retrain, State(type="FAILED", name="TimedOut", message="it took an hour")),
    "completed": (retrain, Completed(message="all is well")),
    "pipeline": (pipeline, Crashed(message="told by the retraining that called it")),
}
with get_client(sync_client=True) as client:
    for name, (what, state) in ends.items():
        run = client.create_flow_run(what, name=name)
        client.set_flow_run_state(run.id, state)
print(json.dumps(told))
"""


class Receiver(ThreadingHTTPServer):
    """Keeps what is posted to it."""

    def __init__(self):
        self.posts = []
        super().__init__(("127.0.0.1", 0), _Keeper)
        self.url = f"http://127.0.0.1:{self.server_address[1]}/hook?token={SECRET}"
        threading.Thread(target=self.serve_forever, daemon=True).start()

    def wait(self, wanted, seconds=150, quiet=4):
        """Return the posts once so many are there, and those that come in a while after."""
        deadline = time.monotonic() + seconds
        while len(self.posts) < wanted and time.monotonic() < deadline:
            time.sleep(0.2)
        time.sleep(quiet)
        return list(self.posts)


class _Keeper(BaseHTTPRequestHandler):
    def do_POST(self):
        body = self.rfile.read(int(self.headers["content-length"]))
        self.server.posts.append((self.path, self.headers["content-type"], json.loads(body)))
        self.send_response(204)
        self.end_headers()

    def log_message(self, *_):
        """Say nothing."""


@pytest.fixture(scope="module")
def receiver():
    with Receiver() as found:
        yield found
        found.shutdown()


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    found = Project(tmp_path_factory.mktemp("notify"))
    found.config.write_text(QUICK)
    np.save(found.home / "images.npy", digits()[:600])
    yield found
    stop_server(found)


@pytest.fixture(scope="module")
def said():
    """Everything that our processes print."""
    return []


def told(project, said, program, **options):
    start = "from tasks import server; server.connect()\n"
    done = subprocess.run(
        [sys.executable, "-c", start + program], env=project.env, cwd=project.home,
        capture_output=True, text=True, timeout=1500, **options,
    )  # fmt: skip
    said += [done.stdout, done.stderr]
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1]), done.stderr


@pytest.fixture(scope="module")
def automations(project, receiver, said):
    """What is there after each of several deployments, by name."""
    return told(project, said, AUTOMATIONS, input=receiver.url)


@pytest.fixture(scope="module")
def story(project, receiver, said, automations):
    """What came of retrainings, and what was posted."""
    outcomes, _ = told(project, said, RUNS)
    return outcomes, receiver.wait(4)


ZOMBIES = "vaesc: crash runs whose heartbeats have ceased"
FAILURES, REJECTIONS = "vaesc: tell of failed runs", "vaesc: tell of rejected models"
SOMEBODYS = "drift, somebody's own"


def test_a_model_has_one_drift_automation_which_follows_its_deployment(automations):
    after, _ = automations
    drift = "vaesc: drift of vaesc"
    assert set(after["own"]) == {ZOMBIES, drift}
    assert len(after["old names"]) == 4
    assert set(after["renamed"]) == {ZOMBIES, drift, SOMEBODYS}
    assert after["renamed"][drift]["id"] == after["own"][drift]["id"]

    def runs(which):
        return after["deployments"][after[which][drift]["actions"][0]["deployment_id"]]

    assert (runs("own"), runs("renamed"), runs("webhook")) == ("own", "renamed", "own")


def test_what_no_file_calls_for_is_deleted_and_another_files_is_not(automations):
    after, _ = automations
    letters = "vaesc: drift of letters"
    assert set(after["another file's"]) == {*after["renamed"], letters}
    assert set(after["another model"]) == {ZOMBIES, SOMEBODYS, letters, "vaesc: drift of digits"}


def test_without_a_webhook_nobody_is_told_and_a_line_says_how(automations):
    after, errors = automations
    assert not {FAILURES, REJECTIONS} & {name for which in after.values() for name in which} - {
        *after["webhook"]
    }
    before, _, later = errors.partition("\nline\n")
    assert "set VAESC_WEBHOOK_URL and do this again" in before
    assert "nobody is told" not in later
    assert {FAILURES, REJECTIONS} < set(after["webhook"])
    assert after["again"] == after["webhook"], "doing it again touches nothing"


def test_a_failure_and_a_rejection_are_told_once_and_nothing_else_is(project, receiver, story):
    outcomes, posts = story
    assert [outcomes[name]["outcome"] for name in ("promoted", "nothing new", "rejected")] == [
        "promoted", "nothing new", "rejected"
    ]  # fmt: skip
    assert {path for path, *_ in posts} == {f"/hook?token={SECRET}"}
    assert {kind for _, kind, _ in posts} == {"application/json"}
    # Where its database is busy, Prefect may send one again: the same, and by its id known to be.
    once = {body["id"]: body for *_, body in posts}
    assert [body for *_, body in posts if body != once[body["id"]]] == []
    by_state = {body["state"]: body for body in once.values()}
    assert set(by_state) == {"Failed", "Crashed", "TimedOut", "rejected"}
    assert len(once) == 4, posts

    failed, refused = by_state["Failed"], by_state["rejected"]
    assert outcomes["failed"] in failed["reason"]
    assert (failed["flow"], failed["run"]) == ("retrain", "retrain-nosuch")
    assert (by_state["Crashed"]["run"], by_state["Crashed"]["reason"]) == (
        "crashed", "no heartbeat for 90 s"
    )  # fmt: skip
    decision = outcomes["rejected"]
    assert refused["reason"] == decision["reason"]
    assert (refused["model"], refused["candidate"], refused["champion"]) == ("ill", 1, None)
    assert refused["mlflow_run"] == decision["run"]["run_id"]
    assert "posterior collapse" in refused["health"]
    assert (refused["flow"], refused["run"]) == ("retrain", "retrain-arrays")
    page = json.loads((project.home / "prefect" / "server.json").read_text())["url"]
    for body in by_state.values():
        assert body["reason"] in body["text"]
        assert body["link"].startswith(page.removesuffix("api") + "runs/flow-run/")
        assert body["link"] in body["text"]


def test_a_promotion_is_an_event_too(project, story):
    outcomes, _ = story
    body = {"filter": {"event": {"name": ["vaesc.promoted"]}}}
    (event,) = ask(url_of(project), "/events/filter", body)["events"]
    assert event["resource"]["prefect.resource.id"] == "vaesc.model.vaesc"
    assert event["payload"]["reason"] == outcomes["promoted"]["reason"]


def test_the_webhooks_secret_is_told_nowhere(project, story, said):
    """Looked for where a run's name is found, so that the search is known to find."""
    paths = ("automations", "block_documents", "flow_runs", "logs", "artifacts", "deployments")
    answers = {path: ask(url_of(project), f"/{path}/filter", {}) for path in paths}
    assert {FAILURES, REJECTIONS} < {each["name"] for each in answers["automations"]}
    everything = json.dumps(answers)
    everything += json.dumps(ask(url_of(project), "/events/filter", {"filter": {}}))
    everything += "".join(said)
    assert "retrain-nosuch" in everything
    assert SECRET not in everything
    files = files_below(project.home)
    assert any(path.name == "server.log" for path in files)
    assert any(b"retrain-nosuch" in content_of(path) for path in files)
    assert [path for path in files if SECRET.encode() in content_of(path)] == []


def url_of(project):
    return json.loads((project.home / "prefect" / "server.json").read_text())["url"]


@pytest.mark.parametrize("url", [f"hooks.slack.com/{SECRET}", "https:///x", "file:///etc/x"])
def test_what_is_no_address_is_refused_without_showing_it(monkeypatch, url):
    from flows.notifications import notifications
    from vaesc.errors import ConfigError

    monkeypatch.setenv("VAESC_WEBHOOK_URL", url)
    with pytest.raises(ConfigError, match="VAESC_WEBHOOK_URL must be") as error:
        notifications()
    assert url not in str(error.value)
