"""Over HTTP: requests to a served model, and answers to :class:`vaesc.serving.ModelClient`."""

from __future__ import annotations

import functools
import http.client
import json
import socket
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from vaesc.serving import ModelClient

from .model_targets import SHAPE, pixels, tiny
from .target import Target

_TYPES = {b"J": "application/json", b"C": "text/csv", b"P": "application/vnd.apache.parquet"}


@functools.cache
def _server() -> tuple[Callable[..., Any], Any, Any]:
    """Return what answers in a served model, the model and its signature."""
    from vaesc.registry.serving import pack_to_serve

    with tempfile.TemporaryDirectory(prefix="vaesc-fuzz-") as folder:
        packed = pack_to_serve(tiny(), Path(folder))
        import mlflow.pyfunc
        from mlflow.pyfunc import scoring_server

        from vaesc.registry.model_definition import _refusing

        model = mlflow.pyfunc.load_model(str(packed))
    return _refusing(scoring_server.invocations), model, model.metadata.get_input_schema()


def _request(data: bytes, folder: Path) -> None:
    """The first byte says the content type; a refusal is a status of 4xx and no stack."""
    from mlflow.exceptions import MlflowException

    answer, model, schema = _server()
    content_type = _TYPES.get(data[:1], data[:20].decode("latin-1"))
    try:
        said = answer(data[1:], content_type, model, schema)
    except MlflowException as error:
        if error.get_http_status_code() >= 500 or "Traceback" in error.serialize_as_json():
            raise RuntimeError(f"answered with a failure: {error}") from error
    else:
        if said.status >= 500:
            raise RuntimeError(f"answered with a failure: {said.response}")


def _request_seeds() -> list[bytes]:
    inputs = pixels()[:1].tolist()
    codes = [[[0.0, 1.0, 0, 0, 0, 0]]]
    bodies = [{"inputs": inputs}] + [
        {"inputs": codes if method == "decode" else inputs, "params": {"method": method}}
        for method in ("encode", "decode", "score")
    ]
    ones = {"inputs": [[[1] * 4] * 4], "params": {"dtype": "uint8", "method": "encode"}}
    split = {"dataframe_split": {"columns": ["a"], "data": [[1]]}}
    return [b"J" + json.dumps(b).encode() for b in (*bodies, ones, split)] + [b"Ca,b\n1,2\n"]


def _answer(data: bytes, folder: Path) -> None:
    ours, theirs = socket.socketpair()
    theirs.setblocking(False)
    theirs.sendall(data[:100_000])
    theirs.shutdown(socket.SHUT_WR)
    connect = http.client.HTTPConnection.connect
    try:
        http.client.HTTPConnection.connect = lambda self: setattr(self, "sock", ours)
        made = ModelClient("http://127.0.0.1:1", SHAPE, timeout=5).score(pixels()[:1])
        assert made.dtype == np.float32
    finally:
        http.client.HTTPConnection.connect = connect
        ours.close()
        theirs.close()


def _answer_seeds() -> list[bytes]:
    head = b"HTTP/1.1 %s\r\nContent-Type: application/json\r\n%s\r\n"
    chunked = head % (b"200 OK", b"Transfer-Encoding: chunked\r\n")
    return [
        head % (b"200 OK", b"Content-Length: 22\r\n") + b'{"predictions": [0.5]}',
        chunked + b'16\r\n{"predictions": [0.5]}\r\n0\r\n\r\n',
        head % (b"400 Bad Request", b"") + b'{"message": "Error: no"}',
        head % (b"500 Oh", b"") + b"no JSON",
    ]


TARGETS = (
    Target(name="request", what="POST /invocations of a served model", run=_request,
           seeds=_request_seeds, prepare=lambda: _server() and None,
           words=(b'{"inputs": ', b'"params": ', b'"method": "decode"', b'"dtype": "int64"',
                  b'"instances": ', b'"dataframe_split": ', b'"dataframe_records": ', b"1e39",
                  b'"messages"', b"C", b"P", b"PAR1")),
    Target(name="answer", what="answers to ModelClient", run=_answer, seeds=_answer_seeds,
           words=(b"HTTP/1.1 200 OK\r\n", b"HTTP/1.1 302 Found\r\nLocation: file:///etc/passwd\r\n",
                  b"Location: http://127.0.0.1:1/\r\n", b"Transfer-Encoding: chunked\r\n",
                  b"Content-Length: ", b"ffffffff\r\n", b'{"predictions": ', b'{"message": ')),
)  # fmt: skip
