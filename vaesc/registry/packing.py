"""What a version consists of: code, bundle, signature, example images, pinned requirements.

An MLflow model is a folder. This one holds no pickle: ``model_definition.py`` as text, the
bundle's safetensors and JSON, and MLflow's own YAML.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

import vaesc
from vaesc.records import Dataset, Record
from vaesc.registry.files import BUNDLE
from vaesc.registry.system import version

if TYPE_CHECKING:
    from mlflow.entities import LoggedModel
    from mlflow.models import ModelSignature

    from vaesc.bundle import SparseVAE

_DEFINITION = Path(__file__).with_name("model_definition.py")
_PINNED = ("mlflow", "torch", "numpy", "scipy", "safetensors")
_N_EXAMPLES = 2

Images = np.ndarray[Any, Any]


def pack(
    target: Path,
    bundle: Path,
    model: SparseVAE,
    images: Images,
    *,
    logged: LoggedModel | None = None,
    run_id: str | None = None,
) -> None:
    """Write an MLflow model: code, bundle, signature, example, pinned requirements; no pickle.

    Args:
        target: The folder to write.
        bundle: Where the model was saved.
        model: The model.
        images: A few images in its range.
        logged: The entry it belongs to in MLflow; None for one that is only served.
        run_id: The run it belongs to.
    """
    from mlflow import pyfunc
    from mlflow.models import Model

    identity: dict[str, Any] = {"run_id": run_id}
    if logged is not None:
        identity |= {
            "artifact_path": logged.artifact_location, "model_uuid": logged.model_id,
            "model_id": logged.model_id,
        }  # fmt: skip
    facts = {
        "shape": list(model.shape), "low": model.low, "high": model.high,
        "latent_dim": model.latent_dim, "n_atoms": model.n_atoms,
        "n_nonzero_coefs": model.n_nonzero_coefs,
    }  # fmt: skip
    pyfunc.save_model(
        str(target),
        mlflow_model=Model(**identity),
        python_model=str(_DEFINITION),
        artifacts={BUNDLE: str(bundle)},
        signature=_signature(model.shape),
        input_example=images,
        pip_requirements=_pins(),
        metadata={"vaesc": facts},
    )  # fmt: skip


def _signature(shape: tuple[int, ...]) -> ModelSignature:
    """Return what the pyfunc model takes: see :mod:`vaesc.registry.model_definition`."""
    from mlflow.models import ModelSignature
    from mlflow.types import ParamSchema, ParamSpec, Schema, TensorSpec

    float32 = np.dtype("float32")
    return ModelSignature(
        inputs=Schema([TensorSpec(float32, (-1,) * (1 + len(shape)))]),
        outputs=Schema([TensorSpec(float32, (-1, *shape))]),
        params=ParamSchema(
            [
                ParamSpec("method", "string", "reconstruct"),
                ParamSpec("dtype", "string", "float32"),
            ]
        ),
    )


def _pins() -> list[str]:
    """Return the exact versions the model was made with; a build's local suffix is no version."""
    found = {name: version(name).partition("+")[0] for name in _PINNED}
    return [
        f"vaesc=={vaesc.__version__}",
        *(f"{name}=={number}" for name, number in found.items() if number),
    ]


def example_images(given: Images | None, records: Mapping[str, Record]) -> Images | None:
    """Return a few images in the dataset's own range; None if there are none to be had."""
    dataset = next((r for r in records.values() if isinstance(r, Dataset)), None)
    if given is not None:
        return np.asarray(given[:_N_EXAMPLES], np.float32)
    if dataset is None:
        return None
    from vaesc.datasets.reader import open_dataset

    images = open_dataset(Path(dataset.uri))
    unit = images.floats("test", slice(0, _N_EXAMPLES))
    return np.asarray(images.low + unit * (images.high - images.low), np.float32)


def ramp(model: SparseVAE) -> Images:
    """Return images that are nothing but every gray from black to white."""
    size = (_N_EXAMPLES, *model.shape)
    grays = np.linspace(model.low, model.high, int(np.prod(size)), dtype=np.float32)
    return grays.reshape(size)
