"""Homes with a migrated MLflow database, and tiny models to register in them."""

import atexit
import functools
import json
import shutil
import tempfile
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.request import url2pathname

import numpy as np
import torch

from vaesc.bundle import SparseVAE
from vaesc.config import VAEConfig
from vaesc.dictionary import LatentDictionary
from vaesc.models import VAE, save_vae
from vaesc.registry import connect, load_model, register
from vaesc.registry.connection import _create_sqlite
from vaesc.registry.failures import prepare_environment
from vaesc.store import file_digest
from vaesc.training.threads import one_thread

SHAPE = (4, 5)
N_ATOMS = 12


@functools.cache
def template_database():
    """Migrate one database a session: it takes a second, a copy takes none."""
    folder = Path(tempfile.mkdtemp(prefix="vaesc-test-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    prepare_environment()
    _create_sqlite(folder / "mlflow.db")
    return folder / "mlflow.db"


def enter_home(folder, monkeypatch, *, database=True):
    """Make `folder` the home, and the default MLflow in it the one in use."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_REGISTRY_URI"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("VAESC_HOME", str(folder))
    monkeypatch.chdir(folder)
    if database:
        shutil.copy(template_database(), folder / "mlflow.db")
    return folder


def tiny_model(seed=0, *, low=0.0, high=1.0):
    """Return an untrained model with random atoms, different for every seed."""
    rng = np.random.default_rng(seed)
    config = VAEConfig(hidden=(8,), latent_dim=3)
    vae = VAE(config, SHAPE, generator=torch.Generator().manual_seed(seed)).eval()
    atoms = rng.normal(size=(N_ATOMS, 3)).astype(np.float32)
    with tempfile.TemporaryDirectory() as folder:
        save_vae(vae, Path(folder))
        digests = {p.name: file_digest(p) for p in Path(folder).iterdir()}
    dictionary = LatentDictionary(
        dictionary=atoms / np.linalg.norm(atoms, axis=1, keepdims=True),
        mean=rng.normal(size=3).astype(np.float32),
        scale=np.ones(3, np.float32),
        coder="ols",
        n_nonzero_coefs=2,
        vae_sha256=digests,
    )
    return SparseVAE(vae, dictionary, low=low, high=high)


def saved(folder, seed=0, **options):
    """Save a tiny model into `folder`."""
    tiny_model(seed, **options).save(folder)
    return folder


def registered(folder, seed=0, name="vaesc"):
    """Register a tiny model in a run of its own: its record."""
    runs = connect("test")
    bundle = saved(folder / f"bundle-{name}-{seed}", seed)
    return register(bundle, runs, run_id=runs.start_run("register"), name=name)


def files_of(record):
    """Return the folder of a version's bundle."""
    client = connect().client
    uri = client.get_model_version_download_uri(record.name, str(record.version))
    return Path(url2pathname(uri.removeprefix("file://")), "artifacts", "bundle")


def same_model(a, b):
    return np.array_equal(a.reconstruct(images()), b.reconstruct(images()))


def look_up_while_it_moves(client, versions, *, lookups=20, moves=50):
    """Look "champion" up from many threads at once while the alias moves, 50 times at least.

    Returns:
        What each lookup found: the origin, and the reconstructions as bytes.
    """
    begin = threading.Barrier(lookups + 1)

    def look():
        begin.wait(60)
        model = load_model("champion", device="cpu")
        return model.origin, reconstructed(model)

    with ThreadPoolExecutor(lookups) as pool:
        looks = [pool.submit(look) for _ in range(lookups)]
        begin.wait(60)
        made = 0
        while made < moves or not all(look.done() for look in looks):
            version = versions[made % len(versions)]
            client.set_registered_model_alias("vaesc", "champion", str(version))
            made += 1
        return [found.result() for found in looks]


def reconstructed(model):
    """Return reconstructions as bytes; on one thread, whose number may change their last bits."""
    with one_thread():
        return model.reconstruct(images()).tobytes()


def images(n=6, seed=0):
    return np.random.default_rng(seed).random((n, *SHAPE), dtype=np.float32)


def damage(path):
    """Flip the last byte of a file."""
    data = bytearray(path.read_bytes())
    data[-1] ^= 0xFF
    path.write_bytes(data)


def is_json(value):
    return json.loads(json.dumps(value)) == value
