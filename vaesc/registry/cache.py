"""Verified bundles on this machine, and what every reference meant when last looked up.

A registry is a server somewhere, and a model that was used yesterday should be usable on the
train. Below ``models/`` in :func:`vaesc.config.home` lie

``<model digest>/``
    one bundle, addressed by the SHA-256 of its ``bundle.json``: five files, nothing else of what
    came with them. Written beside, fsynced, renamed; hashed again at every use, which costs
    milliseconds. A damaged one is moved to ``quarantine/``, which holds the last five, and
    fetched anew.
``refs/``
    for each (registry, model, reference) the version and digest it named last, and when. It
    answers only while the registry does not (:mod:`vaesc.registry.loading`).

``VAESC_MODEL_CACHE`` says how many bundles are kept (default 20; 0 keeps none): beyond, the least
recently used go, though never one used in the last minutes, which some process may be reading.
The cache makes nothing possible that is not possible without it, so what it cannot write it
warns of and leaves.
"""

from __future__ import annotations

import errno
import hashlib
import json
import logging
import os
import re
import shutil
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path

from vaesc.config import canonical_json, home
from vaesc.errors import ConfigError
from vaesc.registry.files import fault
from vaesc.store import fsync
from vaesc.untrusted import read_json

logger = logging.getLogger(__name__)

LIMIT = "VAESC_MODEL_CACHE"
"""Environment variable: the number of bundles kept."""

_DEFAULT_LIMIT = 20
_IN_USE_SECONDS = 300.0
_ORPHAN_SECONDS = 3600.0
_MOST_REFS = 1000
_MOST_EVIDENCE = 5
_DIGEST = re.compile(r"[0-9a-f]{64}")
_REFS, _DRAFTS, _QUARANTINE = "refs", "tmp", "quarantine"


@dataclass(frozen=True, kw_only=True)
class Resolution:
    """What a reference meant when it was last looked up."""

    name: str
    version: int
    digest: str
    """Digest of that version's model."""
    place: str
    """Where the bundle lay on this machine without a copy of ours; empty if it did not."""
    resolved: str
    """When, as ISO 8601 in UTC."""
    atoms: tuple[int, ...] | None = None
    """Lasting numbers of its atoms, if they had been given by then."""

    @property
    def time(self) -> datetime:
        """When."""
        return datetime.fromisoformat(self.resolved)


class ModelCache:
    """The folder of kept bundles and remembered references; created when first written to."""

    def __init__(self) -> None:
        self.root = home() / "models"
        self.limit = _limit()

    def find(self, digest: str) -> Path | None:
        """Return the bundle of a digest, each file checked by its SHA-256; None if there is none.

        A damaged one is set aside first.
        """
        folder = self.root / digest
        if not self.limit or not folder.is_dir():
            return None
        if fault(folder, digest) is not None and not self._is_whole_after_all(folder, digest):
            return None
        with suppress(OSError):  # where nothing can be written, nothing is ever evicted
            os.utime(folder)
        return folder

    def keep(self, digest: str, bundle: Path) -> None:
        """Keep a copy of a verified bundle; where it cannot be written, warn and go on."""
        if not self.limit:
            return
        draft = self.root / _DRAFTS / f"{digest[:16]}.{os.getpid()}.{uuid.uuid4().hex[:8]}"
        try:
            draft.mkdir(parents=True)
            _copy(bundle, draft)
            _publish(draft, self.root / digest)
            self._evict()
        except OSError as error:
            logger.warning(
                "the model is used, but not kept for when its registry is out of reach: %s cannot "
                "be written (%s)", self.root, error.strerror,
            )  # fmt: skip
        finally:
            shutil.rmtree(draft, ignore_errors=True)

    def remember(self, key: str, resolution: Resolution) -> None:
        """Note what a reference means now; `key` is that of :func:`key_of`."""
        path = self._ref(key)
        draft = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            draft.write_text(json.dumps(asdict(resolution), indent=1, sort_keys=True) + "\n")
            draft.replace(path)
            self._forget_old_refs()
        except OSError as error:
            logger.warning(
                "what the reference means now is not remembered for when its registry is out of "
                "reach: %s cannot be written (%s)", path.parent, error.strerror,
            )  # fmt: skip
        finally:
            with suppress(OSError):
                draft.unlink(missing_ok=True)

    def recall(self, key: str) -> Resolution | None:
        """Return what a reference meant when last looked up; None if it never was."""
        path = self._ref(key)
        try:
            found = Resolution(**read_json(path))
            _check(found)
        except FileNotFoundError:
            return None
        except (OSError, ValueError, TypeError) as error:
            logger.warning("%s is damaged and ignored (%s)", path, error)
            return None
        return found

    def _ref(self, key: str) -> Path:
        return self.root / _REFS / f"{key}.json"

    def _is_whole_after_all(self, folder: Path, digest: str) -> bool:
        """Set a damaged bundle aside, unless another process has done so and fetched it anew."""
        try:
            with self._locked():
                wrong = fault(folder, digest)
                if wrong is None or not folder.is_dir():
                    return wrong is None
                evidence = self.root / _QUARANTINE / f"{digest}.{uuid.uuid4().hex[:8]}"
                evidence.parent.mkdir(parents=True, exist_ok=True)
                folder.rename(evidence)
                os.utime(evidence)
                _bury(evidence.parent)
        except OSError as error:
            logger.warning(
                "the kept model %s is damaged and not used, but cannot be set aside (%s)", folder,
                error.strerror,
            )  # fmt: skip
            return False
        logger.warning("the kept model %s was damaged (%s); it is now %s", folder, wrong, evidence)
        return False

    def _evict(self) -> None:
        """Delete the least recently used bundles beyond the limit, and what dead copiers left."""
        with self._locked():
            kept = sorted((p for p in self.root.iterdir() if _DIGEST.fullmatch(p.name)), key=_age)
            for folder in kept[self.limit :]:
                if _age(folder) > _IN_USE_SECONDS:
                    # Renamed first: whoever looks sees a whole bundle or none.
                    grave = self.root / _DRAFTS / f"{folder.name[:16]}.{uuid.uuid4().hex[:8]}"
                    folder.rename(grave)
                    shutil.rmtree(grave, ignore_errors=True)
            for orphan in (self.root / _DRAFTS).iterdir():
                if _age(orphan) > _ORPHAN_SECONDS:
                    shutil.rmtree(orphan, ignore_errors=True)

    def _forget_old_refs(self) -> None:
        refs = list((self.root / _REFS).glob("*.json"))
        for path in sorted(refs, key=_age)[_MOST_REFS:]:
            path.unlink(missing_ok=True)

    @contextmanager
    def _locked(self) -> Iterator[None]:
        from filelock import FileLock

        with FileLock(self.root / ".lock"):
            yield


def key_of(registry: str, name: str, ref: str) -> str:
    """Return the name under which a reference is remembered; it reveals no password."""
    text = canonical_json([registry, name, ref])
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def _check(found: Resolution) -> None:
    """Raise a ValueError or TypeError over a note that nobody here wrote so."""
    texts = (found.name, found.digest, found.place, found.resolved)
    if not all(isinstance(text, str) for text in texts) or not _DIGEST.fullmatch(found.digest):
        raise ValueError("no digest")
    if found.version < 1 or found.time.tzinfo is None:
        raise ValueError("no version or time")
    if found.atoms is not None and not all(isinstance(atom, int) for atom in found.atoms):
        raise ValueError("no atoms")


def _limit() -> int:
    text = os.environ.get(LIMIT) or str(_DEFAULT_LIMIT)
    if not text.isdecimal():
        raise ConfigError(
            f"{LIMIT} must be the number of models kept on this machine, 0 or more, got {text!r}"
        )
    return int(text)


def _copy(bundle: Path, folder: Path) -> None:
    """Copy the files of a bundle, and only those, down to the disk."""
    from vaesc.bundle import FILES, MANIFEST, OPTIONAL

    listed = read_json(bundle / MANIFEST)["files"]
    for name in (*FILES, *(each for each in OPTIONAL if each in listed), MANIFEST):
        with (bundle / name).open("rb") as source, (folder / name).open("xb") as target:
            shutil.copyfileobj(source, target)
            target.flush()
            os.fsync(target.fileno())


def _publish(draft: Path, target: Path) -> None:
    fsync(draft)
    try:
        draft.rename(target)
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
            raise
        # Another process kept the same model first; every use checks it anyway.
        return
    fsync(target.parent)


def _bury(evidence: Path) -> None:
    """Delete damaged bundles beyond the last few: on a bad disk they would fill it."""
    for folder in sorted(evidence.iterdir(), key=_age)[_MOST_EVIDENCE:]:
        shutil.rmtree(folder, ignore_errors=True)


def _age(path: Path) -> float:
    """Return the seconds since a file or folder was last used; none if it has just gone."""
    try:
        return time.time() - path.stat().st_mtime
    except FileNotFoundError:
        return 0.0
