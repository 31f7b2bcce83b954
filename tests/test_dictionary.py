"""Scaling, codes and files of the dictionary of latents."""

import filecmp
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vaesc.arrays import create_group, open_group, read_csr, write_array
from vaesc.config import DictionaryConfig
from vaesc.dictionary import (
    LatentDictionary,
    fit_scaling,
    learn,
    load_dictionary,
    save_dictionary,
)
from vaesc.errors import DataError
from vaesc.progress import SILENT, Listener
from vaesc.sparse import distil, lasso_pursuit

CONFIG = DictionaryConfig(n_atoms=24, n_nonzero_coefs=2, max_epochs=20, batch_size=64)
COUNTS = {"train": 1500, "validation": 200, "test": 100}


def planted(n, seed, n_atoms=24, d=12, k=2):
    """Latents that are exactly k-sparse in one fixed dictionary, off centre, plus nothing else."""
    atoms = np.random.default_rng(99).standard_normal((n_atoms, d))
    atoms /= np.linalg.norm(atoms, axis=1, keepdims=True)
    rng = np.random.default_rng(seed)
    codes = np.zeros((n, n_atoms))
    for row in codes:
        row[rng.choice(n_atoms, k, replace=False)] = rng.standard_normal(k) + 2
    return (5 * codes @ atoms + 7).astype(np.float32)


def write_latents(folder, make):
    folder.mkdir(parents=True)
    attributes = {"vae_sha256": {"vae.json": "a" * 64}, "latent_dim": 12, "counts": COUNTS}
    group = create_group(folder / "latents.zarr", attributes)
    for seed, (split, n) in enumerate(COUNTS.items()):
        write_array(group, f"{split}/latents", make(n, seed), ("sample", "latent"))
    return folder


@pytest.fixture(scope="module")
def latents_folder(tmp_path_factory):
    return write_latents(tmp_path_factory.mktemp("dictionary") / "latents", planted)


@pytest.fixture(scope="module")
def learned(latents_folder):
    folder = latents_folder.with_name("learned")
    folder.mkdir()
    return folder, learn(CONFIG, latents_folder, folder, seed=3, listener=SILENT)


def random_dictionary(n_atoms=20, d=6, seed=0):
    rng = np.random.default_rng(seed)
    atoms = rng.standard_normal((n_atoms, d)).astype(np.float32)
    return LatentDictionary(
        dictionary=atoms / np.linalg.norm(atoms, axis=1, keepdims=True),
        mean=rng.standard_normal(d).astype(np.float32),
        scale=np.full(d, 2.5, np.float32),
        coder="ols",
        n_nonzero_coefs=2,
        vae_sha256={},
    )


def test_a_planted_dictionary_is_nearly_recovered(learned):
    _, summary = learned
    assert summary["metrics"]["validation/fvu"] < 0.05
    assert summary["metrics"]["validation/l0"] <= 2
    assert (summary["n_atoms"], summary["n_nonzero_coefs"]) == (24, 2)


def test_the_stored_codes_are_the_codes_of_every_split(learned):
    folder, _ = learned
    dictionary = load_dictionary(folder)
    for seed, (split, n) in enumerate(COUNTS.items()):
        codes = read_csr(open_group(folder / "codes.zarr"), f"{split}/codes")
        fresh = dictionary.encode(planted(n, seed))
        assert codes.shape == (n, 24)
        assert np.diff(codes.indptr).max() <= 2
        assert (codes != fresh).nnz == 0


def test_atoms_have_unit_norm_and_the_vae_is_named(learned):
    dictionary = load_dictionary(learned[0])
    np.testing.assert_allclose(np.linalg.norm(dictionary.dictionary, axis=1), 1, rtol=1e-5)
    assert dictionary.vae_sha256 == {"vae.json": "a" * 64}


def test_learning_again_gives_the_same_bytes(latents_folder, learned, tmp_path):
    learn(CONFIG, latents_folder, tmp_path, seed=3, listener=SILENT)
    files = sorted(p.relative_to(tmp_path) for p in tmp_path.rglob("*") if p.is_file())
    same, differ, odd = filecmp.cmpfiles(learned[0], tmp_path, files, shallow=False)
    assert len(same) == len(files) >= 4
    assert not differ
    assert not odd


def test_a_killed_learning_resumes_to_the_same_bytes(latents_folder, learned, tmp_path):
    class Killed(Exception):
        pass

    class Killer(Listener):
        def epoch(self, epoch, metrics):
            if epoch == 2:
                raise Killed

    class Counter(Listener):
        heard = ()

        def epoch(self, epoch, metrics):
            self.heard += (epoch,)

    place, made = tmp_path / "checkpoints", tmp_path / "made"
    made.mkdir()
    with pytest.raises(Killed):
        learn(CONFIG, latents_folder, made, seed=3, listener=Killer(), checkpoints=place)
    assert not list(made.iterdir())
    before, counter = (place / "dictionary.npz").read_bytes(), Counter()
    assert before
    learn(CONFIG, latents_folder, made, seed=3, listener=counter, checkpoints=place)
    assert list(counter.heard) == sorted(set(counter.heard))
    files = sorted(p.relative_to(made) for p in made.rglob("*") if p.is_file())
    same, differ, odd = filecmp.cmpfiles(learned[0], made, files, shallow=False)
    assert len(same) == len(files) >= 4
    assert not differ
    assert not odd
    assert place.exists()  # until what was written is safe


def test_the_lasso_learns_and_codes_as_well(latents_folder, tmp_path):
    config = replace(CONFIG, coder="lasso")
    summary = learn(config, latents_folder, tmp_path, seed=3, listener=SILENT)
    assert summary["metrics"]["validation/fvu"] < 0.1
    assert summary["metrics"]["validation/l0"] <= 2

    dictionary, z = load_dictionary(tmp_path), planted(50, 8)
    assert dictionary.coder == "lasso"
    path = dictionary.path(z, [1, 2, 4, 500])
    assert (path[2] != dictionary.encode(z)).nnz == 0
    scaled = (z - dictionary.mean) / dictionary.scale
    plain = lasso_pursuit(scaled, dictionary.dictionary, [4])[4]
    np.testing.assert_allclose(path[4].toarray(), plain.toarray(), atol=1e-6)
    np.testing.assert_allclose(dictionary.decode(path[500]), z, atol=1e-3)


def test_lista_learns_a_network_that_imitates_ols(latents_folder, tmp_path):
    config = replace(CONFIG, coder="lista", lista_epochs=100)
    summary = learn(config, latents_folder, tmp_path, seed=3, listener=SILENT)
    dictionary, z = load_dictionary(tmp_path), planted(200, 8)
    assert (dictionary.coder, set(dictionary.network)) == ("lista", {"read", "mix", "thresholds"})

    codes = dictionary.encode(z)
    assert (dictionary.path(z, [1, 2])[2] != codes).nnz == 0
    stored = read_csr(open_group(tmp_path / "codes.zarr"), "validation/codes")
    assert summary["metrics"]["validation/l0"] == stored.nnz / stored.shape[0] <= 2

    untrained = distil(z[:1], dictionary.dictionary, 2, seed=0, max_epochs=0).weights()
    exact, lista, never = (
        float(np.square(z - model.decode(model.encode(z))).mean())
        for model in (
            replace(dictionary, coder="ols", network=None),
            dictionary,
            replace(dictionary, network=untrained),
        )
    )
    assert lista < min(1.05 * exact, 0.5 * never)


def test_a_network_that_does_not_fit_its_atoms_is_refused(latents_folder, tmp_path):
    config = replace(CONFIG, coder="lista", lista_epochs=1, max_epochs=1)
    learn(config, latents_folder, tmp_path, seed=3, listener=SILENT)
    dictionary = load_dictionary(tmp_path)
    deep = {**dictionary.network, "thresholds": np.zeros((102, dictionary.n_atoms), np.float32)}
    short = {"read": dictionary.network["read"][:5]}
    for number, network in enumerate((None, short, deep)):
        folder = tmp_path / str(number)
        folder.mkdir()
        save_dictionary(replace(dictionary, network=network), folder)
        with pytest.raises(DataError, match="network"):
            load_dictionary(folder)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"mean": np.full(3, 3e38, np.float32)}, "finite float32 of at most 1e.15"),
        ({"dictionary": np.eye(3, dtype=np.float32) * 1e-30}, "near 0"),
        ({"dictionary": np.zeros((3, 3), np.float32)}, None),
        ({"scale": np.full(3, 1e-20, np.float32)}, None),
    ],
)
def test_numbers_that_no_learner_writes_are_refused(change, said, tmp_path):
    eye = np.eye(3, dtype=np.float32)
    made = LatentDictionary(
        dictionary=eye, mean=np.zeros(3, np.float32), scale=np.ones(3, np.float32), coder="ols",
        n_nonzero_coefs=1, vae_sha256={},
    )  # fmt: skip
    save_dictionary(replace(made, **change), tmp_path)
    if said:
        with pytest.raises(DataError, match=said):
            load_dictionary(tmp_path)
    else:  # of dead atoms, and of a dimension that all but collapsed
        load_dictionary(tmp_path)


def test_latents_that_are_beyond_the_scale_are_refused():
    made = LatentDictionary(
        dictionary=np.eye(3, dtype=np.float32), mean=np.zeros(3, np.float32),
        scale=np.full(3, 1e-20, np.float32), coder="ols", n_nonzero_coefs=1, vae_sha256={},
    )  # fmt: skip
    assert made.encode(np.zeros((1, 3), np.float32)).nnz == 0
    with pytest.raises(DataError, match="scaled latents must be finite"):
        made.encode(np.ones((1, 3), np.float32))


def test_equal_latents_are_refused_in_a_sentence(tmp_path):
    constant = write_latents(tmp_path / "latents", lambda n, _: np.full((n, 12), 2, np.float32))
    with pytest.raises(DataError, match="1500 training latents are all equal"):
        learn(CONFIG, constant, tmp_path, seed=0, listener=SILENT)


@given(st.floats(0.1, 50), st.integers(0, 1000))
def test_global_scaling_is_one_number_that_rotations_do_not_change(size, seed):
    rng = np.random.default_rng(seed)
    z = size * rng.standard_normal((50, 5)) * [3, 1, 1, 0.1, 1e-4]
    rotation, _ = np.linalg.qr(rng.standard_normal((5, 5)))
    mean, scale = fit_scaling(z, "global")
    _, turned = fit_scaling(z @ rotation, "global")
    np.testing.assert_allclose(scale, scale[0])
    np.testing.assert_allclose(turned, scale, rtol=1e-4)
    # The scaled latents have mean variance one; a collapsed dimension stays collapsed.
    scaled = (z - mean) / scale
    assert np.square(scaled).mean() == pytest.approx(1, rel=1e-3)
    assert scaled[:, 4].std() < 1e-3


def test_per_dimension_scaling_gives_unit_variance_and_spares_constants():
    z = np.random.default_rng(0).standard_normal((400, 3)) * [5, 0.01, 0]
    mean, scale = fit_scaling(z, "per-dimension")
    np.testing.assert_allclose(((z - mean) / scale).std(axis=0), [1, 1, 0], atol=1e-4)


def test_as_many_coefficients_as_dimensions_reconstruct_exactly():
    dictionary = random_dictionary()
    z = np.random.default_rng(1).standard_normal((30, 6)).astype(np.float32) * 4
    np.testing.assert_allclose(dictionary.decode(dictionary.encode(z, 6)), z, atol=2e-4)


def test_the_path_agrees_with_single_levels_and_caps_them_at_the_number_of_atoms():
    dictionary = random_dictionary()
    z = np.random.default_rng(1).standard_normal((30, 6)).astype(np.float32)
    path = dictionary.path(z, [1, 3, 20, 500])
    assert list(path) == [1, 3, 20, 500]
    for k in (1, 3):
        np.testing.assert_allclose(path[k].toarray(), dictionary.encode(z, k).toarray(), atol=1e-5)
    assert (path[20] != path[500]).nnz == 0


def test_files_come_back_as_they_were(tmp_path):
    dictionary = random_dictionary()
    save_dictionary(dictionary, tmp_path)
    back = load_dictionary(tmp_path)
    for name in ("dictionary", "mean", "scale"):
        np.testing.assert_array_equal(getattr(back, name), getattr(dictionary, name))
    assert (back.coder, back.n_nonzero_coefs) == ("ols", 2)


@pytest.mark.parametrize("name", ["dictionary.json", "dictionary.safetensors"])
def test_a_damaged_file_is_refused(tmp_path, name):
    save_dictionary(random_dictionary(), tmp_path)
    (tmp_path / name).write_bytes((tmp_path / name).read_bytes()[:20])
    with pytest.raises(DataError, match="no readable dictionary"):
        load_dictionary(tmp_path)


def test_latents_and_codes_of_the_wrong_width_are_refused():
    dictionary = random_dictionary()
    with pytest.raises(DataError, match=r"latents must have shape \(n, 6\)"):
        dictionary.encode(np.zeros((3, 5), np.float32))
    with pytest.raises(DataError, match="one column per atom, 20"):
        dictionary.decode(random_dictionary(n_atoms=7).encode(np.ones((2, 6), np.float32)))
