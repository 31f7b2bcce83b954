"""The gate decides by what is shown: intervals, margins, health; atoms keep their numbers."""

import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from registry_homes import SHAPE, tiny_model
from scipy.sparse import csr_array

from vaesc.arrays import create_array, create_group
from vaesc.bundle import SparseVAE
from vaesc.config import DatasetConfig, GateConfig
from vaesc.datasets.base import Part, RawImages
from vaesc.datasets.reader import DATASET
from vaesc.datasets.splits import select_splits
from vaesc.errors import DataError
from vaesc.gate.atoms import AtomIds, effects, inherit
from vaesc.gate.decision import _quantiles, _statistics, compare, decide, health
from vaesc.gate.frozen import open_frozen
from vaesc.gate.measurement import Measurement, encode_seconds, measure
from vaesc.report.decision import render_decision

POLICY = GateConfig()
FAST = (1.0, 1.0)


def measured(errors, l0=2, **facts):
    """A measurement with these errors, and codes that nobody looks at."""
    errors = np.asarray(errors, np.float32)
    codes = csr_array(np.ones((len(errors), 4), np.float32))
    healthy = {"active_units": 3.0, "dead_fraction": 0.0, "mutual_coherence": 0.5}
    return Measurement(
        errors=errors, l0=np.full(len(errors), l0), codes=codes, **{**healthy, **facts}
    )


def drawn(n, seed=0, scale=1.0):
    return scale * np.random.default_rng(seed).gamma(2.0, 0.01, n)


def verdicts(decision):
    return {c.metric: c.verdict for c in decision.comparisons}


# Decisions


def test_a_model_is_no_better_than_itself():
    same = measured(drawn(400))
    decision = decide(same, same, policy=POLICY, seconds=FAST)
    assert {(c.ratio, c.low, c.high) for c in decision.comparisons} == {(1.0, 1.0, 1.0)}
    assert decision.outcome == "rejected"
    assert "no better beyond doubt" in decision.reason
    equal = decide(same, same, policy=replace(POLICY, policy="not-worse"), seconds=FAST)
    assert equal.outcome == "promoted"


@given(st.floats(0.3, 3.0).filter(lambda r: abs(r - 1) > 1e-3), st.integers(0, 5))
def test_errors_that_differ_by_a_factor_are_judged_by_it(factor, seed):
    champion = measured(drawn(200, seed))
    candidate = measured(factor * champion.errors)
    decision = decide(candidate, champion, policy=POLICY, seconds=FAST)
    mse = next(c for c in decision.comparisons if c.metric == "mse")
    assert mse.low == pytest.approx(factor, rel=1e-3)
    assert mse.high == pytest.approx(factor, rel=1e-3)
    assert (decision.outcome == "promoted") == (factor < 1)


def test_equal_models_are_rarely_promoted_and_better_ones_nearly_always():
    """Type I error at most the interval's 2.5 % (and luck); power where the effect is plain."""
    trials = 80

    def promoted(scale, seed):
        ours, theirs = measured(drawn(300, 2 * seed, scale)), measured(drawn(300, 2 * seed + 1))
        policy = replace(POLICY, tail_margin=0.9)
        return decide(ours, theirs, policy=policy, seconds=FAST).outcome == "promoted"

    assert sum(promoted(1.0, i) for i in range(trials)) <= 7  # P(more) < .002 at 2.5 %
    assert sum(promoted(0.75, i) for i in range(trials)) >= 0.95 * trials


def test_a_better_mean_does_not_pay_for_a_worse_tail_class_or_rate():
    rng = np.random.default_rng(0)
    champion = measured(rng.uniform(0.01, 0.02, 1000))
    tail = champion.errors * 0.7
    tail[:90] = 0.05
    labels = np.arange(1000) % 4
    one_class = np.where(labels == 3, 1.3, 0.7) * champion.errors

    found = decide(measured(tail), champion, policy=POLICY, seconds=FAST)
    assert verdicts(found) == {"mse": "better", "mse_p95": "worse", "l0": "not worse"}
    assert found.outcome == "rejected"
    assert "mse_p95" in found.reason
    found = decide(measured(one_class), champion, policy=POLICY, seconds=FAST, labels=labels)
    assert found.outcome == "rejected"
    assert "mse_worst_class" in found.reason
    found = decide(measured(tail * 0 + 0.005, l0=4), champion, policy=POLICY, seconds=FAST)
    assert found.outcome == "rejected"
    assert "l0 is 2.000 times" in found.reason


def test_a_small_split_shows_nothing():
    champion = measured(drawn(60))
    decision = decide(measured(0.5 * champion.errors), champion, policy=POLICY, seconds=FAST)
    assert decision.outcome == "rejected"
    assert "only 60 frozen images" in decision.reason


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"errors": np.full(200, np.nan)}, "finite"),
        ({"active_units": 0.0}, "active_units is 0, the limit is 1"),
        ({"dead_fraction": 0.9}, "dead_fraction is 0.9, the limit is 0.75"),
        ({"mutual_coherence": 1.0}, "mutual_coherence"),
        ({"seconds": (5e-3, 1e-3)}, "latency_ratio is 5, the limit is 2"),
    ],
)
def test_an_ill_candidate_is_rejected_however_good(change, named):
    change = dict(change)
    seconds = change.pop("seconds", FAST)
    errors = change.pop("errors", drawn(200, scale=0.1))
    decision = decide(
        measured(errors, **change), measured(drawn(200)), policy=POLICY, seconds=seconds
    )
    assert decision.outcome == "rejected"
    assert decision.reason.startswith("the candidate is not healthy")
    assert named in decision.reason


def test_health_is_judged_without_a_champion_too():
    assert all(check.passes for check in health(measured(drawn(50)), POLICY, []))


@given(st.integers(1, 40), st.integers(0, 2**31), st.booleans())
def test_statistics_of_counts_are_those_of_the_images_themselves(n, seed, labelled):
    """An independent computation: repeat every image as often as the resample holds it."""
    rng = np.random.default_rng(seed)
    errors = rng.random(n).astype(np.float32)
    labels = rng.integers(0, 3, n) if labelled else None
    m = replace(measured(errors), l0=rng.integers(0, 5, n))
    counts = np.bincount(rng.integers(0, n, n), minlength=n)
    found = _statistics(m, counts[None].astype(np.float32), labels)
    repeated = np.repeat(errors.astype(np.float64), counts)
    assert found["mse"][0] == pytest.approx(repeated.mean(), rel=1e-5)
    assert found["l0"][0] == pytest.approx(np.repeat(m.l0, counts).mean(), rel=1e-5, abs=1e-6)
    assert found["mse_p95"][0] == np.quantile(repeated, 0.95, method="inverted_cdf")
    if labelled:
        classes = np.repeat(labels, counts)
        worst = max(repeated[classes == c].mean() for c in np.unique(classes))
        assert found["mse_worst_class"][0] == pytest.approx(worst, rel=1e-5)


def test_a_quantile_of_every_share():
    errors = np.array([3, 1, 2], np.float32)
    counts = np.array([[1, 1, 1], [0, 3, 0], [2, 0, 1]], np.float32)
    assert _quantiles(errors, counts, 0.95).tolist() == [3, 1, 3]


def test_the_order_of_the_images_changes_no_point_estimate():
    ours, theirs = drawn(300, 1), drawn(300, 2)
    order = np.random.default_rng(0).permutation(300)
    a = compare(measured(ours), measured(theirs), policy=POLICY)
    b = compare(measured(ours[order]), measured(theirs[order]), policy=POLICY)
    assert [c.ratio for c in a] == pytest.approx([c.ratio for c in b], rel=1e-6)


# Measurements


def images(n=120, seed=0):
    return np.random.default_rng(seed).random((n, *SHAPE), dtype=np.float32)


def test_a_measurement_is_what_the_model_says_of_itself():
    model, x = tiny_model(), images(1500)
    found = measure(model, x)
    np.testing.assert_allclose(found.errors, model.score(x), rtol=1e-6)
    assert np.array_equal(found.l0, np.count_nonzero(model.encode(x).toarray(), axis=1))
    assert found.is_finite
    assert 0 <= found.dead_fraction <= 1


def test_both_models_are_timed():
    seconds = encode_seconds([tiny_model(0), tiny_model(1)], images())
    assert len(seconds) == 2
    assert all(0 < each < 1 for each in seconds)


# Atoms


def permuted(model, order, signs):
    d = model.dictionary
    return SparseVAE(model.vae, replace(d, dictionary=d.dictionary[order] * signs[:, None]))


@given(st.integers(0, 10**6))
def test_atoms_in_another_order_and_of_other_sign_keep_their_numbers(seed):
    rng = np.random.default_rng(seed)
    model, x = tiny_model(seed % 7), images()
    order = rng.permutation(model.n_atoms)
    signs = rng.choice([-1, 1], model.n_atoms).astype(np.float32)
    other = permuted(model, order, signs)
    old, new = (effects(m, m.encode(x)) for m in (model, other))
    ids = AtomIds(ids=tuple(range(100, 100 + model.n_atoms)), next_id=500)
    found = inherit(new, old, ids)
    assert found.born == found.died == found.drifted == ()
    assert found.ids.next_id == 500
    # Atoms whose pictures agree (up to sign) may stand for one another.
    inherited = np.array(found.ids.ids) - 100
    same = np.abs(np.sum(_unit(old)[inherited] * _unit(old)[order], axis=1))
    np.testing.assert_allclose(same[old[order].any(axis=1)], 1, atol=1e-4)


def _unit(rows):
    return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)


def test_atoms_are_born_with_numbers_never_used_and_die():
    old = np.eye(4, 10, dtype=np.float32)
    new = np.stack([old[2], np.eye(10, dtype=np.float32)[7], 0.6 * old[0] + 0.8 * np.eye(10)[9]])
    found = inherit(new, old, AtomIds(ids=(3, 5, 8, 9), next_id=12))
    assert found.ids == AtomIds(ids=(8, 12, 3), next_id=13)
    assert found.born == (12,)
    assert found.died == (5, 9)
    [(atom, drift)] = found.drifted
    assert atom == 3
    assert drift == pytest.approx(0.4, abs=1e-6)


def test_numbers_of_another_dictionary_are_refused():
    with pytest.raises(ValueError, match="4 old atoms, and numbers for 2"):
        inherit(np.eye(3, 4), np.eye(4), AtomIds.first(2))


# The frozen split


def dataset(folder, **splits):
    group = create_group(folder / DATASET)
    for name, x in splits.items():
        axes = ("sample", "row", "column")
        create_array(group, f"{name}/images", x.shape, x.dtype, axes)[:] = x
    group.attrs.update(
        source="arrays", licence="", shape=list(SHAPE), low=0.0, high=1.0, classes=None,
        counts={name: len(x) for name, x in splits.items()}, sha256={},
    )  # fmt: skip
    return folder


def test_images_that_a_model_was_trained_on_are_left_out(tmp_path):
    x, more = images(30), images(30, seed=1)
    first = dataset(tmp_path / "a", train=x[:20], validation=x[20:22], test=x[22:])
    later = dataset(
        tmp_path / "b", train=np.concatenate([more[:10], x[22:24]]), validation=x[25:26],
        test=more[10:],
    )  # fmt: skip
    alone = open_frozen(first, [first], SHAPE, 100)
    assert len(alone.images) == 8
    assert alone.n_seen == 0
    both = open_frozen(first, [first, later], SHAPE, 100)
    assert both.n_seen == 3
    assert np.array_equal(both.images, x[[24, 26, 27, 28, 29]])
    assert len(open_frozen(first, [later], SHAPE, 2).images) == 2


def test_a_frozen_split_of_other_images_is_refused(tmp_path):
    x = images(6)
    folder = dataset(tmp_path, train=x[:2], validation=x[2:4], test=x[4:])
    with pytest.raises(DataError, match=r"of shape \(9, 9\), those of the frozen split are"):
        open_frozen(folder, [], (9, 9), 10)


@given(st.integers(30, 80), st.integers(1, 40), st.integers(0, 100))
def test_data_added_later_moves_no_image_to_another_split(n, more, seed):
    x = np.random.default_rng(seed).integers(0, 255, (n + more, 3, 3)).astype(np.uint8)
    x[1] = x[0]  # a copy goes where its original does

    def split(images):
        raw = RawImages(parts={"all": Part(images=images, origin="here")}, licence="")
        config = DatasetConfig(split="content", test_fraction=0.3)
        return {k: set(s.rows.tolist()) for k, s in select_splits(raw, config, seed).items()}

    try:
        before, after = split(x[:n]), split(x)
    except DataError:  # a split that came out empty says so
        return
    for name, rows in before.items():
        assert rows <= after[name]
        assert len({0, 1} & rows) != 1


# The page


def test_the_page_says_what_was_decided_and_draws_the_atoms():
    old, new = np.eye(6, 20, dtype=np.float32), np.eye(5, 20, k=2, dtype=np.float32)
    new[0] = 0.6 * old[2] + 0.8 * np.eye(20)[19]
    lineage = inherit(new, old, AtomIds.first(6))
    found = decide(
        measured(drawn(300, scale=0.5)), measured(drawn(300, 1)), policy=POLICY, seconds=FAST,
        n_seen=7,
    )  # fmt: skip
    told = {
        "model": "<vaesc>", "candidate": 4, "champion": 3, **found.to_json(),
        "atoms": lineage.to_json(),
    }  # fmt: skip
    assert json.loads(json.dumps(told)) == told | {
        "comparisons": [dict(c) for c in told["comparisons"]],
        "checks": [dict(c) for c in told["checks"]],
    }
    pictures = {"new": new, "old": old, "old_ids": range(6), "shape": (4, 5)}
    page = render_decision(told, pictures)
    assert "Version 4 was promoted" in page
    assert "&lt;vaesc&gt;" in page
    assert "7 more were left out" in page
    assert "before, after: drift 40 %" in page
    assert "Born: 1" in page
    assert "Died: 2" in page
    assert "http" not in page.replace("http-equiv", "")
