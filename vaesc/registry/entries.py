"""What is written into a run, in the form MLflow takes: tags of origin, parameters, datasets."""

from __future__ import annotations

import getpass
import hashlib
import json
import os
from collections.abc import Mapping
from typing import Any

import vaesc
from vaesc.processes import host_name, this_process
from vaesc.records import Dataset

HOST_TAG = "vaesc.host"
PROCESS_TAG = "vaesc.process"
_VALUE_LENGTH = 6000


def origin_tags() -> dict[str, str]:
    """Return who opened a run: what MLflow's own pages show, and what tells whether it lives."""
    return {
        "mlflow.user": user_name(),
        "mlflow.source.name": "vaesc",
        "mlflow.source.type": "LOCAL",
        "vaesc.version": vaesc.__version__,
        HOST_TAG: host_name(),
        PROCESS_TAG: this_process().to_json(),
    }


def user_name() -> str:
    """Return who runs this process."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        # A container's user may have a number and no name.
        return str(os.getuid()) if hasattr(os, "getuid") else "unknown"


def dataset_entity(record: Dataset, attrs: Mapping[str, Any]) -> Any:  # noqa: ANN401
    """Return MLflow's description of a dataset: where, which images, how many, and `attrs`."""
    import numpy as np
    from mlflow.data.dataset_source_registry import get_dataset_source_from_json
    from mlflow.data.meta_dataset import MetaDataset
    from mlflow.data.schema import TensorDatasetSchema
    from mlflow.entities import Dataset as Entity
    from mlflow.types import Schema, TensorSpec

    # MLflow takes 36 characters of digest; the whole one is in a tag.
    source = get_dataset_source_from_json(json.dumps({"uri": record.uri}), "local")
    known = MetaDataset(source, name=record.source, digest=record.content[:32]).to_dict()
    images = Schema([TensorSpec(np.dtype("float32"), (-1, *record.shape))])
    counts = {name: getattr(record, name) for name in ("n_train", "n_validation", "n_test")}
    known["schema"] = json.dumps(TensorDatasetSchema(images).to_dict())
    known["profile"] = json.dumps({**counts, **attrs}, sort_keys=True)
    return Entity(**known)


def param_text(value: Any) -> str:  # noqa: ANN401
    """Return a setting as text; what is too long is cut and ends with the SHA-256 of the whole."""
    text = value if isinstance(value, str) else json.dumps(value, sort_keys=True, default=str)
    if len(text) <= _VALUE_LENGTH:
        return text
    end = f"... sha256:{hashlib.sha256(text.encode()).hexdigest()}"
    return text[: _VALUE_LENGTH - len(end)] + end
