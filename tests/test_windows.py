"""Samples beyond memory: what fits a window is treated as an array, what does not is streamed."""

from functools import partial
from unittest import mock

import numpy as np
import pytest

from vaesc import windows
from vaesc.arrays import create_group, open_group, read_csr, write_array
from vaesc.coding_shards import code_by_shards
from vaesc.config import DictionaryConfig
from vaesc.dictionary import fit_dictionary, learn, learn_atoms, load_dictionary
from vaesc.latent_codes import code_ranges, write_codes
from vaesc.latent_rows import LatentRows, fit_scaling
from vaesc.latents import open_latents
from vaesc.progress import SILENT, Listener
from vaesc.shards import HERE
from vaesc.sparse import learn_dictionary

D, K, LEVEL = 6, 24, 2
COUNTS = {"train": 3000, "validation": 700, "test": 500}
CONFIG = DictionaryConfig(n_atoms=K, n_nonzero_coefs=LEVEL, max_epochs=4, batch_size=64)


class Lazy:
    """Stands for samples on disk: slices of rows, and nothing else; keeps the largest."""

    def __init__(self, array):
        self.array, self.shape, self.dtype, self.most = array, array.shape, array.dtype, 0

    def __getitem__(self, rows):
        assert isinstance(rows, slice)
        self.most = max(self.most, len(range(*rows.indices(self.shape[0]))))
        return self.array[rows]


def sparse_samples(n, seed=0):
    """Samples that two of twenty-four fixed directions explain, up to noise."""
    atoms = np.random.default_rng(99).standard_normal((K, D))
    rng = np.random.default_rng(seed)
    picked = rng.integers(0, K, (n, LEVEL))
    z = np.einsum("nk,nkd->nd", rng.standard_normal((n, LEVEL)), atoms[picked])
    return (z + 0.05 * rng.standard_normal((n, D))).astype(np.float32)


@pytest.fixture(scope="module")
def latents(tmp_path_factory):
    """The artifact of a step *extract*, of latents made up here."""
    folder = tmp_path_factory.mktemp("latents")
    attributes = {"latent_dim": D, "counts": COUNTS, "vae_sha256": {}}
    group = create_group(folder / "latents.zarr", attributes)
    for seed, (split, n) in enumerate(COUNTS.items()):
        z = sparse_samples(n, seed) + np.float32(3)
        write_array(group, f"{split}/latents", z, ("sample", "latent"))
    return folder


SMALL = 2 * 1024 * D * 4
"""Windows of 1,024 samples of six dimensions."""


@pytest.fixture
def small(monkeypatch):
    """Small windows for what says nothing of its own, in pages of 128."""
    monkeypatch.setattr(windows, "WINDOW_BYTES", SMALL)
    monkeypatch.setattr(windows, "PAGE", 128)


def learned(latents, folder, config=CONFIG, **more):
    """Learn; from disk if a window is given, which must be smaller than the training split."""
    folder.mkdir()
    with mock.patch("vaesc.dictionary.learn_atoms", wraps=learn_atoms) as spy:
        summary = learn(config, latents, folder, seed=1, listener=SILENT, **more)
    for call in spy.call_args_list:
        assert isinstance(call.args[1], LatentRows) == ("window_bytes" in more)
    return load_dictionary(folder), summary


def content(folder):
    return {p.relative_to(folder): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


# The order


def test_a_window_bounds_large_samples_too(monkeypatch):
    """Pages shrink with it."""
    monkeypatch.setattr(windows, "WINDOW_BYTES", 2**16)
    X = Lazy(np.zeros((500, 1000), np.float32))
    dealt = windows.dealt(X, np.random.default_rng(0))
    assert max(sum(p.stop - p.start for p in pages) for pages in dealt) * 4000 <= 2**15
    assert windows.page_rows(X, 20) == 20, "a batch is the least there is"


def test_a_pass_takes_each_sample_once_and_holds_a_window(small):
    X = Lazy(np.arange(3000 * D, dtype=np.float32).reshape(-1, D))
    dealt = windows.dealt(X, np.random.default_rng(0))
    assert [sum(p.stop - p.start for p in pages) for pages in dealt] == [1024, 1024, 952]
    rows = np.concatenate([windows.numbers(pages) for pages in dealt])
    assert sorted(rows) == list(range(3000))
    assert (np.diff(rows[::128]) < 0).any()
    read = np.concatenate([windows.read(X, pages) for pages in dealt])
    np.testing.assert_array_equal(read, X.array[rows])
    assert X.most <= 128


def test_a_sample_is_a_window_of_whole_pages_and_depends_on_the_seed(small):
    X = Lazy(np.arange(3000 * D, dtype=np.float32).reshape(-1, D))
    found, again, other = (windows.sample(X, seed)[:, 0] // D for seed in (1, 1, 2))
    assert len(found) == 1024
    assert (np.diff(found) > 0).all()
    np.testing.assert_array_equal(found, again)
    assert not np.array_equal(found, other)


@pytest.mark.parametrize("batch_size", [64, 100])
def test_what_fits_a_window_is_learned_from_as_an_array(batch_size):
    X, held_out = sparse_samples(2000), sparse_samples(300, 1)
    settings = {"n_atoms": K, "n_nonzero_coefs": LEVEL, "seed": 3, "max_epochs": 2}
    array, lazy = (
        learn_dictionary(a, X_validation=b, batch_size=batch_size, **settings)
        for a, b in ((X, held_out), (Lazy(X), Lazy(held_out)))
    )
    assert lazy.dictionary.tobytes() == array.dictionary.tobytes()
    assert lazy.history == array.history


def test_learning_from_windows_is_as_good_and_reads_no_more_than_a_page(small):
    X, held_out = sparse_samples(3000), sparse_samples(2000, 1)
    settings = {"n_atoms": K, "n_nonzero_coefs": LEVEL, "seed": 3, "batch_size": 64}
    array = learn_dictionary(X, X_validation=held_out, **settings)
    lazy = Lazy(X)
    streamed = learn_dictionary(lazy, X_validation=Lazy(held_out), **settings)
    assert lazy.most <= 2048  # the look at the samples' size; passes read pages
    assert streamed.dictionary.tobytes() != array.dictionary.tobytes()
    ours, theirs = (min(r["validation_mse"] for r in x.history) for x in (streamed, array))
    assert ours == pytest.approx(theirs, rel=0.1)


# The step


def test_scaling_is_that_of_the_whole_split(latents, small):
    rows = LatentRows(open_latents(latents, window_bytes=SMALL), "train")
    assert not windows.fits(rows)
    for scaling in ("global", "per-dimension", "none"):
        streamed, whole = fit_scaling(rows, scaling), fit_scaling(rows[0:3000], scaling)
        np.testing.assert_allclose(streamed, whole, rtol=1e-6)


def test_a_streamed_step_tells_the_truth_about_its_codes(latents, small, tmp_path):
    dictionary, summary = learned(latents, tmp_path / "streamed", window_bytes=SMALL)
    store = open_latents(latents)
    group = open_group(tmp_path / "streamed" / "codes.zarr")
    for split, n in COUNTS.items():
        z = store.latents(split)
        stored, whole = read_csr(group, f"{split}/codes"), dictionary.encode(z)
        assert stored.shape == (n, K)
        np.testing.assert_array_equal(stored.toarray(), whole.toarray())
    z = store.latents("validation")
    codes = dictionary.encode(z)
    error = np.square(z - dictionary.decode(codes), dtype=np.float64).sum()
    spread = np.square(z - z.mean(axis=0, dtype=np.float64)).sum()
    metrics = summary["metrics"]
    assert metrics["validation/fvu"] == pytest.approx(error / spread, rel=1e-9)
    assert metrics["validation/l0"] == codes.count_nonzero() / len(z)
    assert metrics["validation/dead_fraction"] == (abs(codes).sum(axis=0) == 0).mean()


def test_a_streamed_dictionary_is_as_good_as_one_of_memory(latents, tmp_path, monkeypatch):
    _, whole = learned(latents, tmp_path / "whole")
    monkeypatch.setattr(windows, "PAGE", 128)
    _, streamed = learned(latents, tmp_path / "streamed", window_bytes=SMALL)
    _, again = learned(latents, tmp_path / "again", window_bytes=SMALL)
    fvu = whole["metrics"]["validation/fvu"]
    assert 0.5 * fvu < streamed["metrics"]["validation/fvu"] < 1.25 * fvu
    assert streamed["metrics"]["train/dead_fraction"] == whole["metrics"]["train/dead_fraction"]
    assert content(tmp_path / "again") == content(tmp_path / "streamed")
    assert again == streamed


class Cut(Exception):
    """Stands for a power cut."""


class CutAfter(Listener):
    """Cuts the power after some epochs."""

    def __init__(self, epochs):
        self.left = epochs

    def epoch(self, epoch, metrics):
        self.left -= 1
        if self.left == 0:
            raise Cut


def test_a_killed_streamed_step_goes_on_to_the_same_bytes(latents, small, tmp_path):
    how = {"window_bytes": SMALL, "checkpoints": tmp_path / "checkpoints"}
    learned(latents, tmp_path / "straight", window_bytes=SMALL)
    (tmp_path / "cut").mkdir()
    with pytest.raises(Cut):
        learn(CONFIG, latents, tmp_path / "cut", seed=1, listener=CutAfter(2), **how)
    learned(latents, tmp_path / "resumed", **how)
    assert content(tmp_path / "resumed") == content(tmp_path / "straight")


@pytest.mark.parametrize("coder", ["ols", "lasso", "lista"])
def test_ranges_are_coded_by_anybody_to_the_same_bytes(latents, coder, tmp_path, monkeypatch):
    monkeypatch.setattr("vaesc.latent_codes.ROWS", 1024)
    monkeypatch.setattr("vaesc.coding_shards.ROWS", 2048)
    config = DictionaryConfig(**{**CONFIG.__dict__, "coder": coder, "lista_epochs": 1})
    dictionary, summary = learned(latents, tmp_path / "here", config)

    (tmp_path / "there").mkdir()
    elsewhere = partial(code_by_shards, HERE, tmp_path / "here", latents)
    metrics = write_codes(dictionary, open_latents(latents), tmp_path / "there", elsewhere)
    assert summary["metrics"].items() >= metrics.items()
    for path in (tmp_path / "there").rglob("*"):
        if path.is_file():
            other = tmp_path / "here" / path.relative_to(tmp_path / "there")
            assert path.read_bytes() == other.read_bytes()


@pytest.mark.parametrize("coder", ["ols", "omp", "lasso"])
def test_a_range_ends_where_the_coder_ends_a_block(coder, monkeypatch):
    monkeypatch.setattr("vaesc.latent_codes.ROWS", 3000)
    z = np.random.default_rng(0).standard_normal((9000, 17)).astype(np.float32)
    atoms = np.random.default_rng(1).standard_normal((300, 17))
    atoms = (atoms / np.linalg.norm(atoms, axis=1, keepdims=True)).astype(np.float32)
    from vaesc.dictionary import LatentDictionary

    dictionary = LatentDictionary(
        dictionary=atoms, mean=np.zeros(17, np.float32), scale=np.ones(17, np.float32),
        coder=coder, n_nonzero_coefs=5, vae_sha256={},
    )  # fmt: skip
    ranges = code_ranges(dictionary, len(z))
    assert len(ranges) > 2
    whole = dictionary.encode(z)
    parts = [dictionary.encode(z[start:stop]) for start, stop in ranges]
    assert np.concatenate([p.data for p in parts]).tobytes() == whole.data.tobytes()
    assert np.concatenate([p.indices for p in parts]).tobytes() == whole.indices.tobytes()


def test_dead_atoms_are_mended_in_windows_too(latents, small, tmp_path):
    """More atoms than the latents' directions: some are dead, and their number is true."""
    config = DictionaryConfig(
        n_atoms=400, n_nonzero_coefs=1, max_epochs=1, batch_size=64, max_dead_fraction=0.0
    )
    dictionary, summary = learned(latents, tmp_path / "mended", config, window_bytes=SMALL)
    uses = abs(dictionary.encode(open_latents(latents).latents("train"))).sum(axis=0)
    assert summary["metrics"]["train/dead_fraction"] == (uses == 0).mean()
    if summary["health"]:
        assert f", {int((uses == 0).sum())}: " in summary["health"][0]


def test_the_network_of_lista_learns_from_a_window(latents, small, monkeypatch):
    import vaesc.sparse

    seen, real = [], vaesc.sparse.distil

    def distil(X, *args, **kwargs):
        seen.append(X.shape)
        return real(X, *args, **kwargs)

    monkeypatch.setattr(vaesc.sparse, "distil", distil)
    config = DictionaryConfig(**{**CONFIG.__dict__, "coder": "lista", "lista_epochs": 1})
    store = open_latents(latents, window_bytes=SMALL)
    fit_dictionary(config, store, n_nonzero_coefs=2, seed=0, listener=SILENT)
    assert seen == [(1024, D)]
