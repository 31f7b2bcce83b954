"""Bits: the quantiser's laws, the choice of points, and the ratio at equal bits."""

import json
import math
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.sparse import csr_array

from vaesc.evaluation import rate as rates_module
from vaesc.evaluation.batches import ROWS
from vaesc.evaluation.methods import Batch, Method
from vaesc.evaluation.rate import COEFFICIENT_BITS, Codec, Rates, quantise, rate
from vaesc.evaluation.rate_results import (
    RateErrors,
    amortised,
    assemble_rates,
    best_within,
    chosen_points,
    common_budgets,
    read_rate_errors,
)

LIMITS = st.floats(1e-3, 1e3)
BITS = st.integers(1, 12)
VALUES = st.lists(st.floats(-2e3, 2e3, width=32), min_size=1, max_size=30)


def row(values):
    """One row of codes, with a hole before every entry."""
    dense = np.zeros((1, 2 * len(values)), np.float32)
    dense[0, 1::2] = values
    return csr_array(dense)


# The quantiser


@given(VALUES, LIMITS, BITS)
def test_the_error_is_at_most_half_a_cell_within_the_range_and_clipping_outside(
    values, limit, bits
):
    codes = row(values)
    rounded, half = quantise(codes, limit, bits).data, limit / 2**bits
    inside = np.abs(codes.data) <= limit
    slack = 1e-6 * limit
    assert (np.abs(rounded - codes.data)[inside] <= half + slack).all()
    outer = np.sign(codes.data) * (limit - half)
    np.testing.assert_allclose(rounded[~inside], outer[~inside], rtol=1e-5)


@given(VALUES, LIMITS, BITS)
def test_quantising_again_changes_nothing(values, limit, bits):
    once = quantise(row(values), limit, bits)
    np.testing.assert_array_equal(quantise(once, limit, bits).data, once.data)


@given(VALUES, LIMITS, BITS)
def test_signs_are_treated_alike(values, limit, bits):
    codes = row(values)
    np.testing.assert_array_equal(
        quantise(-codes, limit, bits).data, -quantise(codes, limit, bits).data
    )


@given(VALUES, LIMITS, BITS)
def test_the_support_stays_and_the_codes_given_do_too(values, limit, bits):
    codes = row(values)
    kept = codes.data.copy()
    rounded = quantise(codes, limit, bits)
    np.testing.assert_array_equal(rounded.toarray() != 0, codes.toarray() != 0)
    np.testing.assert_array_equal(codes.data, kept)
    assert len(np.unique(rounded.data)) <= 2**bits


def test_a_bit_more_halves_the_error_of_uniform_coefficients():
    codes = row(np.random.default_rng(0).uniform(-1, 1, 20000))
    errors = [np.square(quantise(codes, 1.0, q).data - codes.data).mean() for q in (3, 4, 5)]
    # A cell of width w has variance w^2 / 12.
    np.testing.assert_allclose(errors, [(2 / 2**q) ** 2 / 12 for q in (3, 4, 5)], rtol=0.05)


def test_bits_count_support_and_coefficients():
    assert rate(4, 256, 8) == 64
    assert rate(3, 100, 2) == pytest.approx(3 * (math.log2(100) + 2))


# Ranges


class Rows:
    """A split of given samples, in batches as the real one."""

    def __init__(self, samples, name):
        self.samples, self.name = samples, name

    def __len__(self):
        return len(self.samples)

    def batches(self, within=None):
        for i in range(0, len(self.samples), ROWS):
            part = self.samples[i : i + ROWS]
            yield slice(i, i + len(part)), part


class NoLatents:
    def latents(self, split, rows):
        return np.zeros((rows.stop - rows.start, 1), np.float32)


class NoDictionaries:
    latents = {}  # noqa: RUF012


def identity_codec(k=1, name="pixel"):
    """Codes of a batch are its images."""
    return Codec(
        name=name, n_atoms=4, spent={k: k},
        code=lambda batch: {k: csr_array(batch.images)},
        decode=lambda _, codes: np.asarray(codes.toarray(), np.float32),
    )  # fmt: skip


def test_a_range_of_few_bits_clips_and_one_of_many_does_not():
    """Heavy tails: 2 bits do better to clip, 8 bits hardly lose by covering all."""
    x = np.random.default_rng(0).laplace(0, 1, (6000, 4)).astype(np.float32)
    splits = {"train": Rows(x[:4500], "train"), "validation": Rows(x[4500:5000], "validation")}
    found = rates_module._candidates([identity_codec()], splits["train"], NoLatents(),
                                     NoDictionaries())  # fmt: skip
    sizes = np.abs(x[:ROWS])  # 1024 are enough
    np.testing.assert_allclose(found["pixel"][1], np.quantile(sizes, rates_module.QUANTILES))
    batch = Batch(slice(0, 500), x[4500:5000], x[:500], {})
    codec = identity_codec()
    limits = rates_module._limits(codec, codec.code(batch), batch, found["pixel"])[0]
    assert limits[0] < limits[-1]
    assert (np.diff(limits) >= 0).all()
    # The best of the candidates by brute force, for the fewest bits.
    errors = [np.square(quantise(csr_array(batch.images), c, 2) - batch.images).mean()
              for c in found["pixel"][1]]  # fmt: skip
    assert limits[0] == found["pixel"][1][int(np.argmin(errors))]


def test_errors_of_every_bit_are_those_of_quantised_codes_and_fall_with_bits():
    x = np.random.default_rng(1).uniform(-1, 1, (5000, 4)).astype(np.float32)
    splits = {name: Rows(part, name) for name, part in
              (("train", x), ("validation", x[:1500]), ("test", x[1500:3000]))}  # fmt: skip
    heard = []
    found = rates_module.measure_rates(
        [identity_codec()], splits, NoLatents(), NoDictionaries(), on_rows=heard.append
    )["pixel"]
    assert sum(heard) == 3000
    assert found.errors.shape == (1500, 1, len(COEFFICIENT_BITS))
    expected = [(2 / 2**q) ** 2 / 12 for q in COEFFICIENT_BITS]
    # The range is a quantile of the training magnitudes, at most their largest, here 1.
    np.testing.assert_allclose(found.errors.mean(axis=0)[0], expected, rtol=0.15)
    np.testing.assert_allclose(found.validation[0], expected, rtol=0.15)


def test_a_level_that_no_image_uses_has_a_range_all_the_same():
    assert rates_module._quantiles(np.empty(0, np.float32)).min() > 0


# Points and ratios

LEVELS = [1, 2, 4]


def made_up(scale=1.0, seed=0, n=200, n_atoms=256):
    """Errors that fall with k and q, times gamma noise that all methods share."""
    hard = np.random.default_rng(seed).gamma(4, 0.25, (n, 1, 1))
    k, q = np.array(LEVELS)[:, None], np.array(COEFFICIENT_BITS)[None]
    curve = scale * (0.1 / k + 0.3 * 4.0**-q)
    return Rates(
        bits=k * (np.log2(n_atoms) + q),
        validation=curve,
        errors=(hard * curve).astype(np.float32),
    )


def assembled(ours=None, theirs=None):
    method = Method(
        name="article", title="", about="", space="pixel", approximate=lambda batch: iter(()),
        reach=4, numbers=5000,
    )  # fmt: skip
    rates = {"article": ours or made_up(0.8), "pixel": theirs or made_up()}
    return assemble_rates(rates, LEVELS, [method], 1000, claimant="article", seed=0)


def test_the_ratio_at_equal_bits_is_that_of_the_best_points_within_the_budget():
    found = assembled()
    json.dumps(found, allow_nan=False)
    budgets = [r["bits"] for r in found["ratio"]]
    assert budgets == sorted(set(budgets))
    assert (budgets[0], budgets[-1]) == (10, 64)
    for entry in found["ratio"]:
        assert entry["ratio"] == pytest.approx(0.8, rel=1e-5)
        assert entry["low"] <= entry["ratio"] <= entry["high"]
        assert entry["verdict"] == "better"
        for side, name in (("claimant", "article"), ("pixel", "pixel")):
            at = entry[side]
            assert rate(at["k"], 256, at["q"]) <= entry["bits"]
            points = found["methods"][name]["points"]
            (mse,) = [p["mse"] for p in points if (p["k"], p["q"]) == (at["k"], at["q"])]
            assert mse == pytest.approx(
                min(p["mse"] for p in points if p["bits"] <= entry["bits"] + 1e-9)
            )


def test_the_choice_is_the_validation_splits_not_the_test_splits():
    """Validation says two bits are best; the test split would say eight."""
    honest = made_up()
    misled = replace(honest, validation=honest.validation[:, ::-1])
    found = assembled(ours=misled)
    assert found["ratio"][0]["claimant"] == {"k": 1, "q": 2}
    assert found["ratio"][-1]["claimant"]["q"] == 2
    assert found["ratio"][-1]["verdict"] == "worse"


def test_the_envelope_is_the_staircase_of_points_that_no_cheaper_one_beats():
    found = assembled()
    for method in found["methods"].values():
        stairs, points = method["envelope"], method["points"]
        assert len(points) == len(LEVELS) * len(COEFFICIENT_BITS)
        bits, mse = ([s[key] for s in stairs] for key in ("bits", "mse"))
        assert bits == sorted(bits)
        assert mse == sorted(mse, reverse=True)
        for p in points:
            reached = min(s["mse"] for s in stairs if s["bits"] <= p["bits"])
            assert reached <= p["mse"] * (1 + 1e-6)
            assert p["low"] <= p["mse"] <= p["high"]


@given(
    st.lists(st.floats(1, 500), min_size=1, max_size=8),
    st.lists(st.floats(1, 500), min_size=1, max_size=8),
)
def test_both_can_use_every_budget(ours, theirs):
    ours, theirs = np.array([ours]), np.array([theirs])
    budgets = common_budgets(ours, theirs)
    for bits in (ours, theirs):
        for budget in budgets:
            at = best_within(bits, bits * 0 + 1, budget)
            assert bits[at] <= budget + 1e-9
    assert all(a < b for a, b in pairwise(budgets))


def test_what_is_learned_once_is_spread_over_all_images():
    found = assembled()
    assert found["amortised"] == {"article": {"numbers": 5000, "bits_per_image": 160.0}}
    assert found["amortised_over"] == 1000
    assert amortised([], 10) == {}


def test_errors_are_read_back_and_are_those_of_the_chosen_points(tmp_path):
    rates = {"article": made_up(0.8), "pixel": made_up(), "other": made_up(3)}
    with RateErrors(tmp_path, "article") as record:
        record.begin(rates, 200)
        for rows in (slice(0, 128), slice(128, 200)):
            for name, r in rates.items():
                record.add(name, rows, r.errors[rows])
    budgets, chosen = chosen_points(rates, "article")
    found = read_rate_errors(tmp_path)
    assert set(found) == {"claimant", "pixel"}
    for side, name in (("claimant", "article"), ("pixel", "pixel")):
        assert found[side].shape == (200, len(budgets))
        for column, at in zip(found[side].T, chosen[side], strict=True):
            np.testing.assert_array_equal(column, rates[name].errors[:, *at])
