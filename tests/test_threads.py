"""Bytes do not depend on the thread that computes, on a machine whose libraries use two."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

LIMIT = """
import threading
import numpy as np
from concurrent.futures import ThreadPoolExecutor
from vaesc.sparse._blocks import _blas, single_threaded_blas

def threads():
    return {library.get_num_threads() for library in _blas()}

assert threads() == {2}
with single_threaded_blas():  # the first to set a limit lives on
    assert threads() == {1}
inside, go = threading.Event(), threading.Event()

def hold():
    with single_threaded_blas():
        inside.set()
        go.wait(30)
        return threads()

with ThreadPoolExecutor(1) as pool:
    with single_threaded_blas():
        held = pool.submit(hold)
        assert inside.wait(30)
    assert threads() == {1}, "the second has not left yet"
    go.set()
    assert held.result() == {1}
assert threads() == {2}, "the last has left, whoever came first"
"""

CODES = """
import numpy as np
from concurrent.futures import ThreadPoolExecutor
from vaesc.sparse import orthogonal_matching_pursuit

rng = np.random.default_rng(0)
atoms = rng.standard_normal((256, 32)).astype(np.float32)
atoms /= np.linalg.norm(atoms, axis=1, keepdims=True)
X = rng.standard_normal((4096, 32)).astype(np.float32)

def coded():
    return orthogonal_matching_pursuit(X, atoms, 8, selection="ols").data.tobytes()

here = coded()
with ThreadPoolExecutor(1) as pool:
    assert pool.submit(coded).result() == here
"""

IMAGES = """
from registry_homes import images, tiny_model
from vaesc.shards import in_order
from vaesc.training.threads import one_thread

model = tiny_model()
latents = model.latents(images())

def decoded(_):
    return model.unit_images(latents).tobytes()

with one_thread():
    here = {*in_order(decoded, range(20), 1)}
    assert len(here) == 1
    assert {*in_order(decoded, range(20), 3)} == here
"""


@pytest.mark.parametrize("program", [LIMIT, CODES, IMAGES], ids=["limit", "codes", "images"])
def test_two_threads_of_blas_change_nothing(program):
    two = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "2")
    two["PYTHONPATH"] = os.pathsep.join([str(Path(__file__).parent), *sys.path])
    done = subprocess.run(
        [sys.executable, "-c", program], env={**os.environ, **two}, capture_output=True,
        text=True, timeout=600,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
