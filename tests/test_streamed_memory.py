"""Memory of train, learn, refine and evaluate: it does not grow with the number of images."""

import os
import subprocess
import sys

import numpy as np
import pytest
from imagesets import digits, write_dataset

from vaesc.config import TrainingConfig, VAEConfig
from vaesc.latents import extract
from vaesc.training import train

MOST = 3072
"""kB that count as no growth: two runs differ by 400; pixels or latents held are 8,192."""
OVER = """
import gc, sys
from pathlib import Path


def status(name):
    return int(Path("/proc/self/status").read_text().split(name)[1].split()[0])


def over(call, *args, **kwargs):
    "Most resident memory of a call beyond what there was before, kB."
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")
    before = status("VmRSS:")
    call(*args, **kwargs)
    return status("VmHWM:") - before
"""
PROGRAM = """
import shutil
from vaesc import arrays, latent_codes, windows
from vaesc.config import DictionaryConfig, EvaluationConfig
from vaesc.dictionary import learn
from vaesc.evaluation import evaluate, excerpt, kept_codes, pool
from vaesc.progress import SILENT
from vaesc.report import style
windows.PAGE, latent_codes.ROWS = 1024, 4096
arrays._CHUNK_BYTES, arrays.SHARD_BYTES = 2**16, 2**18
kept_codes.MEMORY_BYTES = 2**20
pool.EXACT, pool.GROUPS, excerpt.MOST = 2048, 1024, 2048
style.png_of = lambda draw, theme: b""  # canvases would take more than all the rest
dictionary = DictionaryConfig(n_atoms=16, n_nonzero_coefs=1, max_epochs=1, batch_size=512)
evaluation = EvaluationConfig(
    sparsity_levels=(1,), relearn=False, elbo_samples=1, iwae_samples=(1,), iwae_images=(10,),
    topk_epochs=1,
)
{hold}

def measured(n, root=Path(sys.argv[1])):
    names = ("dataset", "latents", "dictionary", "out")
    inputs = {{name: root / n / name for name in names}} | {{"vae": root / "vae"}}
    out = inputs.pop("out")
    for folder in (inputs["dictionary"], out):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
    how = {{"seed": 1, "listener": SILENT, "window_bytes": 2**20}}
    print(over(learn, dictionary, inputs["latents"], inputs["dictionary"], **how))
    how |= {{"device": "cpu", "block_size": 2048}}
    print(over(evaluate, evaluation, dictionary, inputs, out, **how))


for n in ("8192", "8192", "40960"):  # the first one imports, too
    measured(n)
"""


@pytest.fixture(scope="module")
def artifacts(tmp_path_factory):
    """8,192 and 40,960 images a split: as float32, pixels or latents, 8 MiB more, each."""
    root = tmp_path_factory.mktemp("memory")
    for n in (8192, 40_960):
        images = np.resize(digits(), (n, 8, 8))
        where = root / str(n) / "dataset", root / "vae"
        write_dataset(where[0], train=images, validation=images, test=images)
        if not where[1].exists():
            where[1].mkdir()
            vae = VAEConfig(hidden=(16,), latent_dim=64, beta=0.01)
            train(vae, TrainingConfig(epochs=1, batch_size=512), *where, seed=1, device="cpu")
        (root / str(n) / "latents").mkdir()
        extract(*where, root / str(n) / "latents", device="cpu")
    return root


def growth(root, program=PROGRAM, hold=""):
    """Return how much more memory two steps take of many images than of few, kB."""
    # What is freed goes back at once: resident is what is held.
    at_once = dict.fromkeys(("MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_"), "65536")
    done = subprocess.run(
        [sys.executable, "-c", OVER + program.format(hold=hold), str(root)],
        check=True, capture_output=True, text=True,
        env={**os.environ, **at_once, "MALLOC_ARENA_MAX": "1", "NUMPY_MADVISE_HUGEPAGE": "0"},
    )  # fmt: skip
    *_, few, much_few, many, much_many = map(int, done.stdout.split())
    return many - few, much_many - much_few


@pytest.mark.slow
def test_peak_memory_does_not_grow_with_n(artifacts):
    """What does grow is a note of a hundred bytes for each batch and each page."""
    learning, evaluating = growth(artifacts)
    assert learning < MOST
    assert evaluating < MOST


HOLD = """
from vaesc.latent_rows import LatentRows
fits = windows.fits
windows.fits = lambda X: fits(X) or isinstance(X, LatentRows) and X.split == "validation"
"""


@pytest.mark.long
def test_one_split_held_is_seen(artifacts):
    """The test above would fail: latents of the validation split are 8 MiB more."""
    assert min(growth(artifacts, hold=HOLD)) > MOST


TRAINING = """
import shutil
from vaesc import windows
from vaesc.config import DictionaryConfig, RefineConfig, TrainingConfig, VAEConfig
from vaesc.progress import SILENT
from vaesc.refinement import refine
from vaesc.training import streamed, train
windows.PAGE = 256
{hold}
VAE, BATCHES = VAEConfig(hidden=(4,), latent_dim=2), TrainingConfig(epochs=2, batch_size=256)
DICTIONARY = DictionaryConfig(n_atoms=8, n_nonzero_coefs=2, max_epochs=1, batch_size=256)
REFINE = RefineConfig(epochs=1, batch_size=256, hidden=(4, 4), channels=(), descent_steps=0)


def measured(n, root=Path(sys.argv[1])):
    out = root / "out"
    shutil.rmtree(out, ignore_errors=True)
    for folder in ("train", "refine"):
        (out / folder).mkdir(parents=True)
    how = {{"seed": 1, "listener": SILENT, "device": "cpu", "block_size": 256}}
    how["window_bytes"] = 2**20
    print(over(train, VAE, BATCHES, root / n, out / "train", **how))
    how["checkpoints"] = out / "checkpoints"
    print(over(refine, REFINE, DICTIONARY, (2,), root / n, out / "refine", **how))


for n in ("2048", "2048", "20480"):
    measured(n)
"""
HELD = "streamed.may_stay = lambda *_: True"


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """2,048 and 20,480 images to train on, 8 and 80 MiB as stored."""
    root = tmp_path_factory.mktemp("pictures")
    for n in (2048, 20_480):
        images = np.resize(np.kron(digits(), np.ones((1, 8, 8), np.uint8)), (n, 64, 64))
        write_dataset(root / str(n), train=images, validation=images[:256])
    return root


@pytest.mark.slow
def test_peak_memory_of_training_does_not_grow_with_n(pictures):
    assert max(growth(pictures, TRAINING)) < MOST


@pytest.mark.long
def test_a_split_held_while_training_is_seen(pictures):
    assert min(growth(pictures, TRAINING, HELD)) > 10 * MOST
