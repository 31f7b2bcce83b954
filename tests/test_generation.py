"""The parts of the application generation: distances, coverage, mixtures, ways, binarisation."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from imagesets import digits, write_digits
from scipy.linalg import sqrtm
from scipy.stats import multivariate_normal

from vaesc.applications.generation.coverage import (
    memorised_fraction,
    nearest_training,
    precision_recall,
)
from vaesc.applications.generation.distances import (
    frechet_distance,
    frechet_of_moments,
    kernel_distance,
)
from vaesc.applications.generation.interpolation import linear, spherical
from vaesc.applications.generation.likelihood import BinarisedBatches, binarised, carried_over
from vaesc.applications.generation.mixtures import Mixture, fit_mixture
from vaesc.datasets.reader import open_dataset
from vaesc.errors import DataError
from vaesc.training.order import Order
from vaesc.training.resident import ResidentBatches


def gaussian(rng, d):
    """Mean and covariance of a random Gaussian."""
    root = rng.standard_normal((d, d))
    return rng.standard_normal(d), root @ root.T / d


# Distances


@given(st.integers(0, 2**32 - 1), st.integers(1, 6))
def test_frechet_distance_of_gaussians_is_the_closed_form(seed, d):
    rng = np.random.default_rng(seed)
    (m1, c1), (m2, c2) = gaussian(rng, d), gaussian(rng, d)
    expected = np.square(m1 - m2).sum() + np.trace(c1 + c2 - 2 * np.real(sqrtm(c1 @ c2)))
    assert frechet_of_moments(m1, c1, m2, c2) == pytest.approx(expected, rel=1e-4, abs=1e-4)


def test_frechet_distance_in_one_dimension_and_of_singular_covariances():
    zero = np.zeros(1)
    assert frechet_of_moments(zero, np.eye(1) * 4, zero + 3, np.eye(1) * 25) == pytest.approx(18)
    flat = np.diag([1.0, 0.0, 0.0])  # features that never vary, as dead units are
    moved = frechet_of_moments(np.zeros(3), flat, np.ones(3), flat)
    assert moved == pytest.approx(3)


def test_frechet_distance_of_samples_tends_to_that_of_their_distributions():
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((20_000, 3)), 2 * rng.standard_normal((20_000, 3)) + 1
    assert frechet_distance(x, x) == pytest.approx(0, abs=1e-9)
    assert frechet_distance(x, y) == pytest.approx(3 + 3, rel=0.05)


def test_kernel_distance_is_the_plain_double_sum():
    rng = np.random.default_rng(1)
    x, y = rng.standard_normal((7, 4)), rng.standard_normal((5, 4)) + 1

    def mean(a, b, *, same):
        pairs = [
            (u @ v / 4 + 1) ** 3 for i, u in enumerate(a) for j, v in enumerate(b)
            if not (same and i == j)
        ]  # fmt: skip
        return np.mean(pairs)

    expected = mean(x, x, same=True) + mean(y, y, same=True) - 2 * mean(x, y, same=False)
    assert kernel_distance(x, y) == pytest.approx(expected, rel=1e-9)


def test_kernel_distance_is_unbiased():
    """Over many pairs of small sets of one distribution it is zero on average; FD is not."""
    rng = np.random.default_rng(2)
    pairs = [rng.standard_normal((2, 10, 3)) for _ in range(2000)]
    found = [kernel_distance(x, y) for x, y in pairs]
    assert abs(np.mean(found)) < 4 * np.std(found) / np.sqrt(len(found))
    assert np.mean([frechet_distance(x, y) for x, y in pairs[:100]]) > 0.1


@pytest.mark.parametrize("distance", [frechet_distance, kernel_distance])
def test_distances_refuse_what_has_none(distance):
    for x, y in ((np.ones((1, 3)), np.ones((5, 3))), (np.ones((5, 3)), np.ones((5, 2)))):
        with pytest.raises(ValueError, match="at least 2 rows and equal columns"):
            distance(x, y)


# Coverage


def test_precision_and_recall_of_known_sets():
    rng = np.random.default_rng(3)
    two = np.concatenate([rng.standard_normal((200, 2)), rng.standard_normal((200, 2)) + 100])
    one, far = rng.standard_normal((200, 2)), rng.standard_normal((200, 2)) - 100
    assert precision_recall(two, two) == (1, 1)
    assert precision_recall(two, far) == (0, 0)
    precision, recall = precision_recall(two, one)  # real-looking, but half of it missing
    assert precision > 0.9
    assert 0.4 < recall <= 0.5
    spoiled = np.concatenate([two, far])  # everything, and as much that is not real
    precision, recall = precision_recall(two, spoiled[rng.permutation(600)])
    assert precision == pytest.approx(2 / 3)
    assert recall == 1


def test_balls_reach_to_the_third_neighbour_and_count_duplicates_as_neighbours():
    line = np.array([[0.0], [1.0], [2.0], [3.0], [10.0]])
    # The ball around 0 reaches to 3, that around 10 to 1.
    inside = np.array([[-3.0], [18.9], [5.0], [-1.0]])
    outside = np.array([[-3.1], [19.1], [-4.0], [20.0]])
    assert precision_recall(line, inside)[0] == 1
    assert precision_recall(line, outside)[0] == 0
    same = np.zeros((5, 1))
    assert precision_recall(same, np.full((5, 1), 1e-3)) == (0, 0)


def test_too_few_points_have_no_manifold():
    with pytest.raises(ValueError, match="need more points than that, got 3"):
        precision_recall(np.ones((3, 2)), np.ones((9, 2)))


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return open_dataset(write_digits(tmp_path_factory.mktemp("digits")))


@pytest.mark.parametrize("block_size", [100, 8192])
def test_nearest_training_images_are_those_of_a_plain_search(dataset, block_size):
    images = digits()[1400:1500].astype(np.float32) / 255
    train = dataset.floats("train")
    squares = np.square(images[:, None].astype(np.float64) - train[None]).sum(axis=(2, 3))
    distances, rows = nearest_training(images, dataset, block_size=block_size)
    np.testing.assert_array_equal(rows, squares.argmin(axis=1))
    np.testing.assert_allclose(distances, np.sqrt(squares.min(axis=1)), rtol=1e-4)
    copies, where = nearest_training(train[5:9], dataset, block_size=block_size)
    np.testing.assert_allclose(copies, 0, atol=5e-3)
    np.testing.assert_array_equal(where, [5, 6, 7, 8])


def test_copies_are_memorised_and_images_like_the_test_are_not():
    test = np.random.default_rng(4).uniform(1, 2, 10_000)
    assert memorised_fraction(np.zeros(50), test) == 1
    assert memorised_fraction(test, test) == pytest.approx(0.01)
    assert memorised_fraction(test + 1, test) == 0


# Mixtures


def clusters(rng, n=6000):
    """Three Gaussians in four dimensions, one coordinate collapsed."""
    means = np.array([[0, 0, 0, 0], [8, 0, 0, 0], [0, 8, 4, 0]])
    which = rng.choice(3, n, p=[0.5, 0.3, 0.2])
    noise = rng.standard_normal((n, 4)) * [1, 0.5, 2, 0]
    noise[:, 1] += 0.7 * noise[:, 0]
    return (means[which] + noise).astype(np.float32), means


def test_a_mixture_finds_its_components_and_samples_match_their_moments():
    rng = np.random.default_rng(5)
    latents, means = clusters(rng)
    mixture = fit_mixture(latents, 3, seed=0)
    order = np.argsort(-mixture.weights)
    np.testing.assert_allclose(mixture.weights[order], [0.5, 0.3, 0.2], atol=0.03)
    np.testing.assert_allclose(mixture.means[order], means, atol=0.3)
    made = mixture.sample(50_000, rng)
    assert made.dtype == np.float32
    np.testing.assert_allclose(made.mean(axis=0), latents.mean(axis=0), atol=0.1)
    np.testing.assert_allclose(np.cov(made.T), np.cov(latents.T), atol=0.4)


@given(st.integers(0, 2**32 - 1), st.integers(1, 5), st.integers(1, 4))
def test_log_density_is_that_of_scipy(seed, d, n_components):
    rng = np.random.default_rng(seed)
    parts = [gaussian(rng, d) for _ in range(n_components)]
    parts = [(mean, cov + 0.1 * np.eye(d)) for mean, cov in parts]
    weights = rng.dirichlet(np.ones(n_components))
    lower = np.tril_indices(d)
    mixture = Mixture(
        weights=weights.astype(np.float32),
        means=np.array([mean for mean, _ in parts], np.float32),
        factors=np.array([np.linalg.cholesky(c)[lower] for _, c in parts], np.float32),
    )
    points = rng.standard_normal((20, d)).astype(np.float32)
    density = sum(
        w * multivariate_normal(mean, cov).pdf(points).reshape(-1)
        for w, (mean, cov) in zip(weights, parts, strict=True)
    )
    np.testing.assert_allclose(mixture.log_density(points), np.log(density), rtol=1e-2, atol=1e-2)


def test_few_latents_get_fewer_components_and_a_covariance_all_the_same():
    rng = np.random.default_rng(6)
    everyone = rng.standard_normal((500, 10)).astype(np.float32)
    for n in (1, 3, 25):
        mixture = fit_mixture(everyone[:n], 20, seed=0, pooled_from=everyone)
        assert len(mixture.weights) == max(1, n // 20)
        assert np.isfinite(mixture.sample(100, rng)).all()
    single = fit_mixture(everyone[:1], 5, seed=0, pooled_from=everyone)
    np.testing.assert_allclose(np.cov(single.sample(50_000, rng).T), np.eye(10), atol=0.3)
    constant = fit_mixture(np.ones((30, 3), np.float32), 2, seed=0)
    np.testing.assert_allclose(constant.sample(10, rng), 1, atol=0.01)
    with pytest.raises(DataError, match="needs at least one latent"):
        fit_mixture(everyone[:0], 5, seed=0)


def test_the_same_seed_fits_and_draws_the_same_bytes():
    latents, _ = clusters(np.random.default_rng(7), 2000)
    first, second = (fit_mixture(latents, 3, seed=1) for _ in range(2))
    for name, array in first.arrays("m").items():
        np.testing.assert_array_equal(array, second.arrays("m")[name])
    draws = [first.sample(50, np.random.default_rng(s)) for s in (0, 0, 1)]
    np.testing.assert_array_equal(draws[0], draws[1])
    assert (draws[0] != draws[2]).all()


def test_damaged_mixtures_are_refused_in_a_sentence():
    good = fit_mixture(clusters(np.random.default_rng(8), 500)[0], 2, seed=0)
    bad_factors = good.factors.copy()
    bad_factors[0, 0] = np.nan
    for change, words in (
        ({"weights": good.weights * 2}, "sum to 1"),
        ({"weights": good.weights[:1]}, "a mean a weight"),
        ({"weights": -good.weights}, "at least 0"),
        ({"means": good.means.astype(np.float64)}, "float32"),
        ({"means": good.means[0]}, "a mean a weight"),
        ({"factors": good.factors[:, 1:]}, "triangle of 4 rows"),
        ({"factors": bad_factors}, "finite"),
    ):
        with pytest.raises(DataError, match=f"mixture of latents .*{words}"):
            replace(good, **change)
    with pytest.raises(DataError, match="holds no array 'other/weights'"):
        Mixture.of_arrays(good.arrays("mine"), "other")


# Ways between latents


points = st.lists(st.floats(-10, 10), min_size=3, max_size=3).map(np.array)


@given(points, points, points, st.integers(2, 9))
def test_ways_begin_and_end_where_they_should(start, end, centre, n):
    for way in (linear(start, end, n), spherical(start, end, n, centre)):
        assert way.shape == (n, 3)
        np.testing.assert_allclose(way[[0, -1]], [start, end], atol=1e-4)


@given(points, points)
def test_lengths_change_evenly_along_a_spherical_way(start, end):
    lengths = np.linalg.norm([start, end], axis=1)
    if lengths.min() < 0.1 or np.linalg.norm(np.cross(start, end)) < 0.1 * lengths.prod():
        return  # in line with the origin: the way is straight
    way = spherical(start, end, 7)
    np.testing.assert_allclose(np.linalg.norm(way, axis=1), np.linspace(*lengths, 7), rtol=1e-3)
    units = way / np.linalg.norm(way, axis=1, keepdims=True)
    angles = np.arccos(np.clip((units[1:] * units[:-1]).sum(axis=1), -1, 1))
    np.testing.assert_allclose(angles, angles.mean(), atol=2e-2)


def test_points_in_line_with_the_centre_are_joined_straight():
    for end in (2 * np.ones(3), -np.ones(3), np.zeros(3)):
        np.testing.assert_array_equal(spherical(np.ones(3), end, 5), linear(np.ones(3), end, 5))


# Binarisation


def test_binarised_pixels_are_white_as_often_as_they_are_bright():
    grey = np.full((4000, 3, 3), 0.3, np.float32)
    grey[:, 0, 0], grey[:, 2, 2] = 0, 1
    drawn = binarised(grey, 0, "test")
    assert set(np.unique(drawn)) == {0, 1}
    assert not drawn[:, 0, 0].any()
    assert drawn[:, 2, 2].all()
    np.testing.assert_allclose(drawn[:, 1, 1].mean(), 0.3, atol=0.03)
    np.testing.assert_array_equal(drawn, binarised(grey, 0, "test"))
    assert (drawn != binarised(grey, 1, "test")).any()


def test_batches_are_binarised_anew_in_every_epoch_and_alike_from_the_middle_on():
    grey = torch.full((70, 4, 4), 128, dtype=torch.uint8)
    order = Order(70, 32, 16, seed=1, window_bytes=2**28)
    batches = BinarisedBatches(ResidentBatches(grey, order), 1)
    first, second = (list(batches.epoch(epoch)) for epoch in (1, 2))
    assert [len(batch) for batch in first] == [32, 32, 6]
    assert set(torch.cat(first).unique().tolist()) == {0, 1}
    assert abs(float(torch.cat(first).mean()) - 0.5) < 0.1
    assert not any(torch.equal(x, y) for x, y in zip(first, second, strict=True))
    resumed = list(batches.epoch(1, 1))
    assert all(torch.equal(x, y) for x, y in zip(first[1:], resumed, strict=True))


def test_a_dear_mean_is_carried_over_without_bias_and_with_its_own_error():
    rng = np.random.default_rng(9)
    cheap = 100 + 30 * rng.standard_normal(2000)
    dear = cheap - 2 + 0.5 * rng.standard_normal(2000)
    draws = [np.sort(rng.choice(2000, 100, replace=False)) for _ in range(400)]
    found, errors = np.transpose([carried_over(cheap, rows, dear[rows]) for rows in draws])
    assert abs(found.mean() - dear.mean()) < 0.02
    assert found.std() == pytest.approx(errors.mean(), rel=0.2)
    assert errors.mean() < 0.1  # the plain mean of 100 images: 3
    everyone = np.arange(2000)
    assert carried_over(cheap, everyone, dear) == (pytest.approx(dear.mean()), 0)
