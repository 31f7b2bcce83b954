"""Dead atoms: found by counting, mended by giving them work, or an end, as the policy says."""

import numpy as np
import pytest

from vaesc.config import DictionaryConfig
from vaesc.dead_atoms import mend_dead_atoms
from vaesc.dictionary import learn_atoms, path
from vaesc.errors import TrainingError
from vaesc.progress import SILENT

K, D, LEVEL = 24, 6, 2
CONFIG = DictionaryConfig(
    n_atoms=K, n_nonzero_coefs=LEVEL, max_epochs=3, batch_size=64, max_dead_fraction=0.25
)


def unit(rows):
    return np.asarray(rows / np.linalg.norm(rows, axis=1, keepdims=True), np.float32)


@pytest.fixture(scope="module")
def samples():
    return np.random.default_rng(0).standard_normal((800, D)).astype(np.float32)


@pytest.fixture(scope="module")
def lame(samples):
    """Six atoms that do all the work, and eighteen copies of one of them, which do none."""
    living = unit(np.eye(D) + 0.1 * np.random.default_rng(1).standard_normal((D, D)))
    return np.concatenate([living, np.repeat(living[:1], K - D, axis=0)])


def code(samples, atoms):
    return path(samples, atoms, [LEVEL], coder="ols")[LEVEL]


def learner(samples):
    def learn(start, seed):
        return learn_atoms(
            CONFIG, samples, samples[:100], n_nonzero_coefs=LEVEL, seed=seed, listener=SILENT,
            start=start,
        )[0]  # fmt: skip

    return learn


def mend(samples, atoms, **settings):
    config = DictionaryConfig(**{**CONFIG.__dict__, **settings})
    return mend_dead_atoms(config, atoms, samples, code, learner(samples), 0)


def n_dead(samples, atoms):
    return int((abs(code(samples, atoms)).sum(axis=0) == 0).sum())


def error(samples, atoms):
    return float(np.square(samples - code(samples, atoms) @ atoms).mean())


def test_dead_atoms_are_given_work(samples, lame):
    assert n_dead(samples, lame) > K / 2
    atoms, (told,) = mend(samples, lame)
    assert n_dead(samples, atoms) <= 0.25 * K
    assert error(samples, atoms) < 0.7 * error(samples, lame)
    np.testing.assert_allclose(np.linalg.norm(atoms, axis=1), 1, rtol=1e-5)
    assert told.startswith(f"{n_dead(samples, lame)} of 24 atoms are used by no training latent")
    assert told.endswith(": mended")
    again, _ = mend(samples, lame)
    assert again.tobytes() == atoms.tobytes()


def test_living_atoms_are_left_alone(samples):
    atoms = learner(samples)(None, 0)
    kept, told = mend(samples, atoms)
    assert kept is atoms
    assert told == []


def test_the_policy_may_be_to_continue_or_to_fail(samples, lame):
    kept, (told,) = mend(samples, lame, on_dead_atoms="continue")
    assert kept is lame
    assert "max_dead_fraction=0.25" in told
    with pytest.raises(TrainingError, match=r"lower dictionary\.n_atoms .*on_dead_atoms=fail"):
        mend(samples, lame, on_dead_atoms="fail")


def test_more_atoms_than_latents_have_directions_cannot_be_mended(lame):
    """Two samples can use four atoms at most, whatever is learned."""
    two = np.random.default_rng(2).standard_normal((2, D)).astype(np.float32)
    kept, (told,) = mend_dead_atoms(CONFIG, lame, two, code, learner(two), 0)
    assert n_dead(two, kept) >= K - 2 * LEVEL
    assert told.endswith("lower dictionary.n_atoms")
