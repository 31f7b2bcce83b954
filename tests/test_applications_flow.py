"""What a VAE is for, as users run it: a run with every application, and each command after it.

One small run is made once. Each command is then given nothing but the registered model, each in a
new process.
"""

import json
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
from project import STEPS, states
from sklearn.datasets import load_digits

from vaesc.config import Application

pytestmark = [pytest.mark.slow, pytest.mark.service, pytest.mark.timeout(600)]

NAMES = get_args(Application)
SMALL = {
    "applications": NAMES, "generation.n_samples": 200, "generation.n_components": 5,
    "generation.binary_epochs": 0, "representation.n_anchors": 64,
    "representation.n_nonzero_coefs": 8, "semi_supervised.n_labels": [100],
    "semi_supervised.n_draws": 1, "semi_supervised.network_draws": 1, "dataset.limit": 400,
    "semi_supervised.epochs": 1, "compression.n_images": 200,
}  # fmt: skip
ALL = [word for key, value in SMALL.items() for word in ("--set", f"{key}={json.dumps(value)}")]

TITLES = (
    "Generation", "Representation: features for classes and clusters", "Anomaly detection",
    "Compression", "Few labels",
)  # fmt: skip


COMMANDS = {
    "sample": ("new.npy", "-n", "3", "--prior", "sparse"),
    "represent": ("images.npy", "local.npz"),
    "cluster": ("images.npy", "clusters.csv"),
    "detect": ("images.npy", "found.csv", "--explain", "why.png"),
    "compress": ("images.npy", "images.vsc"),
    "decompress": ("images.vsc", "again.npy", "--rows", "2:5"),
    "label": ("images.npy", "labels.npy", "classes.npy"),
}


@pytest.fixture(scope="module")
def first(project):
    return project.run(*ALL)


def test_every_application_is_a_step_between_evaluation_and_registration(first):
    assert [s["name"] for s in first["steps"]] == [*STEPS[:-1], *NAMES, STEPS[-1]]


@pytest.mark.parametrize(
    "key",
    [
        "probe_accuracy", "clustering_accuracy", "anomaly_auroc", "frechet_distance",
        "semi_supervised_error_100", "bits_per_pixel_at_20db",
    ],
)  # fmt: skip
def test_metrics_are_those_of_the_readme(first, key):
    assert np.isfinite(first["metrics"][f"test/{key}"])


def test_the_report_has_a_section_for_each(first):
    report = Path(first["report"]).read_text()
    for title in TITLES:
        assert report.count(f"<h2>{title}</h2>") == 1


def test_nothing_is_computed_twice_and_the_report_is_the_same(project, first):
    again = project.run(*ALL)
    assert set(states(again).values()) == {"cached"}
    assert again["metrics"] == first["metrics"]
    assert again["model"]["version"] == first["model"]["version"]


def test_every_command_works_from_the_registered_model_alone(project, first):
    """Another home's cache of models, no artifact, no dataset: only what is registered."""
    images, classes = load_digits().images[:200], load_digits().target[:200]
    np.save(project.home / "images.npy", images.astype(np.uint8))
    np.save(project.home / "labels.npy", np.where(np.arange(200) % 2, -1, classes))
    store, away = project.home / "store", project.home / "store-away"
    store.rename(away)
    try:
        for command, arguments in COMMANDS.items():
            done = project.vaesc(command, *arguments)
            assert done.returncode == 0, (command, done.stderr[-3000:])
    finally:
        away.rename(store)
    made = {name: np.load(project.home / name) for name in ("new.npy", "again.npy", "classes.npy")}
    assert made["new.npy"].shape == (3, 8, 8)
    assert made["again.npy"].shape == (3, 8, 8)
    far = np.abs(made["again.npy"] - images[2:5]).mean()
    assert far < np.abs(images[2:5] - images.mean()).mean(), "farther than a grey image"
    known = np.arange(200) % 2 == 0
    assert (made["classes.npy"][known] == classes[known]).all()
    assert (project.home / "why.png").stat().st_size > 1000


@pytest.mark.long
def test_a_setting_of_one_application_concerns_no_other(project, first):
    again = states(project.run(*ALL, "--set", "anomaly.false_alarm_rate=0.1"))
    assert again.pop("anomaly") == "computed"
    again.pop("register")  # it registers the model anew if its part changed
    assert set(again.values()) == {"cached"}


@pytest.mark.long
def test_a_run_with_applications_is_reproduced(project, first):
    done = project.vaesc("reproduce", first["run_id"], "--json")
    found = json.loads(done.stdout)
    assert [s["outcome"] for s in found["steps"]] == ["identical"] * len(found["steps"])
    assert {s["step"] for s in found["steps"]} >= set(NAMES)
    assert done.returncode == 0
