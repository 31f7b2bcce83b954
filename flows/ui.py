"""Prefect's and MLflow's own pages on this machine, until interrupted: ``make ui``."""

from __future__ import annotations

import logging
import os
import socket
import subprocess
import sys
from pathlib import Path

from tasks import server
from vaesc.config import home
from vaesc.registry.connection import tracking_uri
from vaesc.registry.failures import prepare_environment

logger = logging.getLogger(__name__)


def main() -> int:
    """Start what does not run yet, say where it is, and wait."""
    logging.basicConfig(format="%(message)s", level=logging.INFO)
    logger.info("Prefect  %s", server.connect().removesuffix("/api"))
    uri = tracking_uri()
    if uri.startswith("http"):
        logger.info("MLflow   %s", uri)
        return 0
    prepare_environment()
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    logger.info("MLflow   http://127.0.0.1:%d   (Ctrl-C ends it)", port)
    binaries = str(Path(sys.executable).parent)
    command = [
        sys.executable, "-m", "mlflow", "server", "--backend-store-uri", uri,
        "--artifacts-destination", str(home() / "mlartifacts"), "--host", "127.0.0.1",
        "--port", str(port), "--workers", "1",
    ]  # fmt: skip
    environment = {**os.environ, "PATH": f"{binaries}{os.pathsep}{os.environ.get('PATH', '')}"}
    try:
        return subprocess.run(command, check=False, env=environment).returncode
    except KeyboardInterrupt:
        return 0


if __name__ == "__main__":
    raise SystemExit(main())
