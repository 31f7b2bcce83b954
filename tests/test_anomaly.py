"""Anomalies: exact false-alarm rates, sums that explain a score, a detector that is kept whole."""

import csv
import filecmp
import functools
import gzip
import json
import shutil
import subprocess
import sys
from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
import scipy.stats
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from imagesets import digits
from scipy.sparse import csr_array
from sklearn.metrics import roc_auc_score

from vaesc import cli
from vaesc.applications import apply
from vaesc.applications.anomaly import one_class as protocol
from vaesc.applications.anomaly.application import Alarms, fit_detector
from vaesc.applications.anomaly.atoms import AtomUse
from vaesc.applications.anomaly.detector import Detector, Verdict
from vaesc.applications.anomaly.explain import explain
from vaesc.applications.anomaly.images import taken
from vaesc.applications.anomaly.one_class import OneClass, auroc, usable_classes
from vaesc.applications.anomaly.outliers import Told, outliers
from vaesc.applications.anomaly.tell import one_class_figures, sentence
from vaesc.applications.anomaly.views import DIRECTIONS, pixel_windows, pixels, strokes
from vaesc.applications.findings import read_findings
from vaesc.applications.requirements import check_applications, check_outliers, outside
from vaesc.applications.subject import open_subject
from vaesc.bundle import SparseVAE
from vaesc.config import (
    AnomalyConfig,
    DatasetConfig,
    DictionaryConfig,
    PipelineConfig,
    VAEConfig,
)
from vaesc.datasets import ingest
from vaesc.dictionary import LatentDictionary, learn
from vaesc.drift.reference import conformal_p_values
from vaesc.errors import ConfigError, DataError
from vaesc.latents import extract
from vaesc.models import VAE, save_vae
from vaesc.parts import save_part
from vaesc.progress import SILENT

K = 24


def model_of(shape, seed=5):
    """An untrained VAE with a random dictionary of 8 latents."""
    generator = torch.Generator().manual_seed(seed)
    vae = VAE(VAEConfig(hidden=(32,), latent_dim=8), shape, generator=generator)
    atoms = np.random.default_rng(seed).standard_normal((K, 8)).astype(np.float32)
    atoms /= np.linalg.norm(atoms, axis=1, keepdims=True)
    ones = np.ones(8, np.float32)
    return SparseVAE(
        vae,
        LatentDictionary(
            dictionary=atoms, mean=0 * ones, scale=ones, coder="ols", n_nonzero_coefs=3,
            vae_sha256={},
        ),
    )  # fmt: skip


@pytest.fixture(scope="module")
def unit():
    return (digits() / np.float32(255)).astype(np.float32)


@pytest.fixture(scope="module")
def detector(unit):
    return Detector.fit(model_of((8, 8)), unit[:600], unit[600:1000], seed=0)


# False alarms


@given(m=st.integers(1, 400), rate=st.integers(1, 500).map(lambda n: n / 1000))
def test_a_usual_image_is_flagged_with_exactly_the_largest_possible_probability(m, rate):
    calibration = np.arange(m) + 0.5
    everywhere = np.arange(m + 1.0)  # a new score falls into each gap with the same probability
    p = conformal_p_values(calibration, everywhere)
    verdict = Verdict(scores=everywhere, p_values=p, terms=np.empty((m + 1, 0)), names=())
    assert verdict.flags(rate).sum() == Fraction(str(rate)) * (m + 1) // 1
    alarms = Alarms(n_images=m, n_flagged=0, n_calibration=m, rate=rate)
    assert alarms.rank == verdict.flags(rate).sum()


def test_the_interval_of_false_alarms_is_what_happens():
    rng, m, n = np.random.default_rng(0), 99, 200
    alarms = Alarms(n_images=n, n_flagged=0, n_calibration=m, rate=0.05)
    low, high = alarms.interval()
    calibration = np.sort(rng.random((4000, m)), axis=1)
    p = (calibration[:, m - 5, None] <= rng.random((4000, n))).mean(axis=1)
    assert p.mean() == pytest.approx(0.05, abs=0.003)
    assert 0.945 <= ((low <= p) & (p <= high)).mean() <= 0.99
    assert Alarms(n_images=n, n_flagged=0, n_calibration=18, rate=0.05).interval() == (0, 0)


def test_false_alarms_of_a_detector_keep_their_rate(unit, detector):
    flags = detector.judge(unit[1000:]).flags(0.1)
    m = len(detector.memory.calibration)
    alarms = Alarms(n_images=len(flags), n_flagged=0, n_calibration=m, rate=0.1)
    low, high = alarms.interval(0.999)
    assert low <= flags.mean() <= high


def test_a_rate_that_is_none_is_refused(detector, unit):
    for rate in (0, 0.6, float("nan")):
        with pytest.raises(ConfigError, match=r"must be in \(0, 0\.5\]"):
            detector.judge(unit[:2]).flags(rate)


@given(data=st.data(), n=st.integers(2, 60))
def test_auroc_is_scikit_learns(data, n):
    scores = data.draw(st.lists(st.integers(0, 9), min_size=n, max_size=n))
    anomalous = np.array(data.draw(st.lists(st.booleans(), min_size=n, max_size=n)))
    anomalous[:2] = [True, False]
    assert auroc(anomalous, np.array(scores)) == pytest.approx(roc_auc_score(anomalous, scores))


# What is compared


def test_strokes_know_no_brightness_and_turn_with_the_negative(unit):
    images = unit[:20] / 2
    found = strokes(images).reshape(20, DIRECTIONS, -1)
    np.testing.assert_allclose(strokes(images + 0.25), strokes(images), atol=1e-3)
    turned = strokes(1 - images).reshape(20, DIRECTIONS, -1)
    np.testing.assert_allclose(turned, np.roll(found, DIRECTIONS // 2, axis=1), atol=2e-3)
    assert not strokes(np.full((2, 8, 8), 0.3, np.float32)).any()


def test_strokes_of_a_grey_picture_in_three_channels_are_those_of_one(unit):
    colour = np.repeat(unit[:5, None], 3, axis=1)
    np.testing.assert_allclose(strokes(colour), strokes(unit[:5]), atol=1e-3)
    assert pixels(colour).shape == (5, 3 * 64)


def test_blurring_keeps_a_constant():
    flat = pixels(np.full((1, 28, 40), 0.7, np.float32))
    assert flat.shape == (1, 14 * 14)
    np.testing.assert_allclose(flat, 0.7, rtol=1e-5)
    for window in pixel_windows((28, 40)):
        np.testing.assert_allclose(window.sum(axis=1), 1, rtol=1e-6)


@given(seed=st.integers(0, 2**32 - 1), n=st.integers(1, 30))
def test_the_likelihood_of_codes_is_the_sum_over_all_atoms(seed, n):
    rng = np.random.default_rng(seed)
    dense = rng.standard_normal((n, 7)) * (rng.random((n, 7)) < 0.4)
    use = AtomUse.of(csr_array(dense))
    assert ((use.probability > 0) & (use.probability < 1)).all()
    on = dense != 0
    nats = np.where(
        on,
        -np.log(use.probability) - scipy.stats.norm(use.mean, use.std).logpdf(dense),
        -np.log(1 - use.probability),
    ).sum(axis=1)
    np.testing.assert_allclose(use.nats(csr_array(dense)), nats, rtol=1e-9)


# Explanation


@pytest.mark.parametrize("shape", [(8, 8), (3, 8, 8), (64,)])
def test_an_explanation_adds_up_for_images_of_any_shape(unit, shape):
    images = unit[:, None].repeat(3, axis=1) if len(shape) == 3 else unit
    images = images.reshape(len(unit), *shape)
    detector = Detector.fit(model_of(shape), images[:100], images[100:150], seed=0)
    strange = np.concatenate([images[150:154], 1 - images[150:154]])
    verdict = detector.judge(strange)
    for i, each in enumerate(explain(detector, strange)):
        assert sum(each.terms.values()) == pytest.approx(verdict.scores[i], abs=1e-6)
        placed = {
            n: v
            for n, v in each.terms.items()
            if n.startswith(("stroke", "pixel")) or n == "reconstruction"
        }
        assert each.heat.sum() == pytest.approx(sum(max(v, 0) for v in placed.values()), rel=1e-4)
        assert each.heat.shape == shape
        assert each.heat.min() >= 0
        nats = [a.nats for a in each.atoms]
        assert nats == sorted(nats, reverse=True)
    assert verdict.scores[4:].min() > verdict.scores[:4].max()


def test_the_part_of_an_atom_is_what_is_missing_without_it(detector, unit):
    (each,) = explain(detector, unit[1200:1201])
    model = detector.model
    dense = model.dictionary.encode(model.latents_of_unit(unit[1200:1201])).toarray()
    for atom in each.atoms:
        without = dense.copy()
        without[0, atom.atom] = 0
        image = model.unit_images(model.dictionary.decode(csr_array(without)))[0]
        np.testing.assert_allclose(each.rebuilt - image, atom.contribution, atol=1e-5)
        assert dense[0, atom.atom] == pytest.approx(atom.coefficient)


def test_a_spot_is_found_where_it_is(detector, unit):
    image = unit[1100:1101].copy()
    image[0, :3, :3] = 1 - image[0, :3, :3]
    (each,) = explain(detector, image)
    assert each.heat[:4, :4].sum() > 0.5 * each.heat.sum()


# The detector is kept whole


@pytest.fixture(scope="module")
def part(detector):
    return detector.part


def test_a_detector_comes_back_as_it_was(detector, part, unit, tmp_path):
    model = detector.model
    kept = SparseVAE(model.vae, model.dictionary, parts={"anomaly": part})
    verdict, again = detector.judge(unit[1000:1100]), Detector.of(kept).judge(unit[1000:1100])
    np.testing.assert_array_equal(verdict.scores, again.scores)
    np.testing.assert_array_equal(verdict.p_values, again.p_values)
    save_part(part, tmp_path / "a")
    save_part(Detector.of(kept).part, tmp_path / "b")
    assert filecmp.cmp(tmp_path / "a", tmp_path / "b", shallow=False)


ARRAYS = (
    "pixels", "strokes", "stroke_mean", "stroke_scale", "stroke_atoms", "atom_probability",
    "atom_mean", "atom_std", "least", "centre", "spread", "calibration",
)  # fmt: skip


@pytest.mark.parametrize("name", ARRAYS)
@pytest.mark.parametrize("damage", ["missing", "nan", "type", "shape", "empty"])
def test_a_damaged_array_is_refused(detector, part, name, damage):
    array = part.arrays[name]
    arrays = dict(part.arrays)
    if damage == "missing":
        del arrays[name]
    else:
        arrays[name] = {
            "nan": np.full_like(array, np.nan), "type": array.astype(np.float16),
            "shape": array[..., None], "empty": array[:0],
        }[damage]  # fmt: skip
    refused(detector, replace(part, arrays=arrays))


@pytest.mark.parametrize(
    ("name", "value"),
    [("atom_probability", 1), ("atom_std", 0), ("spread", -1), ("stroke_scale", 0)],
)
def test_a_number_out_of_its_range_is_refused(detector, part, name, value):
    refused(detector, replace(part, arrays={**part.arrays, name: 0 * part.arrays[name] + value}))


def test_calibration_out_of_order_is_refused(detector, part):
    turned = part.arrays["calibration"][::-1].copy()
    refused(detector, replace(part, arrays={**part.arrays, "calibration": turned}))


@pytest.mark.parametrize(
    "facts", [{}, {"format": 2}, {"terms": ["code"]}, {"false_alarm_rate": 1}, {"terms": 3}]
)
def test_wrong_facts_are_refused(detector, part, facts):
    refused(detector, replace(part, facts={**part.facts, **facts} if facts else {}))


def refused(detector, part):
    model = SparseVAE(detector.model.vae, detector.model.dictionary, parts={"anomaly": part})
    with pytest.raises(DataError, match=r"detector of anomalies .*; register the model again"):
        Detector.of(model)


def test_the_detector_of_another_model_is_refused(part):
    refused(Detector(model_of((4, 4)), None), part)


def test_too_few_images_make_no_detector(unit):
    with pytest.raises(DataError, match="at least 8 usual images"):
        Detector.fit(model_of((8, 8)), unit[:100], unit[100:115], seed=0)


def test_images_that_are_copies_of_one_are_judged(unit):
    same = np.repeat(unit[:1], 40, axis=0)
    detector = Detector.fit(model_of((8, 8)), same, same, seed=0)
    verdict = detector.judge(unit[:3])
    assert np.isfinite(verdict.scores).all()
    assert verdict.scores[0] < verdict.scores[1:].min()


# The step


@pytest.fixture(scope="module")
def artifacts(tmp_path_factory):
    """Artifacts of the first steps: digits with labels, an untrained VAE, a dictionary."""
    root = tmp_path_factory.mktemp("anomaly")
    folders = {name: root / name for name in ("dataset", "vae", "latents", "dictionary")}
    for folder in folders.values():
        folder.mkdir()
    ingest(DatasetConfig(), folders["dataset"], seed=0, block_size=512)
    save_vae(model_of((8, 8)).vae, folders["vae"])
    extract(folders["dataset"], folders["vae"], folders["latents"], device="cpu")
    settings = DictionaryConfig(n_atoms=K, n_nonzero_coefs=3, max_epochs=3)
    learn(settings, folders["latents"], folders["dictionary"], seed=0, listener=SILENT)
    return folders


def applied(artifacts, folder, **options):
    folder.mkdir()
    config = AnomalyConfig(false_alarm_rate=0.1)
    given = {"seed": 0, "n_nonzero_coefs": 3, "window_bytes": 2**20, "device": "cpu", **options}
    return apply("anomaly", config, artifacts, folder, **given)


def test_the_step_gives_the_same_bytes_whatever_the_block(artifacts, tmp_path, monkeypatch):
    short = functools.partial(protocol.fit_small_model, steps=40)
    monkeypatch.setattr(protocol, "fit_small_model", short)
    summary = applied(artifacts, tmp_path / "a", block_size=8192)
    applied(artifacts, tmp_path / "b", block_size=100)
    names = sorted(p.name for p in (tmp_path / "a").iterdir())
    assert names == [
        "anomaly-explained-dark.png", "anomaly-explained.png", "part.safetensors", "results.json",
    ]  # fmt: skip
    assert filecmp.cmpfiles(tmp_path / "a", tmp_path / "b", names, shallow=False)[0] == names

    metrics = summary["metrics"]
    assert metrics["test/anomaly_auroc"] > metrics["test/anomaly_auroc_pca"] > 0.95
    assert metrics["test/ood_auroc"] > 0.99
    assert metrics["test/anomaly_false_alarm_low"] < 0.1 < metrics["test/anomaly_false_alarm_high"]
    found = read_findings(tmp_path / "a")
    assert [row[0] for row in found["tables"][0]["rows"]] == [*"0123456789", "mean"]
    assert "images that were made" in " ".join(found["notes"])


@pytest.fixture(scope="module")
def subject(artifacts, tmp_path_factory):
    folder = tmp_path_factory.mktemp("subject")
    return open_subject(artifacts, folder, seed=0, n_nonzero_coefs=3, device="cpu")


def without_labels(subject, monkeypatch, labels):
    monkeypatch.setattr(type(subject.dataset), "labels", labels)
    return usable_classes(subject)


def test_without_labels_the_protocol_is_left_out(subject, monkeypatch):
    labels, note = without_labels(subject, monkeypatch, lambda self, split: None)
    assert labels == []
    assert "no labels" in note


def test_a_single_class_is_no_protocol(subject, monkeypatch):
    labels, note = without_labels(
        subject, monkeypatch, lambda self, split: np.zeros(self.n(split), np.int64)
    )
    assert labels == []
    assert "two classes" in note


def test_a_class_that_a_split_lacks_is_only_an_anomaly(subject, monkeypatch):
    ten = type(subject.dataset).labels
    few = {"train": lambda self, split: ten(self, split) % 9, "test": ten, "validation": ten}
    labels, note = without_labels(
        subject, monkeypatch, lambda self, split: few[split](self, split)
    )
    assert labels == [*range(9)]
    assert note == ""


def test_images_are_taken_in_the_order_of_their_rows(subject):
    rows = np.array([700, 3, 3, 41])
    found = taken(subject.dataset, "train", rows, 50)
    np.testing.assert_array_equal(found, subject.dataset.floats("train")[rows])


def test_outliers_that_are_named_must_be_there_and_fit(subject, monkeypatch, tmp_path):
    monkeypatch.setenv("VAESC_HOME", str(tmp_path))
    with pytest.raises(DataError, match=r"kmnist is nowhere .*anomaly\.outliers_folder"):
        outliers(AnomalyConfig(outliers="kmnist"), subject)
    kinds, note = outliers(AnomalyConfig(outliers="made"), subject)
    assert [name for name, _ in kinds] == ["noise", "constant", "shuffled", "negative"]
    assert "made" in note
    usual = subject.dataset.floats("test", slice(0, 100))
    made = {name: next(images)[:100] for name, images in kinds}
    for block in made.values():
        assert block.shape == (100, 8, 8)
        assert 0 <= block.min() <= block.max() <= 1
    # Each is what it is called, though all were named before any was made.
    np.testing.assert_array_equal(made["negative"], 1 - usual)
    assert (np.ptp(made["constant"], axis=(1, 2)) == 0).all()
    assert made["noise"].mean() == pytest.approx(0.5, abs=0.02)
    assert (made["shuffled"] != usual).any()
    flat = (block.reshape(100, -1) for block in (made["shuffled"], usual))
    np.testing.assert_array_equal(*(np.sort(each, axis=1) for each in flat))


def anomalous(folder=None, outliers="fashion-mnist", **dataset):
    """The config of a run that tells outliers from its own images."""
    return PipelineConfig(
        applications=("anomaly",), dataset=DatasetConfig(**dataset),
        anomaly=AnomalyConfig(outliers=outliers, outliers_folder=folder and str(folder)),
    )  # fmt: skip


def test_a_runs_own_images_are_no_outliers_of_it():
    with pytest.raises(ConfigError, match="outliers=mnist is the run's own data set"):
        check_applications(anomalous(outliers="mnist", source="mnist"))


@pytest.mark.dataset
def test_outliers_of_another_shape_are_refused_before_training(fashion_mnist):
    check_outliers(anomalous(fashion_mnist), (28, 28))
    with pytest.raises(DataError, match=r"shape \(28, 28\), the model takes \(8, 8\)"):
        check_outliers(anomalous(fashion_mnist), (8, 8))


@pytest.mark.dataset
def test_other_outliers_are_another_input_of_the_step(fashion_mnist, tmp_path):
    def seen():
        return outside("anomaly", anomalous(tmp_path / "f"))

    shutil.copytree(fashion_mnist, tmp_path / "f")
    before = seen()
    assert before == seen() == outside("anomaly", anomalous(fashion_mnist))
    name = tmp_path / "f" / "t10k-images-idx3-ubyte.gz"
    pixels = bytearray(gzip.decompress(name.read_bytes()))
    pixels[-1] ^= 1
    name.write_bytes(gzip.compress(bytes(pixels), mtime=0))
    assert seen() != before
    assert outside("anomaly", anomalous(outliers="made")) == ""


def test_a_score_that_loses_to_one_without_a_vae_says_so():
    methods = ("combined", "PCA residual", "pixel 5-NN", "stroke_neighbours", "reconstruction")
    lost = OneClass(classes=("a",), methods=methods, auroc=np.array([[0.9, 0.8, 0.85, 0.95, 0.7]]))
    score, vae = one_class_figures(lost, "mnist")
    assert (score.baseline, vae.ours, vae.baseline) == (0.95, 0.7, 0.8)
    assert "does not beat the best score without a VAE" in sentence(
        lost, [Told(kind="x", auroc=1.0, likelihood=0.2, examples=np.zeros((0, 2, 2)))], 0.05,
        AnomalyConfig(),
    )  # fmt: skip


# The command


@pytest.fixture(scope="module")
def registered(subject, tmp_path_factory):
    """A folder with a model and its detector."""
    folder = tmp_path_factory.mktemp("registered") / "model"
    detector = fit_detector(AnomalyConfig(), subject)
    model, parts = subject.model, {"anomaly": detector.part}
    SparseVAE(model.vae, model.dictionary, low=model.low, high=model.high, parts=parts).save(
        folder
    )
    return folder


def test_a_registered_model_detects_in_a_new_process(registered, subject, tmp_path):
    images = subject.dataset.floats("test")[:40]
    np.save(tmp_path / "in.npy", np.concatenate([images, 1 - images]))
    for out in ("out.json", "out.csv"):
        done = subprocess.run(
            [sys.executable, "-m", "vaesc", "detect", "--model", registered, "--device", "cpu",
             "--explain", tmp_path / "why.png", tmp_path / "in.npy", tmp_path / out],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
    assert "of 80 images are anomalous at a false-alarm rate of 0.05" in done.stdout
    found = json.loads((tmp_path / "out.json").read_text())
    flags = [row["anomalous"] for row in found["images"]]
    assert sum(flags[:40]) <= 8
    assert all(flags[40:])
    verdict = Detector.of(SparseVAE.load(registered, device="cpu")).detect(images)
    np.testing.assert_allclose(
        [row["score"] for row in found["images"][:40]], verdict.scores, atol=1e-4
    )
    rows = list(csv.DictReader((tmp_path / "out.csv").open()))
    assert [row["anomalous"] == "True" for row in rows] == flags
    assert (tmp_path / "why.png").read_bytes()[:4] == b"\x89PNG"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["out.txt"], "must end in .json or .csv"),
        (["--false-alarm-rate", "0", "out.csv"], "must be in (0, 0.5]"),
        (["--explain", "why.jpg", "out.csv"], "must end in .png"),
        (["nowhere/out.csv"], "nowhere does not exist"),
        (["--model", "{model}", "out.csv"], "registered without anomaly"),
    ],
)
def test_mistakes_are_one_sentence(
    arguments, message, tmp_path, monkeypatch, capsys, unit, detector
):
    monkeypatch.chdir(tmp_path)
    np.save("in.npy", unit[:3])
    detector.model.save(tmp_path / "model")
    given = [a.format(model=tmp_path / "model") for a in arguments]
    assert cli.main(["detect", *given[:-1], "in.npy", given[-1]]) != 0
    shown = capsys.readouterr().err
    assert message in shown
    assert "Traceback" not in shown
    assert not list(tmp_path.glob("*.csv"))


@settings(deadline=None, max_examples=20)
@given(shape=st.sampled_from([(0, 8, 8), (3, 7, 8), (3, 63)]), dtype=st.sampled_from("fdB"))
def test_images_of_another_shape_or_none_are_refused(detector, shape, dtype):
    with pytest.raises(DataError):
        detector.detect(np.zeros(shape, dtype))
