"""The comparison: each method against an independent computation, the verdict against its rule."""

import csv
import filecmp
import json
import re
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from imagesets import digits, write_digits
from safetensors.numpy import load_file
from scipy.sparse import csr_array, random_array

from vaesc.bundle import SparseVAE
from vaesc.config import DictionaryConfig, EvaluationConfig, TrainingConfig, VAEConfig
from vaesc.dictionary import learn
from vaesc.errors import DataError
from vaesc.evaluation import baselines, evaluate
from vaesc.evaluation.baselines import LiteralFit, fit_pca
from vaesc.evaluation.batches import in_batches
from vaesc.evaluation.controls import keep_largest, random_dictionary
from vaesc.evaluation.verdict import (
    Claim,
    bootstrap_means,
    crossovers,
    interval,
    judge,
    ratio,
    sentence,
    weigh,
)
from vaesc.latents import extract, open_latents
from vaesc.metrics import fvu
from vaesc.progress import SILENT
from vaesc.training import train

DICTIONARY = DictionaryConfig(n_atoms=32, n_nonzero_coefs=3, max_epochs=5, batch_size=128)
LEVELS = (1, 2, 4, 8, 40)


def run(inputs, folder, block_size=8192):
    folder.mkdir()
    config = EvaluationConfig(sparsity_levels=LEVELS, elbo_samples=2)
    return evaluate(
        config, DICTIONARY, inputs, folder, seed=1, device="cpu", block_size=block_size,
        listener=SILENT,
    )  # fmt: skip


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    root = tmp_path_factory.mktemp("evaluation")
    folders = {name: root / name for name in ("dataset", "vae", "latents", "dictionary")}
    for name in ("vae", "latents", "dictionary"):
        folders[name].mkdir()
    write_digits(folders["dataset"])
    vae, training = VAEConfig(hidden=(64,), latent_dim=6, beta=0.1), TrainingConfig(epochs=8)
    train(vae, training, folders["dataset"], folders["vae"], seed=1, device="cpu")
    extract(folders["dataset"], folders["vae"], folders["latents"], device="cpu")
    learn(DICTIONARY, folders["latents"], folders["dictionary"], seed=1, listener=SILENT)
    return folders


@pytest.fixture(scope="module")
def evaluated(inputs):
    folder = inputs["vae"].with_name("evaluated")
    return folder, run(inputs, folder)


@pytest.fixture(scope="module")
def results(evaluated):
    return json.loads((evaluated[0] / "results.json").read_text())


# The verdict


def errors(n, *means, spread=0.2, seed=0):
    rng = np.random.default_rng(seed)
    noise = rng.gamma(1 / spread**2, spread**2, (n, 1))
    return (noise * np.array(means)).astype(np.float32)


def judged(article, pixel, levels=(1, 2, 4)):
    both = bootstrap_means(np.hstack([article, pixel]), seed=0, n_resamples=400)
    m = article.shape[1]
    return weigh(levels, article, pixel, both[:, :m], both[:, m:])


def test_the_verdict_follows_the_errors():
    noisy = errors(300, 1.0, 1.0, 1.0, seed=1)
    article = errors(300, 0.02, 0.010, 0.010) * noisy
    pixel = errors(300, 0.01, 0.01, 0.02) * errors(300, 1.0, 1.0, 1.0, seed=2)
    claims = judged(article, pixel)
    assert [c.verdict for c in claims] == ["worse", "no difference shown", "better"]
    assert all(c.low <= c.ratio <= c.high for c in claims)


def test_pairs_show_what_separate_samples_could_not():
    """Images differ a hundredfold, the methods by 1 %, always the same way."""
    hard = np.random.default_rng(0).lognormal(0, 2, (400, 1)).astype(np.float32)
    (claim,) = judged(0.99 * hard, hard, levels=(1,))
    assert claim.verdict == "better"
    assert claim.high < 0.9901


def test_equal_errors_and_perfect_ones_show_no_difference():
    zeros = np.zeros((100, 1), np.float32)
    for same in (errors(100, 0.1), zeros):
        (claim,) = judged(same, same, levels=(1,))
        assert (claim.ratio, claim.verdict) == (1, "no difference shown")
    assert np.isfinite(ratio(0.1, 0.0))


def test_few_images_show_nothing():
    assert judge(0.1, 0.2, 19) == "no difference shown"
    assert judge(0.1, 0.2, 20) == "better"
    assert judge(1.1, 1.2, 20) == "worse"


def test_a_bootstrap_interval_covers_the_truth_about_95_times_in_100():
    """Known ratio of means 0.5: the interval of 200 toy experiments."""
    rng = np.random.default_rng(3)
    covered = 0
    for experiment in range(200):
        hard = rng.gamma(2, 1, 80)
        pair = np.stack([0.5 * hard * rng.uniform(0.5, 1.5, 80), hard], axis=1)
        means = bootstrap_means(pair, seed=experiment, n_resamples=300)
        low, high = interval(means[:, 0] / means[:, 1])
        covered += low <= 0.5 <= high
    # 190 expected; fewer than 178 or all 200 would be three standard deviations off and more.
    assert 178 <= covered <= 199


def test_bootstrap_means_do_not_depend_on_blocks_and_centre_on_the_mean():
    e = errors(500, 0.01, 3.0)
    means = bootstrap_means(e, seed=4, n_resamples=300, block=300)
    np.testing.assert_allclose(bootstrap_means(e, seed=4, n_resamples=300, block=7), means)
    np.testing.assert_allclose(means.mean(axis=0), e.mean(axis=0), rtol=5e-3)
    standard_error = e.std(axis=0) / np.sqrt(500)
    np.testing.assert_allclose(means.std(axis=0), standard_error, rtol=0.15)


def claims_of(*ratios):
    word = {True: "better", False: "worse"}
    return [
        Claim(k=2**i, ratio=r, low=r, high=r, verdict=word[r < 1]) for i, r in enumerate(ratios)
    ]


def test_crossings_are_interpolated_in_log_k():
    first, second = crossovers(claims_of(2.0, 0.5, 0.5, 2.0))
    assert first.k == pytest.approx(2**0.5)
    assert (first.between, first.ahead) == ((1, 2), "article")
    assert second.k == pytest.approx(4 * 2**0.5)
    assert (second.between, second.ahead) == ((4, 8), "pixel")
    assert crossovers(claims_of(0.5, 0.6)) == []


@given(st.lists(st.floats(0.05, 20).filter(lambda r: r != 1), min_size=1, max_size=7))
def test_the_sentence_names_every_level_once_under_its_verdict(ratios):
    claims = claims_of(*ratios)
    text = sentence(claims, crossovers(claims))
    named = [int(k) for group in re.findall(r"at k = ((?:\d+(?:, | and )?)+)", text)
             for k in re.findall(r"\d+", group)]  # fmt: skip
    assert sorted(named) == [c.k for c in claims]
    better = sum(c.verdict == "better" for c in claims)
    assert ("did not hold" in text) == (better == 0)
    assert ("held at every" in text) == (better == len(claims))
    assert ("do not cross" in text) == (not crossovers(claims))
    assert text.endswith(".")


# Baselines and controls


@pytest.mark.parametrize("exact", [True, False])
def test_pca_agrees_with_scikit_learn(monkeypatch, exact):
    from sklearn.decomposition import PCA

    monkeypatch.setattr(baselines, "_EXACT", 4096 if exact else 0)
    x = digits().reshape(-1, 64).astype(np.float32) / 255
    ours = fit_pca(in_batches(x), 10, seed=0)
    for k in (1, 5, 10):
        theirs = PCA(k, svd_solver="full").fit(x)
        expected = theirs.inverse_transform(theirs.transform(x))
        np.testing.assert_allclose(ours.approximate(x, k), expected, atol=2e-3)


def test_pca_with_all_components_is_exact():
    x = np.random.default_rng(0).standard_normal((50, 4)).astype(np.float32)
    np.testing.assert_allclose(fit_pca(in_batches(x), 9, seed=0).approximate(x, 9), x, atol=1e-5)


def test_the_literal_fit_is_the_least_squares_fit():
    rng = np.random.default_rng(0)
    codes = random_array((2500, 12), density=0.3, rng=rng, format="csr")
    codes = csr_array(codes - random_array((2500, 12), density=0.2, rng=rng, format="csr"))
    images = rng.random((2500, 9)).astype(np.float32)
    mean = images.mean(axis=0)
    fit = LiteralFit([3], 12, mean)
    for rows in (slice(0, 1000), slice(1000, 2500)):
        fit.add({3: codes[rows]}, images[rows])
    expected = np.linalg.lstsq(codes.toarray(), images - mean)[0]
    np.testing.assert_allclose(fit.solve()[3], expected, rtol=1e-3, atol=1e-5)


def test_the_literal_fit_leaves_unused_atoms_at_zero():
    codes = csr_array(np.array([[1.0, 0, 0], [2, 0, 0]]))
    fit = LiteralFit([1], 3, np.zeros(2, np.float32))
    fit.add({1: codes}, np.array([[1, 2], [2, 4]], np.float32))
    np.testing.assert_allclose(fit.solve()[1], [[1, 2], [0, 0], [0, 0]], atol=1e-4)


def test_keep_largest_keeps_exactly_the_largest():
    z = np.array([[5.0, 1, -3, 2.5], [0, 0, 9, 0]], np.float32)
    mean = np.array([1.0, 1, 1, 1], np.float32)
    np.testing.assert_array_equal(keep_largest(z, mean, 2)[0], [5, 1, -3, 1])
    np.testing.assert_array_equal(keep_largest(z, mean, 1)[1], [1, 1, 9, 1])
    np.testing.assert_array_equal(keep_largest(z, mean, 7), z)


def test_the_random_dictionary_is_uniform_on_the_sphere(inputs):
    from vaesc.dictionary import load_dictionary

    learned = load_dictionary(inputs["dictionary"])
    atoms = np.concatenate([random_dictionary(learned, seed=i).dictionary for i in range(80)])
    np.testing.assert_allclose(np.linalg.norm(atoms, axis=1), 1, rtol=1e-5)
    np.testing.assert_allclose(atoms.T @ atoms / len(atoms), np.eye(6) / 6, atol=0.02)


# The whole step


def test_every_method_has_every_level_and_every_key(evaluated):
    metrics = evaluated[1]["metrics"]
    levels = (1, 2, 3, 4, 8, 40)  # the dictionary's own, 3, is always among them
    for k in levels:
        for method in ("", "pixel_", "literal_", "random_", "largest_", "pca_latents_", "pca_"):
            assert metrics[f"test/{method}mse_k{k}"] > 0
            assert np.isfinite(metrics[f"test/{method}psnr_db_k{k}"])
        for method in ("", "random_", "largest_", "pca_latents_"):
            assert 0 <= metrics[f"test/{method}fvu_k{k}"] <= 1.001
        assert metrics[f"test/l0_k{k}"] <= min(k, 6)
    for name in ("vae_mse", "negative_elbo", "distortion", "kl", "active_units", "dead_fraction"):
        assert np.isfinite(metrics[f"test/{name}"])
    assert 0 < metrics["dictionary/mutual_coherence"] <= 1
    assert evaluated[1]["n_test"] == 397


def test_errors_fall_with_k_for_projections_and_codes_of_pixels(results):
    for method in ("pixel", "pca"):
        mse = results["methods"][method]["mse"]
        assert all(a > b for a, b in pairwise(mse))
    for method in ("article", "random", "largest", "pca_latents"):
        unexplained = results["methods"][method]["fvu"]
        assert all(a >= b - 1e-9 for a, b in pairwise(unexplained))


def test_enough_coefficients_reach_the_floor_and_the_notes_say_so(results):
    for method in ("article", "random", "largest", "pca_latents"):
        curve = results["methods"][method]
        assert curve["mse"][-1] == pytest.approx(results["vae"]["mse"], rel=1e-3)
    assert any("at k = 8, 40 it uses 6 numbers" in note for note in results["notes"])


def test_the_files_tell_one_story(evaluated, results):
    folder, summary = evaluated
    per_image = load_file(folder / "errors.safetensors")
    rows = {
        (row["method"], row["k"]): row for row in csv.DictReader((folder / "table.csv").open())
    }
    for name, curve in results["methods"].items():
        for k, mse in zip(results["levels"], curve["mse"], strict=True):
            e = per_image[f"{name}_k{k}"]
            assert (e.shape, e.dtype) == ((397,), np.float32)
            assert e.mean(dtype=np.float64) == pytest.approx(mse)
            assert float(rows[name, str(k)]["mse"]) == mse
    for claim in results["claim"]:
        k = claim["k"]
        article, pixel = per_image[f"article_k{k}"].mean(), per_image[f"pixel_k{k}"].mean()
        assert claim["ratio"] == pytest.approx(article / pixel, rel=1e-5)
        assert claim["low"] <= claim["ratio"] <= claim["high"]
    assert summary["verdict"] == results["verdict"]
    assert summary["metrics"] == results["metrics"]


def test_the_users_model_gives_the_evaluations_numbers(inputs, evaluated, results):
    model = SparseVAE.from_artifacts(
        inputs["dataset"], inputs["vae"], inputs["dictionary"], device="cpu"
    )
    images = digits()[1400:]
    per_image = load_file(evaluated[0] / "errors.safetensors")
    for k in (1, 3, 8):
        np.testing.assert_allclose(model.score(images, k), per_image[f"article_k{k}"], rtol=1e-3)
    approximated = model.dictionary.decode(model.encode(images, 2))
    z = open_latents(inputs["latents"]).latents("test")
    assert fvu(z, approximated) == pytest.approx(results["methods"]["article"]["fvu"][1], rel=1e-4)


def test_nothing_depends_on_block_size_and_everything_is_deterministic(
    inputs, evaluated, tmp_path
):
    run(inputs, tmp_path / "again", block_size=1024)
    files = sorted(p.name for p in evaluated[0].iterdir())
    same, differ, odd = filecmp.cmpfiles(evaluated[0], tmp_path / "again", files, shallow=False)
    assert same == files
    assert not differ
    assert not odd
    assert {"curve.png", "atoms-dark.png", "reconstructions.png", "learning.png"} <= set(files)


def test_latents_of_another_vae_are_refused(inputs, tmp_path):
    other = tmp_path / "vae"
    other.mkdir()
    train(
        VAEConfig(hidden=(64,), latent_dim=6), TrainingConfig(epochs=1), inputs["dataset"], other,
        seed=9, device="cpu",
    )  # fmt: skip
    with pytest.raises(DataError, match="another VAE"):
        run({**inputs, "vae": other}, tmp_path / "evaluated")
