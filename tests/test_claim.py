"""The claim over seeds: intervals with the right coverage of chance, verdicts by their rule."""

import json
import math

import numpy as np
import pytest

from vaesc.cli.claim import told
from vaesc.evaluation.claim import rate_bits, resampled_means, weigh_seeds
from vaesc.evaluation.verdict import bootstrap_means

LEVELS = [1, 4]


def errors(n=400, ours=0.8, seed=0, noise=0.05):
    rng = np.random.default_rng(seed)
    pixel = rng.gamma(2.0, 0.01, (n, 2))
    jitter = 1 + noise * rng.standard_normal((n, 2))
    return {
        "refined": pixel * ours * jitter, "article": pixel * 1.5 * jitter, "pixel": pixel,
        "random": pixel * 1.5,
    }  # fmt: skip


def weigh(by_seed, *, shared=True):
    return weigh_seeds(by_seed, LEVELS, claimant="refined", shared=shared, seed=1)


def test_one_seed_is_the_paired_bootstrap_over_images():
    columns = np.random.default_rng(0).random((300, 3))
    several = resampled_means([columns], shared=True, seed=5)
    one = bootstrap_means(columns, seed=6)
    assert several.mean(axis=0) == pytest.approx(one.mean(axis=0), rel=2e-3)
    assert several.std(axis=0) == pytest.approx(one.std(axis=0), rel=0.1)


def test_resamples_hold_both_sources_of_chance():
    """Variance of the mean of S seeds with a common image: between seeds / S + images / n."""
    rng = np.random.default_rng(0)
    image = rng.standard_normal((500, 1))
    offsets = rng.standard_normal(40) * 0.2
    means = resampled_means([image + o for o in offsets], shared=True, seed=2, n_resamples=4000)
    expected = offsets.var() / 40 + image.var() / 500
    assert means.var() == pytest.approx(expected, rel=0.15)


def test_images_drawn_for_each_seed_average_out():
    image = np.random.default_rng(0).standard_normal((500, 1))
    common = resampled_means([image] * 8, shared=True, seed=3).var()
    apart = resampled_means([image] * 8, shared=False, seed=3).var()
    # A seed drawn twice brings its images twice: (2 - 1/8) / 8 of the common variance.
    assert apart / common == pytest.approx((2 - 1 / 8) / 8, rel=0.25)


@pytest.mark.parametrize("shared", [True, False])
def test_the_block_size_changes_no_resample(shared):
    columns = [np.random.default_rng(s).random((50, 2)) for s in range(3)]
    a, b = (resampled_means(columns, shared=shared, seed=0, block=size) for size in (7, 2000))
    assert np.allclose(a, b, rtol=1e-12)


def test_better_everywhere_is_told_so_and_the_geometric_mean_agrees():
    found = weigh([errors(seed=s) for s in range(3)])
    assert [c["verdict"] for c in found["claim"]] == ["better", "better"]
    ratios = [c["ratio"] for c in found["claim"]]
    middle = found["geometric_mean"]
    assert middle["ratio"] == pytest.approx(math.sqrt(math.prod(ratios)))
    assert middle["low"] < middle["ratio"] < middle["high"]
    assert found["claim"][0]["ratio"] == pytest.approx(0.8, rel=0.02)
    assert len(found["claim"][0]["by_seed"]) == 3


def test_seeds_that_disagree_show_no_difference():
    """Each seed alone is sure of itself; together they are not."""
    found = weigh([errors(ours=o, noise=0.01) for o in (0.9, 1.1)])
    assert [c["verdict"] for c in found["claim"]] == ["no difference shown"] * 2


def test_worse_is_told_as_worse():
    found = weigh([errors(ours=1.2, seed=s) for s in range(2)])
    assert {c["verdict"] for c in found["claim"]} == {"worse"}
    curve = found["methods"]["refined"]
    assert curve["verdict"] == ["worse", "worse"]
    assert curve["ratio"] == [c["ratio"] for c in found["claim"]]
    assert [curve["ratio_low"], curve["ratio_high"]] == [
        [c[end] for c in found["claim"]] for end in ("low", "high")
    ]
    pixel = found["methods"]["pixel"]
    assert pixel["ratio"] == pixel["ratio_low"] == pixel["ratio_high"] == [1, 1]
    assert pixel["verdict"] == ["no difference shown"] * 2


def test_learned_against_random_is_judged_in_pixels_and_in_latents():
    """In pixels a draw, in latents half the error; each latent's share has mean FVU."""
    rng = np.random.default_rng(0)
    share = rng.gamma(2.0, 0.1, (400, 2))
    by_seed = [errors(seed=s, noise=0.0) for s in range(2)]
    found = weigh_seeds(
        by_seed, LEVELS, claimant="refined", shared=True, seed=1,
        unexplained=[{"article": share / 2, "random": share}] * 2,
    )["learned_against_random"]  # fmt: skip
    assert list(found) == ["1", "4"]
    for k in found:
        assert found[k]["mse"]["ratio"] == pytest.approx(1)
        assert found[k]["mse"]["verdict"] == "no difference shown"
        assert found[k]["fvu"]["ratio"] == pytest.approx(0.5)
        assert found[k]["fvu"]["verdict"] == "better"
        assert len(found[k]["fvu"]["by_seed"]) == 2
    assert set(weigh(by_seed)["learned_against_random"]["1"]) == {"mse"}


def test_a_level_that_a_method_lacks_is_null_and_disturbs_no_other():
    plain = [errors(seed=s) for s in range(2)]
    with_vq = [
        e | {"vq": np.stack([e["pixel"][:, 0] * 2, np.full(400, np.nan)], axis=1)} for e in plain
    ]
    found, before = weigh(with_vq), weigh(plain)
    vq = found["methods"]["vq"]
    for key in ("mse", "low", "high", "ratio", "ratio_low", "ratio_high", "verdict"):
        assert vq[key][0] is not None
        assert vq[key][1] is None
    assert [row[1] for row in vq["by_seed"]] == [None, None]
    assert vq["ratio"][0] == pytest.approx(2)
    json.dumps(found, allow_nan=False)
    for key in ("claim", "geometric_mean"):
        assert found[key] == before[key]


def test_the_ratio_at_equal_bits_is_weighed_as_the_claim_is():
    by_seed = [errors(seed=s) for s in range(2)]
    rates = [{"claimant": e["refined"], "pixel": e["pixel"]} for e in by_seed]
    found = weigh_seeds(
        by_seed, LEVELS, claimant="refined", shared=True, seed=1, rates=rates, budgets=[10, 40]
    )
    assert [r.pop("bits") for r in found["rate"]] == [10, 40]
    claims = [{key: c[key] for key in c if key != "k"} for c in found["claim"]]
    for at_bits, at_k in zip(found["rate"], claims, strict=True):
        # The very same columns, on the very same resamples, in another place of the product.
        assert at_bits.pop("verdict") == at_k.pop("verdict")
        assert at_bits.pop("by_seed") == pytest.approx(at_k.pop("by_seed"))
        assert at_bits == pytest.approx(at_k)
    assert "rate" not in weigh(by_seed)


def test_intervals_cover_the_truth_as_often_as_they_say():
    """60 test splits of one seed: about 57 intervals hold the true ratio; 52 is 3 sigma low."""
    hits = 0
    for seed in range(60):
        claim = weigh([errors(n=150, seed=seed, noise=0.3)])["claim"][0]
        hits += claim["low"] <= 0.8 <= claim["high"]
    assert hits >= 52


def test_bits_count_support_and_coefficients():
    assert rate_bits([1, 4], 256, 8) == [16, 64]


def test_the_outcome_reads_as_a_table():
    found = weigh([errors()])
    found |= {
        "dataset": "digits", "n_test": 400, "seeds": [0], "n_atoms": 64, "claimant": "refined",
        "levels": LEVELS, "order": ["refined", "pixel"], "report": "report.html", "run_id": "abc",
        "verdict": "It held.", "seconds": 1.0,
        "bits": {"per_image": rate_bits(LEVELS, 64, 8)},
    }  # fmt: skip
    text = told(found)
    assert f"geometric mean {found['geometric_mean']['ratio']:.3f}" in text
    assert "better" in text
