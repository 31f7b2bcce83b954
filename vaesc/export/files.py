r"""Encoder and decoder as ONNX: a model without Python.

Three graphs, float32 throughout, with any number of rows:

============== ============================= ==================================================
file           inputs                        outputs
============== ============================= ==================================================
encoder.onnx   ``images`` (n, \*shape)        ``latents`` (n, d): posterior mean;
                                             ``log_variance`` (n, d)
decoder.onnx   ``latents`` (n, d)            ``images`` (n, \*shape)
codes.onnx     ``codes`` (n, K), dense       ``images`` (n, \*shape): mean + scale (codes D),
                                             decoded
============== ============================= ==================================================

Images are in [0, 1] on either side: ``low`` and ``high`` of ``model.json`` say which values of the
data set that is. Sparse coding itself, latents to codes, is an algorithm and no graph: it stays
with :mod:`vaesc.sparse`, or with the server (``vaesc models serve``).
"""

from __future__ import annotations

import copy
import json
import logging
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vaesc.errors import DataError, VaescError
from vaesc.store import file_digest

if TYPE_CHECKING:
    from onnx import ModelProto
    from torch import Tensor, nn

    from vaesc.bundle import SparseVAE

OPSET = 18
"""Version of ONNX's operators; every runtime since 2023 knows it."""

SIDECAR = "model.json"
_FORMAT = 1
_NEEDED = ("onnx", "onnxscript")


def check_export(folder: Path) -> None:
    """Find what an export would fail of, before a model is loaded.

    Raises:
        VaescError: A package is missing.
        DataError: There is something at `folder` already, or nowhere to put it.
    """
    if missing := [name for name in _NEEDED if find_spec(name) is None]:
        raise VaescError(
            f'exporting to ONNX needs {" and ".join(missing)}: pip install "vaesc[onnx]"'
        )
    if folder.exists():
        raise DataError(f"{folder} is there already; name a folder that is not")
    if not folder.absolute().parent.is_dir():
        raise DataError(f"the folder {folder.parent} does not exist; make it, or choose another")


def export_onnx(model: SparseVAE, folder: Path) -> list[Path]:
    """Write a model's networks and ``model.json`` into `folder`, whole or not at all.

    Args:
        model: The model, on any device.
        folder: Where to write; must not be there yet.

    Returns:
        The files written.

    Raises:
        VaescError: A package is missing.
        DataError: There is something at `folder` already, or nowhere to put it.
    """
    check_export(folder)
    with tempfile.TemporaryDirectory(dir=folder.absolute().parent, prefix=".export-") as draft:
        target = Path(draft, "files")
        target.mkdir()
        facts = _facts(model)
        files = {}
        for name, network, given, outputs in _graphs(model):
            path = target / f"{name}.onnx"
            _export(network, given, outputs, path, facts)
            ((given_name, example),) = given.items()
            files[path.name] = {
                "sha256": file_digest(path),
                "inputs": {given_name: ["n", *example.shape[1:]]},
                "outputs": list(outputs),
            }
        text = json.dumps({**facts, "files": files}, indent=1, sort_keys=True)
        (target / SIDECAR).write_text(text + "\n")
        target.rename(folder)
    return sorted(folder.iterdir())


def _graphs(
    model: SparseVAE,
) -> Iterator[tuple[str, nn.Module, dict[str, Tensor], tuple[str, ...]]]:
    """Yield each graph: name, network, its input by name, names of its outputs."""
    import torch

    from vaesc.export.networks import Codes, Decoder, Encoder

    vae = copy.deepcopy(model.vae).to("cpu")
    # Two rows: of a batch of one the exporter would make a constant.
    latents = torch.zeros(2, model.latent_dim)
    yield (
        "encoder", Encoder(vae), {"images": torch.zeros(2, *model.shape)},
        ("latents", "log_variance"),
    )  # fmt: skip
    yield "decoder", Decoder(vae), {"latents": latents}, ("images",)
    codes = Codes(vae, model.dictionary)
    yield "codes", codes, {"codes": torch.zeros(2, model.n_atoms)}, ("images",)


def _export(
    network: nn.Module,
    given: dict[str, Tensor],
    outputs: tuple[str, ...],
    path: Path,
    facts: dict[str, Any],
) -> None:
    import onnx
    import torch

    ((name, example),) = given.items()
    with _quiet():
        program = torch.onnx.export(
            network.eval(), (example,), dynamo=True, opset_version=OPSET,
            input_names=[name], output_names=list(outputs),
            dynamic_shapes=({0: torch.export.Dim("n")},), verbose=False,
        )  # fmt: skip
    assert program is not None
    graph = program.model_proto
    _forget_its_making(graph)
    graph.producer_name = "vaesc"
    onnx.helper.set_model_props(graph, {f"vaesc.{k}": json.dumps(v) for k, v in facts.items()})
    onnx.checker.check_model(graph, full_check=True)
    onnx.save_model(graph, path)


def _forget_its_making(model: ModelProto) -> None:
    """Remove the exporter's notes: the source and the paths of the machine that exported."""
    graph = model.graph
    del graph.metadata_props[:]
    for each in [*graph.node, *graph.input, *graph.output, *graph.initializer, *graph.value_info]:
        each.ClearField("metadata_props")
        each.ClearField("doc_string")


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep the exporter's remarks on its own progress from the user."""
    log = logging.getLogger("torch.onnx")
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        log.setLevel(level)


def _facts(model: SparseVAE) -> dict[str, Any]:
    origin = model.origin
    return {
        "format": _FORMAT,
        "opset": OPSET,
        "model_digest": _digest(model),
        "model": f"{origin.name}/{origin.version}" if origin and origin.name else "",
        "shape": list(model.shape),
        "low": model.low,
        "high": model.high,
        "latent_dim": model.latent_dim,
        "n_atoms": model.n_atoms,
        "n_nonzero_coefs": model.n_nonzero_coefs,
    }


def _digest(model: SparseVAE) -> str:
    """Return the digest of the model: that of its ``bundle.json``."""
    from vaesc.bundle import MANIFEST

    if model.origin is not None:
        return model.origin.digest
    with tempfile.TemporaryDirectory(prefix="vaesc-") as folder:
        model.save(Path(folder))
        return file_digest(Path(folder, MANIFEST))
