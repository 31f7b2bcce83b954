"""``vaesc reproduce``: one small run is made once, then reproduced from what MLflow holds of it.

What "identical" claims is held against the files themselves, in the store of the first run.
"""

import hashlib
import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from project import STEPS, Project, artifacts, states
from sklearn.datasets import load_digits

import vaesc
from vaesc.cli import main
from vaesc.config import settings
from vaesc.errors import StoreError
from vaesc.registry import recorded, system
from vaesc.registry.environment import COMMIT, differences, recorded_environment
from vaesc.reproduction import environment_warnings, restored_config
from vaesc.reproduction.comparison import judged, other_metrics
from vaesc.reproduction.steps import starts_of
from vaesc.store import Spec, Store, read_artifact

pytestmark = [pytest.mark.slow, pytest.mark.service, pytest.mark.timeout(600)]
ROOT = Path(vaesc.__file__).parents[1]


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """Return 300 real digits, as a user's file."""
    path = tmp_path_factory.mktemp("data") / "digits.npy"
    np.save(path, load_digits().images[:300].astype(np.uint8) * 15)
    return path


@pytest.fixture(scope="module")
def arguments(images):
    chosen = [
        "dataset.source=arrays", f"dataset.path={images}", "evaluation.sparsity_levels=[1, 2]",
        "evaluation.iwae_samples=[10]", "evaluation.iwae_images=[10]",
    ]  # fmt: skip
    return [word for setting in chosen for word in ("--set", setting)]


@pytest.fixture(scope="module")
def first(project, arguments):
    return project.run(*arguments)


@pytest.fixture(scope="module")
def cached(project, first, arguments):
    """Return a run whose steps all came from the first one."""
    again = project.run(*arguments)
    assert set(states(again).values()) == {"cached"}
    return again


@pytest.fixture
def other(project, first, tmp_path):
    """Return a home that shares nothing with the project but its MLflow."""
    other = Project(tmp_path / "other")
    (tmp_path / "tmp").mkdir()
    other.env |= {
        "MLFLOW_TRACKING_URI": f"sqlite:///{project.home / 'mlflow.db'}",
        "TMPDIR": str(tmp_path / "tmp"),
    }
    return other


@pytest.fixture
def here(project, first, monkeypatch):
    """Let this process use the project's MLflow."""
    monkeypatch.setenv("VAESC_HOME", str(project.home))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


def files(folder):
    """Return the SHA-256 of every file below, but for the Prefect server's own."""
    found = {str(p.relative_to(folder)): p for p in folder.rglob("*") if p.is_file()}
    return {
        name: hashlib.sha256(path.read_bytes()).hexdigest()
        for name, path in found.items()
        if not name.startswith("prefect/")
    }


def outcomes(found):
    return {step["step"]: step["outcome"] for step in found["steps"]}


def tagged(run_id, **tags):
    """Set tags of a run, in this process's MLflow; returns what they were."""
    tracking = recorded.connect(create=False)
    before = tracking.client.get_run(run_id).data.tags
    tracking.set_tags(run_id, tags)
    return {name: before[name] for name in tags}


def test_another_home_makes_every_byte_again_and_changes_nothing(
    project, first, images, other, tmp_path
):
    moved = shutil.copy(images, tmp_path / "moved.npy")
    before = files(project.home)
    kept = tmp_path / "kept"
    done = other.vaesc(
        "reproduce", first["run_id"], "--set", f"dataset.path={moved}", "--keep", str(kept)
    )
    assert done.returncode == 0, done.stdout + done.stderr[-3000:]
    warnings = [line for line in done.stdout.splitlines() if line.startswith("warning")]
    assert [w for w in warnings if "not committed" not in w] == []
    lines = [line.split() for line in done.stdout.splitlines()]
    said = {words[0]: words[2] for words in lines if words[1:2] == ["identical"]}
    contents = {kind: content for (kind, _), content in artifacts(project.home).items()}
    assert [said[step] for step in STEPS[:-1]] == [
        contents[kind]
        for kind in ("dataset", "vae", "latents", "dictionary", "refined", "evaluation")
    ]
    assert said["register"] == first["steps"][-1]["digest"]
    assert artifacts(kept) == artifacts(project.home)
    proof = json.loads((kept / "reproduction.json").read_text())
    assert proof["identical"]
    assert proof["metrics"] == {"compared": len(first["metrics"]), "different": []}
    assert files(project.home) == before
    assert [p.name for p in other.home.iterdir()] == ["small.toml"]
    assert not list((tmp_path / "tmp").glob("vaesc*"))


def test_other_data_differs_at_ingest_and_other_versions_are_told(
    project, first, images, other, here, tmp_path
):
    altered = np.load(images)
    altered[7, 3, 3] ^= 1
    np.save(tmp_path / "altered.npy", altered)
    commit = "0" * 40
    before = tagged(first["run_id"], **{"system.torch": "0.0.1", COMMIT: commit})
    try:
        done = other.vaesc(
            "reproduce", "champion", "--json", "--set", f"dataset.path={tmp_path / 'altered.npy'}"
        )
    finally:
        tagged(first["run_id"], **before)
    assert done.returncode == 1, done.stderr[-3000:]
    found = json.loads(done.stdout)
    assert found["run_id"] == first["run_id"]
    assert not found["identical"]
    assert outcomes(found) == {"ingest": "differs"} | dict.fromkeys(STEPS[1:], "not run")
    ingest = found["steps"][0]
    assert ingest["other_input"] == ["inputs.source"]
    dataset = next(p for p in project.home.glob("store/dataset/*/*"))
    for difference in ingest["differences"]:
        path = dataset / difference["file"]
        assert difference["expected"] == hashlib.sha256(path.read_bytes()).hexdigest()
        assert difference["got"] != difference["expected"]
    assert ingest["differences"][0]["file"].startswith("dataset.zarr/")
    now = system.version("torch")
    assert f"torch was 0.0.1 and is {now} now" in found["warnings"]
    assert any(w.startswith(f"the commit was {commit} and is ") for w in found["warnings"])
    assert not list((tmp_path / "tmp").glob("vaesc*"))


def test_other_code_differs_where_it_is_used_and_what_works_on_it_follows(first, other, tmp_path):
    source = tmp_path / "source"
    for package in ("vaesc", "tasks", "flows"):
        shutil.copytree(ROOT / package, source / package)
    module = source / "vaesc" / "training" / "prepare.py"
    changed = module.read_text().replace('"train/init"', '"train/another"')
    assert changed != module.read_text()
    module.write_text(changed)
    other.env["PYTHONPATH"] = str(source)
    done = other.vaesc("reproduce", first["run_id"], "--json")
    assert done.returncode == 1, done.stderr[-3000:]
    found = json.loads(done.stdout)
    assert outcomes(found) == {
        "ingest": "identical", "train": "differs", "extract": "follows", "learn": "follows",
        "refine": "identical", "evaluate": "follows", "register": "identical",
    }  # fmt: skip
    train = next(s for s in found["steps"] if s["step"] == "train")
    assert "source" in train["other_input"]
    assert "vae.safetensors" in [d["file"] for d in train["differences"]]
    assert {s["cause"] for s in found["steps"] if s["outcome"] == "follows"} == {"train"}
    told = [w for w in found["warnings"] if "library's source" in w]
    assert len(told) == 1
    assert "train" in told[0].split(":")[0].split(", ")
    assert "ingest" not in told[0].split(":")[0].split(", ")
    different = {m["name"]: m for m in found["metrics"]["different"]}
    elbo = different["validation/negative_elbo"]
    assert elbo["expected"] == first["metrics"]["validation/negative_elbo"] != elbo["got"]
    assert "test/pixel_mse_k1" not in different


def test_no_reproduction_leaves_a_trace_in_mlflow(first, cached, here):
    tracking = recorded.connect(create=False)
    experiment = tracking.client.get_run(first["run_id"]).info.experiment_id
    runs = tracking.client.search_runs([experiment], max_results=1000)
    assert len(runs) == 2 * (1 + len(STEPS))
    (version,) = tracking.client.search_model_versions()
    assert int(version.version) == 1
    model = tracking.client.get_registered_model("vaesc")
    assert {name: int(number) for name, number in model.aliases.items()} == {"champion": 1}


def test_a_run_from_the_cache_is_held_to_the_run_that_computed_it(first, cached, here):
    original, again = (recorded.recorded_run(r["run_id"]) for r in (first, cached))
    assert again.metrics == original.metrics
    assert again.steps == original.steps
    assert again.steps["train"].environment.tags["system.device"]
    before = tagged(first["run_id"], **{"system.numpy": "0.0.1"})
    try:
        assert (
            recorded.recorded_run(cached["run_id"]).steps["learn"].environment.packages["numpy"]
            == "0.0.1"
        )
    finally:
        tagged(first["run_id"], **before)


def test_the_packages_of_a_seed_are_those_of_its_claim_and_a_lost_run_is_told(here):
    tracking = recorded.connect("claims")
    claim = tracking.start_run("claim")
    seed = tracking.start_run("seed", parent=claim)
    made = {"vaesc.step": "train", "vaesc.digest": "1", "vaesc.content": "2"}
    train = tracking.start_run("train", parent=seed, tags=made)
    later = tracking.start_run("later")
    tracking.start_run("train", parent=later, tags={**made, "vaesc.cached_from": train})
    for run_id in (seed, later):
        tracking.finish(run_id)
    (step,) = recorded.recorded_run(seed).steps.values()
    assert step.environment.packages["scikit-learn"] == system.version("scikit-learn")
    assert recorded.recorded_run(later).steps["train"].environment.packages == (
        step.environment.packages
    )
    tracking.client.delete_run(train)
    lost = recorded.recorded_run(later)
    assert lost.steps["train"].environment is None
    (warning,) = environment_warnings(lost, "cpu")
    assert "is not in this MLflow" in warning


def test_the_config_is_restored_exactly_also_from_parameters(first, here, monkeypatch):
    run = recorded.recorded_run(first["run_id"])
    config = restored_config(run)
    assert settings(config) == run.settings
    assert run.settings["dictionary"]["n_atoms"] == 32
    monkeypatch.setattr(recorded, "CONFIG", "of-no-such-name.json")
    monkeypatch.setattr(recorded, "MANIFESTS", "of-no-such-name.json")
    old = recorded.recorded_run(first["run_id"])
    assert restored_config(old) == config
    assert old.steps["train"].content == run.steps["train"].content
    assert old.steps["train"].manifest is None


@pytest.fixture
def refused(here, capsys):
    """Return what reproducing says of a run that it refuses."""

    def refuse(*arguments, code=1):
        assert main(["reproduce", *arguments]) == code
        output = capsys.readouterr()
        assert output.out == ""
        assert output.err.count("\n") == 1
        return output.err.removeprefix("vaesc: ").rstrip("\n")

    return refuse


def test_a_run_that_is_not_there_is_named(refused):
    missing = "f" * 32
    assert refused(missing).startswith(f"there is no run {missing} in MLflow at sqlite:")
    assert "champion (version 1)" in refused("nobody")


def test_a_step_names_the_run_it_belongs_to(first, refused):
    tracking = recorded.connect(create=False)
    experiment = tracking.client.get_run(first["run_id"]).info.experiment_id
    condition = f"tags.`mlflow.parentRunId` = '{first['run_id']}' AND tags.`vaesc.step` = 'train'"
    (train,) = tracking.client.search_runs([experiment], condition)
    said = refused(train.info.run_id)
    assert "is the step train of a pipeline run" in said
    assert said.endswith(first["run_id"])


@pytest.mark.parametrize(
    ("status", "sentence"),
    [("FAILED", "is FAILED, not FINISHED"), ("FINISHED", "is not that of a pipeline")],
)
def test_runs_that_cannot_be_compared_are_refused(first, refused, status, sentence):
    tracking = recorded.connect(create=False)
    run_id = recorded.connect("elsewhere").start_run("something")
    tracking.finish(run_id, status)
    assert sentence in refused(run_id)
    tracking.client.delete_run(run_id)
    assert f"was deleted; restore it first: mlflow runs restore --run-id {run_id}" in refused(
        run_id
    )


def test_settings_that_make_another_run_are_refused(first, refused):
    assert "seed is not to be set" in refused(first["run_id"], "--set", "seed=3", code=2)
    said = refused(first["run_id"], "--set", "dataset.pth=x", code=2)
    assert said.endswith("did you mean dataset.path?")


def test_data_and_mlflow_that_are_not_there_are_refused(first, refused, monkeypatch, tmp_path):
    nowhere = tmp_path / "nowhere.npy"
    assert f"{nowhere} does not exist" in refused(
        first["run_id"], "--set", f"dataset.path={nowhere}"
    )
    assert "exists already" in refused(first["run_id"], "--keep", str(tmp_path))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    assert "nothing answers at MLFLOW_TRACKING_URI=http://127.0.0.1:9" in refused(first["run_id"])


# what is compared


def made(root, **texts):
    def build(folder):
        for name, text in texts.items():
            (folder / name).write_text(text)
        return {}

    spec = Spec(kind="vae", config={}, inputs={"dataset": "1"}, source=str(root))
    return Store(root).make(spec, build)


def as_recorded(artifact, manifest=True):
    content = json.loads((artifact.path / "manifest.json").read_text())
    return recorded.RecordedStep(
        digest=artifact.digest, content=artifact.content, environment=None,
        manifest=content if manifest else None,
    )  # fmt: skip


def test_every_file_that_differs_is_listed_in_order(tmp_path):
    then = made(tmp_path / "then", b="same", c="was", d="gone")
    now = made(tmp_path / "now", b="same", c="is", a="new")
    verdict = judged("train", as_recorded(then), now, None, 0.0)
    sha = {
        text: hashlib.sha256(text.encode()).hexdigest() for text in ("was", "is", "gone", "new")
    }
    assert [(d.file, d.expected, d.got) for d in verdict.differences] == [
        ("a", "", sha["new"]), ("c", sha["was"], sha["is"]), ("d", sha["gone"], ""),
    ]  # fmt: skip
    assert verdict.outcome == "differs"
    assert verdict.other_input == ("source",)
    assert judged("train", as_recorded(then), now, "ingest", 0.0).outcome == "follows"
    (only,) = judged("train", as_recorded(then, manifest=False), now, None, 0.0).differences
    assert (only.file, only.expected, only.got) == ("", then.content, now.content)


def test_equal_bytes_are_identical_whatever_went_in(tmp_path):
    then, now = made(tmp_path / "then", a="1"), made(tmp_path / "now", a="1")
    assert then.digest != now.digest
    verdict = judged("train", as_recorded(then), now, "ingest", 0.0)
    assert (verdict.outcome, verdict.differences) == ("identical", ())
    assert read_artifact(now.path).content == verdict.content


def test_a_warm_start_begins_from_the_recorded_bytes_or_not_at_all(tmp_path, monkeypatch):
    monkeypatch.setenv("VAESC_HOME", str(tmp_path))
    spec = Spec(kind="vae", config={}, inputs={}, source="")
    start = Store().make(spec, lambda _: {"latent_dim": 2, "epochs": 1})
    manifest = {"inputs": {"start": start.content}, "parents": {"start": start.digest}}
    step = recorded.RecordedStep(digest="", content="", manifest=manifest, environment=None)
    run = recorded.RecordedRun(
        run_id="r", settings={}, config_digest="", commit="", steps={"train": step}, metrics={},
        warm_start="version 1: vae",
    )  # fmt: skip
    assert starts_of(run)["train"]["start"].content == start.content
    old = replace(run, steps={"train": replace(step, manifest=None)})
    shutil.rmtree(start.path)
    for gone in (run, old):
        with pytest.raises(StoreError, match="began from an earlier model"):
            starts_of(gone)
    assert starts_of(replace(old, warm_start="version 1: nothing")) == {}


def test_metrics_are_compared_to_the_last_bit():
    third = 1 / 3
    expected = {"a": third, "b": float("nan"), "c": 1.0, "gate/x": 5.0}
    assert other_metrics(expected, {"a": third, "b": float("inf"), "c": 1.0}) == []
    above = np.nextafter(third, 1)
    assert other_metrics(expected, {"a": above, "d": 2.0}) == [
        {"name": "a", "expected": third, "got": above},
        {"name": "d", "expected": None, "got": 2.0},
    ]


def test_each_difference_of_the_environment_is_one_sentence():
    tags = {"system.python": "3.11.2", "system.cpu_features": "avx2 fma", "system.device": "cpu"}
    then = recorded_environment(tags, "torch==2.0\nPillow==1\nfoo==1\nbar==2\n")
    assert list(differences(then, then)) == []
    here = tags | {"system.python": "3.12.0", "system.cpu_features": "avx2 avx512f"}
    now = recorded_environment(here, "torch==2.1\npillow==1\nbar==2\nmore==7\n")
    assert list(differences(then, now)) == [
        "torch was 2.0 and is 2.1 now",
        "other packages differ: foo (1, now not installed)",
        "Python was 3.11.2 and is 3.12.0 now",
        "the CPU lacks instruction sets it had: fma",
        "the CPU has instruction sets it had not: avx512f",
    ]


def test_a_setting_of_the_threads_is_recorded(monkeypatch):
    for name in [n for n in os.environ if n.endswith("_NUM_THREADS")]:
        monkeypatch.delenv(name)
    assert "NUM_THREADS" not in system.system_tags()["system.environment"]
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert "OMP_NUM_THREADS=3" in system.system_tags()["system.environment"].split()
