"""PostgreSQL as a child process: the machine's own binaries, a data folder of ours.

PostgreSQL refuses to run as root. Root therefore runs it as the user ``postgres``, which Debian's
package creates, and gives that user the data folder; anybody else runs it as oneself.
"""

from __future__ import annotations

import os
import pwd
import re
import shutil
import signal
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from tasks.children import Child, ServerError

USER = "vaesc"
"""The database role that owns everything."""

_DATABASES = Path(__file__).with_name("databases.sql")
_START_SECONDS = 60.0
_NEEDED = ("initdb", "postgres", "psql", "pg_isready")


def find_binaries() -> Path | None:
    """Return the folder of PostgreSQL's programs: on the PATH, else the newest of Debian's.

    Debian puts only the clients on the PATH, and there wrappers of them.
    """
    on_path = [Path(found).resolve().parent for found in [shutil.which("initdb")] if found]
    debian = sorted(
        Path("/usr/lib/postgresql").glob("*/bin"), key=lambda p: _version(p.parent.name)
    )
    for folder in [*on_path, *reversed(debian)]:
        if all((folder / name).exists() for name in _NEEDED):
            return folder
    return None


class Postgres:
    """One PostgreSQL server on 127.0.0.1 with the databases of the stack, until stopped.

    Args:
        folder: What it makes lies here: the data, and `postgres.log`.
        port: Where it is to listen.
        password: Of the role :data:`USER`.

    Raises:
        ServerError: PostgreSQL is not installed, cannot use the folder, or does not start.
    """

    def __init__(self, folder: Path, port: int, password: str) -> None:
        found = find_binaries()
        if found is None:
            raise ServerError(
                "PostgreSQL's server is not installed (no initdb on the PATH or below "
                "/usr/lib/postgresql); install it (Debian: apt-get install postgresql)"
            )
        self._binaries, self._folder = found, folder
        self._data, self._log = folder / "postgres", folder / "postgres.log"
        self._user = "postgres" if os.geteuid() == 0 else None
        self.environment = {
            "PGHOST": "127.0.0.1", "PGPORT": str(port), "PGUSER": USER, "PGPASSWORD": password,
        }  # fmt: skip
        self._check_folder()
        if not self._data.exists():
            self._create(password)
        self._child = self._start(port)
        try:
            self._child.wait_until(self._answers, _START_SECONDS)
            self._run([self._program("psql"), "-v", "ON_ERROR_STOP=1", "-q", "-d", "postgres",
                       "-f", str(_DATABASES)], self.environment)  # fmt: skip
        except BaseException:
            self._child.stop()
            raise

    def check(self) -> None:
        """Raise :class:`ServerError` if the server has ended."""
        self._child.check()

    def stop(self) -> None:
        """End the server; whoever is connected is cut off, what was committed is kept."""
        self._child.stop()

    def _start(self, port: int) -> Child:
        return Child(
            "PostgreSQL",
            [
                self._program("postgres"), "-D", str(self._data), "-p", str(port),
                # No sockets in the file system: their paths have a short limit.
                "-c", "listen_addresses=127.0.0.1", "-c", "unix_socket_directories=",
            ],
            log=self._log, environment=_plain_environment(), folder=self._folder, user=self._user,
            farewell=signal.SIGINT,
        )  # fmt: skip

    def _answers(self) -> bool:
        command = [self._program("pg_isready"), "-q", "-d", "postgres"]
        environment = {**_plain_environment(), **self.environment}
        return subprocess.run(command, env=environment, check=False).returncode == 0

    def _create(self, password: str) -> None:
        """Make the data folder: whole or absent, owned by whom the server runs as."""
        draft = self._folder / "postgres.draft"
        shutil.rmtree(draft, ignore_errors=True)
        draft.mkdir(mode=0o700)
        secret = draft.with_suffix(".password")
        secret.touch(mode=0o600)
        secret.write_text(password)
        if self._user:
            for path in (draft, secret):
                shutil.chown(path, self._user, self._user)
        try:
            self._run([
                self._program("initdb"), "-D", str(draft), "-U", USER, f"--pwfile={secret}",
                "--auth=scram-sha-256", "-E", "UTF8", "--locale=C", "--no-instructions",
            ], {}, as_server=True)  # fmt: skip
        finally:
            secret.unlink()
        draft.rename(self._data)

    def _check_folder(self) -> None:
        if self._user is None:
            return
        try:
            pwd.getpwnam(self._user)
        except KeyError:
            raise ServerError(
                "PostgreSQL refuses to run as root and there is no user postgres to run it as; "
                "create that user, or run this as an ordinary one"
            ) from None
        entered = ["test", "-x", str(self._folder)]
        if subprocess.run(entered, user=self._user, group=self._user, check=False).returncode:
            raise ServerError(
                f"the user postgres, as whom PostgreSQL runs since it refuses root, cannot enter "
                f"{self._folder}; name a folder that others may enter, or run this as an "
                "ordinary user"
            )

    def _run(
        self, command: Sequence[str], environment: Mapping[str, str], *, as_server: bool = False
    ) -> None:
        user = self._user if as_server else None
        done = subprocess.run(
            command, env={**_plain_environment(), **environment}, cwd=self._folder, check=False,
            capture_output=True, text=True, user=user, group=user,
        )  # fmt: skip
        if done.returncode:
            said = " ".join((done.stderr or done.stdout).split())[-300:]
            raise ServerError(f"{Path(command[0]).name} failed: {said}")

    def _program(self, name: str) -> str:
        return str(self._binaries / name)


def _plain_environment() -> dict[str, str]:
    """Return the environment without what the caller's own PostgreSQL settings would change."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PG")}
    return {**kept, "LC_ALL": "C.UTF-8"}


def _version(name: str) -> tuple[int, ...]:
    return tuple(int(number) for number in re.findall(r"\d+", name))
