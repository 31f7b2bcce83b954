"""A server that goes away and comes back: a proxy before it that misbehaves at the n-th request.

``away``
    Connections are closed and none accepted for a few seconds, as by a server that restarts.
``slow``
    The request is passed on seconds late.
``error 500``
    The server says that it has failed, once.
``cut off``
    The server does what it is asked, and the connection ends before it can say so.

Bytes are passed on as they come, so that web sockets work, too; what begins like an HTTP request
counts as one.
"""

from __future__ import annotations

import re
import socket
import threading
import time
from contextlib import suppress
from urllib.parse import urlsplit

FAULTS = ("away", "slow", "error 500", "cut off")
_AWAY_SECONDS = 3.0
_LATE_SECONDS = 4.0
_REQUEST = re.compile(rb"(GET|POST|PUT|PATCH|DELETE|HEAD) /")
_FAILED = (
    b"HTTP/1.1 500 Internal Server Error\r\ncontent-type: text/plain\r\n"
    b"content-length: 20\r\nconnection: close\r\n\r\na fault was injected"
)


class Proxy:
    """Passes bytes on to a server, but for some.

    Args:
        url: The server.
        fault: One of :data:`FAULTS`; empty for none.
        nth: The request that it happens at, from 1 on.
    """

    def __init__(self, url: str, fault: str = "", nth: int = 0) -> None:
        self._target = urlsplit(url)
        self._fault, self._nth, self._away_until = fault, nth, 0.0
        self.n_requests = 0
        self._lock = threading.Lock()
        self._listener = socket.create_server(("127.0.0.1", 0))
        port = self._listener.getsockname()[1]
        self.url = f"http://127.0.0.1:{port}{self._target.path}"

    def __enter__(self) -> Proxy:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            if time.monotonic() < self._away_until:
                client.close()
                continue
            threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with suppress(OSError), client:
            address = (self._target.hostname, self._target.port)
            with socket.create_connection(address) as server:
                threading.Thread(target=_pour, args=(server, client), daemon=True).start()
                while chunk := client.recv(1 << 16):
                    fault = self._fault_of(chunk)
                    if fault == "away":
                        self._away_until = time.monotonic() + _AWAY_SECONDS
                        break
                    if fault == "error 500":
                        client.sendall(_FAILED)
                        break
                    if fault == "slow":
                        time.sleep(_LATE_SECONDS)
                    if fault == "cut off":
                        client.shutdown(socket.SHUT_RDWR)
                    server.sendall(chunk)
                    if fault == "cut off":
                        time.sleep(1)  # what was asked is done, and told to nobody
                        break

    def _fault_of(self, chunk: bytes) -> str:
        if not _REQUEST.match(chunk):
            return ""
        with self._lock:
            self.n_requests += 1
            return self._fault if self.n_requests == self._nth else ""


def _pour(source: socket.socket, sink: socket.socket) -> None:
    with suppress(OSError):
        while chunk := source.recv(1 << 16):
            sink.sendall(chunk)
        sink.shutdown(socket.SHUT_RDWR)
