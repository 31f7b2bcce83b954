"""The registered model as MLflow's own tools load and serve it, kept as code and never pickled.

MLflow copies this file into the model and runs it to load the model; the weights beside it are
safetensors, and the classes come from the installed ``vaesc``, whose version the model pins. So
nothing here may be relative to this package, and nothing imports this module.

``predict(data, params={"method": ...})`` takes float32 arrays:

=============== =================================== ====================================
method          data                                result, float32
=============== =================================== ====================================
``reconstruct`` images, (n, *shape)                 images in [0, 1], (n, *shape)
``encode``      images, (n, *shape)                 codes, dense, (n, K)
``decode``      codes, K in a row: (n, 1, ..., K)   images in [0, 1], (n, *shape)
``score``       images, (n, *shape)                 squared error per image, (n,)
=============== =================================== ====================================

MLflow's signature holds one tensor, and here it is images or codes: it fixes dtype and number of
axes, and what it leaves open is checked below. Codes have as many axes as images, with ones.
"""

from __future__ import annotations

import math
import os
from typing import Any

import mlflow
import numpy as np
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import INVALID_PARAMETER_VALUE
from mlflow.pyfunc import PythonModel, PythonModelContext

METHODS = ("reconstruct", "encode", "decode", "score")


class SparseCodingModel(PythonModel):  # type: ignore[misc]  # mlflow's classes are untyped
    """A :class:`vaesc.bundle.SparseVAE` behind MLflow's one method."""

    def load_context(self, context: PythonModelContext) -> None:
        """Load the bundle, each file checked by its SHA-256."""
        from vaesc.bundle import SparseVAE

        device = os.environ.get("MLFLOW_DEFAULT_PREDICTION_DEVICE") or "auto"
        self.model = SparseVAE.load(context.artifacts["bundle"], device)

    # A bare ndarray is the one hint that MLflow does not try to read as a schema of rows.
    def predict(
        self,
        context: PythonModelContext,
        model_input: np.ndarray,
        params: Any = None,  # noqa: ANN401
    ) -> np.ndarray:
        """Apply one of the four methods.

        Raises:
            MlflowException: No such method, or data it cannot take; a server answers with 400.
        """
        from vaesc.errors import VaescError

        method = (params or {}).get("method") or METHODS[0]
        try:
            return self._apply(method, np.asarray(model_input))
        except VaescError as error:
            raise MlflowException(str(error), INVALID_PARAMETER_VALUE) from error

    def _apply(self, method: str, data: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        if method == "reconstruct":
            return self.model.reconstruct(data)
        if method == "encode":
            return np.asarray(self.model.encode(data).toarray(), np.float32)
        if method == "decode":
            return self.model.decode(data.reshape(len(data), math.prod(data.shape[1:])))
        if method == "score":
            return self.model.score(data)
        raise MlflowException(
            f"method must be one of {', '.join(METHODS)}, got {method!r}", INVALID_PARAMETER_VALUE
        )


mlflow.models.set_model(SparseCodingModel())
