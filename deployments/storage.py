"""The stack's S3 server alone, on this machine: for tests and measurements.

What a client needs is in ``environment``, in the names that everybody's S3 clients read. The
server keeps its objects as plain files, ``<folder>/<bucket>/<key>``, checks signatures, and is
there again with all it had after a stop. It ignores ``If-None-Match`` (rclone 1.75).
"""

from __future__ import annotations

import os
import secrets
import socket
from pathlib import Path
from types import TracebackType
from typing import Self

from deployments.stack import BUCKET, S3, program
from tasks.children import Child, free_port


class Storage:
    """One S3 server with one bucket, from :meth:`start` or ``with`` to :meth:`stop`.

    Args:
        folder: What it keeps and logs lies here; for each server a folder of its own.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self.port = folder, free_port()
        self.objects = folder / "objects"
        self._child: Child | None = None
        self.environment = {
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{self.port}", "AWS_REGION": "us-east-1",
            "AWS_ACCESS_KEY_ID": secrets.token_hex(10),
            "AWS_SECRET_ACCESS_KEY": secrets.token_hex(20),
        }  # fmt: skip

    def start(self) -> None:
        """Start it, the first time or again, and wait until it answers."""
        (self.objects / BUCKET).mkdir(parents=True, exist_ok=True)
        known = self.environment
        pair = f"{known['AWS_ACCESS_KEY_ID']},{known['AWS_SECRET_ACCESS_KEY']}"
        environment = {
            **{k: v for k, v in os.environ.items() if not k.startswith(("AWS_", "RCLONE_"))},
            "RCLONE_AUTH_KEY": f'"{pair}"', "RCLONE_CONFIG": str(self.folder / "rclone.conf"),
        }  # fmt: skip
        command = [program(S3[0]), *S3[1:], f"--addr=127.0.0.1:{self.port}", str(self.objects)]
        self._child = Child(
            "the S3 server", command, log=self.folder / "rclone.log", environment=environment,
            folder=self.folder,
        )  # fmt: skip
        self._child.wait_until(self._listens, 30)

    def stop(self) -> None:
        """End it; what it keeps stays."""
        if self._child is not None:
            self._child.stop()
            self._child = None

    def __enter__(self) -> Self:
        """Start."""
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Stop."""
        self.stop()

    def _listens(self) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0
