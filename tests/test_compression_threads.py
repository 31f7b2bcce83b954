"""The codec gives the same bytes on any number of cores."""

import hashlib
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from imagesets import digits, write_dataset

from vaesc.applications.compression import learning
from vaesc.applications.subject import open_subject
from vaesc.config import DictionaryConfig, VAEConfig
from vaesc.dictionary import learn
from vaesc.latents import extract
from vaesc.models import VAE, save_vae
from vaesc.progress import SILENT

PROGRAM = """
import hashlib, sys
import numpy as np
from vaesc.applications.compression.codec import Codec
from vaesc.bundle import SparseVAE
codec = Codec.of(SparseVAE.load(sys.argv[1], device="cpu"))
data = codec.compress(np.load(sys.argv[2]), 1)
back = codec.decompress(data)
print(len(data), hashlib.sha256(data).hexdigest(), hashlib.sha256(back.tobytes()).hexdigest())
"""


def large_digits():
    """Digits of 28x28 pixels with noise, float: their last bits are not rounded away."""
    images = np.kron(digits(), np.ones((3, 3))) / 255
    images = np.pad(images, ((0, 0), (2, 2), (2, 2)))
    noise = np.random.default_rng(0).random(images.shape)
    return (0.8 * images + 0.2 * noise).astype(np.float32)


@pytest.fixture(scope="module")
def paths(tmp_path_factory):
    """Folder of a model of 28x28 images with a codec of one fine quality, and a file of some."""
    root = tmp_path_factory.mktemp("threads")
    images = large_digits()
    folders = {name: root / name for name in ("dataset", "vae", "latents", "dictionary", "out")}
    for name in ("vae", "latents", "dictionary", "out"):
        folders[name].mkdir()
    write_dataset(folders["dataset"], train=images[:700], validation=images[700:750])
    config = VAEConfig(hidden=(64,), latent_dim=8)
    save_vae(VAE(config, (28, 28), generator=torch.Generator().manual_seed(5)), folders["vae"])
    extract(folders["dataset"], folders["vae"], folders["latents"], device="cpu")
    settings = DictionaryConfig(n_atoms=32, n_nonzero_coefs=3, max_epochs=1)
    learn(settings, folders["latents"], folders["dictionary"], seed=0, listener=SILENT)
    out = folders.pop("out")
    subject = open_subject(folders, out, seed=0, n_nonzero_coefs=3, device="cpu")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(learning, "QUALITIES", 1)
        patch.setattr(learning, "HIGHEST_PRICE", 0.002)
        subject.model.parts["compression"] = learning.learn_codec(subject).part()
    subject.model.save(root / "model")
    np.save(root / "in.npy", images[750:1774])
    return root / "model", root / "in.npy"


def test_the_number_of_threads_changes_no_byte(paths):
    said = []
    for n in (1, 2):
        threads = {name: str(n) for name in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS")}
        done = subprocess.run(
            [sys.executable, "-c", PROGRAM, *map(str, paths)], env=os.environ | threads,
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        said.append(done.stdout.split())
    assert said[0] == said[1]
    assert int(said[0][0]) > 50_000  # many details, whose sums are what threads would share
    assert said[0][2] != hashlib.sha256(np.load(paths[1]).tobytes()).hexdigest()
