"""moto's S3 server with an empty bucket, for tests and measurements.

It honours ``If-None-Match`` and ranges, lets anybody in, and forgets everything when it ends.
"""

from __future__ import annotations

import os
import socket
import sys
from pathlib import Path
from typing import Self
from urllib.error import URLError
from urllib.request import Request, urlopen

from deployments.stack import BUCKET as BUCKET
from tasks.children import Child, free_port


class Moto:
    """The server, from :meth:`start` or ``with`` to :meth:`stop`.

    Args:
        folder: Where it logs.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self.port = folder, free_port()
        self.environment = {
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{self.port}", "AWS_REGION": "us-east-1",
            "AWS_ACCESS_KEY_ID": "anybody-at-all", "AWS_SECRET_ACCESS_KEY": "anything-at-all",
        }  # fmt: skip

    def start(self) -> None:
        """Start it, and wait until it has the bucket."""
        self._child = Child(
            "moto", [sys.executable, "-m", "moto.server", "-p", str(self.port)],
            log=self.folder / "moto.log", environment=dict(os.environ), folder=self.folder,
        )  # fmt: skip
        self._child.wait_until(self._made_bucket, 180)

    def stop(self) -> None:
        """End it."""
        self._child.stop()

    def _made_bucket(self) -> bool:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", self.port)):
                return False
        url = f"{self.environment['AWS_ENDPOINT_URL']}/{BUCKET}"
        try:
            urlopen(Request(url, method="PUT"), timeout=30).close()
        except (URLError, OSError):
            return False
        return True

    def __enter__(self) -> Self:
        """Start."""
        self.start()
        return self

    def __exit__(self, *error: object) -> None:
        """Stop."""
        self.stop()
