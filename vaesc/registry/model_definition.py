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

A model of bytes takes integers in 0..255 and floats in 0..1, and tells them apart by their type,
which the way through float32 hides: ``params={"dtype": "uint8"}`` says what the images were.
"""

from __future__ import annotations

import functools
import logging
import math
import os
import sys
from collections.abc import Callable
from typing import Any

import mlflow
import numpy as np
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import BAD_REQUEST, INVALID_PARAMETER_VALUE
from mlflow.pyfunc import PythonModel, PythonModelContext

_logger = logging.getLogger(__name__)

METHODS = ("reconstruct", "encode", "decode", "score")
DTYPES = ("float32", "bool", "uint8", "int64")


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
        dtype = (params or {}).get("dtype") or DTYPES[0]
        try:
            return self._apply(method, _as_it_was(np.asarray(model_input), dtype))
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


def _as_it_was(data: np.ndarray[Any, Any], dtype: str) -> np.ndarray[Any, Any]:
    """Return float32 numbers as the type that they were, which must hold each of them."""
    if dtype not in DTYPES:
        raise MlflowException(
            f"dtype must be one of {', '.join(DTYPES)}, got {dtype!r}", INVALID_PARAMETER_VALUE
        )
    if dtype == "float32" or not np.isfinite(data).all():
        return data  # What is not finite is refused as such.
    with np.errstate(invalid="ignore"):
        found = data.astype(dtype)
    if not np.array_equal(found, data):
        raise MlflowException(
            f"not every number of the data is one of {dtype}", INVALID_PARAMETER_VALUE
        )
    return found


Answer = Callable[..., Any]


def _refusing(answer: Answer) -> Answer:
    """Let MLflow's scoring server answer 400 to what it cannot read, and keep its stack.

    MLflow 3.17 catches what its model raises and a plain error of syntax, but answers 500 to
    lists nested too deeply, to numbers of more than 4300 digits and to a request that names no
    content type: all of them faults of the request. To some others it answers with its stack,
    which belongs into its own log.
    """

    @functools.wraps(answer)
    def answer_or_refuse(data: Any, content_type: str | None, *rest: Any) -> Any:  # noqa: ANN401
        try:
            return answer(data, content_type or "application/json", *rest)
        except MlflowException as error:
            if trace := error.json_kwargs.pop("stack_trace", None):
                _logger.warning("%s\n%s", error, trace)
            raise
        except (RecursionError, ValueError, TypeError, KeyError, AttributeError) as error:
            _logger.warning("a request could not be read", exc_info=True)
            reason = f"{type(error).__name__}: {error}"
            raise MlflowException(
                f"the request cannot be read ({reason}); see mlflow's documentation of "
                'POST /invocations, or send {"inputs": [...], "params": {"method": ...}}',
                BAD_REQUEST,
            ) from error

    return answer_or_refuse


# Only in the process that serves this model; elsewhere this file changes nothing.
if "mlflow.pyfunc.scoring_server.app" in sys.modules:
    _server = sys.modules["mlflow.pyfunc.scoring_server"]
    if hasattr(_server, "invocations"):
        _server.invocations = _refusing(_server.invocations)  # type: ignore[attr-defined]

mlflow.models.set_model(SparseCodingModel())
