"""Local codes, probes and clusters: optimality, invariances, known answers, refusals."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse import csr_array, load_npz, random_array, save_npz

from vaesc.applications.representation.clusters import (
    agreement,
    assigned,
    layout,
    memberships,
    mixture,
    placed,
)
from vaesc.applications.representation.coordinates import (
    RIDGE,
    LocalCoder,
    fit_local_coder,
    split_signs,
)
from vaesc.applications.representation.probes import (
    Labelled,
    drawn,
    few_shot_probe,
    linear_probe,
    neighbours_accuracy,
)
from vaesc.cli import main
from vaesc.cli.files import is_local_codes, save_local_codes
from vaesc.errors import DataError


def latents(n=600, d=6, seed=0):
    rng = np.random.default_rng(seed)
    return (rng.normal(size=(n, d)) * np.linspace(3, 0.5, d) + 5).astype(np.float32)


def fitted(z, n_anchors=80, k=8, seed=1):
    return fit_local_coder(
        z, n_anchors=n_anchors, n_nonzero_coefs=k, rng=np.random.default_rng(seed)
    )


def blobs(n=300, seed=0, apart=8.0, d=5):
    """Three well separated groups of points, and the group of each."""
    rng = np.random.default_rng(seed)
    of = rng.integers(0, 3, n)
    return (rng.normal(size=(n, d)) + apart * np.eye(3, d)[of]).astype(np.float32), of


def test_codes_have_k_entries_of_the_nearest_anchors_and_sum_to_one():
    z = latents()
    coder = fitted(z)
    codes = coder.encode(z)
    assert codes.shape == (600, len(coder.anchors))
    assert (np.diff(codes.indptr) == 8).all()
    np.testing.assert_allclose(codes.sum(axis=1), 1, rtol=1e-4)
    points = coder.points(z)
    distance = np.linalg.norm(points[:, None] - coder.anchors[None], axis=2)
    nearest = np.sort(np.argsort(distance, axis=1)[:, :8], axis=1)
    assert (codes.indices.reshape(-1, 8) == nearest).mean() > 0.999


@given(st.integers(0, 50))
@settings(max_examples=15)
def test_a_code_meets_the_optimality_condition_of_its_equation(seed):
    """The gradient of the Lagrangian vanishes: it is the same number for every anchor used."""
    z = latents(200, seed=seed)
    coder = fitted(z, n_anchors=40, k=5)
    codes, points = coder.encode(z[:20]), coder.points(z[:20]).astype(np.float64)
    for row, point in enumerate(points):
        used = slice(codes.indptr[row], codes.indptr[row + 1])
        anchors = coder.anchors[codes.indices[used]].astype(np.float64)
        a = codes.data[used].astype(np.float64)
        ridge = RIDGE * np.square(anchors - point).sum()
        gradient = anchors @ (a @ anchors - point) + ridge * a
        np.testing.assert_allclose(gradient - gradient.mean(), 0, atol=2e-4)


def test_codes_of_near_latents_are_near_where_those_of_a_pursuit_may_jump():
    z = latents()
    coder = fitted(z, k=20)
    moved = z + np.float32(1e-4) * latents(seed=9)
    change = np.abs((coder.encode(z) - coder.encode(moved)).toarray()).sum(axis=1)
    assert np.quantile(change, 0.95) < 0.05


def test_axes_are_uncorrelated_and_a_collapsed_dimension_is_left_out():
    z = np.hstack([latents(), 1e-4 * latents(seed=3)[:, :2]])
    coder = fitted(z)
    points = coder.points(z).astype(np.float64)
    assert points.shape[1] == 6
    correlation = np.corrcoef(points.T)
    np.testing.assert_allclose(correlation, np.eye(6), atol=1e-3)
    np.testing.assert_allclose(np.square(points).sum(axis=1).mean(), 1, rtol=1e-3)


def test_rotated_latents_have_the_same_distances_between_points():
    z = latents()
    turn = np.linalg.qr(np.random.default_rng(4).normal(size=(6, 6)))[0].astype(np.float32)
    a, b = (fitted(x).points(x)[:40] for x in (z, z @ turn))
    for_a, for_b = (np.linalg.norm(p[:, None] - p[None], axis=2) for p in (a, b))
    np.testing.assert_allclose(for_a, for_b, atol=1e-4)


@pytest.mark.parametrize("z", [np.ones((50, 3), np.float32), np.full((50, 3), np.nan, "f4")])
def test_latents_that_do_not_vary_or_are_not_finite_are_refused(z):
    with pytest.raises(DataError):
        fitted(z)


def test_latents_of_another_width_are_refused_and_none_have_no_codes():
    coder = fitted(latents())
    with pytest.raises(DataError, match="shape"):
        coder.encode(latents(d=5))
    assert coder.encode(latents()[:0]).shape == (0, len(coder.anchors))


def test_a_latent_on_an_anchor_is_coded_by_it():
    anchors = np.eye(3, dtype=np.float32)
    coder = LocalCoder(
        mean=np.zeros(3, np.float32), rotation=anchors, anchors=anchors, n_nonzero_coefs=1
    )
    codes = coder.encode(anchors)
    np.testing.assert_array_equal(codes.toarray(), np.eye(3))
    two = LocalCoder(mean=coder.mean, rotation=anchors, anchors=anchors, n_nonzero_coefs=3)
    assert (two.encode(anchors).toarray().argmax(axis=1) == np.arange(3)).all()


@given(st.integers(0, 99))
def test_split_signs_lose_nothing(seed):
    codes = csr_array(random_array((7, 9), density=0.4, rng=seed, dtype=np.float32))
    codes.data -= np.float32(0.5)
    before = codes.copy()
    split = split_signs(codes)
    assert (split.data > 0).all()
    np.testing.assert_array_equal((split[:, :9] - split[:, 9:]).toarray(), codes.toarray())
    assert (codes != before).nnz == 0


def labelled(x, y, parts=(200, 250)):
    a, b = parts
    return Labelled(
        train=x[:a], validation=x[a:b], test=x[b:], train_classes=y[:a],
        validation_classes=y[a:b], test_classes=y[b:],
    )  # fmt: skip


@pytest.mark.parametrize("kind", [np.asarray, csr_array])
def test_groups_that_lie_apart_are_told_apart_by_every_probe(kind):
    x, y = blobs()
    data = labelled(kind(x), y)
    assert linear_probe(data)[0] == 1
    assert neighbours_accuracy(data, 5) == 1
    assert few_shot_probe(data, 5, np.random.default_rng(0)) > 0.95


def strengths(validation, test, rng):
    """The strength chosen with these kinds of validation and test images.

    Training labels are half noise. Copies of training images with their labels are named best by
    a probe that is hardly held back and knows them by heart, new images with true labels by one
    that is held back.
    """
    truth, of_new = rng.integers(0, 2, 300), rng.integers(0, 2, 300)
    x, new = rng.normal(size=(2, 300, 300)).astype(np.float32)
    x[:, :10] += truth[:, None]
    new[:, :10] += of_new[:, None]
    noisy = np.where(rng.random(300) < 0.3, 1 - truth, truth)
    kinds = {"copies": (x, noisy), "new": (new, of_new)}
    (a, of_a), (b, of_b) = kinds[validation], kinds[test]
    return linear_probe(
        Labelled(
            train=x, validation=a, test=b, train_classes=noisy, validation_classes=of_a,
            test_classes=of_b,
        )
    )[1]  # fmt: skip


@given(st.integers(0, 20))
@settings(max_examples=5, deadline=None)
def test_a_probe_chooses_its_strength_by_validation_images_whatever_the_test_images_say(seed):
    chosen = {
        pair: strengths(*pair, np.random.default_rng(seed))
        for pair in (("copies", "copies"), ("copies", "new"), ("new", "copies"), ("new", "new"))
    }
    assert chosen["copies", "new"] == chosen["copies", "copies"]
    assert chosen["new", "copies"] == chosen["new", "new"]
    assert chosen["copies", "new"] > chosen["new", "copies"]


def test_labels_without_meaning_are_guessed():
    x, _ = blobs(1500)
    y = np.random.default_rng(7).integers(0, 3, 1500)
    accuracy, _ = linear_probe(labelled(x, y, (600, 800)))
    assert abs(accuracy - 1 / 3) < 0.08


def test_a_probe_does_not_look_at_units_and_few_shots_need_enough_images():
    x, y = blobs(apart=1.5)
    accuracy = linear_probe(labelled(x, y))[0]
    assert linear_probe(labelled(x * np.float32(1024), y))[0] == accuracy
    assert few_shot_probe(labelled(x, y), 199, np.random.default_rng(0)) is None


def test_without_validation_images_a_probe_is_fitted_all_the_same():
    x, y = blobs()
    assert linear_probe(labelled(x, y, (200, 200)))[0] == 1


def test_as_many_images_of_each_class_are_drawn():
    y = np.array([4] * 30 + [1] * 9 + [7] * 50)
    rows = drawn(y, 9, np.random.default_rng(0))
    assert (np.diff(rows) > 0).all()
    np.testing.assert_array_equal(np.bincount(y[rows])[[1, 4, 7]], 9)


def test_agreement_of_equal_partitions_is_one_under_any_names():
    classes = np.array([0, 0, 1, 1, 2, 2])
    for clusters in (classes, np.array([2, 2, 0, 0, 1, 1]), np.array([5, 5, 3, 3, 0, 0])):
        assert agreement(clusters, classes) == pytest.approx({"accuracy": 1, "nmi": 1, "ari": 1})


def test_agreement_of_a_partition_known_by_hand():
    """One cluster of all: the largest class is right, and nothing is learned."""
    classes = np.array([0, 0, 0, 1, 2])
    found = agreement(np.zeros(5, np.int64), classes)
    assert found == pytest.approx({"accuracy": 0.6, "nmi": 0, "ari": 0})
    assert agreement(np.arange(5), classes)["accuracy"] == pytest.approx(0.6)


@given(st.integers(0, 99))
def test_matching_is_at_least_as_good_as_any_naming(seed):
    rng = np.random.default_rng(seed)
    classes, clusters, names = rng.integers(0, 4, 30), rng.integers(0, 4, 30), rng.permutation(4)
    found = agreement(clusters, classes)
    assert found["accuracy"] >= (names[clusters] == classes).mean()
    assert agreement(names[clusters], classes) == pytest.approx(found)


def test_codes_carry_clusters_to_new_images():
    x, y = blobs(600)
    coder = fitted(x, n_anchors=60, k=5)
    codes = coder.encode(x)
    membership = memberships(codes[:400], y[:400], 3)
    total = membership.sum(axis=1)
    np.testing.assert_allclose(total[total > 0], 1, rtol=1e-5)
    np.testing.assert_array_equal(assigned(codes[400:], membership), y[400:])


def test_codes_are_placed_between_the_images_of_their_anchors():
    x, y = blobs(600)
    codes = fitted(x, n_anchors=60, k=5).encode(x)
    places = np.eye(3)[y]
    at = placed(codes[:400], places[:400], codes[400:])
    np.testing.assert_array_equal(at.argmax(axis=1), y[400:])
    np.testing.assert_allclose(at.sum(axis=1), 1, rtol=1e-5)


def test_the_layout_keeps_groups_apart_and_is_the_same_twice():
    x, y = blobs(240)
    laid = layout(x, seed=3)
    np.testing.assert_array_equal(laid, layout(x, seed=3))
    assert agreement(mixture(laid, 3, seed=0), y)["accuracy"] == 1


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["represent", "in.npy", "out.npy"], "must end in .npz"),
        (["represent", "in.npy", "out.npz", "--features", "latents"], "must end in .npy"),
        (["cluster", "in.npy", "out.npz"], "must end in .csv"),
        (["cluster", "in.npy", "out.csv", "--n-clusters", "0"], "at least 1"),
        (["cluster", "missing.npy", "out.csv"], "missing.npy"),
        (["decode", "local.npz", "out.npy"], "local codes of `vaesc represent`"),
    ],
)
def test_commands_say_what_is_wrong_in_one_sentence(
    arguments, says, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    np.save("in.npy", np.zeros((2, 8, 8)))
    with Path("local.npz").open("wb") as out:
        save_local_codes(out, csr_array(np.eye(3, dtype=np.float32)))
    assert main(arguments) in (1, 2)
    said = capsys.readouterr().err
    assert says in said
    assert said.count("\n") == 1
    assert sorted(p.name for p in tmp_path.iterdir()) == ["in.npy", "local.npz"]


def test_local_codes_are_scipys_with_a_mark(tmp_path):
    codes = csr_array(random_array((7, 9), density=0.4, rng=3, dtype=np.float32))
    for name in ("local.npz", "again.npz"):
        with (tmp_path / name).open("wb") as out:
            save_local_codes(out, codes)
    found = load_npz(tmp_path / "local.npz")
    assert type(found) is csr_array
    assert found.dtype == np.float32
    assert (found != codes).nnz == 0
    assert (tmp_path / "local.npz").read_bytes() == (tmp_path / "again.npz").read_bytes()
    assert is_local_codes(tmp_path / "local.npz")
    save_npz(tmp_path / "plain.npz", codes)
    assert not is_local_codes(tmp_path / "plain.npz")
