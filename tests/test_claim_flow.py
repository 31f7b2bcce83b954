"""``vaesc claim`` as users run it: seeds in processes of their own, one MLflow run over them."""

import html
import json
import os
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest
from project import STEPS, Project, artifacts, processes, stop_server, wait_until

pytestmark = [pytest.mark.slow, pytest.mark.service, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    project = Project(tmp_path_factory.mktemp("claim"))
    yield project
    stop_server(project)


def claim(project, *arguments):
    done = project.vaesc("claim", "--config", str(project.config), "--json", *arguments)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def first(project):
    return claim(project, "--seeds", "2")


def test_the_json_object_holds_the_claim_and_every_method(first):
    assert [sorted(c) for c in first["claim"]] == [
        ["by_seed", "high", "k", "low", "ratio", "verdict"]
    ] * 3
    assert [c["k"] for c in first["claim"]] == [1, 2, 4]
    assert first["seeds"] == [0, 1]
    expected = {
        "refined", "article", "pixel", "lasso", "pixel_lasso", "literal", "random", "shuffled",
        "largest", "pca", "pca_latents", "pixel_descended", "topk_pixels", "topk_latents", "vq",
    }  # fmt: skip
    assert set(first["methods"]) == expected
    for name, curve in first["methods"].items():
        known = curve["mse"][:1] if name == "vq" else curve["mse"]
        assert all(0 < mse < 1 for mse in known)
    assert {"refined", "article", "pixel"} == set(first["encode_seconds"])


def test_ratios_are_those_of_the_seeds_mean_errors(first):
    ours, theirs = first["methods"]["refined"], first["methods"]["pixel"]
    for i, c in enumerate(first["claim"]):
        assert c["ratio"] == pytest.approx(ours["mse"][i] / theirs["mse"][i], rel=1e-6)
        assert c["low"] <= c["ratio"] <= c["high"]
        for seed in (0, 1):
            expected = ours["by_seed"][seed][i] / theirs["by_seed"][seed][i]
            assert c["by_seed"][seed] == pytest.approx(expected, rel=1e-6)


@pytest.mark.long
def test_a_seed_gives_the_bytes_it_gives_alone(project, first, tmp_path):
    """Another home, no other seed beside it, as many threads as there are: the same artifacts."""
    other = Project(tmp_path / "other", json.loads(server_file(project).read_text())["url"])
    alone = other.run("--set", "seed=1")
    assert {step["state"] for step in alone["steps"]} == {"computed"}
    ours, theirs = artifacts(other.home), artifacts(project.home)
    assert len(ours) == len(STEPS) - 1
    assert all(theirs[key] == content for key, content in ours.items())
    assert alone["metrics"]["test/mse_k2"] == pytest.approx(
        first["methods"]["refined"]["by_seed"][1][1], rel=1e-9
    )


def server_file(project):
    return project.home / "prefect" / "server.json"


def test_mlflow_nests_every_seed_in_the_claim(project, first):
    program = f"""
import json
from vaesc.registry.tracking import connect
client = connect(create=False).client
run = client.get_run({first["run_id"]!r})
children = client.search_runs(
    [run.info.experiment_id], f"tags.`mlflow.parentRunId` = '{{run.info.run_id}}'")
files = [f.path for f in client.list_artifacts(run.info.run_id)]
print(json.dumps([run.info.status, run.data.metrics,
    sorted(c.info.run_id for c in children), files]))
"""
    status, metrics, children, files = json.loads(project.python(program))
    assert status == "FINISHED"
    assert children == sorted(first["runs"])
    assert metrics["test/mse_ratio_k2"] == pytest.approx(first["claim"][1]["ratio"])
    assert {"report.html", "claim.json"} <= set(files)


def test_the_report_stands_beside_those_of_runs(project, first):
    done = project.vaesc("report", first["run_id"][:8], "--no-open")
    assert done.stdout.strip() == first["report"]
    page = html.unescape(Path(first["report"]).read_text())
    assert first["verdict"].split(":")[0] in page


def test_a_second_claim_computes_nothing_and_says_the_same(project, first):
    again = claim(project, "--seeds", "2")
    same = ("claim", "geometric_mean", "methods", "rate", "encode_seconds", "verdict")
    assert {key: again[key] for key in same} == {key: first[key] for key in same}
    for run in again["runs"]:
        summary = project.home / "runs" / run / "report.html"
        assert summary.exists()


def test_one_seed_fails_in_one_sentence_that_names_it(project, first):
    done = project.vaesc(
        "claim", "--config", str(project.config), "--seeds", "1",
        "--set", "training.learning_rate=1e30", "--set", "training.max_rollbacks=0",
    )  # fmt: skip
    assert done.returncode == 1
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("vaesc: the run of seed 0 failed: ")
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("seeds", ["0", "-1", "two"])
def test_a_number_of_seeds_that_cannot_be_is_refused(project, seeds):
    done = project.vaesc("claim", "--seeds", seeds)
    assert done.returncode == 2
    assert "seeds" in done.stderr.splitlines()[-1]


def test_a_terminated_claim_takes_its_seeds_with_it(project, first):
    """SIGTERM to the claim alone: soon no process of it is left; none would end by itself."""
    marker = f"training.epochs={100_000 + os.getpid()}"  # nobody else's on this machine
    process = subprocess.Popen(
        [sys.executable, "-m", "vaesc", "claim", "--config", str(project.config), "--seeds", "6",
         "--set", marker, "--set", "training.patience=0"],
        env=project.env, cwd=project.home, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        # More seeds than run at once: those that wait must not start when others are ended.
        wait_until(lambda: len(processes(marker)) > 1, 300)
        process.send_signal(signal.SIGTERM)
        assert process.wait(240) != 0
        wait_until(lambda: not processes(marker), 300)
    finally:
        for pid in processes(marker):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
