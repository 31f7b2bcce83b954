"""Artifacts in a bucket, shared by machines that need not know of each other.

``VAESC_STORE=s3://bucket/prefix`` names it. Every machine's own store is then a verified cache of
it: what is missing here is fetched, and what is made here is published. In the bucket lies ::

    <kind>/<digest[:2]>/<digest>/manifest.json        which content this address has
    <kind>/<digest[:2]>/<digest>/<content>/<file>     its files, all but the manifest
    <kind>/<digest[:2]>/<digest>/closed.<random>      while something is taken away from there
    quarantine/<digest>.<random>/...                  what did not have its SHA-256

The files of an artifact lie below the digest of their *content*: writers of the same content
write the same bytes, and writers of different ones (another processor, say) never touch each
other's. All are there before the manifest is, which is created with ``If-None-Match`` and never
changed: whoever finds a manifest finds the whole artifact, whoever was killed before it left
nothing that anybody reads, and the first of several wins. On a server that ignores
``If-None-Match`` the last one does, which is as good; so every writer reads back who won.

Whoever takes something away (`gc`, a reader that found damage) closes the address first and looks
once more. A writer creates the manifest only after it has listed all its files at an address that
is not closed: so either it is seen, and nothing is taken, or it waits and completes its files.
"""

from __future__ import annotations

import hashlib
import logging
import os
import shutil
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from vaesc.bucket import Bucket, Stored, at_once
from vaesc.bucket_errors import endpoint
from vaesc.errors import ConfigError, StoreError
from vaesc.remote_manifest import CLOSED, address, announce, as_written, checked_text, is_mark
from vaesc.store import MANIFEST, PROVENANCE, DamagedError
from vaesc.untrusted import parse_json

logger = logging.getLogger(__name__)

STORE = "VAESC_STORE"
"""Environment variable: URL of the bucket that the machines share."""
QUARANTINE = "quarantine"
_MOST_BYTES = 64 * 2**20
"""Of a manifest, which has a line for each file."""
NOTED_EVERY = 3600.0
"""Seconds after which use of an artifact is noted in the bucket again."""
_RECENT = 12 * 3600.0
"""Seconds for which an uploaded file is not uploaded again: `gc` lets it be for twice as long."""
_WAIT, _PAUSE = 600.0, 1.0
"""Seconds to wait for an address to be opened again, and between two looks at it."""


def remote_store() -> RemoteStore | None:
    """Return the store that ``VAESC_STORE`` names; None if it names none.

    Raises:
        ConfigError: It is no URL of S3, or the server's is none.
        StoreError: obstore is not installed.
    """
    if not (url := os.environ.get(STORE)):
        return None
    endpoint()  # its own name is said, if it is none
    try:
        return RemoteStore(Bucket(url))
    except ConfigError as error:
        raise ConfigError(f"{STORE}: {error}") from None


class RemoteStore:
    """The artifacts in a bucket."""

    def __init__(self, bucket: Bucket) -> None:
        self.bucket = bucket

    def manifest(self, kind: str, digest: str) -> dict[str, Any] | None:
        """Return an artifact's manifest; None if there is no such artifact.

        Raises:
            DamagedError: It is not that of this address, or not as it was written.
            StoreError: The bucket cannot be read.
        """
        try:
            text = self.bucket.read(f"{address(kind, digest)}/{MANIFEST}", _MOST_BYTES)
            return None if text is None else checked_text(text, kind, digest)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise DamagedError(f"the manifest cannot be read ({error})") from error

    def fetch(self, kind: str, digest: str, folder: Path) -> bool:
        """Copy an artifact into an empty folder, every file checked by its SHA-256.

        What is damaged is moved to the quarantine of the bucket, so that it is made again.

        Returns:
            Whether it was there, and whole.

        Raises:
            StoreError: The bucket cannot be read.
        """
        for _ in range(3):
            try:
                manifest = self.manifest(kind, digest)
                if manifest is None:
                    return False
                self._fetch_files(manifest, address(kind, digest), folder)
            except DamagedError:
                if self.quarantine(kind, digest):
                    return False
                # It has been removed, or made again, while it was read: look what there is now.
                shutil.rmtree(folder)
                folder.mkdir()
            else:
                return True
        return False

    def _fetch_files(self, manifest: dict[str, Any], place: str, folder: Path) -> None:
        place = f"{place}/{manifest['content']}"
        announce("fetching", manifest, self.bucket.url)

        def fetch(name: str) -> None:
            facts = manifest["files"][name]
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("xb") as out:
                found = self._hashed(f"{place}/{name}", facts["bytes"], out.write)
            if found != facts["sha256"]:
                raise DamagedError(f"file {name} does not have its SHA-256")

        at_once(fetch, manifest["files"])
        (folder / MANIFEST).write_text(as_written(manifest))
        (folder / PROVENANCE).write_bytes(self._used(f"{place}/{PROVENANCE}"))

    def _used(self, key: str) -> bytes:
        """Return an artifact's provenance, and write it again: `gc` sees that it is used."""
        try:
            text = self.bucket.read(key, _MOST_BYTES)
        except ValueError:
            text = None
        if text is None:
            return b"{}\n"
        try:
            self.bucket.write(key, text)
        except StoreError as error:  # who may only read may fetch nevertheless
            logger.debug("%s", error)
        return text

    def _hashed(self, key: str, n_bytes: int, take: Callable[[bytes], object]) -> str:
        """Read an object, hand on what comes, and return its SHA-256.

        Raises:
            DamagedError: It is not there, or longer than `n_bytes`.
        """
        total, done = hashlib.sha256(), 0
        try:
            for piece in self.bucket.pieces(key):
                if (done := done + len(piece)) > n_bytes:
                    raise DamagedError(f"{key} is longer than it was")
                total.update(piece)
                take(piece)
        except FileNotFoundError:
            raise DamagedError(f"{key} is missing") from None
        return total.hexdigest()

    def publish(self, kind: str, digest: str, folder: Path) -> str:
        """Copy an artifact from a folder to the bucket, unless its address is taken.

        Args:
            kind: Its kind.
            digest: Its address.
            folder: It, verified.

        Returns:
            The content that the address has in the bucket now; another's, if that was first.

        Raises:
            StoreError: The bucket cannot be written.
        """
        place = address(kind, digest)
        there = self._undamaged(kind, digest)
        if there is not None:
            self._note_use(f"{place}/{there['content']}/{PROVENANCE}")
            return str(there["content"])
        text = (folder / MANIFEST).read_bytes()
        manifest = parse_json(text)
        announce("publishing", manifest, self.bucket.url)
        names = [*manifest["files"], *([PROVENANCE] if (folder / PROVENANCE).is_file() else [])]
        self._upload(folder, place, manifest["content"], names)
        self.bucket.create(f"{place}/{MANIFEST}", text)
        winner = self.manifest(kind, digest)
        if winner is None:
            raise StoreError(f"{kind} {digest[:12]} was removed from {self.bucket}; run again")
        return str(winner["content"])

    def _undamaged(self, kind: str, digest: str) -> dict[str, Any] | None:
        """Return an artifact's manifest, or None; a damaged one is moved to the quarantine."""
        try:
            return self.manifest(kind, digest)
        except DamagedError:
            return None if self.quarantine(kind, digest) else self.manifest(kind, digest)

    def _upload(self, folder: Path, place: str, content: str, names: list[str]) -> None:
        """Upload files until all are there and nobody is taking some away."""
        keys = {name: f"{place}/{content}/{name}" for name in names}
        patience, done = time.monotonic() + _WAIT, set[str]()

        def upload(name: str) -> None:
            self.bucket.upload(folder / name, keys[name])

        while True:
            there = {each.key: each for each in self.bucket.list(place)}
            if marks := [key for key in there if is_mark(key)]:
                if time.monotonic() < patience:
                    time.sleep(_PAUSE)
                else:
                    self.bucket.delete(marks)  # of somebody who was killed
                continue
            oldest = time.time() - _RECENT
            fresh = {key for key, each in there.items() if each.modified >= oldest}
            lacking = [
                name for name, key in keys.items() if key not in (there if name in done else fresh)
            ]
            if not lacking:
                return
            at_once(upload, lacking)
            done.update(lacking)

    def _note_use(self, key: str) -> None:
        """Write an artifact's provenance again if that was long ago: `gc` sees that it is used."""
        try:
            modified = self.bucket.modified(key)
            if modified is not None and time.time() - modified > NOTED_EVERY:
                self._used(key)
        except StoreError as error:
            logger.debug("%s", error)

    def quarantine(self, kind: str, digest: str) -> bool:
        """Move a damaged artifact away, its manifest first; say whether there was one.

        Whoever else found the damage may have made it again meanwhile, so it is looked at anew.
        """
        place = address(kind, digest)
        evidence = f"{QUARANTINE}/{digest}.{uuid.uuid4().hex[:8]}"
        with self.closed(place) as there:
            damage, below = self._damage(kind, digest)
            if not damage:
                return False
            self.bucket.move(f"{place}/{MANIFEST}", f"{evidence}/{MANIFEST}")
            keys = [key for key in there if key.startswith(below) and not is_mark(key)]
            at_once(lambda key: self.bucket.move(key, evidence + key.removeprefix(place)), keys)
        logger.warning(
            "%s %s in %s was damaged (%s) and is kept in %s; it is made again", kind, digest[:12],
            self.bucket, damage, evidence,
        )  # fmt: skip
        return True

    def _damage(self, kind: str, digest: str) -> tuple[str, str]:
        """Return what is wrong with an artifact, if anything is, and what its keys begin with."""
        below = f"{address(kind, digest)}/"
        try:
            if manifest := self.manifest(kind, digest):
                below += f"{manifest['content']}/"
                self._check_files(manifest, below)
        except DamagedError as error:
            return str(error), below
        return "", below

    @contextmanager
    def closed(self, place: str) -> Iterator[dict[str, Stored]]:
        """Let nobody complete an artifact within the block; provide what lies at its address."""
        mark = f"{place}/{CLOSED}{uuid.uuid4().hex[:8]}"
        self.bucket.write(mark, b"something is taken away here\n")
        try:
            yield {each.key: each for each in self.bucket.list(place) if each.key != mark}
        finally:
            self.bucket.delete([mark])

    def verified(self, kind: str, digest: str) -> str | None:
        """Return the content of an artifact, each of its files read; None if there is none.

        Raises:
            DamagedError: It is not whole.
        """
        manifest = self.manifest(kind, digest)
        if manifest is None:
            return None
        self._check_files(manifest, f"{address(kind, digest)}/{manifest['content']}/")
        return str(manifest["content"])

    def _check_files(self, manifest: dict[str, Any], below: str) -> None:
        def check(name: str) -> None:
            facts = manifest["files"][name]
            if self._hashed(below + name, facts["bytes"], len) != facts["sha256"]:
                raise DamagedError(f"file {name} does not have its SHA-256")

        at_once(check, manifest["files"])
