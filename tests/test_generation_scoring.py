"""How samples are scored: of sorted data sets too, against which baselines; the best prior."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from imagesets import write_dataset

from vaesc.applications.generation import features as features_module
from vaesc.applications.generation import scoring
from vaesc.applications.generation.features import Features, fit_features
from vaesc.applications.generation.sampler import NEW
from vaesc.applications.generation.scoring import Judge, Scores, best_prior
from vaesc.applications.generation.telling import LABELS, Measured, told
from vaesc.applications.groups import floats_of, some_rows
from vaesc.applications.subject import Subject
from vaesc.datasets.reader import open_dataset

N_CLASSES, EACH = 10, 40
BRIGHTNESS = Features(function=lambda x: x.flatten(1).double().mean(dim=1, keepdim=True).float())
"""One feature, which tells the class."""


def of_classes(classes):
    """Images of one brightness each, which is that of their class."""
    return (np.asarray(classes, np.uint8) * 25)[:, None, None] * np.ones((4, 4), np.uint8)


@pytest.fixture(scope="module")
def subject(tmp_path_factory):
    """Splits that are sorted by class, as folders of images are."""
    folder = tmp_path_factory.mktemp("sorted") / "data"
    images = of_classes(np.repeat(np.arange(N_CLASSES), EACH))
    write_dataset(folder, train=images, validation=images, test=images)
    return Subject(
        model=None, article=None, dataset=open_dataset(folder), folder=folder, seed=0,
        block_size=70,
    )  # fmt: skip


def classes_in(brightness):
    return set(np.rint(np.asarray(brightness).ravel() * 255 / 25).astype(int))


def test_rows_are_all_or_a_sample_and_images_come_in_their_order(subject):
    np.testing.assert_array_equal(some_rows(5, 7, np.random.default_rng(0)), np.arange(5))
    rows = some_rows(400, 60, np.random.default_rng(0))
    assert len(rows) == 60
    assert (np.diff(rows) > 0).all()
    assert rows.max() > 350
    mixed = np.random.default_rng(1).permutation(rows)
    found = floats_of(subject.dataset, "test", mixed, 70)
    np.testing.assert_array_equal(found, subject.dataset.floats("test")[mixed])


def test_of_a_sorted_data_set_any_images_are_scored_not_the_first(subject, monkeypatch):
    monkeypatch.setattr(scoring, "N_COVERED", 40)
    monkeypatch.setattr(scoring, "N_NEAREST", 40)
    judge = Judge(subject, BRIGHTNESS, 100)
    assert len(judge.test) == 100
    assert len(classes_in(judge.test)) == N_CLASSES
    assert len(classes_in(judge.first_test[:, 0, 0])) >= 8
    assert len(classes_in(judge.first_test[:10, 0, 0])) >= 5
    seen = []
    monkeypatch.setattr(scoring, "precision_recall", lambda *sets: seen.extend(sets) or (1, 1))
    floor = judge.floor()
    assert len(classes_in(floor.first[:, 0, 0])) >= 6
    assert [len(found) for found in seen] == [40, 40]
    assert all(len(classes_in(found)) >= 8 for found in seen)
    assert floor.frechet < 0.01


def stub(good):
    """Return a sampler with one prior like the images; of the others, one gives their first."""

    def latents(n, rng, *, prior):
        if prior == good:
            return of_classes(rng.integers(0, N_CLASSES, n)).astype(np.float32) / 255
        first = prior == min(set(NEW) - {good})
        few = of_classes(rng.integers(0, 2, n)).astype(np.float32) / 255
        return few if first else rng.random((n, 4, 4), np.float32)

    return SimpleNamespace(latents=latents, model=SimpleNamespace(unit_images=lambda z: z))


@pytest.mark.parametrize("good", NEW)
def test_the_best_prior_is_neither_noise_nor_like_the_first_images_alone(subject, good):
    best, distances = best_prior(stub(good), subject, BRIGHTNESS, 80)
    assert best == good
    assert distances[good] == min(distances.values())
    assert set(distances) == set(NEW)


def test_features_are_scaled_by_any_training_images(subject, monkeypatch):
    monkeypatch.setattr(features_module, "_N_SCALED", 100)
    found = fit_features(subject).of(subject.dataset.floats("train"))
    assert np.square(found.mean(axis=0)).sum() < 0.1 * found.var(axis=0).sum()


def scores(frechet, precision=0.5):
    return Scores(
        frechet=frechet, kernel=frechet / 10, precision=precision, recall=0.5, memorised=0.02,
        first=np.empty(0), nearest=np.empty(0),
    )  # fmt: skip


def measured(**frechet):
    found = {name: scores(frechet.get(name, 3.0)) for name in LABELS}
    return Measured(
        features=BRIGHTNESS, scores=found, agreement=None, bounds=None, best="coded",
        validation={}, n=100, source="mnist",
    )  # fmt: skip


def test_the_baseline_is_the_best_of_them_and_a_loss_is_called_one():
    found = told(measured(coded=1.1, pixels=18.0, standard=4.7, article_mixture=0.6, sparse=2.0,
                          mixture=1.5))  # fmt: skip
    figures = {f.key: f for f in found["figures"]}
    for key in ("test/frechet_distance", "test/kernel_distance"):
        assert figures[key].baseline_name == LABELS["article_mixture"]
    assert figures["test/frechet_distance"].baseline == 0.6
    sparse = figures["test/frechet_distance_sparse"]
    assert (sparse.baseline, sparse.baseline_name) == (1.5, LABELS["mixture"])
    assert figures["test/memorised_fraction"].baseline == 0.01
    sentence = found["sentence"]
    assert f"LOSES to {LABELS['article_mixture']} (0.6)" in sentence
    assert f"nearer than {LABELS['standard']} (4.7), {LABELS['pixels']} (18)" in sentence
    assert "FARTHER off than the mixture" in sentence
    won = told(measured(coded=0.5, article_mixture=0.6))["sentence"]
    assert "LOSES" not in won


def test_shares_are_held_against_the_largest():
    found = measured(coded=1.0)
    found = replace(found, scores={**found.scores, "standard": scores(9.0, precision=0.9)})
    precision = next(f for f in told(found)["figures"] if f.key == "test/precision")
    assert (precision.baseline, precision.baseline_name) == (0.9, LABELS["standard"])
