"""The servers of ``compose.yaml`` on this machine, without Docker.

::

    python -m deployments.stack              # or: make stack

    PostgreSQL <── Prefect server <── vaesc, workers
        ^                                 │
        └───────── MLflow server <────────┘
    S3 <───────────────┘

Prefect and MLflow keep what they know in PostgreSQL. Artifacts lie on an S3 endpoint, which only
the MLflow server talks to: everybody else reaches them through it, and needs no key to S3. The
commands are those of ``compose.yaml``; ports are whatever is free.

Secrets are made once for a folder and kept in it, readable by its owner only. They reach the
servers through their environments: no command line, no configuration file and no log shows one.
"""

from __future__ import annotations

import argparse
import logging
import os
import shlex
import shutil
import signal
import socket
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Self

from deployments.credentials import Secrets, write_private
from deployments.postgres import USER, Postgres
from tasks.children import Child, ServerError, free_port
from tasks.server import ENVIRONMENT, answers
from vaesc.config import home
from vaesc.errors import VaescError

logger = logging.getLogger(__name__)

BUCKET = "vaesc"
LOGIN = "vaesc"
"""The user name at both servers."""

MLFLOW = ["mlflow", "server", "--workers=1", f"--artifacts-destination=s3://{BUCKET}/mlflow"]
MLFLOW_AUTH = ["--app-name=basic-auth"]
PREFECT = ["prefect", "server", "start"]
S3 = ["rclone", "serve", "s3"]

_AUTH_FILE = Path(__file__).with_name("mlflow_auth.ini")
_START_SECONDS = 180.0
_FOREIGN = ("PREFECT_", "MLFLOW_", "AWS_", "RCLONE_", "PG")


class Stack:
    """The four servers, from ``with`` to its end; nothing of them is left running after it.

    Args:
        folder: What they keep and log lies here, and is there again at the next start.
        auth: Whether Prefect and MLflow ask who one is; PostgreSQL and S3 always do.

    Attributes:
        environment: What a client needs to use Prefect and MLflow, credentials included.
        storage: What the MLflow server, and nobody else, needs to use S3.
    """

    def __init__(self, folder: Path, *, auth: bool = True) -> None:
        self.folder, self.auth = folder.resolve(), auth
        self.environment: dict[str, str] = {}
        self.storage: dict[str, str] = {}
        self._checks: list[Callable[[], None]] = []
        self._open = ExitStack()

    def __enter__(self) -> Self:
        """Start the servers, and return when all of them answer.

        Raises:
            ServerError: One is not installed or does not start; the others are stopped again.
        """
        with ExitStack() as opened:
            self._start(opened)
            self._open = opened.pop_all()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Stop the servers, the last started first."""
        self._open.close()

    def check(self) -> None:
        """Raise if a server has ended.

        Raises:
            ServerError: It names the server and its last words.
        """
        for check in self._checks:
            check()

    def _start(self, opened: ExitStack) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        known = Secrets.of(self.folder)
        postgres = Postgres(self.folder, free_port(), known.postgres)
        opened.callback(postgres.stop)
        self._checks = [postgres.check]
        s3 = self._s3(opened, known)
        s3.wait_until(lambda: _listens(self.storage["MLFLOW_S3_ENDPOINT_URL"]), 30)
        # Both take their time to migrate their databases: together.
        mlflow = self._mlflow(opened, known, postgres.environment)
        prefect = self._prefect(opened, known, postgres.environment)
        mlflow.wait_until(lambda: answers(self.environment["MLFLOW_TRACKING_URI"]), _START_SECONDS)
        prefect.wait_until(lambda: answers(self.environment["PREFECT_API_URL"]), _START_SECONDS)

    def _s3(self, opened: ExitStack, known: Secrets) -> Child:
        port = free_port()
        (self.folder / "s3" / BUCKET).mkdir(parents=True, exist_ok=True)
        self.storage = {
            "MLFLOW_S3_ENDPOINT_URL": f"http://127.0.0.1:{port}",
            "AWS_ACCESS_KEY_ID": known.s3_key, "AWS_SECRET_ACCESS_KEY": known.s3_secret,
            "AWS_DEFAULT_REGION": "us-east-1",
        }  # fmt: skip
        environment = {
            "RCLONE_AUTH_KEY": f'"{known.s3_key},{known.s3_secret}"',  # quoted: a CSV of pairs
            "RCLONE_CONFIG": str(self.folder / "rclone.conf"),
        }
        command = [*S3, f"--addr=127.0.0.1:{port}", str(self.folder / "s3")]
        return self._child(opened, "the S3 server", command, environment)

    def _mlflow(self, opened: ExitStack, known: Secrets, postgres: dict[str, str]) -> Child:
        port = free_port()
        self.environment["MLFLOW_TRACKING_URI"] = f"http://127.0.0.1:{port}"
        environment = {
            **postgres, **self.storage,
            "MLFLOW_BACKEND_STORE_URI": "postgresql+psycopg:///mlflow",
            "MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        }  # fmt: skip
        command = [*MLFLOW, "--host=127.0.0.1", f"--port={port}"]
        if self.auth:
            command += MLFLOW_AUTH
            environment |= {
                "MLFLOW_AUTH_CONFIG_PATH": str(_AUTH_FILE),
                "MLFLOW_AUTH_ADMIN_USERNAME": LOGIN, "MLFLOW_AUTH_ADMIN_PASSWORD": known.mlflow,
                "MLFLOW_FLASK_SERVER_SECRET_KEY": known.mlflow_cookies,
            }  # fmt: skip
            self.environment |= {
                "MLFLOW_TRACKING_USERNAME": LOGIN, "MLFLOW_TRACKING_PASSWORD": known.mlflow,
            }  # fmt: skip
        return self._child(opened, "the MLflow server", command, environment)

    def _prefect(self, opened: ExitStack, known: Secrets, postgres: dict[str, str]) -> Child:
        port = free_port()
        self.environment["PREFECT_API_URL"] = f"http://127.0.0.1:{port}/api"
        environment = {
            **ENVIRONMENT, **postgres,
            "PREFECT_HOME": str(self.folder / "prefect"),
            "PREFECT_API_URL": self.environment["PREFECT_API_URL"],
            "PREFECT_SERVER_DATABASE_CONNECTION_URL":
                f"postgresql+asyncpg://{USER}@127.0.0.1:{postgres['PGPORT']}/prefect",
        }  # fmt: skip
        if self.auth:
            login = f"{LOGIN}:{known.prefect}"
            environment["PREFECT_SERVER_API_AUTH_STRING"] = login
            self.environment["PREFECT_API_AUTH_STRING"] = login
        command = [*PREFECT, "--host=127.0.0.1", f"--port={port}"]
        return self._child(opened, "the Prefect server", command, environment)

    def _child(
        self, opened: ExitStack, name: str, command: list[str], environment: dict[str, str]
    ) -> Child:
        name_of, *arguments = command
        inherited = {k: v for k, v in os.environ.items() if not k.startswith(_FOREIGN)}
        child = Child(
            name, [program(name_of), *arguments], log=self.folder / f"{name_of}.log",
            environment={**inherited, **environment}, folder=self.folder,
        )  # fmt: skip
        opened.callback(child.stop)
        self._checks.append(child.check)
        return child


def program(name: str) -> str:
    """Return the path of a program of this Python's environment, else of the PATH."""
    beside = Path(sys.executable).with_name(name)
    found = str(beside) if beside.exists() else shutil.which(name)
    if found is None:
        raise ServerError(f"{name} is not installed; run `make setup`, or pip install '.[stack]'")
    return found


def _listens(url: str) -> bool:
    host, _, port = url.rpartition("/")[2].partition(":")
    with socket.socket() as probe:
        return probe.connect_ex((host, int(port))) == 0


def main(arguments: list[str] | None = None) -> int:
    """Run the stack until interrupted, or until one of its servers ends."""
    logging.basicConfig(format="%(message)s")
    parser = argparse.ArgumentParser(prog="python -m deployments.stack", description=main.__doc__)
    parser.add_argument("--folder", type=Path, help="default: stack in $VAESC_HOME")
    parser.add_argument("--no-auth", action="store_true", help="ask nobody who he is")
    options = parser.parse_args(arguments)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    print("starting PostgreSQL, S3, MLflow and Prefect (half a minute the first time)", flush=True)
    try:
        with Stack(options.folder or home() / "stack", auth=not options.no_auth) as stack:
            _announce(stack)
            while True:
                time.sleep(1)
                stack.check()
    except VaescError as error:
        print(f"stack: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 0


def _announce(stack: Stack) -> None:
    exports = [f"export {name}={shlex.quote(text)}\n" for name, text in stack.environment.items()]
    file = stack.folder / "environment.sh"
    write_private(file, "".join(exports))
    print(f"Prefect  {stack.environment['PREFECT_API_URL'].removesuffix('/api')}")
    print(f"MLflow   {stack.environment['MLFLOW_TRACKING_URI']}")
    print(f"To use them, in another terminal (it holds the passwords):\n\n    . {file}\n")
    print("Ctrl-C ends them; what they keep and log stays in", stack.folder, flush=True)


if __name__ == "__main__":
    raise SystemExit(main())
