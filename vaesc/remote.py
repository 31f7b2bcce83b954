"""Artifacts in a bucket, shared by machines that need not know of each other.

``VAESC_STORE=s3://bucket/prefix`` names it. Every machine's own store is then a verified cache of
it: what is missing here is fetched, and what is made here is published. In the bucket lies ::

    <kind>/<digest[:2]>/<digest>/manifest.json        which content this address has
    <kind>/<digest[:2]>/<digest>/<content>/<file>     its files, all but the manifest
    quarantine/<digest>.<random>/...                  what did not have its SHA-256

The files of an artifact lie below the digest of their *content*: writers of the same content
write the same bytes, and writers of different ones (another processor, say) never touch each
other's. All are there before the manifest is, which is created with ``If-None-Match`` and never
changed: whoever finds a manifest finds the whole artifact, whoever was killed before it left
nothing that anybody reads, and the first of several wins. On a server that ignores
``If-None-Match`` the last one does, which is as good; so every writer reads back who won.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import uuid
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath
from typing import Any

from vaesc.bucket import AT_ONCE, Bucket, Stored
from vaesc.errors import ConfigError, StoreError
from vaesc.store import MANIFEST, PROVENANCE, DamagedError, checked_manifest
from vaesc.untrusted import parse_json

logger = logging.getLogger(__name__)

STORE = "VAESC_STORE"
"""Environment variable: URL of the bucket that the machines share."""
QUARANTINE = "quarantine"
_MOST_BYTES = 64 * 2**20
"""Of a manifest, which has a line for each file."""
_TELL_BYTES = 256 * 2**20
"""Copies of so much take a while: they are announced."""


def remote_store() -> RemoteStore | None:
    """Return the store that ``VAESC_STORE`` names; None if it names none.

    Raises:
        ConfigError: It is no URL of S3.
        StoreError: obstore is not installed.
    """
    url = os.environ.get(STORE)
    if not url:
        return None
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
            return None if text is None else _checked(text, kind, digest)
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
        try:
            manifest = self.manifest(kind, digest)
            if manifest is None:
                return False
            self._fetch_files(manifest, address(kind, digest), folder)
        except DamagedError as error:
            if self.manifest_is_gone(kind, digest):
                return False  # it was removed while it was read
            evidence = self.quarantine(kind, digest)
            logger.warning(
                "%s %s in %s was damaged (%s) and is kept in %s; it is made again", kind,
                digest[:12], self.bucket, error, evidence,
            )  # fmt: skip
            return False
        return True

    def manifest_is_gone(self, kind: str, digest: str) -> bool:
        """Return whether an artifact has no manifest, whatever one says that is there."""
        key = f"{address(kind, digest)}/{MANIFEST}"
        return not any(each.key == key for each in self.bucket.list(address(kind, digest)))

    def _fetch_files(self, manifest: dict[str, Any], place: str, folder: Path) -> None:
        place = f"{place}/{manifest['content']}"
        _tell("fetching", manifest, self.bucket)

        def fetch(name: str) -> None:
            facts = manifest["files"][name]
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("xb") as out:
                found = self._hashed(f"{place}/{name}", facts["bytes"], out.write)
            if found != facts["sha256"]:
                raise DamagedError(f"file {name} does not have its SHA-256")

        _at_once(fetch, manifest["files"])
        (folder / MANIFEST).write_text(_as_written(manifest))
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
        try:
            there = self.manifest(kind, digest)
        except DamagedError as error:
            there = None
            evidence = self.quarantine(kind, digest)
            logger.warning(
                "%s %s in %s was damaged (%s) and is kept in %s", kind, digest[:12], self.bucket,
                error, evidence,
            )  # fmt: skip
        if there is not None:
            return str(there["content"])
        text = (folder / MANIFEST).read_text()
        manifest = parse_json(text)
        place = address(kind, digest)
        _tell("publishing", manifest, self.bucket)

        def upload(name: str) -> None:
            self.bucket.upload(folder / name, f"{place}/{manifest['content']}/{name}")

        names = [*manifest["files"], *([PROVENANCE] if (folder / PROVENANCE).is_file() else [])]
        _at_once(upload, names)
        self.bucket.create(f"{place}/{MANIFEST}", text.encode())
        winner = self.manifest(kind, digest)
        if winner is None:
            raise StoreError(f"{kind} {digest[:12]} was removed from {self.bucket}; run again")
        return str(winner["content"])

    def quarantine(self, kind: str, digest: str) -> str:
        """Move all there is of an artifact away, its manifest first, and return where it is."""
        place = address(kind, digest)
        evidence = f"{QUARANTINE}/{digest}.{uuid.uuid4().hex[:8]}"
        self.bucket.move(f"{place}/{MANIFEST}", f"{evidence}/{MANIFEST}")
        keys = [each.key for each in self.bucket.list(place)]
        _at_once(lambda key: self.bucket.move(key, evidence + key.removeprefix(place)), keys)
        return evidence

    def addresses(self) -> dict[tuple[str, str], list[Stored]]:
        """Return the objects below every address, (kind, digest), in a fixed order."""
        found: dict[tuple[str, str], list[Stored]] = {}
        for each in self.bucket.list():
            parts = each.key.split("/")
            if len(parts) > 3 and parts[0] != QUARANTINE and len(parts[2]) == 64:
                found.setdefault((parts[0], parts[2]), []).append(each)
        return dict(sorted(found.items()))

    def verify(self) -> Iterator[dict[str, Any]]:
        """Check every artifact against its manifest; nothing is moved or changed.

        Yields:
            kind, digest, content, whole (bool), problem (empty when whole).
        """
        for (kind, digest), objects in self.addresses().items():
            if not any(each.key == f"{address(kind, digest)}/{MANIFEST}" for each in objects):
                continue  # never finished: no artifact
            facts = {"kind": kind, "digest": digest}
            try:
                content = self._verified(kind, digest)
            except DamagedError as error:
                yield {**facts, "content": "", "whole": False, "problem": str(error)}
            else:
                yield {**facts, "content": content, "whole": True, "problem": ""}

    def _verified(self, kind: str, digest: str) -> str:
        manifest = self.manifest(kind, digest)
        if manifest is None:
            raise DamagedError("it was removed while it was read")
        place = f"{address(kind, digest)}/{manifest['content']}"

        def check(name: str) -> None:
            facts = manifest["files"][name]
            if self._hashed(f"{place}/{name}", facts["bytes"], len) != facts["sha256"]:
                raise DamagedError(f"file {name} does not have its SHA-256")

        _at_once(check, manifest["files"])
        return str(manifest["content"])


def address(kind: str, digest: str) -> str:
    """Return the prefix of the keys of all there is of an artifact."""
    return f"{kind}/{digest[:2]}/{digest}"


def _checked(text: bytes, kind: str, digest: str) -> dict[str, Any]:
    """Return what a manifest says, once it is known to be of this address and safe to follow."""
    manifest = parse_json(text)
    spec = checked_manifest(manifest, digest)
    if spec.kind != kind:
        raise DamagedError("the manifest does not describe this address")
    if text != _as_written(manifest).encode():
        raise DamagedError("the manifest is not as it was written")
    for name, facts in manifest["files"].items():
        path = PurePosixPath(name)
        inside = path.parts and not path.is_absolute() and ".." not in path.parts
        if not inside or str(path) != name or name in (MANIFEST, PROVENANCE):
            raise DamagedError(f"{name} is no name of a file of an artifact")
        if not isinstance(facts["bytes"], int):
            raise DamagedError(f"{name} has no length")
    return dict(manifest)


def _as_written(manifest: dict[str, Any]) -> str:
    return json.dumps(manifest, indent=1, sort_keys=True, allow_nan=False) + "\n"


def _at_once(function: Callable[[str], None], names: Iterable[str]) -> None:
    """Call a function with each name, a few at the same time; the first error ends it."""
    with ThreadPoolExecutor(AT_ONCE, "vaesc-bucket") as pool:
        waiting = [pool.submit(function, name) for name in names]
        try:
            for each in waiting:
                each.result()
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def _tell(verb: str, manifest: dict[str, Any], bucket: Bucket) -> None:
    n_bytes = sum(facts["bytes"] for facts in manifest["files"].values())
    if n_bytes >= _TELL_BYTES:
        logger.info(
            "%s %s %s: %.0f MB, %s", verb, manifest["kind"], manifest["digest"][:12],
            n_bytes / 1e6, bucket,
        )  # fmt: skip
