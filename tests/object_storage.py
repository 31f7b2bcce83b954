"""Two S3 servers for tests: moto's, which honours conditions, and rclone's, which checks who asks.

Neither is enough alone. moto refuses a second ``If-None-Match: *`` and answers ranges rightly, but
lets anybody in and forgets all when it ends; rclone's (the stack's) checks signatures and keeps
plain files, but overwrites whatever the condition, and has the wrong status for a range.
"""

import os
import socket
import sys
from urllib.error import URLError
from urllib.request import Request, urlopen

from tasks.children import Child, free_port

BUCKET = "vaesc"


class Moto:
    """moto's server with an empty bucket."""

    def __init__(self, folder):
        self.folder, self.port = folder, free_port()
        self.environment = {
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{self.port}", "AWS_REGION": "us-east-1",
            "AWS_ACCESS_KEY_ID": "anybody-at-all", "AWS_SECRET_ACCESS_KEY": "anything-at-all",
        }  # fmt: skip

    def start(self):
        self.child = Child(
            "moto", [sys.executable, "-m", "moto.server", "-p", str(self.port)],
            log=self.folder / "moto.log", environment=dict(os.environ), folder=self.folder,
        )  # fmt: skip
        self.child.wait_until(self._made_bucket, 60)

    def stop(self):
        self.child.stop()

    def _made_bucket(self):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", self.port)):
                return False
        url = f"{self.environment['AWS_ENDPOINT_URL']}/{BUCKET}"
        try:
            urlopen(Request(url, method="PUT"), timeout=30).close()
        except (URLError, OSError):
            return False
        return True
