"""Drift: closed forms, independent implementations, exact merging, the rate of false alarms."""

import dataclasses
import json

import numpy as np
import pytest
import scipy.spatial.distance
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse import csr_array

from vaesc.drift import (
    Drift,
    Floors,
    Reference,
    Statistics,
    compare,
    load_reference,
    save_reference,
    thresholds,
)
from vaesc.drift.reference import described
from vaesc.drift.statistics import mse_distance, usage_divergence
from vaesc.errors import ConfigError, DataError

K = 24


def batch(n, rng, *, k=3, first=0, last=K, scale=1.0):
    """Codes of k atoms each, drawn in neighbours so that atoms go together, and errors."""
    at = rng.beta(1, 2, n) * (last - first - k)
    atoms = first + at.astype(int)[:, None] + np.arange(k)
    values = rng.normal(size=(n, k)).astype(np.float32)
    indptr = np.arange(n + 1) * k
    codes = csr_array((values.ravel(), atoms.ravel(), indptr), shape=(n, K))
    return codes, (rng.gamma(2, 0.01, n) * scale).astype(np.float32)


def reference(n=300, seed=0, **options):
    return described(*batch(n, np.random.default_rng(seed), **options))


def rows(codes, mse, chosen):
    return codes[chosen], mse[chosen]


def together(*batches):
    codes, mse = zip(*batches, strict=True)
    return csr_array(scipy.sparse.vstack(codes)), np.concatenate(mse)


def equal(a, b):
    names = [f.name for f in dataclasses.fields(Statistics)]
    return all(np.array_equal(getattr(a, n), getattr(b, n)) for n in names)


def values(drift):
    return {s.name: s.value for s in drift.statistics}


@settings(max_examples=30)
@given(st.integers(0, 10_000), st.lists(st.integers(0, 80), max_size=5))
def test_parts_in_any_order_give_the_statistics_of_the_whole_to_the_last_bit(seed, cuts):
    rng, own = np.random.default_rng(seed), reference(50)
    whole = batch(80, rng)
    order = rng.permutation(80)
    parts = [p for p in np.split(order, sorted(cuts)) if len(p)]
    counted = [Statistics.of(own, *rows(*whole, part)) for part in parts]
    total = counted[0]
    for each in counted[1:]:
        total = each + total
    assert equal(total, Statistics.of(own, *whole))
    assert total.n_images == 80
    assert total.l0 == 3


@given(
    st.lists(st.integers(0, 9), min_size=1, max_size=30),
    st.lists(st.integers(-1, 10), min_size=1, max_size=40),
)
def test_the_distance_of_errors_is_that_of_kolmogorov_and_smirnov(own, new):
    # Small integers: ties within and between both samples, and errors beyond the reference's.
    zeros = csr_array((len(own), K), dtype=np.float32)
    ref = described(zeros, np.array(own) + 1)
    got = Statistics.of(ref, csr_array((len(new), K), dtype=np.float32), np.array(new) + 1)
    expected = scipy.stats.ks_2samp(own, new, method="asymp").statistic
    assert mse_distance(ref, got) == pytest.approx(expected, abs=1e-12)


@given(
    st.lists(st.integers(0, 1000), min_size=K, max_size=K),
    st.lists(st.integers(0, 1000), min_size=K, max_size=K),
)
def test_the_divergence_of_uses_is_that_of_jensen_and_shannon(one, other):
    p, q = np.array(one) + 0.5, np.array(other) + 0.5
    expected = scipy.spatial.distance.jensenshannon(p, q, base=2) ** 2
    got = usage_divergence(one, other)
    assert got == pytest.approx(expected, abs=1e-9)
    assert got == pytest.approx(float(usage_divergence(other, one)), abs=1e-12)
    assert 0 <= got <= 1


@given(st.lists(st.floats(0, 1, width=32), min_size=1, max_size=20), st.floats(0, 1, width=32))
def test_a_p_value_is_the_rank_among_the_reference_and_the_image_itself(own, error):
    ref = described(csr_array((len(own), K), dtype=np.float32), np.array(own, np.float32))
    expected = (1 + sum(e >= error for e in own)) / (len(own) + 1)
    assert ref.p_values(np.array([error], np.float32))[0] == np.float32(expected)


def test_p_values_of_like_images_are_no_smaller_than_they_claim():
    """Over references and images P(p <= a) is at most a; with 99 it is a at every hundredth."""
    rng = np.random.default_rng(0)
    zeros = csr_array((99, 2), dtype=np.float32)
    found = np.concatenate(
        [described(zeros, rng.gamma(2, 1, 99)).p_values(rng.gamma(2, 1, 50)) for _ in range(400)]
    )
    for a in (0.01, 0.05, 0.1, 0.5):
        share, spread = np.mean(found <= a + 1e-6), np.sqrt(a * (1 - a) / 400)
        assert abs(share - a) < 4 * spread


def test_a_batch_that_is_the_reference_differs_in_nothing():
    codes, mse = batch(300, np.random.default_rng(0))
    drift = compare(reference(), Statistics.of(reference(), codes, mse), draws=2999)
    assert set(values(drift).values()) == {0.0}
    assert not drift.drifted
    assert drift.reason.startswith("No drift: the batch (300 images) is like the model's own data")


@pytest.mark.parametrize("share", [0.1, 0.25, 0.5])
def test_foreign_images_are_measured_by_their_share(share):
    """With errors above all, atoms used by nobody, and none or twice as many atoms."""
    rng = np.random.default_rng(1)
    own = batch(4000, rng, last=12)
    ref = described(*own)
    foreign = batch(round(4000 * share), rng, first=12, scale=1e4)
    kept = rows(*own, np.arange(round(4000 * (1 - share))))
    statistics = Statistics.of(ref, *together(kept, foreign))
    found = values(compare(ref, statistics, draws=2999))
    # The kept ones are the first, not a fair share: their own distance from all is small.
    assert found["mse_distance"] == pytest.approx(share, abs=0.02)
    middle = 1 - share / 2
    expected = (
        -np.log2(middle) / 2
        + ((1 - share) * np.log2((1 - share) / middle) + share * np.log2(share / (share / 2))) / 2
    )
    assert found["usage_divergence"] == pytest.approx(expected, rel=0.1)
    empty = csr_array((len(foreign[1]), K), dtype=np.float32)
    found = values(compare(ref, Statistics.of(ref, *together(kept, (empty, foreign[1])))))
    assert found["l0_shift"] == pytest.approx(3 * share)


def test_more_foreign_images_never_mean_less_drift():
    rng = np.random.default_rng(2)
    own, foreign = batch(1000, rng), batch(1000, rng, first=10, scale=3)
    ref = described(*own)
    before = dict.fromkeys(("usage_divergence", "mse_distance"), -1.0)
    for share in range(0, 1001, 100):
        mixed = together(rows(*own, np.arange(1000)), *[foreign] * (share // 100))
        now = values(compare(ref, Statistics.of(ref, *mixed), draws=2999))
        for name in before:
            assert now[name] >= before[name]
        before = {name: now[name] for name in before}
    assert min(before.values()) > 0.1


def alarms(n, repetitions, *, alpha, draws=999):
    """Share of batches like the reference in which any threshold is exceeded; no floors."""
    found = 0
    none = Floors(usage_divergence=0, l0_shift=0, mse_distance=0)
    for seed in range(repetitions):
        rng = np.random.default_rng(seed + 1000)
        ref = described(*batch(200, rng))
        drift = compare(
            ref, Statistics.of(ref, *batch(n, rng)), alpha=alpha, draws=draws, floors=none
        )
        found += drift.drifted
    return found / repetitions


@pytest.mark.parametrize("n", [10, 200, 5000])
def test_thresholds_keep_their_rate_of_false_alarms(n):
    """Each time a new reference and a new batch of one population; atoms go together in it."""
    repetitions, alpha = 150, 0.06
    assert alarms(n, repetitions, alpha=alpha, draws=299) <= alpha + 3 * np.sqrt(
        alpha * (1 - alpha) / repetitions
    )


def test_a_huge_batch_is_not_alarmed_by_a_trifle():
    rng = np.random.default_rng(3)
    ref = described(*batch(4000, rng))
    codes, mse = batch(200_000, rng, scale=1.15)
    drift = compare(ref, Statistics.of(ref, codes, mse), draws=2999)
    mse = drift.statistics[2]
    assert mse.threshold < mse.value < mse.floor  # beyond chance, and nobody would care
    assert not drift.drifted


def test_a_tiny_batch_is_not_alarmed_by_chance():
    ref = reference()
    codes, mse = batch(2, np.random.default_rng(4))
    drift = compare(ref, Statistics.of(ref, codes, mse), draws=2999)
    assert drift.statistics[0].value > drift.statistics[0].floor
    assert not drift.drifted


def test_the_reason_names_what_changed_in_numbers():
    rng = np.random.default_rng(5)
    ref = described(*batch(1000, rng, last=12))
    one = csr_array((np.ones(500), np.full(500, 20), np.arange(501)), shape=(500, K))
    drift = compare(ref, Statistics.of(ref, one, np.full(500, 7 * np.mean(ref.mse), np.float32)))
    assert drift.drifted
    assert all(s.exceeded for s in drift.statistics)
    assert drift.reason.startswith(
        "Drift: the batch (500 images) differs from the model's own data (1,000 validation"
    )
    assert "atoms 20 (new) more" in drift.reason
    assert "(0-fold)" in drift.reason
    assert "an image uses 1.00 atoms against 3.00" in drift.reason
    assert "the mean error is 7-fold" in drift.reason
    assert "\n" not in drift.reason
    assert json.loads(json.dumps(drift.to_json())) == drift.to_json()
    assert isinstance(drift, Drift)


def test_stored_zeros_are_no_use():
    codes, mse = batch(10, np.random.default_rng(0))
    codes.data[:] = 0
    ref = described(codes, mse)
    assert ref.l0 == (0,) * 10
    assert not ref.uses.any()
    assert not Statistics.of(ref, codes, mse).uses.any()


def test_the_same_question_has_the_same_answer():
    first = thresholds(reference(), 100, 0.01, 999)
    thresholds.cache_clear()
    assert thresholds(reference(), 100, 0.01, 999) == first
    assert thresholds(reference(), 100, 0.01, 999, 1) != first


def test_a_reference_comes_back_from_disk_as_it_was(tmp_path):
    save_reference(reference(), tmp_path)
    first = (tmp_path / "reference.json").read_bytes()
    assert load_reference(tmp_path) == reference()
    save_reference(load_reference(tmp_path), tmp_path)
    assert (tmp_path / "reference.json").read_bytes() == first


def test_quantiles_are_those_of_the_images():
    ref = reference()
    assert ref.quantiles()["l0"] == [3, 3, 3]
    assert ref.quantiles()["mse"][1] == pytest.approx(np.median(ref.mse))
    assert sum(ref.energy) == pytest.approx(
        np.square(batch(300, np.random.default_rng(0))[0].data).sum(), rel=1e-5
    )


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"mse": []}, "an error and a number of atoms for each image"),
        ({"mse": [[0.1]] * 300}, "an error and a number of atoms for each image"),
        ({"mse": ["a"] * 300}, "must hold numbers"),
        ({"mse": [-1.0] * 300}, "errors of at least 0"),
        ({"l0": [3] * 299}, "an error and a number of atoms for each image"),
        ({"l0": [2] * 300}, "must name the atoms of each image, from 0 to 23"),
        ({"l0": [3.5] * 300}, "in whole numbers"),
        ({"atoms": [24] * 900}, "must name the atoms of each image"),
        ({"atoms": [1] * 900}, "in increasing order"),
        ({"energy": [0.0]}, "an energy of at least 0 for each of the 24 atoms"),
        ({"n_atoms": "x"}, "must hold numbers"),
        ({"n_atoms": None}, "must hold numbers"),
        ({"n_atoms": 24.0}, "must hold numbers, and count its atoms in a whole one"),
        ({"mse": ["0.1"] * 300}, "must hold numbers"),
        ({"mse": [1e308] * 300}, "errors of at least 0"),
        # Its sum overflows to the number of atoms: compiled code wrote on without end.
        ({"mse": [0.1] * 4, "l0": [2**62] * 4, "atoms": []}, "must name the atoms of each image"),
        ({"format": 2}, "has format 2"),
        ({"mse": 3}, "must hold"),
    ],
)
def test_a_damaged_reference_is_refused_in_a_sentence(tmp_path, changes, sentence):
    save_reference(reference(), tmp_path)
    path = tmp_path / "reference.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    with pytest.raises(DataError, match=sentence) as caught:
        load_reference(tmp_path)
    assert "\n" not in str(caught.value)


def test_a_reference_that_is_not_there_is_named(tmp_path):
    with pytest.raises(DataError, match=r"reference\.json holds no readable reference"):
        load_reference(tmp_path)


def test_questions_without_an_answer_are_refused():
    ref, other = reference(), reference(200)
    counted = Statistics.of(other, *batch(5, np.random.default_rng(0)))
    with pytest.raises(DataError, match="counted beside another reference"):
        compare(ref, counted)
    none = Statistics.of(ref, csr_array((0, K), dtype=np.float32), np.empty(0, np.float32))
    with pytest.raises(DataError, match="no images"):
        compare(ref, none)
    with pytest.raises(DataError, match=r"codes must have shape \(5, 24\)"):
        Statistics.of(ref, csr_array((5, 3), dtype=np.float32), np.zeros(5))
    for alpha in (0, 1, 1e-5, float("nan")):
        with pytest.raises(ConfigError, match=r"alpha must be below 1 and at least 0\.0003"):
            thresholds(ref, 10, alpha)


def test_references_are_frozen_and_hashable():
    assert hash(reference()) == hash(reference())
    with pytest.raises(dataclasses.FrozenInstanceError):
        reference().n_atoms = 3
    assert isinstance(reference(), Reference)
