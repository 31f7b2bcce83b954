"""The model of sparse codes: a distribution that learns, is drawn from, and is kept."""

from dataclasses import replace
from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse import csr_array

from vaesc.applications.code_model import ONE, CodeModel
from vaesc.applications.code_sampling import supports
from vaesc.errors import DataError

STEP = 0.5


def planted(n, rng, k=12):
    """Return codes of two kinds: three of the first half's atoms, or of the second's."""
    kind = rng.integers(0, 2, n)
    dense = np.zeros((n, k), np.float32)
    for row, half in zip(dense, kind, strict=True):
        atoms = half * (k // 2) + rng.choice(k // 2, 3, replace=False)
        row[atoms] = (1 - 2 * half) * rng.uniform(0.3, 3, 3)
    return csr_array(dense), kind


@pytest.fixture(scope="module")
def model():
    rng = np.random.default_rng(0)
    return CodeModel.fit(planted(2000, rng)[0], step=STEP, n_classes=2, rng=rng)


def test_the_probabilities_of_all_codes_sum_to_one():
    rng = np.random.default_rng(1)
    few = csr_array(np.rint(rng.normal(scale=1.2, size=(400, 3))).astype(np.float32))
    model = CodeModel.fit(few, step=1.0, n_classes=3, rng=rng)
    every = csr_array(np.array(list(product(range(-12, 13), repeat=3)), np.float32))
    assert np.exp(model.log_likelihood(every)).sum() == pytest.approx(1, abs=2e-3)
    assert np.exp2(-model.bits(model.quantise(every))).sum() == pytest.approx(1, abs=2e-3)


def test_codes_of_a_kind_go_together(model):
    codes, kind = planted(500, np.random.default_rng(2))
    bits = model.bits(model.quantise(codes))
    assert len({*zip(kind, bits.argmin(axis=1), strict=True)}) == 2
    # 12 decisions of probability 1/4 become a class and 6 of probability 1/2.
    gain = 12 * (0.75 * np.log2(4 / 3) + 0.25 * 2) - 6 - 1
    single = CodeModel.fit(codes, step=STEP, n_classes=1, rng=np.random.default_rng(0))
    saved = single.bits(single.quantise(codes)).mean() - bits.min(axis=1).mean()
    assert saved == pytest.approx(gain, abs=0.2)


def test_a_number_of_atoms_that_never_was_is_unlikely(model):
    three, four = np.zeros((2, 1, 12), np.float32)
    three[0, :3], four[0, :4] = 1, 1
    assert model.log_likelihood(csr_array(three)) > model.log_likelihood(csr_array(four)) + 4


def test_quantising_moves_no_coefficient_far_and_leaves_the_codes_alone(model):
    codes, _ = planted(300, np.random.default_rng(3))
    codes.data[::7] *= 0.01
    before = codes.copy()
    values = model.values(model.quantise(codes))
    assert abs(values - codes).max() <= STEP
    assert abs((values - codes).mean()) < STEP / 50
    for part in ("data", "indices", "indptr"):
        np.testing.assert_array_equal(getattr(codes, part), getattr(before, part))


def test_samples_are_like_what_was_fitted(model):
    codes, _ = planted(4000, np.random.default_rng(4))
    drawn = model.sample(4000, np.random.default_rng(5))
    assert (np.diff(drawn.indptr) == 3).all()
    assert model.log_likelihood(drawn).mean() == pytest.approx(
        model.log_likelihood(codes).mean(), abs=0.2
    )
    again = model.sample(4000, np.random.default_rng(5))
    assert (drawn != again).nnz == 0


@given(st.sets(st.integers(0, 11), max_size=6), st.sets(st.integers(0, 11), max_size=6))
@settings(max_examples=25, deadline=None)
def test_atoms_can_be_switched_off_and_on(model, banned, forced):
    forced = forced - banned
    drawn = model.sample(30, np.random.default_rng(6), banned=[*banned], forced=[*forced]) != 0
    dense = drawn.toarray()
    assert not dense[:, [*banned]].any()
    assert dense[:, [*forced]].all()
    assert (dense.sum(axis=1) == min(max(3, len(forced)), 12 - len(banned))).all()


@given(st.lists(st.integers(0, 5), max_size=8), st.lists(st.integers(6, 11), max_size=8))
@settings(max_examples=25, deadline=None)
def test_an_atom_named_twice_is_switched_once(model, banned, forced):
    def drawn(banned, forced):
        return model.sample(30, np.random.default_rng(8), banned=banned, forced=forced)

    once = drawn(sorted(set(banned)), sorted(set(forced)))
    np.testing.assert_array_equal(drawn(banned, forced).toarray(), once.toarray())


def test_switching_an_atom_on_brings_its_companions(model):
    drawn = model.sample(200, np.random.default_rng(7), forced=[2])
    assert (drawn.indices < 6).mean() > 0.99


@pytest.mark.parametrize(
    ("banned", "forced", "words"),
    [([12], [], "from 0 to 11"), ([], [-1], "from 0 to 11"), ([1], [1], "both"),
     (range(12), [], "all atoms")],
)  # fmt: skip
def test_what_cannot_be_switched_is_refused(model, banned, forced, words):
    with pytest.raises(DataError, match=words):
        model.sample(3, np.random.default_rng(0), banned=banned, forced=forced)


def test_supports_of_one_size_follow_the_conditional_distribution():
    p = np.array([0.1, 0.5, 0.3, 0.9, 0.2])
    drawn = supports(p, np.full(60_000, 2), np.random.default_rng(8))
    every = [s for s in product((0, 1), repeat=5) if sum(s) == 2]
    weight = np.array([np.prod(np.where(s, p, 1 - p)) for s in every])
    found = np.array([(drawn == np.array(s, bool)).all(axis=1).mean() for s in every])
    np.testing.assert_allclose(found, weight / weight.sum(), atol=0.008)


@pytest.mark.parametrize("n", [1, 2, 9])
def test_few_codes_are_enough(n):
    codes = csr_array(np.eye(n, 4, dtype=np.float32))
    model = CodeModel.fit(codes, step=1.0, n_classes=8, rng=np.random.default_rng(0))
    assert np.isfinite(model.log_likelihood(codes)).all()
    assert model.sample(5, np.random.default_rng(0)).shape == (5, 4)


def test_codes_without_atoms_are_codes():
    codes = csr_array((6, 4), dtype=np.float32)
    model = CodeModel.fit(codes, step=1.0, rng=np.random.default_rng(0))
    assert model.sample(5, np.random.default_rng(0)).nnz == 0
    assert model.bits(model.quantise(codes)).max() < 3


def test_what_is_kept_comes_back(model):
    back = CodeModel.from_arrays(model.arrays())
    codes, _ = planted(50, np.random.default_rng(9))
    np.testing.assert_array_equal(back.log_likelihood(codes), model.log_likelihood(codes))


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("used", lambda a: a.astype(np.float32)), ("used", lambda a: a * 0),
        ("used", lambda a: a[0]), ("negative", lambda a: a[:, :-1]), ("larger", lambda a: a[:0]),
        ("classes", lambda a: a // 2), ("classes", lambda a: np.append(a, a)),
        ("step", lambda a: -a), ("step", lambda a: a * np.nan), ("amount", lambda a: a * 0),
        ("counts", lambda a: np.zeros(99, np.uint32)), ("counts", lambda a: a[:0]),
        ("counts", lambda a: a * 0),
    ],
)  # fmt: skip
def test_what_is_no_model_is_refused(model, name, change):
    with pytest.raises(DataError, match="model of codes"):
        CodeModel.from_arrays({**model.arrays(), name: change(getattr(model, name))})


def test_what_is_missing_is_named(model):
    arrays = model.arrays()
    del arrays["negative"]
    with pytest.raises(DataError, match="lacks negative"):
        CodeModel.from_arrays(arrays)


def test_classes_are_whole_parts_of_one(model):
    assert model.classes.sum() == ONE
    with pytest.raises(DataError, match="sum to 1"):
        replace(model, classes=model.classes + np.uint32(1))
