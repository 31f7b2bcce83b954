"""Evaluation beyond memory: the same answers from windows, pools and excerpts."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
from imagesets import write_digits
from safetensors.numpy import load_file, save_file
from scipy.sparse import random_array

from vaesc import windows
from vaesc.config import DictionaryConfig, EvaluationConfig, TrainingConfig, VAEConfig
from vaesc.dictionary import learn
from vaesc.evaluation import evaluate, excerpt, kept_codes, pool
from vaesc.evaluation.batches import ROWS, Split
from vaesc.evaluation.excerpt import Excerpt
from vaesc.evaluation.kept_codes import KeptCodes
from vaesc.evaluation.pool import Pool
from vaesc.evaluation.results import read_errors
from vaesc.evaluation.tensor_file import TensorFile
from vaesc.evaluation.verdict import bootstrap_means, interval, ratio
from vaesc.latents import extract
from vaesc.progress import SILENT
from vaesc.report import style
from vaesc.training import train

LEVELS = (1, 2, 4)
DICTIONARY = DictionaryConfig(n_atoms=32, n_nonzero_coefs=2, max_epochs=5, batch_size=64)


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    root = tmp_path_factory.mktemp("streamed")
    folders = {name: root / name for name in ("dataset", "vae", "latents", "dictionary")}
    for name in ("vae", "latents", "dictionary"):
        folders[name].mkdir()
    write_digits(folders["dataset"])
    vae = VAEConfig(hidden=(64,), latent_dim=6, beta=0.1)
    where = folders["dataset"], folders["vae"]
    train(vae, TrainingConfig(epochs=5), *where, seed=1, device="cpu")
    extract(*where, folders["latents"], device="cpu")
    learn(DICTIONARY, folders["latents"], folders["dictionary"], seed=1, listener=SILENT)
    return folders


def evaluated(inputs, folder, **how):
    folder.mkdir()
    config = EvaluationConfig(
        sparsity_levels=LEVELS, elbo_samples=1, iwae_samples=(1,), iwae_images=(50,), topk_epochs=4
    )
    summary = evaluate(
        config, DICTIONARY, inputs, folder, seed=1, device="cpu", block_size=8192,
        listener=SILENT, **how,
    )  # fmt: skip
    return json.loads((folder / "results.json").read_text()), summary


@pytest.fixture(scope="module")
def both(inputs, tmp_path_factory):
    """Results of an evaluation in memory, and of one with windows of a few hundred samples."""
    root = tmp_path_factory.mktemp("both")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(style, "png_of", lambda draw, theme: b"")  # more than half of the time
        whole = evaluated(inputs, root / "whole")
        patch.setattr(windows, "PAGE", 64)
        patch.setattr(pool, "EXACT", 300)
        patch.setattr(pool, "GROUPS", 128)
        pool.groups_of.cache_clear()
        # Latents are far smaller than images: they need a smaller window.
        patch.setattr(windows, "row_bytes", lambda X: 64 * 4)
        streamed = evaluated(inputs, root / "streamed", window_bytes=2 * 256 * 64 * 4)
        columns = read_errors(root / "streamed", ["article"], LEVELS)["article"]
    pool.groups_of.cache_clear()
    return root, whole, streamed, columns


def test_streaming_changes_no_answer_that_training_does_not(both):
    """The registered dictionary, random atoms and PCA see the same numbers either way."""
    _, (whole, _), (streamed, _), _ = both
    assert whole["order"] == streamed["order"]
    for name in ("random", "largest", "pca", "pca_latents", "literal"):
        ours, theirs = (r["methods"][name]["mse"] for r in (streamed, whole))
        rel = 0.05 if name == "literal" else 1e-5
        np.testing.assert_allclose(ours, theirs, rtol=rel, err_msg=name)
    np.testing.assert_allclose(streamed["vae"]["mse"], whole["vae"]["mse"], rtol=1e-6)
    own = whole["levels"].index(2)
    ours, theirs = (r["methods"]["article"]["mse"][own] for r in (streamed, whole))
    assert ours == pytest.approx(theirs, rel=1e-6)


def test_what_is_learned_from_windows_is_about_as_good(both):
    _, (whole, _), (streamed, _), _ = both
    for name, rel in (("article", 0.1), ("pixel", 0.1), ("topk_pixels", 0.3), ("shuffled", 0.15)):
        ours, theirs = (r["methods"][name]["mse"] for r in (streamed, whole))
        np.testing.assert_allclose(ours, theirs, rtol=rel, err_msg=name)


def test_intervals_of_pools_are_those_of_images(both):
    _, (whole, _), (streamed, _), _ = both
    for name in ("random", "pca"):
        curves = [r["methods"][name] for r in (streamed, whole)]
        ours, theirs = (np.subtract(c["high"], c["low"]) for c in curves)
        np.testing.assert_allclose(ours, theirs, rtol=0.3, err_msg=name)


def test_results_say_which_part_stood_for_all(both):
    root, (whole, _), (streamed, _), _ = both
    assert "parts" not in whole
    parts = streamed["parts"]
    assert set(parts) == {"shuffled", "vq", "intervals"}
    assert (parts["shuffled"]["used"], parts["shuffled"]["of"]) == (256, 1200)
    assert (parts["intervals"]["used"], parts["intervals"]["of"]) == (128, 397)
    for part in parts.values():
        assert part["about"] in streamed["notes"]
    names = [{p.name for p in (root / f).iterdir()} for f in ("whole", "streamed")]
    assert names[0] == names[1]  # nothing temporary is left


def test_every_image_s_error_is_in_the_file_and_the_pool_has_their_mean(both):
    root, _, (streamed, _), columns = both
    found = load_file(root / "streamed" / "errors.safetensors")
    article = np.stack([found[f"article_k{k}"] for k in LEVELS], axis=1)
    assert article.shape == (397, 3)
    assert columns.shape == (128, 3)
    np.testing.assert_allclose(columns.mean(axis=0), article.mean(axis=0, dtype=np.float64))
    np.testing.assert_allclose(streamed["methods"]["article"]["mse"], columns.mean(axis=0))


# The parts


def test_a_pool_has_the_interval_of_its_images(monkeypatch):
    """Sorted, skewed errors of two methods: the ratio's interval is the bootstrap's own."""
    rng = np.random.default_rng(0)
    hard = np.sort(rng.gamma(2, 1, 20_000))
    errors = hard[:, None] * rng.gamma([8, 4], [1 / 8, 1 / 5], (20_000, 2))
    monkeypatch.setattr(pool, "EXACT", 1000)
    monkeypatch.setattr(pool, "GROUPS", 2048)
    pooled = Pool(len(errors), 2)
    for start in range(0, len(errors), 1024):
        rows = slice(start, min(start + 1024, len(errors)))
        for column in (0, 1):
            pooled.add(rows, column, errors[rows, column])
    assert pooled.rows().shape == (2048, 2)
    np.testing.assert_allclose(pooled.rows().mean(axis=0), errors.mean(axis=0), rtol=1e-12)
    ends = []
    for rows in (errors, pooled.rows()):
        means = bootstrap_means(rows, seed=0, n_resamples=1000)
        ends.append(interval(ratio(means[:, 0], means[:, 1])))
    widths = [high - low for low, high in ends]
    assert widths[1] == pytest.approx(widths[0], rel=0.15)
    np.testing.assert_allclose(ends[1], ends[0], rtol=0.002)


def test_a_tensor_file_has_the_bytes_of_safetensors(tmp_path):
    rng = np.random.default_rng(0)
    arrays = {
        name: rng.random(shape).astype(np.float32)
        for name, shape in (("vae", (50,)), ("b_k1", (50,)), ("a", (50, 3)), ("b_k10", (50,)))
    }
    with TensorFile(tmp_path / "ours", {name: a.shape for name, a in arrays.items()}) as file:
        for start in (32, 0, 16, 48):
            for name, array in arrays.items():
                file.write(name, start, array[start : start + 16])
    save_file(arrays, tmp_path / "theirs")
    assert (tmp_path / "ours").read_bytes() == (tmp_path / "theirs").read_bytes()


def test_codes_beyond_memory_are_kept_in_files(tmp_path, monkeypatch):
    monkeypatch.setattr(kept_codes, "MEMORY_BYTES", 1)
    kept = KeptCodes(tmp_path)
    codes = random_array((40, 30), density=0.1, format="csr", dtype=np.float32, rng=0)
    assert kept.get("a") is None
    kept.put("a", codes)
    found = kept.get("a")
    assert len(list(tmp_path.iterdir())) == 1
    assert found.shape == codes.shape
    np.testing.assert_array_equal(found.toarray(), codes.toarray())


def test_an_excerpt_is_spread_over_the_split():
    images = np.arange(10 * ROWS + 5, dtype=np.float32)[:, None]
    dataset = SimpleNamespace(
        n=lambda name: len(images), floats=lambda name, rows: images[rows],
        labels=lambda name, rows: images[rows, 0].astype(np.int64), classes=None,
    )  # fmt: skip
    part = Excerpt(Split(dataset, "test", 8192), most=3 * ROWS)
    parts = list(part.batches())
    assert [rows.start for rows, _ in parts] == [0, ROWS, 2 * ROWS]
    assert [x[0, 0] for _, x in parts] == [0, 4 * ROWS, 9 * ROWS]
    assert len(part) == 3 * ROWS == len(part.labels())
    for row in (0, ROWS + 7, 3 * ROWS - 1):
        assert part.pick([row])[0, 0] == part.row_of(row) == part.labels()[row]
    whole = Excerpt(Split(dataset, "test", 8192), most=excerpt.MOST)
    assert len(whole) == len(images)
    assert whole.row_of(len(images) - 1) == len(images) - 1
