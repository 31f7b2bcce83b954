"""The pipeline end to end, as users run it: real processes, a real Prefect server, a real MLflow.

One small run is made once; the tests then ask what it left behind, run it again, change a setting,
and break things.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from chromium import EXECUTABLE, Browser
from project import STEPS, Project, artifacts, both_pages, states

pytestmark = [pytest.mark.slow, pytest.mark.service, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def first(project):
    return project.run()


@pytest.fixture(scope="module")
def server(project, first):
    return json.loads((project.home / "prefect" / "server.json").read_text())["url"]


def test_the_json_object_is_exactly_the_one_documented(first):
    assert set(first) == {
        "run_id", "flow_run_id", "dataset", "config_digest", "steps", "metrics", "model", "report",
        "seconds",
    }  # fmt: skip
    assert [s["name"] for s in first["steps"]] == STEPS
    assert all(set(s) == {"name", "state", "seconds", "digest"} for s in first["steps"])
    assert set(first["model"]) == {"name", "version", "aliases", "uri"}
    assert first["dataset"] == "digits"


def test_the_first_run_computes_everything_and_registers_the_champion(first):
    assert set(states(first).values()) == {"computed"}
    assert first["model"]["version"] == 1
    assert first["model"]["aliases"] == ["champion"]
    assert "<html" in Path(first["report"]).read_text()[:500].lower()


def test_metrics_obey_their_bounds(first):
    metrics = first["metrics"]
    assert metrics["test/negative_elbo"] == pytest.approx(
        metrics["test/distortion"] + metrics["test/kl"], rel=1e-5
    )
    assert metrics["test/kl"] >= 0
    assert 0 <= metrics["train/mutual_coherence"] <= 1
    assert metrics["test/article_l0_k2"] <= 2
    assert metrics["test/pixel_mse_k4"] < metrics["test/pixel_mse_k1"]
    assert metrics["test/article_fvu_k4"] < metrics["test/article_fvu_k1"]


def test_nested_runs_hold_each_step_s_metrics(project, first):
    program = f"""
import json
from vaesc.registry import connect
client = connect(create=False).client
parent = client.get_run({first["run_id"]!r})
children = client.search_runs(
    [parent.info.experiment_id], f"tags.`mlflow.parentRunId` = '{{parent.info.run_id}}'")
history = client.get_metric_history(
    next(c for c in children if c.data.tags["vaesc.step"] == "train").info.run_id,
    "validation/negative_elbo")
artifacts = [a.path for a in client.list_artifacts(parent.info.run_id)]
print(json.dumps(dict(
    status=parent.info.status, params=parent.data.params, n_metrics=len(parent.data.metrics),
    children=sorted(c.data.tags["vaesc.step"] for c in children),
    statuses=sorted(set(c.info.status for c in children)),
    epochs=sorted(set(m.step for m in history)), artifacts=artifacts)))
"""
    found = json.loads(project.python(program))
    assert found["status"] == "FINISHED"
    assert found["statuses"] == ["FINISHED"]
    assert found["children"] == sorted(STEPS)
    assert found["params"]["dictionary.n_atoms"] == "32"
    assert set(found["epochs"]) >= {1, 2, 3}
    assert "report.html" in found["artifacts"]


def test_the_champion_gives_the_evaluation_s_numbers_in_a_new_process(project, first):
    dataset = next(s for s in first["steps"] if s["name"] == "ingest")["digest"]
    folder = project.home / "store" / "dataset" / dataset[:2] / dataset
    program = f"""
import numpy as np
from pathlib import Path
from vaesc import load_model
from vaesc.datasets.reader import open_dataset
dataset = open_dataset(Path({str(folder)!r}))
images = dataset.floats("test", slice(0, dataset.n("test")))
model = load_model("champion")
codes = model.encode(images)
assert codes.shape == (len(images), 32) and codes.format == "csr", codes
again = model.decode(codes)
print(float(np.square(again.astype(np.float64) - images).mean()))
"""
    assert float(project.python(program)) == pytest.approx(
        first["metrics"]["test/mse_k2"], rel=1e-5
    )


def test_files_go_through_the_command_line_and_back(project, first, tmp_path):
    images = np.random.default_rng(0).integers(0, 17, (7, 8, 8)).astype(np.float32)
    np.save(tmp_path / "in.npy", images)
    for arguments in (
        ("encode", "in.npy", "codes.npz"),
        ("decode", "codes.npz", "decoded.npy"),
        ("reconstruct", "in.npy", "reconstructed.npy"),
    ):
        done = project.vaesc(arguments[0], *(str(tmp_path / a) for a in arguments[1:]))
        assert done.returncode == 0, done.stderr
    decoded = np.load(tmp_path / "decoded.npy")
    assert decoded.shape == (7, 8, 8)
    np.testing.assert_allclose(np.load(tmp_path / "reconstructed.npy"), decoded, atol=1e-6)


def test_the_champion_scores_images_and_knows_its_own(project, first, tmp_path):
    dataset = next(s for s in first["steps"] if s["name"] == "ingest")["digest"]
    folder = project.home / "store" / "dataset" / dataset[:2] / dataset
    done = project.vaesc(
        "score", str(folder / "dataset.zarr"), str(tmp_path / "out"), "--json", "--no-event"
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["n_images"] == 1797
    assert found["version"] == {"name": "vaesc", "version": 1}
    # The validation split is the reference, and part of what was scored.
    count = int(first["metrics"]["validation/n_images"])
    assert found["model"]["reference"]["n_images"] == count
    program = f"""
from vaesc import load_model
from vaesc.scoring import open_scores
import numpy as np
own = np.array(load_model("champion").reference.mse)
scored = open_scores({str(tmp_path / "out")!r}).mse()
print(np.isclose(own[:, None], scored, rtol=1e-4).any(axis=1).sum())
"""
    assert int(project.python(program)) == count


def test_a_second_run_computes_nothing_and_records_everything(project, first):
    before = artifacts(project.home)
    again = project.run()
    assert set(states(again).values()) == {"cached"}
    assert artifacts(project.home) == before
    assert again["metrics"] == first["metrics"]
    assert again["model"] == first["model"]
    assert again["run_id"] != first["run_id"]
    program = f"""
import json
from vaesc.registry import connect
client = connect(create=False).client
run = client.get_run({again["run_id"]!r})
children = client.search_runs(
    [run.info.experiment_id], f"tags.`mlflow.parentRunId` = '{{run.info.run_id}}'")
print(json.dumps([run.data.metrics, [c.data.tags.get("vaesc.cached_from") for c in children]]))
"""
    metrics, sources = json.loads(project.python(program))
    assert metrics["test/mse_k2"] == first["metrics"]["test/mse_k2"]
    assert len(sources) == len(STEPS)
    assert all(sources)


def test_prefect_shows_every_step_of_the_second_run_as_cached(project, first, server):
    again = project.run()
    program = f"""
import json, os, time
os.environ["PREFECT_API_URL"] = {server!r}
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import FlowRunFilter
with get_client(sync_client=True) as client:
    deadline = time.monotonic() + 120  # Prefect records them from events, which come in later
    while True:
        runs = client.read_task_runs(
            flow_run_filter=FlowRunFilter(id=dict(any_=[{again["flow_run_id"]!r}])))
        ended = [run for run in runs if run.state and run.state.is_final()]
        if len(ended) == len(runs) >= {len(STEPS)} or time.monotonic() > deadline:
            break
        time.sleep(1)
print(json.dumps(sorted([run.name.rsplit("-", 1)[0], run.state_name] for run in runs)))
"""
    found = json.loads(project.python(program))
    assert found == sorted([step, "Cached"] for step in STEPS)


THEIRS = ("favicon.ico", "undefined.svg", "users/current")
"""What the UIs themselves ask their own servers for in vain."""


def shown(browser, address, *words):
    """Open a page, wait until it shows every word, and return what its console held against us."""
    browser.open(address, height=2000)
    for word in words:
        browser.wait(f"document.body.innerText.includes({json.dumps(word)})", 90)
    entries = [e["params"].get("entry", e["params"]) for e in browser.complaints()[0]]
    return [
        e for e in entries
        if e.get("level", e.get("type")) in ("error", None)
        and not any(each in e.get("url", "") for each in THEIRS)
    ]  # fmt: skip


@pytest.mark.skipif(
    EXECUTABLE is None and os.environ.get("VAESC_REQUIRE_BROWSER") != "1",
    reason="there is no Chromium here",
)
def test_both_uis_show_the_run_in_a_browser(project, first):
    run, flow = first["run_id"], first["flow_run_id"]
    card = json.loads(project.vaesc("models", "show", "1", "--json").stdout)["description"]
    heads = [line.removeprefix("## ") for line in card.splitlines() if line.startswith("## ")]
    with both_pages(project) as (prefect, mlflow), Browser() as browser:
        assert shown(browser, f"{mlflow}/#/models/vaesc/versions/1", "vaesc, version 1", *heads,
                     "load_model(\"models:/vaesc/1\")") == []  # fmt: skip
        tables = "[...document.querySelectorAll('table')].map(t => t.innerText).join()"
        assert "pixel dictionary, same K and k" in browser.value(tables)
        page = f"{mlflow}/#/experiments/1/runs/{run}"
        assert shown(browser, page, "Child runs", *STEPS, "report.html") == []
        page = f"{prefect}/runs/flow-run/{flow}"
        assert shown(browser, page, "Completed", "7 Task runs", *STEPS) == []


@pytest.mark.long
def test_a_training_that_had_to_be_mended_says_so_wherever_one_looks(project, first):
    """In MLflow (also of the run that had it cached), the report, the card, the output."""
    wild = ("--set", "training.learning_rate=3", "--set", "registry.model_name=wild")
    project.run(*wild)
    done = project.vaesc("run", "--config", str(project.config), *wild)
    assert done.returncode == 0, done.stderr
    assert "! rolled back, " in done.stdout
    program = """
import json
from vaesc.registry import connect, show_model
client = connect(create=False).client
card = show_model(1, name="wild")["description"]
runs = client.search_runs(["1"], "params.`training.learning_rate` = '3.0'")
tags = [r.data.tags.get("vaesc.health", "") for r in runs
        if r.data.tags.get("vaesc.step", "train") == "train"]
print(json.dumps([card, tags]))
"""
    card, tags = json.loads(project.python(program))
    assert "rolled back, " in card
    assert len(tags) == 4  # two runs, and the step of each
    assert all("rolled back, " in tag for tag in tags)
    report = next(line for line in done.stdout.splitlines() if line.startswith("report "))
    assert "Not as it should be" in Path(report.split()[1]).read_text()


def test_a_changed_sparsity_reuses_the_vae_and_the_latents(project, first):
    changed = project.run("--set", "dictionary.n_nonzero_coefs=3")
    assert states(changed) == {
        "ingest": "cached", "train": "cached", "extract": "cached",
        "learn": "computed", "refine": "computed", "evaluate": "computed",
        "register": "computed",
    }  # fmt: skip
    assert changed["model"]["aliases"] == ["challenger"]


@pytest.mark.parametrize("damage", ["flip", "delete"])
def test_a_damaged_artifact_is_made_again_and_nothing_after_it(project, first, damage):
    digest = next(s for s in first["steps"] if s["name"] == "extract")["digest"]
    folder = project.home / "store" / "latents" / digest[:2] / digest
    if damage == "flip":
        victim = max((p for p in folder.rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)
        data = bytearray(victim.read_bytes())
        data[len(data) // 2] ^= 1
        victim.write_bytes(data)
    else:
        shutil.rmtree(folder)
    again = project.run()
    expected = dict.fromkeys(STEPS, "cached") | {"extract": "computed"}
    assert states(again) == expected
    assert again["metrics"] == first["metrics"]


def test_lost_cache_records_are_made_up_from_the_store(project, first):
    shutil.rmtree(project.home / "results")
    again = project.run()
    assert {k: v for k, v in states(again).items() if k != "register"} == dict.fromkeys(
        STEPS[:-1], "cached"
    )
    assert again["model"] == first["model"]


def test_a_result_rewritten_to_ask_for_pickle_is_not_unpickled(project, first, tmp_path):
    import base64
    import pickle

    trap = tmp_path / "executed"

    class Bomb:
        def __reduce__(self):
            return (Path.touch, (trap,))

    record = next((project.home / "results").glob("train-*"))
    content = json.loads(record.read_text())
    content["metadata"]["serializer"] = {"type": "pickle", "picklelib": "pickle"}
    content["result"] = base64.encodebytes(pickle.dumps(Bomb())).decode()
    record.write_text(json.dumps(content))
    again = project.run()
    assert not trap.exists()
    assert set(states(again).values()) == {"cached"}


def test_the_same_seed_gives_the_same_bytes_in_another_home(project, first, server, tmp_path):
    other = Project(tmp_path / "other", server)
    again = other.run()
    # The last is the model's: its weights, and what it makes of its own data.
    assert [s["digest"] for s in again["steps"]] == [s["digest"] for s in first["steps"]]
    mine, theirs = artifacts(project.home), artifacts(other.home)
    assert len(theirs) == 6
    assert all(mine[key] == content for key, content in theirs.items())
    assert again["metrics"] == first["metrics"]


def test_a_run_killed_while_training_goes_on_to_the_same_bytes(project, first, server, tmp_path):
    settings = ["training.epochs=80", "training.patience=0", "evaluation.relearn=false"]
    arguments = [word for setting in settings for word in ("--set", setting)]
    killed = Project(tmp_path / "killed", server)
    command = [sys.executable, "-m", "vaesc", "run", "--config", str(killed.config), *arguments]
    command += ["--set", "runtime.checkpoint_seconds=0.05"]
    with (tmp_path / "log").open("w") as log:
        process = subprocess.Popen(
            command, env=killed.env, cwd=killed.home, stderr=log, stdout=log
        )
    deadline = time.monotonic() + 600
    while not list(killed.home.glob("checkpoints/*/*.safetensors")):
        assert process.poll() is None, (tmp_path / "log").read_text()[-3000:]
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.kill()
    assert process.wait() == -signal.SIGKILL

    again = killed.vaesc("run", "--config", str(killed.config), "--json", *arguments)
    assert again.returncode == 0, again.stderr[-3000:]
    assert "resumed in epoch" in again.stderr
    assert states(json.loads(again.stdout))["ingest"] == "cached"
    whole = project.run(*arguments)
    digests = {step["name"]: step["digest"] for step in whole["steps"]}
    mine, theirs = artifacts(killed.home), artifacts(project.home)
    for kind in ("train", "extract", "learn", "evaluate"):
        (key,) = [key for key in mine if key[1] == digests[kind]]
        assert mine[key] == theirs[key]
    assert not list(killed.home.glob("checkpoints/*/*"))


@pytest.mark.long
def test_another_seed_gives_other_weights(project, first):
    other = project.run("--set", "seed=1")
    assert set(states(other).values()) == {"computed"}


BAD = {
    "nan.npy": lambda p: np.save(p, np.full((50, 8, 8), np.nan, np.float32)),
    "objects.npy": lambda p: np.save(p, np.array([{}, []], object), allow_pickle=True),
    "range.npy": lambda p: np.save(p, np.linspace(-5, 5, 50 * 64, dtype="f4").reshape(50, 64)),
    "constant.npy": lambda p: np.save(p, np.zeros((50, 8, 8), np.uint8)),
    "truncated.npy": lambda p: p.write_bytes(b"\x93NUMPY\x01\x00"),
    "unknown.xyz": lambda p: p.write_bytes(b"?"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_data_gets_one_sentence_and_leaves_the_store_alone(project, first, tmp_path, name):
    BAD[name](tmp_path / name)
    before = artifacts(project.home)
    path = f"dataset.path={tmp_path / name}"
    done = project.vaesc("run", "--set", "dataset.source=arrays", "--set", path, "--json")
    assert done.returncode == 1
    assert done.stdout == ""
    assert "Traceback" not in done.stderr
    assert done.stderr.strip().splitlines()[-1].startswith("vaesc: ")
    assert name in done.stderr
    assert artifacts(project.home) == before
    assert not list((project.home / "store" / "tmp").glob("*"))


@pytest.mark.parametrize(
    "arguments",
    [
        ("run", "--set", "vae.latentdim=3"),
        ("run", "--preset", "minst"),
        ("run", "--nonsense"),
        ("models",),
        ("frobnicate",),
    ],
)
def test_wrong_usage_exits_with_2(project, arguments):
    done = project.vaesc(*arguments)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr


def test_models_are_listed_and_shown(project, first):
    listed = json.loads(project.vaesc("models", "list", "--json").stdout)
    assert {1} <= {v["version"] for v in listed}
    shown = json.loads(project.vaesc("models", "show", "champion", "--json").stdout)
    assert shown["version"] == 1
    assert shown["metrics"]["test/mse_k2"] == pytest.approx(first["metrics"]["test/mse_k2"])
    unknown = project.vaesc("models", "show", "nobody")
    assert unknown.returncode == 1
    assert "champion" in unknown.stderr


def test_verify_finds_the_damage_that_is_there_and_no_other(project, first):
    whole = project.vaesc("verify", "--json")
    assert whole.returncode == 0
    assert json.loads(whole.stdout)["damaged"] == 0
    digest = next(s for s in first["steps"] if s["name"] == "learn")["digest"]
    summary = project.home / "store" / "dictionary" / digest[:2] / digest / "summary.json"
    original = summary.read_bytes()
    summary.write_bytes(original.replace(b"0", b"1", 1))
    damaged = project.vaesc("verify", "--json")
    summary.write_bytes(original)
    assert damaged.returncode == 1
    assert [a["digest"] for a in json.loads(damaged.stdout)["artifacts"] if not a["whole"]] == [
        digest
    ]


def test_gc_keeps_what_registered_models_were_made_from(project, first):
    kept = {(s["digest"]) for s in first["steps"][:5]}
    said = project.vaesc("gc", "--keep-days", "0")
    assert said.returncode == 0, said.stderr
    assert "would delete" in said.stdout
    done = project.vaesc("gc", "--keep-days", "0", "--yes", "--quarantine")
    assert done.returncode == 0, done.stderr
    assert kept <= {digest for _, digest in artifacts(project.home)}
    assert set(states(project.run()).values()) == {"cached"}


def test_doctor_finds_this_installation_healthy(project):
    done = project.vaesc("doctor", "--json")
    assert done.returncode == 0, done.stdout
    assert json.loads(done.stdout)["problems"] == 0
