"""What vaesc keeps: model folders, artifacts, remembered references, checkpoints."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path

import numpy as np
import torch

from vaesc.bundle import FILES, MANIFEST, SparseVAE
from vaesc.config import VAEConfig
from vaesc.dictionary import LatentDictionary
from vaesc.drift.reference import described
from vaesc.models import VAE, save_vae
from vaesc.registry.cache import ModelCache, Resolution
from vaesc.registry.files import fault
from vaesc.sparse.amortised import AmortisedCoder
from vaesc.store import Spec, Store, file_digest
from vaesc.training.checkpoints import _NAME as CHECKPOINT
from vaesc.training.checkpoints import Checkpoints

from .folder_targets import made
from .folders import unpack
from .target import Target

SHAPE = (4, 4)
_ATOMS, _DIM = 6, 2
_PLACEHOLDER = re.compile(rb"@sha\(([\w.]{1,40})\)@")


def tiny(kind: str = "ols") -> SparseVAE:
    """Return an untrained model: ``ols``, ``lista``, or ``refined`` with its decoder."""
    rng = np.random.default_rng(0)
    refined = kind == "refined"
    shaped = {"architecture": "linear-path", "channels": (2,)} if refined else {}
    hidden = (3, 3) if refined else (3,)
    vae = VAE(VAEConfig(hidden=hidden, latent_dim=_DIM, **shaped), SHAPE).eval()
    atoms = rng.normal(size=(_ATOMS, _DIM)).astype(np.float32)
    atoms /= np.linalg.norm(atoms, axis=1, keepdims=True)
    dictionary = LatentDictionary(
        dictionary=atoms, mean=np.zeros(_DIM, np.float32), scale=np.ones(_DIM, np.float32),
        coder="ols" if refined else kind, n_nonzero_coefs=1 if refined else 2, vae_sha256={},
        network=AmortisedCoder(atoms, 2, 1).weights() if kind == "lista" else None,
        descent_steps=2 if refined else 0,
        amounts=np.tile(np.float32([-1, 1]), (_ATOMS, 1)) if refined else None,
    )  # fmt: skip
    return SparseVAE(vae, dictionary)


def pixels() -> np.ndarray:
    """Return a few images for them."""
    return np.linspace(0, 1, 48, dtype=np.float32).reshape(3, *SHAPE)


def saved(kind: str) -> bytes:
    """Return a saved model as bytes, with placeholders for its digests."""

    def write(folder: Path) -> None:
        model = tiny(kind)
        save_vae(model.vae, folder)
        digests = {n: file_digest(folder / n) for n in ("vae.json", "vae.safetensors")}
        model.dictionary = LatentDictionary(**{**model.dictionary.__dict__, "vae_sha256": digests})
        x = pixels()
        model.reference = described(model.encode(x), model.score(x))
        model.save(folder)
        digests = {name: file_digest(folder / name) for name in (*FILES, "reference.json")}
        for path in (folder / "dictionary.json", folder / MANIFEST):
            text = path.read_text()
            for name, digest in digests.items():
                text = text.replace(digest, f"@sha({name})@")
            path.write_text(text)

    return made(write)


def with_digests(folder: Path) -> None:
    """Put digests where the placeholders are: without them no damage would get far."""

    def digest(found: re.Match[bytes]) -> bytes:
        path = folder / found[1].decode()
        content = path.read_bytes() if not path.is_symlink() and path.is_file() else b""
        return hashlib.sha256(content).hexdigest().encode()

    for name in ("dictionary.json", MANIFEST):
        path = folder / name
        if not path.is_symlink() and path.is_file():
            path.write_bytes(_PLACEHOLDER.sub(digest, path.read_bytes()))


def _model(data: bytes, folder: Path) -> None:
    unpack(data, folder / "m")
    with_digests(folder / "m")
    manifest = folder / "m" / MANIFEST
    if not manifest.is_symlink() and manifest.is_file():
        fault(folder / "m", hashlib.sha256(manifest.read_bytes()).hexdigest())
    model = SparseVAE.load(folder / "m", device="cpu")
    x = np.full((2, *model.shape), model.low, np.float32)
    model.decode(model.encode(x))
    model.score(x)


def _store(data: bytes, folder: Path) -> None:
    store = Store(folder / "store")
    first, _, _ = data.partition(b"\n@@ ")
    digest = first[:64].decode("ascii", "replace")
    if not re.fullmatch("[0-9a-f]{64}", digest):
        return
    unpack(data, store.path("latents", digest))
    store.find("latents", digest)


def _store_seeds() -> list[bytes]:
    spec = Spec(kind="latents", config={"a": 1}, inputs={}, source="0" * 64)

    def build(folder: Path) -> dict[str, int]:
        (folder / "x.bin").write_bytes(b"content")
        return {"n": 1}

    def write(folder: Path) -> None:
        artifact = Store(folder).make(spec, build)
        for path in artifact.path.iterdir():
            path.rename(folder / path.name)
        (folder / "locks" / f"latents-{spec.digest}.lock").unlink(missing_ok=True)

    return [made(write, spec.digest.encode())]


def _refs(data: bytes, folder: Path) -> None:
    cache = ModelCache()
    path = cache.root / "refs" / "key.json"
    path.parent.mkdir(parents=True)
    path.write_bytes(data)
    cache.recall("key")


def _ref_seeds() -> list[bytes]:
    found = Resolution(name="vaesc", version=3, digest="a" * 64, place="",
                       resolved="2026-01-01T00:00:00+00:00", atoms=(1, 2))  # fmt: skip
    return [json.dumps(found.__dict__).encode()]


def _checkpoint(data: bytes, folder: Path) -> None:
    (folder / CHECKPOINT).write_bytes(data)
    Checkpoints(folder, "fingerprint").load()


def _checkpoint_seeds() -> list[bytes]:
    def write(folder: Path) -> None:
        Checkpoints(folder, "fingerprint").save({"a": torch.ones(2, 3)}, {"epoch": 1})

    return [made(write).partition(CHECKPOINT.encode() + b"\n")[2]]


_JSON = (
    b"NaN", b"Infinity", b"-Infinity", b'"hidden": [1000000000]', b'"latent_dim": ', b'"shape": [',
    b'"low": ', b'"high": ', b'"vae_sha256": ', b'"../outside/secret": ', b'"coder": "lasso"',
    b'"architecture": "conv"', b'"channels": [1]', b'"F64"', b'"BF16"', b'"F8_E4M3"', b'"F8_E5M2"',
    b'"F8_E8M0"', b'"F4"', b'"F6_E2M3"', b'"data_offsets"',
    b"\n@@ bundle.json -> ../../outside/secret\n", b"\n@@ vae.json -> /dev/zero\n",
)  # fmt: skip
TARGETS = (
    Target(name="model", what="SparseVAE.load, then encode, decode, score", run=_model,
           seeds=lambda: [saved(kind) for kind in ("ols", "lista", "refined")], words=_JSON),
    Target(name="store", what="artifacts: manifest.json and what it lists", run=_store,
           seeds=_store_seeds, words=(*_JSON, b'"files": ', b'"sha256": ')),
    Target(name="refs", what="remembered references", run=_refs, seeds=_ref_seeds, words=_JSON),
    Target(name="checkpoint", what="training's checkpoints", run=_checkpoint,
           seeds=_checkpoint_seeds, words=_JSON),
)  # fmt: skip
