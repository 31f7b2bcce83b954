"""Dictionary learning: recovers what made the data, is reproducible, and copes with any size."""

import json
import subprocess
import sys

import numpy as np
import pytest

from vaesc.sparse import (
    LearnedDictionary,
    learn_dictionary,
    learn_dictionary_full,
    orthogonal_matching_pursuit,
)


def sparse_data(n, d, n_atoms, k, *, seed=0, noise=0.01):
    """Samples made of `k` atoms each, and the atoms."""
    rng = np.random.default_rng(seed)
    atoms = rng.standard_normal((n_atoms, d))
    atoms /= np.linalg.norm(atoms, axis=1, keepdims=True)
    codes = np.zeros((n, n_atoms))
    for row in codes:
        row[rng.choice(n_atoms, k, replace=False)] = rng.standard_normal(k) + 2 * rng.choice(
            (-1, 1), k
        )
    return (codes @ atoms + noise * rng.standard_normal((n, d))).astype(np.float32), atoms


def coding_mse(X, dictionary, k):
    return float(np.square(X - orthogonal_matching_pursuit(X, dictionary, k) @ dictionary).mean())


@pytest.mark.parametrize("selection", ["omp", "ols"])
def test_it_finds_the_atoms_that_made_the_data(selection):
    X, atoms = sparse_data(6000, 20, 30, 3)

    learned = learn_dictionary(
        X, n_atoms=30, n_nonzero_coefs=3, seed=0, selection=selection, max_epochs=20
    )

    best_match = np.abs(atoms @ learned.dictionary.T).max(axis=1)
    assert (best_match > 0.99).mean() >= 0.9


def test_the_result_is_a_plain_unit_dictionary_with_a_falling_error():
    X, _ = sparse_data(3000, 16, 32, 3)
    calls = []

    learned = learn_dictionary(
        X[500:],
        n_atoms=32,
        n_nonzero_coefs=3,
        seed=1,
        max_epochs=6,
        X_validation=X[:500],
        on_epoch=lambda epoch, row: calls.append((epoch, row)),
    )

    assert isinstance(learned, LearnedDictionary)
    assert learned.dictionary.dtype == np.float32
    assert learned.dictionary.flags.c_contiguous
    np.testing.assert_allclose(np.linalg.norm(learned.dictionary, axis=1), 1, atol=1e-6)
    assert calls == list(enumerate(learned.history, start=1))
    errors = [row["validation_mse"] for row in learned.history]
    assert learned.history[-1]["train_mse"] < learned.history[0]["train_mse"]
    assert min(errors) == errors[learned.best_epoch - 1] < errors[0]
    reported = np.square(
        X[:500]
        - orthogonal_matching_pursuit(X[:500], learned.dictionary, 3, selection="ols")
        @ learned.dictionary
    ).mean()
    assert reported == pytest.approx(min(errors), rel=1e-4)


def test_learning_beats_samples_as_atoms():
    X, _ = sparse_data(4000, 24, 48, 4)
    samples = X[:48] / np.linalg.norm(X[:48], axis=1, keepdims=True)

    learned = learn_dictionary(X, n_atoms=48, n_nonzero_coefs=4, seed=0)

    assert coding_mse(X, learned.dictionary, 4) < 0.5 * coding_mse(X, samples, 4)


def test_the_seed_fixes_every_byte_on_any_number_of_threads():
    X, _ = sparse_data(1500, 70, 40, 3)
    options = {"n_atoms": 40, "n_nonzero_coefs": 3, "max_epochs": 2}

    one = learn_dictionary(X, seed=5, n_threads=1, **options)
    two = learn_dictionary(X, seed=5, n_threads=2, **options)
    three = learn_dictionary(X, seed=5, n_threads=3, **options)
    other = learn_dictionary(X, seed=6, n_threads=1, **options)

    assert one.dictionary.tobytes() == two.dictionary.tobytes() == three.dictionary.tobytes()
    assert one.history == two.history == three.history
    assert one.dictionary.tobytes() != other.dictionary.tobytes()


def test_the_seed_fixes_every_byte_in_another_process():
    code = (
        "import hashlib, numpy as np; from vaesc.sparse import learn_dictionary; "
        "X = np.random.default_rng(0).standard_normal((600, 12)).astype(np.float32); "
        "D = learn_dictionary(X, n_atoms=24, n_nonzero_coefs=2, seed=3, max_epochs=2).dictionary; "
        "print(hashlib.sha256(D.tobytes()).hexdigest())"
    )
    digests = {
        subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True
        ).stdout
        for _ in range(2)
    }
    assert len(digests) == 1


@pytest.mark.parametrize(
    ("n", "d", "n_atoms", "k"),
    [
        (50, 2, 128, 2),
        (1, 3, 4, 1),
        (50, 2, 4, 4),
        (60, 300, 20, 5),
        (200, 8, 8, 8),
        (90, 4, 1, 1),
    ],
)
def test_any_size_works(n, d, n_atoms, k):
    X = np.random.default_rng(0).standard_normal((n, d))

    learned = learn_dictionary(X, n_atoms=n_atoms, n_nonzero_coefs=k, seed=0, max_epochs=2)

    assert learned.dictionary.shape == (n_atoms, d)
    np.testing.assert_allclose(np.linalg.norm(learned.dictionary, axis=1), 1, atol=1e-5)


@pytest.mark.parametrize("scale", [1e-100, 1e-30, 1e30, 1e100])
def test_the_scale_of_the_data_does_not_matter(scale):
    X = sparse_data(800, 10, 20, 2)[0].astype(np.float64)
    options = {"n_atoms": 20, "n_nonzero_coefs": 2, "seed": 0, "max_epochs": 3}

    plain = learn_dictionary(X, **options).dictionary
    scaled = learn_dictionary(X * scale, **options).dictionary

    assert coding_mse(X, scaled, 2) == pytest.approx(coding_mse(X, plain, 2), rel=0.5)


def test_constant_and_zero_data_give_unit_atoms():
    for X in (np.zeros((100, 6)), np.ones((100, 6))):
        learned = learn_dictionary(X, n_atoms=10, n_nonzero_coefs=2, seed=0, max_epochs=2)

        np.testing.assert_allclose(np.linalg.norm(learned.dictionary, axis=1), 1, atol=1e-5)


def test_dead_atoms_are_replaced():
    X, _ = sparse_data(4000, 16, 20, 3)
    # 19 atoms in a plane that the data hardly visits.
    X[:, :2] *= 1e-3
    angles = np.linspace(0, 3, 20)
    far = np.pad(np.stack([np.cos(angles), np.sin(angles)], axis=1), ((0, 0), (0, 14)))
    far[0] = 1.0

    learned = learn_dictionary(X, n_atoms=20, n_nonzero_coefs=3, seed=0, init=far, max_epochs=10)

    codes = orthogonal_matching_pursuit(X, learned.dictionary, 3)
    assert learned.n_revived > 0
    assert (np.bincount(codes.indices, minlength=20) > 0).all()


class Lazy:
    """Stands for a Zarr array: slices of rows, and nothing else."""

    def __init__(self, array):
        self.array, self.shape, self.dtype = array, array.shape, array.dtype

    def __getitem__(self, rows):
        assert isinstance(rows, slice)
        return self.array[rows]


def test_lazy_arrays_are_read_in_slices():
    X, _ = sparse_data(3000, 16, 24, 3)

    learned = learn_dictionary(Lazy(X), n_atoms=24, n_nonzero_coefs=3, seed=0, max_epochs=10)
    codes = orthogonal_matching_pursuit(Lazy(X), learned.dictionary, 3)

    assert coding_mse(X, learned.dictionary, 3) < 0.2 * X.var()
    assert codes.shape == (3000, 24)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"n_atoms": 0}, "n_atoms must be at least 1"),
        ({"n_nonzero_coefs": 9}, "n_nonzero_coefs must be a whole number from 1 to"),
        ({"batch_size": 0}, "batch_size must be at least 1"),
        ({"max_epochs": 0}, "max_epochs must be at least 1"),
        ({"memory": 0.5}, "memory must be at least 1"),
        ({"dead_below": -1.0}, "dead_below must be from 0 to 1"),
        ({"patience": -1}, "patience must be 0"),
        ({"init": np.zeros((8, 4))}, "zero atoms"),
        ({"init": np.ones((7, 4))}, "init must have shape"),
        ({"X_validation": np.ones((7, 5))}, "same number of columns"),
        ({"X": np.zeros((0, 4))}, "at least one sample"),
        ({"X": np.full((50, 4), np.nan)}, "X must be finite"),
    ],
)
def test_wrong_use_is_told(change, words):
    arguments = {"X": np.ones((50, 4)), "n_atoms": 8, "n_nonzero_coefs": 2, "seed": 0, **change}

    with pytest.raises(ValueError, match=words):
        learn_dictionary(arguments.pop("X"), **arguments)


class Stopped(Exception):
    """Stands for a power cut."""


def test_interrupted_and_resumed_equals_uninterrupted(tmp_path):
    X, _ = sparse_data(1000, 12, 24, 3)
    options = {"n_atoms": 24, "n_nonzero_coefs": 3, "seed": 0, "X_validation": X[:100]}
    whole = learn_dictionary(X, max_epochs=5, **options)
    file = tmp_path / "run.npz"

    def cut(epoch, row):
        if epoch == 2:
            raise Stopped

    with pytest.raises(Stopped):
        learn_dictionary(X, max_epochs=5, checkpoint=file, on_epoch=cut, **options)
    resumed = learn_dictionary(X, max_epochs=5, checkpoint=file, **options)
    again = learn_dictionary(X, max_epochs=5, checkpoint=file, **options)

    for run in (resumed, again):
        assert run.dictionary.tobytes() == whole.dictionary.tobytes()
        assert run.history == whole.history
        assert run.best_epoch == whole.best_epoch
    assert [path.name for path in tmp_path.iterdir()] == ["run.npz"]


@pytest.mark.parametrize("damage", ["half", "flipped", "not a zip", "empty"])
def test_a_damaged_checkpoint_costs_its_passes_only(tmp_path, caplog, damage):
    X, _ = sparse_data(300, 12, 24, 3)
    options = {"n_atoms": 24, "n_nonzero_coefs": 3, "seed": 0, "max_epochs": 3}
    file = tmp_path / "run.npz"
    whole = learn_dictionary(X, checkpoint=file, **options)
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 0xFF
    broken = {"half": data[: len(data) // 2], "flipped": data, "not a zip": b"no", "empty": b""}
    file.write_bytes(broken[damage])

    again = learn_dictionary(X, checkpoint=file, **options)

    assert "starting anew" in caplog.text
    assert again.dictionary.tobytes() == whole.dictionary.tobytes()
    assert again.history == whole.history


@pytest.mark.parametrize(
    "changes",
    [
        {"gram": np.nan}, {"dictionary": np.inf}, {"counts": {"n_steps": -1, "n_revived": 0}},
        {"counts": {"n_steps": "x", "n_revived": 0}}, {"rng": {}}, {"history": None},
    ],
)  # fmt: skip
def test_a_checkpoint_that_is_whole_but_not_ours_costs_its_passes_only(tmp_path, caplog, changes):
    """Its checksums are right: what it says is not."""
    X, _ = sparse_data(300, 12, 24, 3)
    file = tmp_path / "run.npz"
    options = {"n_atoms": 24, "n_nonzero_coefs": 3, "seed": 0, "max_epochs": 3}
    whole = learn_dictionary(X, checkpoint=file, **options)
    with np.load(file) as stored:
        arrays = dict(stored)
    notes = json.loads(str(arrays["notes"]))
    for name, value in changes.items():
        if name in arrays:
            arrays[name][0] = value
        elif value is None:
            del notes[name]
        else:
            notes[name] = value
    arrays["notes"] = np.array(json.dumps(notes))
    np.savez(file, **arrays)
    again = learn_dictionary(X, checkpoint=file, **options)
    assert "cannot be read" in caplog.text
    np.testing.assert_array_equal(again.dictionary, whole.dictionary)


def test_a_disk_that_refuses_costs_the_checkpoint_only(tmp_path, caplog):
    X, _ = sparse_data(300, 12, 24, 3)
    options = {"n_atoms": 24, "n_nonzero_coefs": 3, "seed": 0, "max_epochs": 2}
    whole = learn_dictionary(X, **options)
    refused = learn_dictionary(X, checkpoint=tmp_path / "no folder" / "run.npz", **options)
    assert "no checkpoint was written" in caplog.text
    assert refused.dictionary.tobytes() == whole.dictionary.tobytes()


def test_a_resumed_run_tells_of_the_passes_before(tmp_path):
    X, _ = sparse_data(300, 12, 24, 3)
    options = {"n_atoms": 24, "n_nonzero_coefs": 3, "seed": 0, "checkpoint": tmp_path / "run.npz"}
    learn_dictionary(X, max_epochs=2, **options)
    heard = []
    resumed = learn_dictionary(
        X, max_epochs=4, on_epoch=lambda epoch, row: heard.append((epoch, row)), **options
    )
    assert heard == list(enumerate(resumed.history, start=1))
    assert len(heard) == 4


def test_a_checkpoint_of_other_data_or_settings_is_refused(tmp_path):
    X, _ = sparse_data(300, 12, 24, 3)
    options = {"n_atoms": 24, "n_nonzero_coefs": 3, "max_epochs": 1}
    file = tmp_path / "run.npz"
    learn_dictionary(X, seed=0, checkpoint=file, **options)

    for samples, seed in ((X, 1), (X + 1, 0)):
        with pytest.raises(ValueError, match="other settings or samples"):
            learn_dictionary(samples, seed=seed, checkpoint=file, **options)


def test_learning_stops_when_passes_bring_nothing():
    X, _ = sparse_data(1000, 12, 24, 3)
    options = {"n_atoms": 24, "n_nonzero_coefs": 3, "seed": 0, "max_epochs": 200}

    by_error = learn_dictionary(X, tol=0.01, **options)
    by_validation = learn_dictionary(X[200:], X_validation=X[:200], patience=3, **options)

    assert len(by_error.history) < 200
    assert len(by_validation.history) == by_validation.best_epoch + 3 < 200


@pytest.mark.parametrize("method", ["ksvd", "aksvd", "mod"])
def test_full_batch_methods_lower_the_error_and_find_atoms(method):
    X, atoms = sparse_data(1500, 12, 18, 2)

    learned = learn_dictionary_full(
        X, n_atoms=18, n_nonzero_coefs=2, seed=0, method=method, max_epochs=25
    )

    errors = [row["train_mse"] for row in learned.history]
    assert errors[-1] < 0.2 * errors[0]
    np.testing.assert_allclose(np.linalg.norm(learned.dictionary, axis=1), 1, atol=1e-6)
    assert (np.abs(atoms @ learned.dictionary.T).max(axis=1) > 0.99).mean() >= 0.75


def test_k_svd_refits_an_atom_by_the_leading_singular_pair():
    rng = np.random.default_rng(0)
    X = (np.outer(rng.standard_normal(40), rng.standard_normal(6)) * 3).astype(np.float32)
    X += 0.1 * rng.standard_normal((40, 6)).astype(np.float32)

    learned = learn_dictionary_full(
        X, n_atoms=1, n_nonzero_coefs=1, seed=0, method="ksvd", max_epochs=3
    )

    leading = np.linalg.svd(X)[2][0]
    assert abs(learned.dictionary[0] @ leading) == pytest.approx(1, abs=1e-6)


def test_full_batch_methods_are_reproducible_on_any_number_of_threads():
    X, _ = sparse_data(1500, 12, 18, 2)
    options = {"n_atoms": 18, "n_nonzero_coefs": 2, "seed": 0, "max_epochs": 3}

    one, two = (learn_dictionary_full(X, n_threads=n, **options) for n in (1, 2))

    assert one.dictionary.tobytes() == two.dictionary.tobytes()


def test_wrong_use_of_full_batch_methods_is_told():
    with pytest.raises(ValueError, match="method must be"):
        learn_dictionary_full(np.ones((5, 3)), n_atoms=2, n_nonzero_coefs=1, seed=0, method="x")
