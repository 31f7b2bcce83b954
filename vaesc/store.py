"""Content-addressed artifacts: whole or absent, verified or quarantined.

An artifact is a folder ``<root>/<kind>/<digest[:2]>/<digest>/``. Its address, the *digest*, is the
SHA-256 of what goes in (:class:`Spec`: kind, config, contents of the inputs, source of the library
modules used). Its *content* is the SHA-256 of what came out. Three rules make it safe:

1. Written beside, fsynced, renamed: a path that exists is whole.
2. A manifest lists every file's SHA-256. A reader that finds a mismatch moves the artifact into
   ``quarantine/`` and reports it missing, so that the step runs again; the evidence is kept.
3. One maker at a time per address: a second run waits for the lock and adopts the first's work.

``provenance.json`` (when, where, by which MLflow run, in how many seconds) is the one file that
may differ between equal artifacts; it is no part of any digest.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import logging
import os
import shutil
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from vaesc.config import canonical_json, check_local, home
from vaesc.errors import StoreError
from vaesc.scratch import own_name
from vaesc.untrusted import check_all_inside, read_json

logger = logging.getLogger(__name__)

MANIFEST = "manifest.json"
PROVENANCE = "provenance.json"
SUMMARY = "summary.json"
_FORMAT = 1
_UNLISTED = {MANIFEST, PROVENANCE}
_OURS = (errno.ENOMEM, errno.EMFILE, errno.ENFILE)
"""What the reader is short of, and no damage of what it reads: nothing is moved away for it."""


class DamagedError(StoreError):
    """An artifact is there, but is not what its manifest says."""


@dataclass(frozen=True, kw_only=True)
class Spec:
    """Everything that goes into one artifact; its SHA-256 is the artifact's address."""

    kind: str
    """The room it belongs to: dataset, vae, latents, dictionary, evaluation."""
    config: Mapping[str, Any]
    """The settings that can change it, as plain JSON values."""
    inputs: Mapping[str, str]
    """Content digest of each input, by name."""
    source: str
    """SHA-256 of the source of the library modules that make it."""

    @property
    def digest(self) -> str:
        """The address: SHA-256 of the canonical JSON of all four fields."""
        body = {"kind": self.kind, "config": self.config, "inputs": self.inputs}
        return hashlib.sha256(canonical_json({**body, "source": self.source}).encode()).hexdigest()


@dataclass(frozen=True, kw_only=True)
class Artifact:
    """A whole, verified artifact."""

    kind: str
    digest: str
    content: str
    path: Path
    summary: Mapping[str, Any]
    """The few numbers and metrics its maker reported; deterministic."""
    provenance: Mapping[str, Any]
    """Who made it, when and how fast; not deterministic."""
    computed: bool = field(default=False, compare=False)
    """Whether this very call made it (False: it was there already)."""

    def touch(self) -> None:
        """Note that the artifact was used now, for `vaesc gc`: its provenance file's time."""
        _note(self.path)


class Store:
    """A folder of artifacts.

    Args:
        root: The folder; created when first written to. Default: ``store`` in :func:`vaesc.home`.
    """

    def __init__(self, root: Path | None = None) -> None:
        self.root = (root or home() / "store").resolve()

    def path(self, kind: str, digest: str) -> Path:
        """Return where an artifact lies, or would lie."""
        return self.root / kind / digest[:2] / digest

    def open(self, kind: str, digest: str) -> Artifact:
        """Return a verified artifact.

        Raises:
            StoreError: It is not there, or was damaged and is in quarantine now.
        """
        folder = self.path(kind, digest)
        if not folder.is_dir():
            raise StoreError(f"{kind} {digest[:12]} is not in the store {self.root}; run it again")
        try:
            return read_artifact(folder)
        except DamagedError as error:
            if not folder.is_dir():  # `vaesc gc` was quicker
                raise StoreError(
                    f"{kind} {digest[:12]} is no longer in the store {self.root}; run it again"
                ) from error
            evidence = self._quarantine(folder)
            raise StoreError(
                f"{kind} {digest[:12]} was damaged ({error}) and is kept in {evidence}; "
                "run it again"
            ) from error

    def find(self, kind: str, digest: str) -> Artifact | None:
        """Return a verified artifact, or None if missing or damaged (then quarantined)."""
        if not self.path(kind, digest).is_dir():
            return None
        try:
            return self.open(kind, digest)
        except StoreError as error:
            logger.warning("%s", error)
            return None

    def make(
        self,
        spec: Spec,
        build: Callable[[Path], Mapping[str, Any]],
        *,
        parents: Mapping[str, str] | None = None,
        provenance: Mapping[str, Any] | None = None,
    ) -> Artifact:
        """Return the artifact of `spec`, building it only if it is not there yet.

        Args:
            spec: What goes in.
            build: Writes the files into the empty folder it is given and returns the summary.
            parents: Address of each input's artifact, by name: the lineage that `gc` follows.
            provenance: Facts about this making that are no part of its content, such as run_id.

        Raises:
            StoreError: The store cannot be written.
        """
        with self._lock(spec.kind, spec.digest):
            found = self.find(spec.kind, spec.digest)
            if found:
                found.touch()
                return self._settled(found)
            made = self._build(spec, build, dict(parents or {}), dict(provenance or {}))
            return self._settled(made)

    def _settled(self, artifact: Artifact) -> Artifact:
        """Do what is to be done, under its lock, before an artifact is handed out; return it."""
        return artifact

    def _build(
        self,
        spec: Spec,
        build: Callable[[Path], Mapping[str, Any]],
        parents: dict[str, str],
        provenance: dict[str, Any],
    ) -> Artifact:
        folder = self.root / "tmp" / own_name(spec.digest[:16])
        folder.mkdir(parents=True)
        start = time.perf_counter()
        try:
            summary = build(folder)
            _write_json(folder / SUMMARY, summary)
            files = {
                str(f.relative_to(folder)): {"bytes": f.stat().st_size, "sha256": file_digest(f)}
                for f in _files(folder)
            }
            manifest = {
                "format": _FORMAT, "kind": spec.kind, "digest": spec.digest,
                "content": _content_digest(files), "config": spec.config,
                "inputs": spec.inputs, "source": spec.source, "parents": parents, "files": files,
            }  # fmt: skip
            _write_json(folder / MANIFEST, manifest)
            seconds = round(time.perf_counter() - start, 3)
            _write_json(
                folder / PROVENANCE, {**provenance, "created": time.time(), "seconds": seconds}
            )
            self._publish(folder, self.path(spec.kind, spec.digest))
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise
        made = read_artifact(self.path(spec.kind, spec.digest), files=False)
        return Artifact(**{**made.__dict__, "computed": True})

    def _publish(self, folder: Path, target: Path) -> None:
        for path in [*_files(folder, unlisted=True), *_folders(folder)]:
            fsync(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            folder.rename(target)
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise
            # Another host published first (locks hold on one host only): its work is as good.
            read_artifact(target)
            shutil.rmtree(folder)
        fsync(target.parent)

    def use(self, kind: str, digest: str) -> Artifact:
        """Return a verified artifact, and note that it is used: `vaesc gc` lets it stay.

        Both happen while nobody can take it away; :meth:`remove` looks for the note.

        Raises:
            StoreError: It is not there, or was damaged and is in quarantine now.
        """
        with self._held(kind, digest):
            artifact = self.open(kind, digest)
            artifact.touch()
            return self._settled(artifact)

    def note_use(self, folder: Path) -> None:
        """Note that the artifact in `folder` is used, unverified; others' folders are let be."""
        if folder.parent.parent.parent == self.root and folder.is_dir():
            with self._held(folder.parents[1].name, folder.name):
                _note(folder)

    def remove(self, folder: Path, last_used: float) -> bool:
        """Remove an artifact, unless somebody makes it, or has used it since `last_used`.

        It is renamed away first, so that no reader ever sees half of it.

        Returns:
            Whether it is gone.
        """
        lock = self._lock(folder.parents[1].name, folder.name)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            return False
        try:
            if last_use(folder) != last_used:
                return False
            grave = self._grave(folder)
        finally:
            lock.release()
        shutil.rmtree(grave)
        return True

    def _grave(self, folder: Path) -> Path:
        grave = self.root / "tmp" / own_name("deleted")
        grave.parent.mkdir(parents=True, exist_ok=True)
        folder.rename(grave)
        return grave

    @contextlib.contextmanager
    def _held(self, kind: str, digest: str) -> Iterator[None]:
        """Hold an artifact's lock; where none can be written, nothing is removed either."""
        with contextlib.ExitStack() as stack:
            with contextlib.suppress(OSError, StoreError):
                stack.enter_context(self._lock(kind, digest))
            yield

    def _lock(self, kind: str, digest: str) -> FileLock:
        folder = self.root / "locks"
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StoreError(
                f"the store {self.root} cannot be written ({error.strerror}); "
                "make it writable, or set VAESC_HOME to a folder that is"
            ) from error
        return FileLock(folder / f"{kind}-{digest}.lock")

    def _quarantine(self, folder: Path) -> Path:
        evidence = self.root / "quarantine" / f"{folder.name}.{uuid.uuid4().hex[:8]}"
        try:
            evidence.parent.mkdir(parents=True, exist_ok=True)
            folder.rename(evidence)
        except OSError as error:
            raise StoreError(
                f"the damaged artifact {folder} cannot be moved to {evidence.parent} "
                f"({error.strerror}); make the store writable"
            ) from error
        logger.warning("moved the damaged artifact %s to %s", folder, evidence)
        return evidence

    def folders(self) -> Iterator[Path]:
        """Yield the folder of every artifact, unverified, in a fixed order."""
        for kind in sorted(p for p in self.root.glob("*") if p.is_dir()):
            if kind.name not in ("tmp", "locks", "quarantine"):
                yield from sorted(kind.glob("??/*"))


@contextlib.contextmanager
def whole_or_absent(target: Path) -> Iterator[Path]:
    """Provide an empty folder beside `target` that becomes it once the block has succeeded.

    Raises:
        StoreError: There is something at `target`, or it cannot be written.
    """
    check_absent(target)
    folder = target.parent / f".{target.name}.{os.getpid()}.{uuid.uuid4().hex[:8]}"
    try:
        folder.mkdir(parents=True)
    except OSError as error:
        raise StoreError(
            f"{target} cannot be written ({error.strerror}); choose another folder"
        ) from error
    try:
        yield folder
        for path in [*_files(folder, unlisted=True), *_folders(folder)]:
            fsync(path)
        try:
            folder.rename(target)
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
                raise
            check_absent(target)
            raise
        fsync(target.parent)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise


def check_absent(target: Path) -> None:
    """Refuse to write where there is something already.

    Raises:
        ConfigError: `target` is a URL.
        StoreError: There is something at `target`.
    """
    check_local(target)
    if target.exists():
        raise StoreError(f"{target} exists already; remove it, or choose another folder")


def read_artifact(folder: Path, *, files: bool = True) -> Artifact:
    """Read an artifact's manifest and check the artifact against it.

    Args:
        folder: The artifact's folder.
        files: Also hash every file (the default); False checks the manifest alone.

    Raises:
        DamagedError: A file is missing, added or altered, or the manifest is not that of `folder`.
    """
    try:
        check_all_inside(folder)
        manifest = read_json(folder / MANIFEST)
        spec = checked_manifest(manifest, folder.name)
        if files:
            _check_files(folder, manifest["files"])
        summary = read_json(folder / SUMMARY)
    except DamagedError:
        raise
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        if getattr(error, "errno", None) in _OURS:
            raise
        raise DamagedError(f"{type(error).__name__}: {error}") from error
    return Artifact(
        kind=spec.kind, digest=spec.digest, content=manifest["content"], path=folder,
        summary=summary, provenance=_read_provenance(folder),
    )  # fmt: skip


def checked_manifest(manifest: Any, digest: str) -> Spec:  # noqa: ANN401 - whatever was read
    """Return what went into an artifact, as its manifest says, which is held against its address.

    Raises:
        DamagedError: It is not the manifest of `digest`, or not as it was written.
    """
    try:
        spec = Spec(**{key: manifest[key] for key in ("kind", "config", "inputs", "source")})
        if manifest["format"] != _FORMAT:
            raise DamagedError(f"manifest format {manifest['format']!r}, expected {_FORMAT}")
        if not spec.digest == manifest["digest"] == digest:
            raise DamagedError("the manifest does not describe this address")
        if _content_digest(manifest["files"]) != manifest["content"]:
            raise DamagedError("the manifest's content digest is wrong")
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise DamagedError(f"{type(error).__name__}: {error}") from error
    return spec


def last_use(folder: Path) -> float:
    """Return when the artifact in `folder` was last made or used; 0 if it is not there."""
    times = [0.0]
    for path in (folder, folder / PROVENANCE):
        with contextlib.suppress(FileNotFoundError):
            times.append(path.stat().st_mtime)
    return max(times)


def _note(folder: Path) -> None:
    with contextlib.suppress(OSError):  # where nothing can be written, nothing is collected
        os.utime(folder / PROVENANCE)


def file_digest(path: Path) -> str:
    """SHA-256 of a file's bytes."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _check_files(folder: Path, listed: Mapping[str, Mapping[str, Any]]) -> None:
    present = {str(f.relative_to(folder)): f for f in _files(folder)}
    if odd := sorted(set(present) ^ set(listed)):
        raise DamagedError(f"file {odd[0]} is missing or was added")
    for name, facts in listed.items():
        if file_digest(present[name]) != facts["sha256"]:
            raise DamagedError(f"file {name} does not have its SHA-256")


def _content_digest(files: Mapping[str, Mapping[str, Any]]) -> str:
    listing = {name: facts["sha256"] for name, facts in files.items()}
    return hashlib.sha256(canonical_json(listing).encode()).hexdigest()


def _read_provenance(folder: Path) -> dict[str, Any]:
    """Read what is nice to know; its loss or damage costs nothing but the knowledge."""
    try:
        value = read_json(folder / PROVENANCE)
    except (OSError, ValueError):
        logger.warning("%s has no readable %s", folder, PROVENANCE)
        return {}
    return value if isinstance(value, dict) else {}


def _files(folder: Path, *, unlisted: bool = False) -> list[Path]:
    """Return every file below `folder`, sorted; manifest and provenance only when asked."""
    found = (Path(base, name) for base, _, names in os.walk(folder) for name in names)
    return sorted(f for f in found if unlisted or str(f.relative_to(folder)) not in _UNLISTED)


def _folders(folder: Path) -> list[Path]:
    return [Path(base) for base, _, _ in os.walk(folder)]


def _write_json(path: Path, value: Any) -> None:  # noqa: ANN401
    path.write_text(json.dumps(value, indent=1, sort_keys=True, allow_nan=False) + "\n")


def fsync(path: Path) -> None:
    """Wait until a file, or the names in a folder, are on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
