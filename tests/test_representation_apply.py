"""The measurement as a whole on small digits, and the model's part by itself."""

import filecmp
import subprocess
import sys
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
import zarr
from imagesets import write_dataset
from scipy.sparse import load_npz
from sklearn.datasets import load_digits

from vaesc.applications.findings import read_findings, write_findings
from vaesc.applications.representation import Representation, apply
from vaesc.applications.representation import features as features_module
from vaesc.applications.representation.clusters import agreement
from vaesc.applications.representation.coordinates import LocalCoder
from vaesc.applications.representation.features import (
    Source,
    latents_of,
    pixels_of,
    train_rows,
)
from vaesc.applications.representation.figures import PROBE_GOALS, Judged, probe_figures
from vaesc.applications.representation.part import KINDS
from vaesc.applications.subject import open_subject
from vaesc.arrays import write_array
from vaesc.bundle import SparseVAE
from vaesc.cli import main
from vaesc.config import DictionaryConfig, RepresentationConfig, VAEConfig
from vaesc.dictionary import learn
from vaesc.errors import DataError
from vaesc.latents import extract
from vaesc.models import VAE, save_vae
from vaesc.parts import PART, load_part
from vaesc.progress import SILENT

# Half a minute of work, which beside much other work may take many times as long.
pytestmark = pytest.mark.timeout(900)

CONFIG = RepresentationConfig(n_anchors=128, n_nonzero_coefs=16)
ONE = np.ones((1, 1), np.float32)
SPLITS = {"train": slice(0, 1200), "validation": slice(1200, 1400), "test": slice(1400, 1797)}


def labelled_digits():
    order = np.random.default_rng(0).permutation(1797)
    bunch = load_digits()
    return np.round(bunch.images * (255 / 16)).astype(np.uint8)[order], bunch.target[order]


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    """Artifacts of the first steps: labelled digits, an untrained VAE, latents, dictionary."""
    root = tmp_path_factory.mktemp("representation")
    folders = {name: root / name for name in ("dataset", "vae", "latents", "dictionary")}
    for name in ("vae", "latents", "dictionary"):
        folders[name].mkdir()
    images, labels = labelled_digits()
    write_dataset(folders["dataset"], **{s: images[rows] for s, rows in SPLITS.items()})
    group = zarr.open_group(str(folders["dataset"] / "dataset.zarr"), mode="r+")
    for split, rows in SPLITS.items():
        write_array(group, f"{split}/labels", labels[rows].astype(np.int64), ("sample",))
    generator = torch.Generator().manual_seed(5)
    save_vae(
        VAE(VAEConfig(hidden=(64,), latent_dim=16), (8, 8), generator=generator), folders["vae"]
    )
    extract(folders["dataset"], folders["vae"], folders["latents"], device="cpu")
    settings = DictionaryConfig(n_atoms=32, n_nonzero_coefs=3, max_epochs=2)
    learn(settings, folders["latents"], folders["dictionary"], seed=0, listener=SILENT)
    return folders


def subject_of(inputs, folder, seed=0):
    folder.mkdir(exist_ok=True)
    return open_subject(inputs, folder, seed=seed, n_nonzero_coefs=3, device="cpu")


@pytest.fixture(scope="module")
def made(inputs, tmp_path_factory):
    """Return the subject and what its application found."""
    subject = subject_of(inputs, tmp_path_factory.mktemp("applied"))
    findings = apply(CONFIG, subject)
    write_findings(findings, subject.folder)
    return subject, findings


@pytest.fixture(scope="module")
def registered(made, tmp_path_factory):
    """Return the folder of a model that carries the part."""
    subject, _ = made
    parts = {"representation": load_part(subject.folder / PART)}
    model = SparseVAE(
        subject.model.vae, subject.model.dictionary, low=subject.model.low,
        high=subject.model.high, parts=parts,
    )  # fmt: skip
    folder = tmp_path_factory.mktemp("registered") / "model"
    model.save(folder)
    return folder


def test_the_figures_hold_ours_against_a_baseline_of_the_same_run(made):
    subject, findings = made
    metrics = dict(findings.metrics())
    probe, own, clusters = findings.figures
    assert probe.ours == metrics["test/probe_accuracy_local_codes"]
    assert own.ours == metrics["test/probe_accuracy_model_codes"]
    kinds = ("pixels", "pca", "pixel_codes", "pixel_local_codes", "pixel_local_codes_wide")
    best = max(metrics[f"test/probe_accuracy_{n}"] for n in kinds)
    assert probe.baseline == own.baseline == best
    assert metrics["test/clustering_accuracy_umap_pixels"] > 0.3
    told = " ".join([findings.sentence, *findings.notes])
    alike = max(metrics[f"test/probe_accuracy_{kind}"] for kind in kinds[-2:])
    assert f"of pixels they name {alike:.2%}" in told
    assert f"{own.ours:.2%}" in told
    assert f"{metrics['test/clustering_accuracy_umap_pixels']:.1%}" in told
    for measure in ("knn_accuracy", "few_shot_accuracy_10"):
        best = max(metrics[f"test/{measure}_{kind}"] for kind in kinds)
        assert f"{best:.2%}" in told
    assert clusters.baseline == metrics["test/clustering_accuracy_kmeans_pixels"]
    assert all(0 <= v <= 1 for k, v in metrics.items() if "ari" not in k)
    assert len(metrics) == len(list(findings.metrics()))
    assert metrics["test/probe_accuracy_pixels"] > 0.9
    assert metrics["test/few_shot_accuracy_10_pixels"] < metrics["test/probe_accuracy_pixels"]
    assert read_findings(subject.folder)["figures"][0]["ours"] == probe.ours


@pytest.mark.parametrize(("ours", "says"), [(0.5, "BELOW"), (0.995, "above")])
def test_a_loss_is_called_one(made, ours, says):
    subject, _ = made
    plain = {"width": 1, "strength": 1.0, "neighbours": 0.5, "shots": {}}
    source = partial(Source, make=dict)
    probes = {"pixel_codes": 0.8, "pixel_local_codes": 0.9, "model_codes": 0.7,
              "local_codes": ours}  # fmt: skip
    judged = [
        Judged(source=source(name=n, words=n, baseline="pixel" in n), probe=probe, **plain)
        for n, probe in probes.items()
    ]
    coder = LocalCoder(mean=ONE[0], rotation=ONE, anchors=ONE, n_nonzero_coefs=1)
    sentence, figures = probe_figures(subject, coder, judged)
    assert f"{says} the best features made without the model (pixel_local_codes" in sentence
    assert f"{says} them: what the model brings" in sentence
    assert "10.0 points above OMP codes of pixels (80.00%): what the method brings" in sentence
    assert "70.00%, 10.0 points BELOW OMP codes of pixels" in sentence
    assert [figure.baseline for figure in figures] == [0.9, 0.9]


def test_goals_that_the_models_own_codes_miss_are_told(made):
    subject, _ = made
    goal = PROBE_GOALS["mnist"]
    named = replace(subject, dataset=replace(subject.dataset, source="mnist"))
    plain = {"width": 1, "strength": 1.0, "neighbours": 0.5, "shots": {}}
    judged = [
        Judged(source=Source(name=n, words=n, make=dict, baseline="pixel" in n), probe=p, **plain)
        for n, p in (("pixel_codes", 0.95), ("pixel_local_codes", 0.96), ("model_codes", 0.94),
                     ("local_codes", goal))
    ]  # fmt: skip
    coder = LocalCoder(mean=ONE[0], rotation=ONE, anchors=ONE, n_nonzero_coefs=1)
    local, own = probe_figures(named, coder, judged)[1]
    assert (local.met, local.shortfall) == (True, "")
    assert own.met is False
    assert "pursuit" in own.shortfall


def test_training_images_of_a_sorted_set_that_is_too_large_are_drawn(
    inputs, tmp_path, monkeypatch
):
    images, labels = labelled_digits()
    order = np.argsort(labels[:1200], kind="stable")
    sorted_splits = {**{s: images[rows] for s, rows in SPLITS.items()}, "train": images[order]}
    write_dataset(tmp_path / "dataset", **sorted_splits)
    subject = subject_of({**inputs, "dataset": tmp_path / "dataset"}, tmp_path / "out")
    monkeypatch.setattr(features_module, "_NUMBERS", 300 * 64)
    rows = train_rows(subject)
    assert len(rows) == 300
    assert np.bincount(labels[order][rows]).min() > 10
    expected = subject.dataset.floats("train")[rows].reshape(300, 64)
    found = pixels_of(replace(subject, block_size=100))["train"]
    np.testing.assert_array_equal(found, expected)
    np.testing.assert_allclose(
        latents_of(subject, subject.model)["train"],
        subject.model.latents_of_unit(expected.reshape(-1, 8, 8)), atol=1e-4,
    )  # fmt: skip


def test_equal_runs_give_equal_bytes(inputs, made, tmp_path):
    subject, _ = made
    again = replace(subject, folder=tmp_path, block_size=100)
    write_findings(apply(CONFIG, again), tmp_path)
    names = sorted(p.name for p in tmp_path.iterdir())
    assert names == sorted(p.name for p in subject.folder.iterdir())
    assert filecmp.cmpfiles(tmp_path, subject.folder, names, shallow=False)[0] == names


def test_without_labels_clusters_remain(inputs, tmp_path):
    images, _ = labelled_digits()
    write_dataset(tmp_path / "dataset", **{s: images[rows] for s, rows in SPLITS.items()})
    subject = subject_of({**inputs, "dataset": tmp_path / "dataset"}, tmp_path / "out")
    findings = apply(CONFIG, subject)
    assert not findings.figures
    assert not dict(findings.metrics())
    assert "10 clusters" in findings.sentence
    assert any("no labels" in note for note in findings.notes)
    assert (subject.folder / PART).is_file()


def test_few_images_of_one_class_are_enough(inputs, tmp_path):
    images, _ = labelled_digits()
    few = {"train": images[:40], "validation": images[40:45], "test": images[45:60]}
    write_dataset(tmp_path / "dataset", **few)
    group = zarr.open_group(str(tmp_path / "dataset" / "dataset.zarr"), mode="r+")
    for split, held in few.items():
        write_array(group, f"{split}/labels", np.full(len(held), 3), ("sample",))
    subject = subject_of({**inputs, "dataset": tmp_path / "dataset"}, tmp_path / "out")
    findings = apply(CONFIG, subject)
    assert any("one class" in note for note in findings.notes)
    assert dict(findings.metrics())["test/clustering_accuracy"] == 1


def test_a_model_in_another_process_gives_what_was_measured(made, registered, tmp_path):
    """The clusters of the command have the accuracy that the run reported."""
    images, labels = labelled_digits()
    np.save(tmp_path / "in.npy", images[SPLITS["test"]])
    common = ["--model", str(registered), "--device", "cpu", str(tmp_path / "in.npy")]
    for command, out in (("cluster", "out.csv"), ("represent", "out.npz")):
        subprocess.run(
            [sys.executable, "-m", "vaesc", command, *common, str(tmp_path / out)], check=True,
            capture_output=True,
        )  # fmt: skip
    found = np.loadtxt(tmp_path / "out.csv", delimiter=",", skiprows=1, dtype=np.int64)
    np.testing.assert_array_equal(found[:, 0], np.arange(397))
    accuracy = agreement(found[:, 1], labels[SPLITS["test"]])["accuracy"]
    assert accuracy == dict(made[1].metrics())["test/clustering_accuracy"]
    representation = Representation.of(SparseVAE.load(registered, device="cpu"))
    codes = load_npz(tmp_path / "out.npz")
    assert (codes != representation.features(images[SPLITS["test"]])).nnz == 0


def test_features_of_each_kind(registered):
    images, _ = labelled_digits()
    representation = Representation.of(SparseVAE.load(registered, device="cpu"))
    local, split, latents, codes = (representation.features(images[:9], kind) for kind in KINDS)
    assert latents.shape == (9, 16)
    assert (codes != representation.model.encode(images[:9])).nnz == 0
    n_anchors = local.shape[1]
    assert split.shape == (9, 2 * n_anchors)
    np.testing.assert_allclose(local.sum(axis=1), 1, rtol=1e-4)
    assert (split.data > 0).all()
    joined = (split[:, :n_anchors] - split[:, n_anchors:]).toarray()
    np.testing.assert_array_equal(joined, local.toarray())


def test_images_are_divided_anew_into_as_many_clusters_as_asked(registered):
    images, _ = labelled_digits()
    representation = Representation.of(SparseVAE.load(registered, device="cpu"))
    found = representation.divided(images[:200], 4)
    assert set(found) == {0, 1, 2, 3}
    np.testing.assert_array_equal(found, representation.divided(images[:200], 4))
    with pytest.raises(DataError, match="number of images, 3"):
        representation.divided(images[:3], 4)
    for few in (images[:1], images[:7]):
        np.testing.assert_array_equal(representation.divided(few, 1), np.zeros(len(few)))
    with pytest.raises(DataError, match="images that differ, 2"):
        representation.divided(images[[0, 1] * 10], 3)
    assert set(representation.divided(images[[0, 1, 2]], 3)) == {0, 1, 2}


@pytest.mark.parametrize("more", [[], ["--n-clusters", "1"], ["--n-clusters", "3"]])
@pytest.mark.parametrize(
    ("given", "says"),
    [(np.float32(3), "shape"), (np.zeros((4, 5, 5)), "shape"), (np.zeros((4, 8, 8)), "differ, 1")],
)
@pytest.mark.filterwarnings("error")
def test_the_command_refuses_what_it_cannot_divide_in_a_sentence(
    registered, tmp_path, capsys, given, says, more
):
    np.save(tmp_path / "in.npy", given)
    out = tmp_path / "out.csv"
    files = [str(tmp_path / "in.npy"), str(out)]
    code = main(["cluster", "--model", str(registered), "--device", "cpu", *files, *more])
    said = capsys.readouterr().err
    if says == "differ, 1" and more != ["--n-clusters", "3"]:
        assert code == 0
        assert out.is_file()
        return
    assert code in (1, 2)
    assert says in said
    assert said.count("\n") == 1
    assert not out.exists()


def test_local_codes_are_never_decoded_not_even_where_the_widths_agree(
    registered, tmp_path, capsys
):
    np.save(tmp_path / "in.npy", labelled_digits()[0][:5])
    common = ["--model", str(registered), "--device", "cpu"]
    local, own, out = (tmp_path / name for name in ("local.npz", "own.npz", "out.npy"))
    for features, made in (("split-local", local), ("local", local), ("codes", own)):
        arguments = ["--features", features, str(tmp_path / "in.npy"), str(made)]
        assert main(["represent", *common, *arguments]) == 0
        capsys.readouterr()
        code = main(["decode", *common, str(made), str(out)])
        said = capsys.readouterr().err
        assert (code, out.exists()) == ((0, True) if made == own else (1, False))
        assert made == own or ("anchors, not atoms" in said and said.count("\n") == 1)


@pytest.mark.parametrize(
    ("name", "change", "says"),
    [
        ("anchors", lambda a: a[:, :-1], "rotation"),
        ("anchors", lambda a: np.full_like(a, np.nan), "not finite"),
        ("mean", lambda a: a[:-1], "mean of shape"),
        ("membership", lambda a: -1 - a, "at least 0"),
        ("membership", lambda a: a[:-1], "each of the"),
        ("rotation", lambda a: a.astype(np.float64), "float32"),
        ("rotation", lambda a: a[:, :0], "not empty"),
    ],
)
def test_a_damaged_part_is_refused_in_one_sentence(made, registered, name, change, says):
    model = SparseVAE.load(registered, device="cpu")
    part = model.parts["representation"]
    model.parts["representation"] = replace(
        part, arrays={**part.arrays, name: change(part.arrays[name])}
    )
    with pytest.raises(DataError, match=says):
        Representation.of(model)


@pytest.mark.parametrize("facts", [{}, {"format": 1}, {"format": 1, "n_nonzero_coefs": 10**9}])
def test_facts_that_do_not_fit_are_refused(registered, facts):
    model = SparseVAE.load(registered, device="cpu")
    model.parts["representation"] = replace(model.parts["representation"], facts=facts)
    with pytest.raises(DataError, match="register the model again"):
        Representation.of(model)


def test_a_model_without_the_part_says_so(made):
    with pytest.raises(DataError, match="representation"):
        Representation.of(made[0].model)
