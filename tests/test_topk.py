"""TopK autoencoders and the codebook: what they are bound to reach, against scikit-learn."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from imagesets import digits
from sklearn.cluster import KMeans

from vaesc.config import derive_seed
from vaesc.evaluation.batches import mean_of
from vaesc.evaluation.methods import Batch
from vaesc.evaluation.peers import nearest, topk_latents_method, vq_method
from vaesc.evaluation.topk import _Net, _start, fit_topk, largest
from vaesc.latent_rows import LatentRows

X = digits().reshape(-1, 64).astype(np.float32) / np.float32(255)
TRAIN, VALIDATION, TEST = X[:1200], X[1200:1400], X[1400:]


def fit(train=TRAIN, validation=VALIDATION, *, n_atoms=32, k=4, epochs=3, seed=0, heard=None):
    on_rows = (lambda n: None) if heard is None else heard.append
    return fit_topk(
        train, validation, n_atoms=n_atoms, k=k, epochs=epochs, seed=seed, on_rows=on_rows
    )


def mse(model, samples):
    return float(np.square(samples - model.approximate(samples)).mean())


@given(
    arrays(np.float32, (5, 9), elements=st.floats(-9, 9, width=32), unique=True),
    st.integers(1, 9),
)
def test_the_largest_are_kept_with_their_sign_and_nothing_else(dense, k):
    kept = largest(torch.from_numpy(dense), k).numpy()
    assert ((kept == dense) | (kept == 0)).all()
    assert (np.count_nonzero(kept, axis=1) <= k).all()
    sizes = np.sort(np.abs(dense), axis=1)[:, ::-1]
    np.testing.assert_allclose(np.abs(kept).sum(axis=1), sizes[:, :k].sum(axis=1), rtol=1e-5)


def test_atoms_are_unit_codes_are_sparse_and_every_sample_is_heard():
    heard = []
    model = fit(k=3, heard=heard)
    np.testing.assert_allclose(np.linalg.norm(model.dictionary, axis=1), 1, rtol=1e-5)
    codes = model.encode(TEST)
    assert codes.shape == (len(TEST), 32)
    assert np.count_nonzero(codes, axis=1).max() <= 3
    assert sum(heard) == 3 * len(TRAIN)
    assert model.numbers == 32 * 64 * 2 + 32 + 64


def test_training_beats_its_own_start_and_the_mean_and_more_coefficients_help():
    start = _start(TRAIN, TRAIN.mean(axis=0), 32, derive_seed(0, "start"))
    centred = TEST - TRAIN.mean(axis=0)
    before = largest(torch.from_numpy(centred @ start.T), 8).numpy() @ start
    errors = [mse(fit(k=k), TEST) for k in (1, 8)]
    assert errors[1] < errors[0] < np.square(centred).mean()
    assert errors[1] < np.square(centred - before).mean()


def test_no_linear_code_of_k_numbers_common_to_all_is_approached_from_below_on_training_data():
    """With K = k every code is dense, and Eckart and Young bound the error on training samples."""
    model = fit(n_atoms=6, k=6, epochs=30)
    values = np.linalg.svd(TRAIN - TRAIN.mean(axis=0), compute_uv=False)
    bound = np.square(values[6:]).sum() / TRAIN.size
    assert bound <= mse(model, TRAIN) < 1.15 * bound


def test_planted_sparse_data_are_found_again():
    """Two of 12 orthogonal atoms, coefficients far from 0: a linear encoder can be perfect."""
    rng = np.random.default_rng(0)
    atoms = np.linalg.qr(rng.standard_normal((16, 16)))[0][:12]
    codes = np.zeros((4000, 12))
    for row in codes:
        row[rng.choice(12, 2, replace=False)] = rng.uniform(1, 2, 2) * rng.choice([-1, 1], 2)
    x = (codes @ atoms).astype(np.float32)
    model = fit(x[:3600], x[3600:], n_atoms=24, k=2, epochs=20)
    assert mse(model, x[3600:]) < 0.05 * x.var()


def test_equal_seeds_give_equal_bytes_and_others_do_not():
    first, again, other = fit(seed=1), fit(seed=1), fit(seed=2)
    assert first.encoder.tobytes() == again.encoder.tobytes()
    assert first.dictionary.tobytes() == again.dictionary.tobytes()
    assert first.dictionary.tobytes() != other.dictionary.tobytes()


def test_the_order_is_that_of_the_seed_alone_whether_samples_are_mapped_or_in_memory(tmp_path):
    np.save(tmp_path / "x.npy", TRAIN)
    mapped = fit(np.load(tmp_path / "x.npy", mmap_mode="r"))
    assert mapped.dictionary.tobytes() == fit().dictionary.tobytes()


def test_the_epoch_of_least_validation_error_is_kept():
    """Validation that is nothing like training gets worse with every epoch: the first stays."""
    away = -TRAIN[:100] * 3
    one, many = fit(validation=away, epochs=1), fit(validation=away, epochs=6)
    assert mse(many, away) <= mse(one, away) * 1.05


def test_only_a_dead_atom_learns_from_what_is_left_and_only_what_is_left_changes():
    """Without AuxK an unused atom has no gradient; with it, all others keep theirs."""
    x = torch.from_numpy(TRAIN[:64])

    def gradients(*, dead):
        net = _Net(TRAIN, 64, 1, 0)
        codes = largest((x - net.mean) @ net.encoder.T + net.threshold, 1)
        unused = int(torch.nonzero(~(codes != 0).any(dim=0))[0])
        net.dead[unused] = dead
        net._loss(x).backward()
        return unused, net.dictionary.grad, net.encoder.grad

    unused, plain, plain_encoder = gradients(dead=False)
    _, helped, helped_encoder = gradients(dead=True)
    assert not plain[unused].any()
    assert not plain_encoder[unused].any()
    assert helped[unused].any()
    assert helped_encoder[unused].any()
    others = np.arange(64) != unused
    torch.testing.assert_close(plain[others], helped[others])
    torch.testing.assert_close(plain_encoder[others], helped_encoder[others])


def test_an_atom_is_dead_after_an_epoch_without_use_until_one_with():
    net = _Net(TRAIN, 64, 1, 0)
    net.step(torch.from_numpy(TRAIN[:16]), 10)
    used = net.used.clone()
    assert 0 < int(used.sum()) <= 16
    net.end_epoch()
    assert (net.dead == ~used).all()
    for _ in range(3):
        net.step(torch.from_numpy(TRAIN), 10)
    again = net.used.clone()
    net.end_epoch()
    assert (net.dead == ~again).all()


@pytest.mark.parametrize("k", [3, 50])
def test_more_atoms_than_samples_and_constant_samples_are_no_error(k):
    x = np.full((5, 7), 0.5, np.float32)
    model = fit(x, x, n_atoms=9, k=k, epochs=2)
    np.testing.assert_allclose(model.approximate(x), x, atol=0.05)


# As methods


def test_on_latents_the_scaling_is_undone():
    from vaesc.dictionary import LatentDictionary

    rng = np.random.default_rng(0)
    z = rng.standard_normal((2000, 6)).astype(np.float32) * 5 + 40
    atoms = np.eye(6, dtype=np.float32)
    mean, scale = mean_of(lambda: iter([z])), np.full(6, z.std(), np.float32)
    registered = LatentDictionary(
        dictionary=atoms, mean=mean, scale=scale, coder="ols", n_nonzero_coefs=2, vae_sha256={}
    )
    rows = {"train": z, "validation": z[:100]}
    store = SimpleNamespace(array=lambda split: rows[split].copy())
    method = topk_latents_method(
        *(LatentRows(store, split) for split in rows),
        registered,
        [6],
        100,
        epochs=10,
        seed=0,
        on_rows=lambda n: None,
    )
    ((k, found),) = method.approximate(Batch(slice(0, 2000), z, z, {}))
    assert (k, method.numbers) == (6, 100 + 2 * 36 + 12)
    assert np.square(found - z).mean() < 0.2 * z.var()


def test_the_codebook_is_about_as_good_as_scikit_learns_full_k_means():
    method = vq_method(TRAIN, 32, seed=0)
    assert (method.levels, method.has(1), method.has(2)) == ((1,), True, False)
    ((k, rebuilt),) = method.approximate(Batch(slice(0, len(TRAIN)), TRAIN, TRAIN, {}))
    assert k == 1
    assert len(np.unique(rebuilt, axis=0)) <= 32
    full = KMeans(32, n_init=1, random_state=0).fit(TRAIN)
    assert np.square(rebuilt - TRAIN).sum() < 1.08 * full.inertia_


def test_nearest_is_the_nearest():
    rng = np.random.default_rng(0)
    images, prototypes = (rng.random((n, 5)).astype(np.float32) for n in (40, 7))
    distances = np.square(images[:, None] - prototypes).sum(axis=2)
    np.testing.assert_array_equal(
        nearest(images, prototypes), prototypes[distances.argmin(axis=1)]
    )
