"""A client of a served model: numpy and Python's own library, nothing else.

.. code-block:: python

    from vaesc.serving import ModelClient       # the server: vaesc models serve champion

    client = ModelClient("http://127.0.0.1:5080", shape=(28, 28))
    codes = client.encode(images)               # (n, K), what load_model("champion") returns

The server is MLflow's: ``POST /invocations`` with ``{"inputs": [...], "params": {"method": ...}}``
(:mod:`vaesc.registry.model_definition` lists the methods). Anything that speaks HTTP can ask it;
three things are easily done wrong, and are done here. Numbers are written with the nine digits
that name a float32, not with the seventeen of its expansion. Large arrays go in pieces, the same
that the model itself works in, so that every result is the same to the bit. And integers say that
they are, since a byte image of ones is all but black, and one of floats is white.
"""

from __future__ import annotations

import http.client
import json
import math
import urllib.error
import urllib.request
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import numpy as np
from numpy.typing import NDArray

from vaesc.errors import ConfigError, DataError, ServingError

Floats = NDArray[np.float32]

_EXACT = 2**24
"""Integers up to this are exact in float32."""
_DECIDES = 2.0
"""A largest value below this may decide which range floats are taken to be in."""
_LONGEST = 500
_PIECE = 2**20
_MOST_BYTES = 2**30
"""Of one answer: a thousand images of 100,000 pixels, nine digits each."""


class ModelClient:
    """Asks one served model.

    Args:
        url: Where it is served, such as ``http://127.0.0.1:5080``.
        shape: Shape of one image, such as (28, 28).
        timeout: Seconds to wait for the answer to one request.
        images_per_request: Larger arrays go in several requests; 1024 are what the model itself
            takes at a time.

    Raises:
        ConfigError: The address is none of a server, or a number is not positive.
    """

    def __init__(
        self,
        url: str,
        shape: tuple[int, ...],
        *,
        timeout: float = 60.0,
        images_per_request: int = 1024,
    ) -> None:
        if urlsplit(url).scheme not in ("http", "https") or not urlsplit(url).hostname:
            raise ConfigError(f"url must be that of a server, http://HOST:PORT, got {url!r}")
        if not shape or min(shape) < 1:
            raise ConfigError(f"shape must be that of one image, such as (28, 28), got {shape}")
        if not timeout > 0 or images_per_request < 1:
            raise ConfigError(
                "timeout and images_per_request must be positive, got "
                f"{timeout} and {images_per_request}"
            )
        self.url, self.shape = url.rstrip("/"), tuple(shape)
        self.timeout, self.images_per_request = timeout, images_per_request

    def encode(self, images: NDArray[Any]) -> Floats:
        """Return the sparse codes of `images`, shape (n, K), dense: JSON has no sparse arrays.

        Args:
            images: Shape (n, *shape) or (n, prod(shape)); bool, integers or floats, in a range
                that :meth:`vaesc.SparseVAE.encode` takes.

        Raises:
            DataError: There are none, or the model refuses them.
            ServingError: The server does not answer, or not as it should.
        """
        return self._of_images("encode", images)

    def decode(self, codes: Any) -> Floats:  # noqa: ANN401 - any sparse or dense array
        """Return the images that `codes`, shape (n, K), stand for, shape (n, *shape)."""
        dense = np.asarray(codes.toarray() if hasattr(codes, "toarray") else codes)
        if dense.ndim != 2:
            raise DataError(f"codes must have shape (n, K), got {dense.shape}")
        rows = _whole_float32("codes", dense)
        # One tensor has one number of axes: codes have as many as images, of length one.
        axes = (1,) * (len(self.shape) - 1)
        return self._ask("decode", rows.reshape(len(rows), *axes, rows.shape[1]), "float32")

    def reconstruct(self, images: NDArray[Any]) -> Floats:
        """Return ``decode(encode(images))``, shape (n, *shape)."""
        return self._of_images("reconstruct", images)

    def score(self, images: NDArray[Any]) -> Floats:
        """Return each image's mean squared error of reconstruction, shape (n,)."""
        return self._of_images("score", images)

    def _of_images(self, method: str, images: NDArray[Any]) -> Floats:
        given = np.asarray(images)
        n_pixels = math.prod(self.shape)
        if given.shape[1:] not in (self.shape, (n_pixels,)):
            raise DataError(
                f"images must have shape (n, {', '.join(map(str, self.shape))}) or "
                f"(n, {n_pixels}), got {given.shape}; a single image needs a leading axis of 1"
            )
        kind = given.dtype.kind
        dtype = {"b": "bool", "f": "float32"}.get(kind, "int64")
        dtype = "uint8" if given.dtype == np.uint8 else dtype
        return self._ask(
            method, _whole_float32("images", given).reshape(len(given), *self.shape), dtype
        )

    def _ask(self, method: str, data: Floats, dtype: str) -> Floats:
        params = {"method": method, "dtype": dtype}
        parts = []
        for rows, part in self._pieces(data, dtype):
            answer = self._post(_request(part, params))
            if answer.ndim < 1 or len(answer) != len(part):
                raise ServingError(
                    f"{self.url} answers {len(part)} rows with an array of shape {answer.shape}; "
                    "is another model served there?"
                )
            parts.append(answer[:rows])
        return np.concatenate(parts)

    def _pieces(self, data: Floats, dtype: str) -> Iterator[tuple[int, Floats]]:
        """Yield what to send at a time, and how many of its rows count.

        The largest value of a batch of floats can decide whether they are in [0, 1] or in a range
        of bytes: a piece that is darker than the whole takes the brightest image along.
        """
        largest = float(data.max())
        floats_of_bytes = dtype == "float32" and largest > 1
        brightest = data[[int(data.reshape(len(data), -1).max(1).argmax())]]
        for start in range(0, len(data), self.images_per_request):
            piece = data[start : start + self.images_per_request]
            doubtful = floats_of_bytes and float(piece.max()) < min(largest, _DECIDES)
            yield len(piece), np.concatenate([piece, brightest]) if doubtful else piece

    def _post(self, body: bytes) -> Floats:
        request = urllib.request.Request(
            f"{self.url}/invocations", body, {"Content-Type": "application/json"}
        )
        try:
            with _OPENER.open(request, timeout=self.timeout) as answer:
                text = _read(answer)
        except urllib.error.HTTPError as error:
            raise _refusal(self.url, error) from error
        except (OSError, ValueError) as error:
            reason = getattr(error, "reason", error)
            raise ServingError(
                f"nothing answers at {self.url} ({reason}); start the server with `vaesc models "
                "serve`, or correct the address"
            ) from error
        except http.client.HTTPException as error:
            raise ServingError(
                f"{self.url} does not answer as HTTP does ({type(error).__name__}); is another "
                "server there?"
            ) from error
        try:
            return np.asarray(json.loads(text)["predictions"], np.float32)
        except (ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
            raise ServingError(
                f"{self.url} answers, but not with predictions ({type(error).__name__}); is "
                "another server there?"
            ) from error


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """A model's server sends nobody elsewhere: what says so is refused, and not followed.

    Python would first read all that such an answer claims to hold, however much that is.
    """

    def redirect_request(self, *_: object) -> None:
        """Follow nothing."""


_OPENER = urllib.request.build_opener(_NoRedirect)


def _read(answer: http.client.HTTPResponse | urllib.error.HTTPError) -> bytes:
    """Read an answer in pieces: Python sets aside all that its header claims, at once."""
    pieces: list[bytes] = []
    n_bytes = 0
    while piece := answer.read1(_PIECE) if hasattr(answer, "read1") else answer.read(_PIECE):
        pieces.append(piece)
        n_bytes += len(piece)
        if n_bytes > _MOST_BYTES:
            raise ValueError(f"more than {_MOST_BYTES} bytes")
    return b"".join(pieces)


def _whole_float32(what: str, array: NDArray[Any]) -> Floats:
    """Return an array as float32, if its numbers can be written so."""
    if array.dtype.kind not in "buif":
        raise DataError(f"{what} must be bool, integers or floats, got type {array.dtype}")
    if not array.size:
        raise DataError(f"there are no {what} to send, got shape {array.shape}")
    if array.dtype.kind in "ui" and not -_EXACT <= array.min() <= array.max() <= _EXACT:
        raise DataError(f"integers must lie in -2^24..2^24, got {array.min()} to {array.max()}")
    with np.errstate(over="ignore"):
        found = np.asarray(array, np.float32)
    if not np.isfinite(found).all():
        raise DataError(f"{what} must be finite in float32, got NaN or infinity")
    return found


def _request(data: Floats, params: dict[str, str]) -> bytes:
    """Return the JSON of one request."""
    one = _template(data.shape[1:])
    # "%.9g" tells every float32 from its neighbours; json would write its 17 digits as a double.
    rows = (one % tuple(row.ravel().tolist()) for row in data)
    return f'{{"inputs":[{",".join(rows)}],"params":{json.dumps(params)}}}'.encode()


def _template(shape: tuple[int, ...]) -> str:
    if not shape:
        return "%.9g"
    return f"[{','.join([_template(shape[1:])] * shape[0])}]"


def _refusal(url: str, error: urllib.error.HTTPError) -> DataError | ServingError:
    """Return what an answer with an error's status means: our fault, or the server's."""
    try:
        message = str(json.loads(_read(error))["message"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError, http.client.HTTPException):
        message = error.reason or "without a word"
    # MLflow repeats the data first, and then says what is wrong with it.
    said = " ".join(message.rpartition("Error: ")[2].split())
    said = said if len(said) <= _LONGEST else f"{said[:_LONGEST]}..."
    if 400 <= error.code < 500:
        return DataError(f"the model at {url} refuses this: {said}")
    return ServingError(f"the server at {url} failed with status {error.code}: {said}")
