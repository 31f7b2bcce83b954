"""The comparison: each method against an independent computation, the verdict against its rule."""

import csv
import filecmp
import json
import re
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from imagesets import digits, write_digits
from safetensors.numpy import load_file
from scipy.sparse import csr_array, random_array

from vaesc.bundle import SparseVAE
from vaesc.config import (
    DictionaryConfig,
    EvaluationConfig,
    TrainingConfig,
    VAEConfig,
    derive_seed,
)
from vaesc.dictionary import learn, load_dictionary
from vaesc.errors import DataError
from vaesc.evaluation import baselines, evaluate
from vaesc.evaluation.baselines import LiteralFit, fit_pca
from vaesc.evaluation.batches import in_batches
from vaesc.evaluation.controls import keep_largest, random_dictionary, shuffled
from vaesc.evaluation.dictionaries import PixelDictionary, code_levels
from vaesc.evaluation.seeds import weigh_evaluations
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
from vaesc.progress import SILENT, Listener
from vaesc.sparse import learn_dictionary, orthogonal_matching_pursuit
from vaesc.training import train

DICTIONARY = DictionaryConfig(n_atoms=32, n_nonzero_coefs=3, max_epochs=5, batch_size=128)
LEVELS = (1, 2, 4, 8, 40)


class Heard(Listener):
    """Keeps what it hears."""

    def __init__(self):
        self.at, self.totals, self.epochs = [], set(), []

    def progress(self, done, total, **figures):
        self.at.append(done)
        self.totals.add(total)

    def epoch(self, epoch, metrics):
        self.epochs.append((epoch, dict(metrics)))


def run(inputs, folder, block_size=8192, *, relearn=True, listener=SILENT):
    folder.mkdir()
    config = EvaluationConfig(
        sparsity_levels=LEVELS, elbo_samples=2, relearn=relearn, iwae_samples=(1, 50),
        iwae_images=(1000, 397),
    )  # fmt: skip
    return evaluate(
        config, DICTIONARY, inputs, folder, seed=1, device="cpu", block_size=block_size,
        listener=listener,
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
def heard():
    return Heard()


@pytest.fixture(scope="module")
def evaluated(inputs, heard):
    folder = inputs["vae"].with_name("evaluated")
    return folder, run(inputs, folder, listener=heard)


@pytest.fixture(scope="module")
def learned_once(inputs):
    """The evaluation in which two dictionaries serve every level."""
    folder = inputs["vae"].with_name("learned_once")
    heard = Heard()
    run(inputs, folder, relearn=False, listener=heard)
    return folder, heard


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
    # The same claims as those of a rival: it has a sentence, whether any level is won or none.
    judged = sentence(claims, crossovers(claims), claims, claims)
    assert judged.startswith(
        text.replace("The article's claim", "With refinement, the article's claim")
    )
    assert ("it is not shown to be better." in judged) == (better == 0)
    assert ("it is better at every k" in judged) == (better == len(claims))


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


def test_shuffling_keeps_every_coordinate_and_loses_how_they_depend_on_each_other():
    rng = np.random.default_rng(0)
    z = rng.standard_normal((3000, 1)) * [1, -2, 3] + 0.1 * rng.standard_normal((3000, 3))
    mixed = shuffled(z.astype(np.float32), seed=1)
    np.testing.assert_array_equal(np.sort(mixed, axis=0), np.sort(z.astype(np.float32), axis=0))
    off = ~np.eye(3, dtype=bool)
    assert np.abs(np.corrcoef(z.T)[off]).min() > 0.9
    assert np.abs(np.corrcoef(mixed.T)[off]).max() < 4 / np.sqrt(3000)


def test_on_structure_that_shuffling_destroys_the_shuffled_dictionary_is_worse(results):
    """The article's dictionaries saw how coordinates go together; the control's did not."""
    learned, control = (results["methods"][m]["fvu"] for m in ("article", "shuffled"))
    assert learned[0] < control[0]
    assert learned[1] < control[1]


def test_the_random_dictionary_is_uniform_on_the_sphere(inputs):
    learned = load_dictionary(inputs["dictionary"])
    atoms = np.concatenate([random_dictionary(learned, seed=i).dictionary for i in range(80)])
    np.testing.assert_allclose(np.linalg.norm(atoms, axis=1), 1, rtol=1e-5)
    np.testing.assert_allclose(atoms.T @ atoms / len(atoms), np.eye(6) / 6, atol=0.02)


# A dictionary for every level


def some_dictionary(seed, n_atoms=12, d=6):
    rng = np.random.default_rng(seed)
    atoms = rng.standard_normal((n_atoms, d)).astype(np.float32)
    return PixelDictionary(
        dictionary=atoms / np.linalg.norm(atoms, axis=1, keepdims=True),
        mean=np.full(d, 0.25, np.float32),
        coder="ols",
    )


def test_each_level_is_coded_in_its_own_dictionary_whoever_shares_it():
    first, second = some_dictionary(0), some_dictionary(1)
    dictionaries = {1: first, 2: second, 4: first, 6: second, 50: second}
    x = np.random.default_rng(2).standard_normal((40, 6)).astype(np.float32)
    codes = code_levels(dictionaries, x)
    assert list(codes) == list(dictionaries)
    for k, dictionary in dictionaries.items():
        alone = orthogonal_matching_pursuit(
            x - dictionary.mean, dictionary.dictionary, min(k, 6), selection="ols"
        )
        np.testing.assert_allclose(codes[k].toarray(), alone.toarray(), atol=1e-5)


@pytest.mark.parametrize("coder", ["omp", "lasso"])
def test_both_sides_are_learned_and_coded_by_the_configured_coder(inputs, tmp_path, coder):
    settings = replace(DICTIONARY, coder=coder, max_epochs=1)
    folders = inputs | {"dictionary": tmp_path / "dictionary"}
    for name in ("dictionary", "evaluated"):
        (tmp_path / name).mkdir()
    learn(settings, folders["latents"], folders["dictionary"], seed=1, listener=SILENT)
    config = EvaluationConfig(sparsity_levels=(1, 3), elbo_samples=1)
    summary = evaluate(
        config, settings, folders, tmp_path / "evaluated", seed=1, device="cpu", block_size=8192,
        listener=SILENT,
    )  # fmt: skip
    results = json.loads((tmp_path / "evaluated" / "results.json").read_text())
    assert results["coder"] == coder
    assert ("lasso" in results["order"]) == ("pixel_lasso" in results["order"]) == (coder == "omp")
    assert all(np.isfinite(value) for value in summary["metrics"].values())


def train_and_validation(inputs, space):
    """Centred samples, as the dictionaries of `space` are learned on them."""
    images = digits().reshape(-1, 64) / np.float32(255)
    if space == "pixel":
        centred = images - images[:1200].mean(axis=0, dtype=np.float64).astype(np.float32)
        return centred[:1200], centred[1200:1400]
    latents, d = open_latents(inputs["latents"]), load_dictionary(inputs["dictionary"])
    return tuple((latents.latents(s) - d.mean) / d.scale for s in ("train", "validation"))


@pytest.mark.parametrize("space", ["latent", "pixel"])
def test_both_sides_are_learned_at_every_level_by_one_learner_with_the_same_settings(
    inputs, evaluated, space
):
    found = load_file(evaluated[0] / f"{space}_dictionaries.safetensors")
    # Six dimensions, 32 atoms: levels of six or 32 and more have nothing to choose. At k = 3 the
    # dictionary of latents is the registered one, which lies in its own artifact.
    learned_at = {"latent": {1, 2, 4, 6}, "pixel": {1, 2, 3, 4, 8, 32}}[space]
    assert {n for n in found if n[:4] == "dict"} == {f"dictionary_k{k}" for k in learned_at}
    train, validation = train_and_validation(inputs, space)
    for k in sorted(learned_at)[:3]:
        independent = learn_dictionary(
            train, X_validation=validation, n_atoms=32, n_nonzero_coefs=k, selection="ols",
            max_epochs=5, batch_size=128, seed=derive_seed(1, f"evaluate/{space}-dictionary/{k}"),
        )  # fmt: skip
        np.testing.assert_allclose(found[f"dictionary_k{k}"], independent.dictionary, atol=1e-4)


def test_the_stored_dictionaries_reproduce_the_errors(inputs, evaluated):
    folder, _ = evaluated
    per_image = load_file(folder / "errors.safetensors")
    pixels = load_file(folder / "pixel_dictionaries.safetensors")
    latents = load_file(folder / "latent_dictionaries.safetensors")
    model = SparseVAE.from_artifacts(
        inputs["dataset"], inputs["vae"], inputs["dictionary"], device="cpu"
    )
    x = digits()[1400:].reshape(-1, 64) / np.float32(255)
    z = open_latents(inputs["latents"]).latents("test")
    for k in (1, 4):
        atoms = pixels[f"dictionary_k{k}"]
        codes = orthogonal_matching_pursuit(x - pixels["mean"], atoms, k, selection="ols")
        rebuilt = np.clip(codes @ atoms + pixels["mean"], 0, 1)
        error = np.square(rebuilt - x).mean(axis=1)
        np.testing.assert_allclose(per_image[f"pixel_k{k}"], error, rtol=1e-3)

        atoms, mean, scale = latents[f"dictionary_k{k}"], latents["mean"], latents["scale"]
        codes = orthogonal_matching_pursuit((z - mean) / scale, atoms, k, selection="ols")
        rebuilt = model.unit_images(mean + scale * (codes @ atoms)).reshape(-1, 64)
        error = np.square(rebuilt - x).mean(axis=1)
        np.testing.assert_allclose(per_image[f"article_k{k}"], error, rtol=1e-3)


def test_at_the_models_own_level_relearning_changes_nothing(evaluated, learned_once):
    anew, once = (load_file(f / "errors.safetensors") for f in (evaluated[0], learned_once[0]))
    for method in ("article", "pixel", "literal"):
        # A greedy path that goes on refits the same coefficients with other rounding.
        np.testing.assert_allclose(anew[f"{method}_k3"], once[f"{method}_k3"], rtol=1e-5)
    for method in ("largest", "pca_latents", "pca", "random"):  # nothing learned for a level
        np.testing.assert_array_equal(anew[f"{method}_k1"], once[f"{method}_k1"])


def test_far_from_it_a_dictionary_of_its_own_serves_a_level_better(results, learned_once):
    once = json.loads((learned_once[0] / "results.json").read_text())["methods"]
    anew = results["methods"]
    assert anew["pixel"]["mse"][0] < 0.95 * once["pixel"]["mse"][0]
    assert anew["article"]["fvu"][0] < 0.95 * once["article"]["fvu"][0]


def test_the_notes_say_what_was_learned(results, learned_once):
    once = json.loads((learned_once[0] / "results.json").read_text())
    assert (results["relearn"], once["relearn"]) == (True, False)
    assert "learned anew for each k" in results["notes"][0]
    assert "at k = 3 that of latents is the model's own" in results["notes"][0]
    assert "both learned at k = 3, serve every k" in once["notes"][0]
    assert not (learned_once[0] / "latent_dictionaries.safetensors").exists()
    assert list(load_file(learned_once[0] / "pixel_dictionaries.safetensors")) == [
        "dictionary_k3",
        "mean",
    ]


def test_progress_rises_to_its_total_and_every_epoch_is_heard_and_kept(
    evaluated, heard, learned_once
):
    for listener in (heard, learned_once[1]):
        assert len(listener.totals) == 1
        assert all(a < b for a, b in pairwise(listener.at))
        assert listener.at[-1] == max(listener.totals)
    kept = json.loads((evaluated[0] / "history.json").read_text())
    told = [{} for _ in range(5)]
    for epoch, metrics in heard.epochs:
        told[epoch - 1].update(metrics)
    assert told == kept
    named = {f"validation/{s}_k{k}_dictionary_mse" for s, k in (("latent", 6), ("pixel", 32))}
    assert named < set(kept[0])
    assert "validation/latent_k6_dictionary_mse" not in kept[1]  # exact after the first epoch
    assert all("k3" in name for _, row in learned_once[1].epochs for name in row)


# The whole step


def test_every_method_has_every_level_and_every_key(evaluated):
    metrics = evaluated[1]["metrics"]
    levels = (1, 2, 3, 4, 8, 40)  # the dictionary's own, 3, is always among them
    for k in levels:
        for method in (
            "", "lasso_", "pixel_", "pixel_lasso_", "literal_", "random_", "shuffled_",
            "largest_", "pca_latents_", "pca_", "topk_latents_", "topk_pixels_",
        ):  # fmt: skip
            assert metrics[f"test/{method}mse_k{k}"] > 0
            assert np.isfinite(metrics[f"test/{method}psnr_db_k{k}"])
        for method in ("", "random_", "largest_", "pca_latents_"):
            assert 0 <= metrics[f"test/{method}fvu_k{k}"] <= 1.001
        assert metrics[f"test/l0_k{k}"] <= min(k, 6)
    assert [name for name in metrics if "vq" in name] == ["test/vq_mse_k1", "test/vq_psnr_db_k1"]
    for name in ("vae_mse", "negative_elbo", "distortion", "kl", "active_units", "dead_fraction"):
        assert np.isfinite(metrics[f"test/{name}"])
    assert 0 < metrics["train/mutual_coherence"] <= 1
    assert evaluated[1]["n_test"] == 397


def test_importance_weighted_bounds_lie_below_the_negative_elbo(evaluated, results):
    metrics = evaluated[1]["metrics"]
    one, fifty = (metrics[f"test/iwae_{n}_samples"] for n in (1, 50))
    assert one == pytest.approx(metrics["test/distortion"] + metrics["test/kl"], abs=0.5)
    assert fifty < one - 0.1
    assert [(b["samples"], b["images"]) for b in results["bounds"]] == [(1, 397), (50, 397)]


def test_errors_fall_with_k_for_projections_and_codes_of_pixels(results):
    for method in ("pixel", "pca"):
        mse = results["methods"][method]["mse"]
        assert all(a > b for a, b in pairwise(mse))
    for method in ("article", "random", "largest", "pca_latents"):
        unexplained = results["methods"][method]["fvu"]
        assert all(a >= b - 1e-9 for a, b in pairwise(unexplained))


def test_enough_coefficients_reach_the_floor_and_the_notes_say_so(results):
    for method in ("article", "lasso", "random", "shuffled", "largest", "pca_latents"):
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
            if name == "vq" and k > 1:
                assert mse is None
                assert rows[name, str(k)]["mse"] == ""
                assert f"{name}_k{k}" not in per_image
                continue
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


def test_every_method_is_held_against_the_pixel_dictionary_at_every_level(results):
    for name, curve in results["methods"].items():
        for i, mse in enumerate(curve["mse"]):
            found = [curve[key][i] for key in ("ratio", "ratio_low", "ratio_high")]
            if mse is None:
                assert (found, curve["verdict"][i]) == ([None] * 3, None)
                continue
            point, low, high = found
            assert point == pytest.approx(mse / results["methods"]["pixel"]["mse"][i], rel=1e-5)
            assert low <= point <= high
            assert curve["verdict"][i] == judge(low, high, 397), name
    assert results["methods"]["article"]["ratio"] == [c["ratio"] for c in results["claim"]]


def test_learned_against_random_agrees_with_both_curves(results):
    for i, k in enumerate(results["levels"]):
        found = results["learned_against_random"][str(k)]
        for metric in ("mse", "fvu"):
            ours, theirs = (results["methods"][m][metric][i] for m in ("article", "random"))
            # Beyond the latents' dimensions both are exact, and the ratio one of rounding.
            if theirs > 1e-9:
                assert found[metric]["ratio"] == pytest.approx(ours / theirs, rel=1e-4)
            assert found[metric]["low"] <= found[metric]["ratio"] <= found[metric]["high"]
    assert results["learned_against_random"]["1"]["fvu"]["verdict"] == "better"


def test_the_best_of_few_bits_approaches_the_unquantised_codes(results):
    levels, found = results["levels"], results["rate"]
    for name in ("article", "pixel"):
        points = {(p["k"], p["q"]): p for p in found["methods"][name]["points"]}
        for i, k in enumerate(levels):
            exact = results["methods"][name]["mse"][i]
            assert points[k, 8]["mse"] == pytest.approx(exact, rel=0.05, abs=2e-4)
        assert points[4, 6]["bits"] == 4 * (5 + 6)
        # Six latent dimensions exhaust k = 40: no more than six coefficients are paid for.
        assert points[40, 2]["bits"] == (6 if name == "article" else 32) * (5 + 2)
    assert {m: a["numbers"] for m, a in found["amortised"].items()}.keys() == set(results["order"])
    assert found["amortised"]["pixel"]["numbers"] == results["parameters"]["pixel"][0]
    assert found["amortised"]["article"]["numbers"] == results["parameters"]["article"][0]
    assert found["amortised_over"] == results["n_train"] + results["n_test"]


def test_the_ratio_at_equal_bits_rests_on_the_errors_kept_beside_it(evaluated, results):
    kept = load_file(evaluated[0] / "rate_errors.safetensors")
    for i, entry in enumerate(results["rate"]["ratio"]):
        ours, theirs = (kept[side][:, i].mean(dtype=np.float64) for side in ("claimant", "pixel"))
        assert entry["ratio"] == pytest.approx(ours / theirs, rel=1e-6)


def test_evaluations_are_weighed_together_from_their_files(evaluated, results):
    found = weigh_evaluations([evaluated[0]] * 2, seed=0)
    assert [c["ratio"] for c in found["claim"]] == pytest.approx(
        [c["ratio"] for c in results["claim"]]
    )
    for ours, theirs in zip(found["rate"]["ratio"], results["rate"]["ratio"], strict=True):
        assert (ours["bits"], ours["ratio"]) == (theirs["bits"], pytest.approx(theirs["ratio"]))
    for k in ("1", "2", "4"):  # at 8 and 40 both are exact but for rounding
        for metric in ("mse", "fvu"):
            ours, expected = (r["learned_against_random"][k][metric] for r in (found, results))
            assert ours["ratio"] == pytest.approx(expected["ratio"], rel=1e-4)
    assert found["methods"]["vq"]["mse"][1:] == [None] * 5
    json.dumps(found, allow_nan=False)


def test_topk_may_be_left_out_and_lasso_is_never_compared_with_itself(learned_once, inputs):
    once = json.loads((learned_once[0] / "results.json").read_text())
    assert {"lasso", "pixel_lasso", "topk_pixels"} <= set(once["order"])
    config = EvaluationConfig(sparsity_levels=(2,), elbo_samples=1, topk_epochs=0,
                              iwae_samples=(), iwae_images=())  # fmt: skip
    folder = inputs["vae"].with_name("without")
    folder.mkdir()
    evaluate(config, replace(DICTIONARY, max_epochs=1), inputs, folder, seed=1, device="cpu",
             block_size=8192, listener=SILENT)  # fmt: skip
    order = json.loads((folder / "results.json").read_text())["order"]
    # Without k = 1 there is no codebook either.
    assert not {"topk_latents", "topk_pixels", "vq"} & set(order)
    with pytest.raises(ValueError, match="topk_epochs must be 0"):
        EvaluationConfig(topk_epochs=-1)


def test_the_users_model_gives_the_evaluations_numbers(inputs, evaluated, learned_once):
    model = SparseVAE.from_artifacts(
        inputs["dataset"], inputs["vae"], inputs["dictionary"], device="cpu"
    )
    images, z = digits()[1400:], open_latents(inputs["latents"]).latents("test")
    for folder, levels in ((evaluated[0], [3]), (learned_once[0], [1, 3, 8])):
        per_image = load_file(folder / "errors.safetensors")
        results = json.loads((folder / "results.json").read_text())
        unexplained = dict(
            zip(results["levels"], results["methods"]["article"]["fvu"], strict=True)
        )
        for k in levels:
            scores = model.score(images, k)
            np.testing.assert_allclose(scores, per_image[f"article_k{k}"], rtol=1e-3)
            approximated = model.dictionary.decode(model.encode(images, k))
            assert fvu(z, approximated) == pytest.approx(unexplained[k], rel=1e-4, abs=1e-9)


def test_nothing_depends_on_block_size_and_everything_is_deterministic(
    inputs, evaluated, tmp_path
):
    run(inputs, tmp_path / "again", block_size=1024)
    files = sorted(p.name for p in evaluated[0].iterdir())
    same, differ, odd = filecmp.cmpfiles(evaluated[0], tmp_path / "again", files, shallow=False)
    assert same == files
    assert not differ
    assert not odd
    drawn = {"curve.png", "cards.json", "card-effects-dark.png", "reconstructions.png"}
    assert drawn <= set(files)


def test_latents_of_another_vae_are_refused(inputs, tmp_path):
    other = tmp_path / "vae"
    other.mkdir()
    train(
        VAEConfig(hidden=(64,), latent_dim=6), TrainingConfig(epochs=1), inputs["dataset"], other,
        seed=9, device="cpu",
    )  # fmt: skip
    with pytest.raises(DataError, match="another VAE"):
        run({**inputs, "vae": other}, tmp_path / "evaluated")


def test_what_refinement_won_is_not_said_of_the_article():
    def claim(k, verdict):
        return Claim(k=k, ratio=0.9, low=0.8, high=0.95, verdict=verdict)

    ours = [claim(1, "better"), claim(2, "better")]
    text = sentence(ours, [], [claim(1, "worse"), claim(2, "better")])
    assert text.startswith("With refinement, the article's claim held at every sparsity level")
    assert text.endswith("With the article's own recipe, unrefined, it held at k = 2.")
    assert sentence(ours, [], [claim(1, "worse")]).endswith("it held at no sparsity level.")


def test_a_difference_of_rounding_alone_is_a_draw():
    assert judge(1 + 1e-7, 1 + 2e-7, 1000) == "no difference shown"
    assert judge(1 + 1e-4, 1 + 2e-4, 1000) == "worse"
