"""Two clients for S3 against one server on this machine: obstore, and s3fs for comparison.

Both copy files of a folder to the server and back, as the store does: many small ones and some of
a shard's size, eight at a time, to files and not to memory. The server is rclone's, so what is
compared is the clients. Wall and CPU seconds are the median of the rounds, in which the two take
turns, each in a process of its own. Then who wins when an object is created twice, on moto's
server, which honours ``If-None-Match``.

::

    .venv/bin/python -m benchmarks.object_storage [--peer FOLDER]

FOLDER is where ``pip install --target FOLDER s3fs`` put s3fs: beside vaesc it would move botocore
away from what boto3 needs. The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from importlib import metadata
from pathlib import Path
from typing import Any

from benchmarks.moto import Moto
from deployments.stack import BUCKET
from deployments.storage import Storage

SMALL, SMALL_BYTES = 300, 4096
LARGE, LARGE_BYTES = 12, 16 * 2**20
AT_ONCE = 8
CLIENTS = ("obstore", "s3fs")


def main() -> int:
    """Measure, and print one JSON line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.object_storage")
    parser.add_argument("--peer", type=Path, help="folder that holds s3fs")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--client", choices=CLIENTS, help=argparse.SUPPRESS)
    parser.add_argument("--task", choices=("copy", "create"), help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.client:
        task = _copied if options.task == "copy" else _created
        print(json.dumps(task(options.client, options.folder)))
        return 0
    with tempfile.TemporaryDirectory(prefix="vaesc-s3-") as folder:
        print(json.dumps(_compared(Path(folder), options.peer, options.rounds)))
    return 0


def _compared(folder: Path, peer: Path | None, rounds: int) -> dict[str, Any]:
    for kind, n, size in (("small", SMALL, SMALL_BYTES), ("large", LARGE, LARGE_BYTES)):
        (folder / "files" / kind).mkdir(parents=True)
        for i in range(n):
            (folder / "files" / kind / f"{i:04}").write_bytes(os.urandom(size))
    clients = CLIENTS if peer else CLIENTS[:1]
    found: dict[str, Any] = {client: [] for client in clients}
    with Storage(folder) as server:
        for _ in range(rounds):
            for client in clients:
                found[client].append(_in_process(client, "copy", folder, server.environment, peer))
    medians = {
        client: {
            key: round(statistics.median(each[key] for each in runs), 3) for key in runs[0]
        }
        for client, runs in found.items()
    }  # fmt: skip
    with Moto(folder) as moto:
        for client in clients:
            medians[client] |= _in_process(client, "create", folder, moto.environment, peer)
    return {
        "small": [SMALL, SMALL_BYTES], "large": [LARGE, LARGE_BYTES], "at_once": AT_ONCE,
        "rounds": rounds, "versions": {"obstore": metadata.version("obstore")}, **medians,
    }  # fmt: skip


def _in_process(
    client: str, task: str, folder: Path, environment: dict[str, str], peer: Path | None
) -> dict[str, Any]:
    path = os.pathsep.join(filter(None, [os.environ.get("PYTHONPATH"), str(Path.cwd())]))
    if client == "s3fs":
        path = f"{peer}{os.pathsep}{path}"
    command = [sys.executable, "-m", "benchmarks.object_storage", f"--client={client}"]
    done = subprocess.run(
        [*command, f"--task={task}", f"--folder={folder}"], capture_output=True, text=True,
        env={**os.environ, **environment, "PYTHONPATH": path}, check=False,
    )  # fmt: skip
    if done.returncode:
        raise SystemExit(done.stderr)
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def _copied(client: str, folder: Path) -> dict[str, float]:
    """Copy the files up and down with one client, in this process."""
    begun = time.perf_counter()
    copy = {"obstore": _Obstore, "s3fs": _S3fs}[client]()
    found = {"import_seconds": time.perf_counter() - begun}
    cpu = _cpu()
    for kind in ("small", "large"):
        files = sorted((folder / "files" / kind).iterdir())
        keys = [f"{client}/{kind}/{path.name}" for path in files]
        down = [folder / f"{kind}-{path.name}" for path in files]
        n_bytes = sum(path.stat().st_size for path in files)
        for way, function, paths in (("up", copy.up, files), ("down", copy.down, down)):
            begun = time.perf_counter()
            function(keys, paths)
            seconds = time.perf_counter() - begun
            found[f"{kind}_{way}_per_second"] = (
                len(files) / seconds if kind == "small" else n_bytes / seconds / 1e6
            )
        assert all(a.read_bytes() == b.read_bytes() for a, b in zip(files, down, strict=True))
    found["cpu_seconds"] = _cpu() - cpu
    found["peak_mb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return found


def _created(client: str, folder: Path) -> dict[str, Any]:
    """Create one object twice; the second time must be refused."""
    copy = {"obstore": _Obstore, "s3fs": _S3fs}[client]()
    key = f"created-by-{client}"
    return {"create_twice": [copy.create(key, b"first"), copy.create(key, b"second")]}


class _Obstore:
    def __init__(self) -> None:
        import obstore
        from obstore.store import S3Store

        self.obstore = obstore
        self.store = S3Store(BUCKET, client_options={"allow_http": True})

    def up(self, keys: list[str], paths: list[Path]) -> None:
        with ThreadPoolExecutor(AT_ONCE) as pool:
            list(pool.map(lambda k, p: self.obstore.put(self.store, k, p), keys, paths))

    def down(self, keys: list[str], paths: list[Path]) -> None:
        with ThreadPoolExecutor(AT_ONCE) as pool:
            list(pool.map(self._down, keys, paths))

    def _down(self, key: str, path: Path) -> None:
        with path.open("wb") as out:
            for piece in self.obstore.get(self.store, key).stream(min_chunk_size=2**20):
                out.write(piece)

    def create(self, key: str, data: bytes) -> bool:
        from obstore.exceptions import AlreadyExistsError

        try:
            self.obstore.put(self.store, key, data, mode="create")
        except AlreadyExistsError:
            return False
        return True


class _S3fs:
    def __init__(self) -> None:
        import s3fs

        self.fs = s3fs.S3FileSystem(client_kwargs={"region_name": "us-east-1"})

    def up(self, keys: list[str], paths: list[Path]) -> None:
        self.fs.put(list(map(str, paths)), [f"{BUCKET}/{k}" for k in keys], batch_size=AT_ONCE)

    def down(self, keys: list[str], paths: list[Path]) -> None:
        self.fs.get([f"{BUCKET}/{k}" for k in keys], list(map(str, paths)), batch_size=AT_ONCE)

    def create(self, key: str, data: bytes) -> bool:
        try:
            self.fs.pipe_file(f"{BUCKET}/{key}", data, mode="create")
        except (FileExistsError, OSError):
            return False
        return True


def _cpu() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


if __name__ == "__main__":
    sys.exit(main())
