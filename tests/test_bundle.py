"""The model a user holds: round trips, refusals, and what its methods promise each other."""

import filecmp
import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from imagesets import digits, write_digits
from registry_homes import tiny_model
from scipy.sparse import coo_array, csc_array, csr_array

from vaesc.bundle import FILES, OPTIONAL, SparseVAE
from vaesc.config import DictionaryConfig, VAEConfig
from vaesc.dictionary import learn
from vaesc.drift import reference_of
from vaesc.drift.reference import described
from vaesc.errors import DataError, StoreError
from vaesc.latents import extract
from vaesc.models import VAE, save_vae
from vaesc.parts import NAMES, Part
from vaesc.progress import SILENT
from vaesc.store import file_digest

K = 32


@pytest.fixture(scope="module")
def artifacts(tmp_path_factory):
    """Artifacts of the first steps: digits, an untrained VAE, its latents, a dictionary."""
    root = tmp_path_factory.mktemp("bundle")
    folders = {name: root / name for name in ("dataset", "vae", "latents", "dictionary")}
    for name in ("vae", "latents", "dictionary"):
        folders[name].mkdir()
    write_digits(folders["dataset"])
    config = VAEConfig(hidden=(32,), latent_dim=8)
    generator = torch.Generator().manual_seed(5)
    save_vae(VAE(config, (8, 8), generator=generator), folders["vae"])
    extract(folders["dataset"], folders["vae"], folders["latents"], device="cpu")
    settings = DictionaryConfig(n_atoms=K, n_nonzero_coefs=3, max_epochs=3)
    learn(settings, folders["latents"], folders["dictionary"], seed=0, listener=SILENT)
    return folders


@pytest.fixture(scope="module")
def model(artifacts):
    return SparseVAE.from_artifacts(
        artifacts["dataset"], artifacts["vae"], artifacts["dictionary"], device="cpu"
    )


@pytest.fixture
def saved(model, tmp_path):
    model.save(tmp_path / "model")
    return tmp_path / "model"


def test_saving_what_was_loaded_gives_the_same_bytes(saved, tmp_path):
    SparseVAE.load(saved, device="cpu").save(tmp_path / "again")
    names = [*FILES, "bundle.json"]
    assert sorted(p.name for p in saved.iterdir()) == sorted(names)
    assert filecmp.cmpfiles(saved, tmp_path / "again", names, shallow=False)[0] == names


def test_a_loaded_model_gives_the_same_codes_and_images(model, saved):
    images, back = digits()[:50], SparseVAE.load(saved, device="cpu")
    assert (back.encode(images) != model.encode(images)).nnz == 0
    np.testing.assert_array_equal(back.reconstruct(images), model.reconstruct(images))
    assert (back.low, back.high) == (model.low, model.high) == (0, 255)


def test_a_model_with_a_lasso_coder_comes_back_as_it_was(model, tmp_path):
    lasso = SparseVAE(model.vae, replace(model.dictionary, coder="lasso"))
    lasso.save(tmp_path / "model")
    back, images = SparseVAE.load(tmp_path / "model", device="cpu"), digits()[:50] / 255
    assert back.dictionary.coder == "lasso"
    assert (back.encode(images, 4) != lasso.encode(images, 4)).nnz == 0
    assert (back.encode(images, 4) != model.encode(images, 4)).nnz > 0


@pytest.fixture
def referred(model, artifacts, tmp_path):
    """A saved model with its reference and a part of each application."""
    found = reference_of(model, artifacts["dataset"], seed=0)
    parts = {
        name: Part(
            arrays={"b": np.arange(i), "a": np.ones((2, 3))}, facts={"name": name, "x": 0.1}
        )
        for i, name in enumerate(NAMES)
    }
    whole = SparseVAE(model.vae, model.dictionary, high=255, reference=found, parts=parts)
    whole.save(tmp_path / "referred")
    return tmp_path / "referred"


def test_a_model_keeps_what_it_makes_of_its_own_data(model, artifacts, referred, tmp_path):
    back = SparseVAE.load(referred, device="cpu")
    images = digits()[1200:1400]  # the validation split, fewer than the limit: all of it
    codes = model.encode(images)
    np.testing.assert_array_equal(np.float32(back.reference.mse), model.score(images))
    np.testing.assert_array_equal(back.reference.l0, np.diff(codes.indptr))
    np.testing.assert_array_equal(back.reference.uses, (codes != 0).sum(axis=0))
    for i, name in enumerate(NAMES):
        np.testing.assert_array_equal(back.part(name).arrays["b"], np.arange(i))
        assert back.part(name).facts == {"name": name, "x": 0.1}
    back.save(tmp_path / "again")
    names = [*FILES, *OPTIONAL, "bundle.json"]
    assert filecmp.cmpfiles(referred, tmp_path / "again", names, shallow=False)[0] == names
    assert back.digest == file_digest(referred / "bundle.json")
    assert back.digest == SparseVAE.load(tmp_path / "again", device="cpu").digest


def test_the_same_seed_gives_the_same_reference_and_another_other_images(model, artifacts):
    few = [reference_of(model, artifacts["dataset"], seed=s, limit=50) for s in (0, 0, 1)]
    assert few[0] == few[1] != few[2]
    assert few[0].n_images == 50
    everything = model.score(digits()[1200:1400])
    assert set(np.float32(few[0].mse)) <= set(everything)


def test_a_model_says_what_it_was_registered_without(saved):
    with pytest.raises(DataError, match="without compression; name it when the model is made"):
        SparseVAE.load(saved, device="cpu").part("compression")


def test_a_model_without_a_reference_is_loaded_as_ever(saved):
    assert SparseVAE.load(saved, device="cpu").reference is None
    (saved / "reference.json").write_text("not listed, so not believed")
    assert SparseVAE.load(saved, device="cpu").reference is None


def test_a_reference_that_was_changed_or_is_of_another_model_is_refused(referred, model):
    facts = json.loads((referred / "bundle.json").read_text())
    (referred / "reference.json").write_text("{}")
    with pytest.raises(StoreError, match=r"reference\.json is not the file that was saved"):
        SparseVAE.load(referred)
    facts["files"]["readme.txt"] = "0" * 64
    (referred / "bundle.json").write_text(json.dumps(facts))
    with pytest.raises(StoreError, match=r"may list .*'reference\.json'.*, got .*readme"):
        SparseVAE.load(referred)
    other = described(csr_array((3, K + 1), dtype=np.float32), np.ones(3))
    with pytest.raises(DataError, match=f"of a model of {K + 1} atoms, the dictionary has {K}"):
        SparseVAE(model.vae, model.dictionary, reference=other)


@pytest.mark.parametrize("name", FILES)
def test_a_changed_byte_is_refused(saved, name):
    content = bytearray((saved / name).read_bytes())
    content[-2] ^= 1
    (saved / name).write_bytes(content)
    with pytest.raises(StoreError, match=f"{name} is not the file that was saved"):
        SparseVAE.load(saved)


def test_a_missing_file_and_a_missing_model_are_refused(saved, tmp_path):
    (saved / "vae.json").unlink()
    with pytest.raises(StoreError, match=r"lacks vae\.json"):
        SparseVAE.load(saved)
    with pytest.raises(StoreError, match="holds no model"):
        SparseVAE.load(tmp_path / "nothing")


def test_a_dictionary_of_another_vae_is_refused(artifacts, saved, tmp_path):
    save_vae(VAE(VAEConfig(hidden=(32,), latent_dim=8), (8, 8)), tmp_path)
    with pytest.raises(DataError, match="another VAE"):
        SparseVAE.from_artifacts(artifacts["dataset"], tmp_path, artifacts["dictionary"])
    # Also inside a bundle whose manifest was made to agree with the exchanged file.
    from vaesc.store import file_digest

    facts = json.loads((saved / "bundle.json").read_text())
    (saved / "vae.safetensors").write_bytes((tmp_path / "vae.safetensors").read_bytes())
    facts["files"]["vae.safetensors"] = file_digest(saved / "vae.safetensors")
    (saved / "bundle.json").write_text(json.dumps(facts))
    with pytest.raises(DataError, match="another VAE"):
        SparseVAE.load(saved)


def test_saving_over_a_model_is_refused(model, saved):
    with pytest.raises(StoreError, match="holds a model already"):
        model.save(saved)


def test_codes_are_csr_with_at_most_k_coefficients(model):
    images = digits()[:40]
    for k in (1, 3, 8):
        codes = model.encode(images, k)
        assert isinstance(codes, csr_array)
        assert codes.shape == (40, K)
        assert codes.dtype == np.float32
        assert np.diff(codes.indptr).max() <= k
    assert np.diff(model.encode(images).indptr).max() <= model.n_nonzero_coefs == 3


def test_flat_bytes_and_floats_of_the_same_images_give_the_same_codes(model):
    images = digits()[:20]
    codes = model.encode(images).toarray()
    for same in (images.reshape(20, 64), images.astype(np.float32), images.astype(np.int64)):
        np.testing.assert_array_equal(model.encode(same).toarray(), codes)


def lying_at(array, offset):
    """A copy of `array` that begins `offset` bytes after a multiple of 64."""
    room = np.empty(array.nbytes + 128, np.uint8)
    begin = -room.ctypes.data % 64 + offset
    copy = room[begin : begin + array.nbytes].view(array.dtype).reshape(array.shape)
    copy[...] = array
    return copy


def test_where_images_lie_in_memory_changes_no_bit():
    """Numpy aligns to 16 bytes only, and where a chunk falls differs from run to run."""
    images = np.random.default_rng(0).random((6, 4, 5), dtype=np.float32)
    encode = tiny_model().latents_of_unit
    expected = encode(images)
    assert all(np.array_equal(encode(lying_at(images, at)), expected) for at in range(0, 64, 4))


def test_the_methods_agree_with_each_other(model):
    images = digits()[:30]
    codes = model.encode(images)
    reconstructed = model.reconstruct(images)
    np.testing.assert_array_equal(reconstructed, model.decode(codes))
    np.testing.assert_array_equal(reconstructed, model.decode(codes.toarray()))
    assert reconstructed.shape == (30, 8, 8)
    assert reconstructed.dtype == np.float32
    assert 0 <= reconstructed.min() <= reconstructed.max() <= 1
    errors = np.square(images / 255 - reconstructed).mean(axis=(1, 2))
    np.testing.assert_allclose(model.score(images), errors, rtol=1e-5)


def in_range(model, low, high):
    return SparseVAE(model.vae, model.dictionary, low=low, high=high)


RANGES = [(0, 1), (0, 255), (0, 16), (0, 7), (-3.25, 7.5), (-100, 300)]


@pytest.mark.parametrize(("low", "high"), RANGES)
def test_images_that_come_back_can_go_in_again(model, low, high):
    same, unit = in_range(model, low, high), in_range(model, 0, 1)
    # Dark images too: what is decoded from them stays within [0, 1] as well as near black.
    images = np.concatenate([digits()[:20], digits()[20:40] // 16]).astype(np.float32) / 255
    codes = unit.encode(images)
    decoded, expected = same.decode(codes), unit.decode(codes)

    np.testing.assert_allclose(same.to_unit(decoded), expected, atol=1e-6)
    np.testing.assert_allclose(same.latents(decoded), unit.latents(expected), atol=1e-4)
    np.testing.assert_array_equal(same.reconstruct(decoded), same.decode(same.encode(decoded)))
    again = unit.score(expected)
    np.testing.assert_allclose(same.score(decoded), again, rtol=1e-3, atol=1e-7)


@pytest.mark.parametrize(("low", "high"), RANGES)
def test_images_come_back_in_a_range_the_user_knows(model, low, high):
    same, images = in_range(model, low, high), digits()[:30] / 255
    own = (low + images * (high - low)).astype(np.float32)
    reconstructed = same.reconstruct(own)
    unit = in_range(model, 0, 1).reconstruct(images)
    if (low, high) not in ((0, 7), (-3.25, 7.5), (-100, 300)):
        low, high = 0, 1
    np.testing.assert_allclose(reconstructed, low + unit * (high - low), atol=1e-4 * (high - low))
    assert reconstructed.dtype == np.float32


@pytest.mark.parametrize("high", [16, 255])
def test_integers_and_floats_in_either_range_give_the_same_codes(model, high):
    same, images = in_range(model, 0, high), np.round(digits()[:20] / 255 * high)
    codes = same.encode(images).toarray()
    for form in (images.astype(np.uint8), images.astype(np.float32), images / high):
        np.testing.assert_allclose(same.encode(form).toarray(), codes, atol=1e-5)


def test_all_dimensions_coded_reach_the_vaes_own_reconstruction(model):
    images = digits()[:30]
    floor = model.decode_latents(model.latents(images))
    np.testing.assert_allclose(model.reconstruct(images, 8), floor, atol=1e-4)


def test_no_image_gives_no_code(model):
    nothing = np.empty((0, 8, 8), np.uint8)
    assert model.encode(nothing).shape == (0, K)
    assert model.reconstruct(nothing).shape == (0, 8, 8)
    assert model.score(nothing).shape == (0,)


@pytest.mark.parametrize(
    ("images", "sentence"),
    [
        (np.zeros((3, 9, 8), np.uint8), r"images must have shape \(n, 8, 8\) or \(n, 64\), got"),
        (np.zeros((8, 8), np.uint8), "single image needs a leading axis"),
        (np.full((2, 8, 8), np.nan), "finite"),
        (np.full((2, 8, 8), 1e4), "range"),
        (np.full((2, 8, 8), "a"), "must be bool, integers or floats"),
    ],
)
def test_unusable_images_are_refused_in_a_sentence(model, images, sentence):
    with pytest.raises(DataError, match=sentence):
        model.encode(images)


def test_unusable_levels_and_codes_are_refused_in_a_sentence(model):
    for level in (0, K + 1):
        with pytest.raises(DataError, match=f"between 1 and the number of atoms, {K}"):
            model.encode(digits()[:2], level)
    with pytest.raises(DataError, match=rf"codes must have shape \(n, {K}\)"):
        model.decode(csr_array((2, K + 1), dtype=np.float32))
    with pytest.raises(DataError, match="finite"):
        model.decode(csr_array(np.full((1, K), np.nan)))


def with_indices(kind, indices):
    """Three codes whose indices were exchanged afterwards, as in a damaged file."""
    codes = kind((np.ones(3, np.float32), (np.arange(3), np.arange(3))), shape=(3, K))
    codes.indices[:] = indices
    return codes


# Small and large steps outside: the large ones ended the process.
@pytest.mark.parametrize("index", [K, -1, 10**8, -(10**8)])
@pytest.mark.parametrize("kind", [csr_array, csc_array])
def test_codes_whose_indices_are_damaged_are_refused(model, kind, index):
    with pytest.raises(DataError, match=r"codes are not a whole CSR matrix \(.*\); encode"):
        model.decode(with_indices(kind, [0, index, 1]))


@pytest.mark.parametrize(
    "codes",
    [
        coo_array((np.ones(1), ([0], [0])), shape=(10**15, K)),
        np.full((2, K), "a"),
        np.full((2, K), 1j),
        csr_array(np.full((2, K), 1j)),
        np.full((2, K), None),
        np.full((2, 2, K), 1.0),
        3,
    ],
)
def test_what_is_no_matrix_of_real_numbers_is_refused(model, codes):
    with pytest.raises(DataError, match=r"^codes (are not a whole CSR matrix|must have shape)"):
        model.decode(codes)


@pytest.mark.parametrize("dtype", [np.float64, np.float16, np.int64, bool])
def test_codes_of_any_real_type_decode_alike(model, dtype):
    codes = np.zeros((2, K), np.float32)
    codes[0, 3] = codes[1, 5] = 1
    expected = model.decode(codes)
    np.testing.assert_allclose(model.decode(codes.astype(dtype)), expected, atol=1e-6)
    np.testing.assert_allclose(model.decode(codes.astype(dtype).tolist()), expected, atol=1e-6)
