"""Coding by decoded error: it never makes an image worse, and finds what brute force finds."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import lsq_linear
from scipy.sparse import csr_array

from vaesc.bundle import SparseVAE
from vaesc.config import VAEConfig
from vaesc.decoder_coding import Codebook, descend
from vaesc.dictionary import LatentDictionary, load_dictionary, save_dictionary
from vaesc.errors import DataError
from vaesc.evaluation.dictionaries import PixelDictionary
from vaesc.models import VAE

D, K, P = 5, 7, 12


def numbers(*shape, seed=0):
    return torch.from_numpy(np.random.default_rng(seed).standard_normal(shape).astype(np.float32))


def errors(decode, x, chosen, coefficients):
    z = torch.einsum("nk,nkd->nd", coefficients, chosen)
    return (decode(z).clamp(0, 1) - x).square().sum(1)


def bent(seed=0):
    """A decoder that is neither linear nor an isometry, and often beyond [0, 1]."""
    first, second = numbers(D, 16, seed=seed), numbers(16, P, seed=seed + 1)
    return lambda z: 0.5 + 0.4 * torch.tanh(z @ first) @ second


def test_for_a_linear_decoder_the_descent_ends_at_least_squares():
    """Well inside [0, 1], with a decoder far from an isometry: SciPy's solution, to rounding."""
    weights = 0.02 * numbers(D, P) * torch.linspace(0.5, 2, P)
    x = 0.5 + 0.05 * numbers(6, P, seed=1)
    chosen = numbers(6, 2, D, seed=2)
    found = descend(lambda z: 0.5 + z @ weights * 10, x, chosen, torch.zeros(6, 2), 100)
    for row in range(6):
        design = (chosen[row] @ weights * 10).T.double().numpy()
        expected = lsq_linear(design, (x[row] - 0.5).double().numpy()).x
        assert np.allclose(found[row], expected, atol=1e-3)


def test_where_the_decoder_is_an_isometry_one_step_suffices():
    basis = torch.linalg.qr(numbers(P, D))[0].T
    x = 0.5 + 0.1 * numbers(4, P, seed=1)
    chosen = numbers(4, 3, D, seed=2)
    one = descend(lambda z: 0.5 + z @ basis, x, chosen, torch.zeros(4, 3), 1)
    many = descend(lambda z: 0.5 + z @ basis, x, chosen, torch.zeros(4, 3), 30)
    assert torch.allclose(one, many, atol=1e-3)


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 2**20), st.integers(1, 4), st.integers(0, 9))
def test_no_image_becomes_worse(seed, k, steps):
    decode, x = bent(seed % 7), torch.sigmoid(numbers(9, P, seed=seed))
    chosen, start = numbers(9, k, D, seed=seed + 1), numbers(9, k, seed=seed + 2)
    found = descend(decode, x, chosen, start, steps)
    before, after = (errors(decode, x, chosen, c) for c in (start, found))
    assert (after <= before * (1 + 1e-6)).all()
    assert torch.isfinite(found).all()


def test_an_image_s_code_does_not_depend_on_its_neighbours():
    decode, x = bent(), torch.sigmoid(numbers(9, P))
    chosen, start = numbers(9, 3, D, seed=1), numbers(9, 3, seed=2)
    together = descend(decode, x, chosen, start, 5)
    alone = torch.cat(
        [descend(decode, x[i : i + 1], chosen[i : i + 1], start[i : i + 1], 5) for i in range(9)]
    )
    assert torch.allclose(together, alone, atol=1e-4)


def test_the_codebook_finds_the_nearest_of_all_decoded_pictures():
    atoms = torch.nn.functional.normalize(numbers(K, D), dim=1)
    amounts = torch.linspace(-2, 2, 9).repeat(K, 1)
    decode, x = bent(), torch.sigmoid(numbers(30, P, seed=5))
    atom, amount = Codebook(decode, atoms, amounts).nearest(x)
    entries = decode((amounts[..., None] * atoms[:, None]).flatten(0, 1)).clamp(0, 1)
    brute = torch.cdist(x.double(), entries.double()).square().argmin(1)
    assert torch.equal(atom, brute // 9)
    assert ((amount - amounts.flatten()[brute]).abs() <= 0.5 + 1e-6).all()


def test_amounts_between_entries_are_found_on_straight_lines():
    atoms, amounts = torch.eye(2), torch.tensor([[0.0, 1.0, 2.0]]).repeat(2, 1)
    x = torch.tensor([[0.35, 0.0], [0.0, 0.62]])
    atom, amount = Codebook(lambda z: z / 2, atoms, amounts).nearest(x)
    assert atom.tolist() == [0, 1]
    assert torch.allclose(amount, torch.tensor([0.7, 1.24]), atol=1e-5)


def model(steps=0, amounts=None, k=2):
    vae = VAE(VAEConfig(hidden=(16,), latent_dim=D), (3, 4)).eval().requires_grad_(False)
    atoms = torch.nn.functional.normalize(numbers(K, D), dim=1).numpy()
    zeros, ones = np.zeros(D, np.float32), np.full(D, 0.5, np.float32)
    dictionary = LatentDictionary(
        dictionary=atoms, mean=zeros, scale=ones, coder="ols", n_nonzero_coefs=k, vae_sha256={},
        descent_steps=steps, amounts=amounts,
    )  # fmt: skip
    return SparseVAE(vae, dictionary)


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(3).random((40, 3, 4)).astype(np.float32)


def test_a_model_with_descent_keeps_the_support_and_lowers_every_error(images):
    plain, descended = model().encode(images), model(steps=8).encode(images)
    assert isinstance(descended, csr_array)
    assert np.array_equal(plain.indices, descended.indices)
    assert (model(steps=8).score(images) <= model().score(images) + 1e-7).all()
    assert model(steps=8).score(images).mean() < 0.99 * model().score(images).mean()


def test_a_model_with_amounts_codes_with_the_atom_whose_picture_is_nearest(images):
    amounts = np.linspace(-3, 3, 13, dtype=np.float32)[None].repeat(K, 0)
    curved, pursued = model(amounts=amounts, k=1), model(k=1)
    assert (np.diff(curved.encode(images).indptr) == 1).all()
    assert curved.score(images).mean() < pursued.score(images).mean()
    assert np.diff(curved.encode(images, 2).indptr).max() == 2


def test_it_survives_the_disk(images, tmp_path):
    amounts = np.linspace(-3, 3, 5, dtype=np.float32)[None].repeat(K, 0)
    first = model(steps=3, amounts=amounts, k=1)
    first.save(tmp_path)
    again = SparseVAE.load(tmp_path, device="cpu")
    assert again.dictionary.descent_steps == 3
    assert np.array_equal(again.reconstruct(images), first.reconstruct(images))


@pytest.mark.parametrize(
    "amounts",
    [np.zeros((K, 3)), np.ones((K + 1, 1)), np.full((K, 2), np.nan), np.zeros((3,))],
    ids=["not increasing", "wrong shape", "NaN", "one axis"],
)
def test_amounts_that_cannot_be_are_refused(amounts, tmp_path):
    model(amounts=amounts.astype(np.float32), k=1).save(tmp_path)
    with pytest.raises(DataError, match="amounts of shape"):
        SparseVAE.load(tmp_path)


def test_settings_that_are_no_numbers_are_refused(tmp_path):
    made = model(steps=3)
    save_dictionary(made.dictionary, tmp_path)
    path = tmp_path / "dictionary.json"
    path.write_text(path.read_text().replace('"descent_steps": 3', '"descent_steps": "abc"'))
    with pytest.raises(DataError, match="no readable dictionary"):
        load_dictionary(tmp_path)


@pytest.mark.parametrize(
    "amounts", [np.ones((K, 4)).cumsum(1), np.arange(2000.0)[None].repeat(K, 0)]
)
def test_amounts_of_another_kind_or_too_many_are_refused(amounts, tmp_path):
    kind = np.float64 if amounts.shape[1] == 4 else np.float32
    save_dictionary(model(amounts=amounts.astype(kind), k=1).dictionary, tmp_path)
    with pytest.raises(DataError, match="float32"):
        load_dictionary(tmp_path)


def test_images_are_coded_alike_in_a_caller_s_inference_mode(images):
    made = model(steps=3)
    with torch.inference_mode():
        inside = made.encode(images)
    outside = model(steps=3).encode(images)
    assert np.array_equal(outside.data, inside.data)


def test_pixel_codes_that_descend_know_of_the_clipping():
    """Least squares reach beyond [0, 1]; after the descent no image is worse, and some better."""
    rng = np.random.default_rng(0)
    x = (rng.random((60, P)) < 0.3).astype(np.float32)
    atoms = torch.nn.functional.normalize(numbers(20, P), dim=1).numpy()
    plain = PixelDictionary(dictionary=atoms, mean=x.mean(0), coder="ols")
    aware = replace(plain, descent_steps=20)
    missed = [np.square(d.decode(d.path(x, [4])[4]) - x).sum(1) for d in (plain, aware)]
    assert (missed[1] <= missed[0] * (1 + 1e-5)).all()
    assert missed[1].mean() < 0.97 * missed[0].mean()
