"""What applications add to a model: its facts and numbers damaged, then used as the CLI does."""

from __future__ import annotations

import functools
import json
import math
import re
import struct
from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path
from unittest import mock

import numpy as np

from vaesc.applications.anomaly.detector import Detector
from vaesc.applications.anomaly.explain import explain
from vaesc.applications.code_fit import fit_codes
from vaesc.applications.compression.codec import Codec
from vaesc.applications.generation.mixtures import fit_mixture
from vaesc.applications.generation.sampler import PRIORS, Priors, Sampler
from vaesc.applications.representation.clusters import memberships
from vaesc.applications.representation.coordinates import fit_local_coder
from vaesc.applications.representation.part import KINDS, Representation, save_representation
from vaesc.applications.semi_supervised.features import Features, part_of
from vaesc.applications.semi_supervised.spreading import graph_of, spread_labels
from vaesc.bundle import MANIFEST, SparseVAE
from vaesc.cli import detect
from vaesc.config import VAEConfig
from vaesc.models import VAE
from vaesc.parts import NAMES, Part, load_part, part_file, save_part

from .codec_targets import tiny_codec
from .folder_targets import made
from .folders import pack, split, unpack
from .model_targets import SHAPE, saved, tiny, with_digests
from .target import Target

_N = 16
_FACTS = "facts"
_TYPES = {"float64": "F64", "float32": "F32", "float16": "F16", "uint32": "U32", "uint16": "U16",
          "int8": "I8"}  # fmt: skip
_BYTES = {"F64": 8, "I64": 8, "C64": 8, "F32": 4, "U32": 4, "F16": 2, "BF16": 2, "U16": 2,
          "F4": 0.5}  # fmt: skip
_MOST_BYTES = 2**16
_saved = functools.cache(saved)


def _unit() -> np.ndarray:
    return np.random.default_rng(1).random((_N, *SHAPE)).astype(np.float32)


@functools.cache
def _parts() -> dict[str, Part]:
    """Return what every application adds to the tiny model."""
    rng, model, unit = np.random.default_rng(0), tiny(), _unit()
    latents, codes = model.latents_of_unit(unit), model.codes_of_unit(unit)
    mixture = fit_mixture(latents, 2, seed=0)
    priors = Priors(
        mixture=mixture, by_class={"a": mixture, "b": mixture}, means=latents[:4],
        stds=np.abs(latents[:4]), codes=fit_codes(codes, step=0.3, n_classes=2, rng=rng),
    )  # fmt: skip
    encoder = VAE(VAEConfig(hidden=(3,), latent_dim=2), SHAPE)
    return {
        "generation": priors.part(), "representation": _representation(latents),
        "anomaly": Detector.fit(model, unit[:8], _unit(), seed=0).part,
        "compression": tiny_codec().part(), "semi_supervised": part_of(encoder),
    }  # fmt: skip


def _representation(latents: np.ndarray) -> Part:
    rng = np.random.default_rng(0)
    coder = fit_local_coder(latents, n_anchors=4, n_nonzero_coefs=2, rng=rng)
    membership = memberships(coder.encode(latents), np.arange(_N) % 2, 2)
    found: list[Part] = []

    def write(folder: Path) -> None:
        save_representation(coder, membership, folder / "part")
        found.append(load_part(folder / "part"))

    made(write)
    return found[0]


def _members(name: str, part: Part) -> dict[str, bytes]:
    """Return a part in pieces: ``name/facts``, and ``name/array type shape`` for each array."""
    members = {f"{name}/{_FACTS}": json.dumps(dict(part.facts)).encode()}
    for array, values in part.arrays.items():
        shape = ",".join(map(str, values.shape))
        members[f"{name}/{array} {_TYPES[str(values.dtype)]} {shape}"] = values.tobytes()
    return members


def _assembled(members: Mapping[str, bytes]) -> dict[str, bytes]:
    """Return each part as the safetensors file of its pieces; whole files as they are."""
    files: dict[str, bytes] = {}
    pieces: dict[str, dict[str, bytes]] = {}
    for name, content in members.items():
        application, _, rest = name.partition("/")
        if application in NAMES:
            pieces.setdefault(application, {})[rest] = content
        else:
            files[name] = content
    return files | {part_file(name): _safetensors(own) for name, own in pieces.items()}


def _safetensors(pieces: Mapping[str, bytes]) -> bytes:
    """Return facts and arrays as a file.

    Lengths and offsets are right, whatever the pieces say: damage goes on to the numbers.
    """
    header: dict[str, object] = {}
    body = b""
    for name, content in pieces.items():
        if name == _FACTS:
            header["__metadata__"] = {_FACTS: content.decode("utf-8", "replace")}
            continue
        array, kind, dimensions = (*name.split(" "), "", "")[:3]
        shape = [int(n) for n in re.findall(r"\d{1,20}", dimensions)]
        n_bytes = int(min(math.prod(shape), _MOST_BYTES) * _BYTES.get(kind, 1))
        span = [len(body), len(body) + n_bytes]
        header[array] = {"dtype": kind, "shape": shape, "data_offsets": span}
        body += content.ljust(n_bytes, b"\0")[:n_bytes]
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + body


def _run(data: bytes, folder: Path) -> None:
    """The bytes before the first piece say which model the parts are added to."""
    first, members = split(data)
    kind = "refined" if first == b"refined" else "ols"
    files = _assembled(dict(members))
    unpack(_saved(kind) + pack(files), folder / "m")
    _list(folder / "m")
    with_digests(folder / "m")
    model = SparseVAE.load(folder / "m", device="cpu")
    # It looks for libraries to limit, eight milliseconds at each use; there is one thread anyway.
    with mock.patch("threadpoolctl.threadpool_limits", return_value=nullcontext()):
        for name, use in _USES.items():
            if name in model.parts:
                use(model)


def _list(folder: Path) -> None:
    """Add the parts that are there to the manifest."""
    facts = json.loads((folder / MANIFEST).read_bytes())
    there = [part_file(name) for name in NAMES if (folder / part_file(name)).is_file()]
    facts["files"] |= {name: f"@sha({name})@" for name in there}
    (folder / MANIFEST).write_text(json.dumps(facts))


def _sample(model: SparseVAE) -> None:
    sampler = Sampler.of(model)
    for prior in PRIORS:
        sampler.sample(2, prior=prior)
    for name in sampler.priors.by_class:
        sampler.sample(2, of_class=name)
    sampler.sample(2, on=[0], off=[1])
    start, end = _given(model)[:2]
    sampler.interpolate(start, end, 3, along="spherical")


def _represent(model: SparseVAE) -> None:
    representation, images = Representation.of(model), _given(model)
    for kind in KINDS:
        representation.features(images, kind)
    representation.clusters(images)
    representation.divided(images, 2)


def _detect(model: SparseVAE) -> None:
    detector, images = Detector.of(model), _given(model)
    verdict = detector.detect(images)
    explain(detector, model.to_unit(images)[:2])
    for write in (detect._json, detect._csv):
        write(detector, verdict, detector.false_alarm_rate)


def _compress(model: SparseVAE) -> None:
    codec = Codec.of(model)
    for quality in range(1, len(codec.qualities) + 1):
        codec.decompress(codec.compress(_given(model), quality))


def _label(model: SparseVAE) -> None:
    """All of :func:`.labelling.label` but its network, which sees pixels and takes a second."""
    labels = np.array([0, 1] + [-1] * (_N - 2))
    latents, _ = Features.of(model).posterior(model.to_unit(_given(model)))
    spread_labels(graph_of(latents, 3), labels, 2)


def _given(model: SparseVAE) -> np.ndarray:
    """Return images in the model's own range, whatever its shape."""
    unit = np.resize(_unit(), (_N, *model.shape))
    return np.asarray(model.low + (model.high - model.low) * unit.astype(np.float64), np.float32)


_USES = {"generation": _sample, "representation": _represent, "anomaly": _detect,
         "compression": _compress, "semi_supervised": _label}  # fmt: skip


def _seeds() -> list[bytes]:
    parts = _parts()
    one_by_one = [pack(_members(name, part)) for name, part in parts.items()]

    def write(folder: Path) -> None:
        for name, part in parts.items():
            save_part(part, folder / part_file(name))

    refined = {n: m for name in ("generation", "compression", "semi_supervised")
               for n, m in _members(name, parts[name]).items()}  # fmt: skip
    return [*one_by_one, made(write), pack(refined, b"refined")]


def _number(kind: str, *values: float) -> tuple[bytes, ...]:
    return tuple(struct.pack(kind, value) for value in values)


_WORDS = (
    b"F8_E4M3", b"F8_E5M2", b"F8_E8M0", b"F4", b"F6_E2M3", b"BF16", b"C64", b"BOOL", b"I64",
    b" F8_E4M3 1\n", b" F32 0\n", b" F32 1,1\n", b'"qualities": 1e999', b'"qualities": -1',
    b'"classes": ["a", "a"]', b'"best": "sparse"', b'"best": "coded"', b'"n_nonzero_coefs": 1',
    b'"false_alarm_rate": 1e-999', b'"format": ', b'"terms": []', b'"shape": [', b'"hidden": [1]',
    b'"vae": {}', b'"architecture": "linear-path"',
    *_number("<f", 3.4e38, -3.4e38, 1e19, 1e14, -1e14, 1e-14, 1e-38, 1e-45, 1.0, -1.0, math.nan),
    *_number("<d", 1e308, -1e308, 1e14, 1e-14, 5e-324, 1.0, -1.0, math.inf, math.nan),
    *_number("<H", 0, 1, 65535, 65504, 31743), *_number("<I", 65536, 2**32 - 1),
)  # fmt: skip
TARGETS = (
    Target(name="parts", what="what applications add to a model, each used as the CLI does",
           run=_run, seeds=_seeds, words=_WORDS),
)  # fmt: skip
