"""A whole, verified model in memory: from the registry, from this machine's copy, or a folder.

What a reference means is asked of the registry every time, and noted. The files come from the
kept copy of that digest (:mod:`vaesc.registry.cache`) if there is one, else from where the
registry keeps them, and are checked against the registered digest before a byte is believed. They
are read as safetensors and JSON: nothing is unpickled, and the code that MLflow keeps beside them
is never run here.

While the registry does not answer (it alone: one that answers "no such alias" is believed), the
last note answers in its place, with a warning, and the model's ``origin`` says ``offline``. A
registry that said which version it is, but cannot give its files, is an error: an older version
would be known to be the wrong one.
"""

from __future__ import annotations

import hashlib
import json
import logging
from contextlib import nullcontext
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from vaesc.bucket import Bucket, is_remote
from vaesc.config import expanded
from vaesc.errors import DataError, RegistryError, StoreError
from vaesc.origin import Origin
from vaesc.registry.cache import ModelCache, Resolution, key_of
from vaesc.registry.connection import registry_uri, tracking_uri
from vaesc.registry.failures import UnreachableError, shown
from vaesc.registry.files import (
    DIGEST_TAG,
    fault,
    fetched,
    local_folder,
    model_digest,
    shown_version,
)
from vaesc.registry.lookup import ATOMS_TAG, find_version, is_fixed, parsed
from vaesc.registry.probing import sqlite_path
from vaesc.registry.tracking import Tracking, connect
from vaesc.scratch import scratch

if TYPE_CHECKING:
    from mlflow.entities.model_registry import ModelVersion

    from vaesc.bundle import SparseVAE

logger = logging.getLogger(__name__)

_MOST_BYTES = 2**20
"""Of a bundle's manifest, which lists a few files."""


def load_model(
    ref: str | int | Path = "champion", *, name: str = "vaesc", device: str = "auto"
) -> SparseVAE:
    """Load a model from the registry, or from a folder.

    While the registry does not answer, a model that was loaded on this machine before is loaded
    from its kept copy, with a warning: ``model.origin`` says so, and since when.

    Args:
        ref: An alias, a version number, ``latest``, ``models:/name/3``, ``models:/name@alias``,
            the id of an MLflow run, or a folder (a ``Path``, or a text with a slash in it), which
            may be in a bucket (``s3://bucket/prefix``).
        name: The registered model, where `ref` does not name one.
        device: Where torch is to compute, see :func:`vaesc.models.resolve_device`.

    Returns:
        The model, each of its files checked by its SHA-256; ``model.origin`` says which it is.

    Raises:
        RegistryError: There is no such model, its files are damaged or do not belong together, or
            the registry cannot be reached and no copy is kept.
        StoreError: The folder holds no whole model, or the bucket cannot be read.
        DataError: The folder's dictionary was learned on the latents of another VAE.
    """
    if is_remote(ref):
        return _from_bucket(Bucket(str(ref)), device)
    folder = as_folder(ref)
    if folder is not None:
        return _from_folder(folder, str(ref), device)
    model, text = parsed(ref, name)
    return _Lookup(str(ref), model, text, device).load()


@dataclass(frozen=True)
class _Lookup:
    """One reference to be loaded."""

    ref: str
    name: str
    text: str
    """An alias, a number, ``latest`` or a run id."""
    device: str

    def load(self) -> SparseVAE:
        """Ask the registry, else the last note of what it said."""
        cache = ModelCache()
        try:
            tracking = connect(create=False)
            found = self._find(tracking)
        except UnreachableError as error:
            return self._offline(cache, error)
        try:
            return self._of_version(tracking, found, cache)
        except UnreachableError:
            raise
        except RegistryError:
            # Its version may have been deleted or replaced since, and the alias have moved on.
            again = self._find(tracking)
            if _same(again, found):
                raise
            return self._of_version(tracking, again, cache)

    def _find(self, tracking: Tracking) -> ModelVersion:
        return find_version(tracking, self.text, self.name)

    def _of_version(self, tracking: Tracking, found: ModelVersion, cache: ModelCache) -> SparseVAE:
        """Load a version, and note what was looked up once it is whole."""
        digest = found.tags.get(DIGEST_TAG)
        if digest is None:
            raise RegistryError(f"{shown_version(found)} is not a model that vaesc registered")
        model, place = self._kept(cache, digest, shown_version(found)), ""
        if model is None:
            model, place = self._fetched(tracking, found, digest, cache)
        atoms = found.tags.get(ATOMS_TAG)
        resolution = Resolution(
            name=found.name, version=int(found.version), digest=digest, place=place,
            resolved=_now().isoformat(), atoms=tuple(json.loads(atoms)["ids"]) if atoms else None,
        )  # fmt: skip
        cache.remember(self._key(), resolution)
        # A version never moves: whoever asks for it by its number later gets the same.
        cache.remember(_key_of(found.name, str(found.version)), resolution)
        return self._with_origin(model, resolution, offline=False)

    def _kept(self, cache: ModelCache, digest: str, what: str) -> SparseVAE | None:
        """Return the kept model of a digest; None if it is not kept, or no longer."""
        from vaesc.bundle import SparseVAE

        folder = cache.find(digest)
        if folder is None:
            return None
        try:
            return SparseVAE.load(folder, self.device)
        except StoreError as error:
            logger.warning("the kept model %s went while it was read (%s)", folder, error)
            return None
        except DataError as error:
            raise RegistryError(_refusal(what, error)) from error

    def _fetched(
        self, tracking: Tracking, found: ModelVersion, digest: str, cache: ModelCache
    ) -> tuple[SparseVAE, str]:
        """Load a version's files from where the registry keeps them, and keep a copy.

        Returns:
            The model, and where it lies if that is on this machine, as is its registry.
        """
        from vaesc.bundle import SparseVAE

        here = local_folder(tracking, found)
        with nullcontext(here) if here else fetched(tracking, found) as folder:
            try:
                if wrong := fault(folder, digest):
                    raise StoreError(wrong)
                model = SparseVAE.load(folder, self.device)
            except StoreError as error:
                raise RegistryError(
                    f"{shown_version(found)} is damaged ({error}); run the pipeline again, which "
                    "registers it anew, or name another version"
                ) from error
            except DataError as error:
                raise RegistryError(_refusal(shown_version(found), error)) from error
            if here and sqlite_path(registry_uri()):
                # A registry in a file beside it does not go away alone: no second copy.
                return model, str(here)
            cache.keep(digest, folder)
        return model, ""

    def _offline(self, cache: ModelCache, error: UnreachableError) -> SparseVAE:
        """Load what the reference meant when the registry last answered."""
        from vaesc.bundle import SparseVAE

        last = cache.recall(self._key())
        folder = cache.find(last.digest) if last else None
        if last and folder is None and last.place and not fault(Path(last.place), last.digest):
            folder = Path(last.place)
        if last is None or folder is None:
            raise UnreachableError(
                f"{error}; no copy of {self.ref!r} is kept on this machine either"
            ) from error
        since = last.time.isoformat(sep=" ", timespec="seconds")
        doubt = "what that names does not change" if is_fixed(self.text) else "it may have moved"
        logger.warning(
            "%s; until it answers, %r is models:/%s/%d from this machine's copy, as of %s (%s)",
            error, self.ref, last.name, last.version, since, doubt,
        )  # fmt: skip
        try:
            return self._with_origin(SparseVAE.load(folder, self.device), last, offline=True)
        except (StoreError, DataError) as wrong:
            raise RegistryError(_refusal(f"the kept copy of {self.ref!r}", wrong)) from wrong

    def _with_origin(self, model: SparseVAE, of: Resolution, *, offline: bool) -> SparseVAE:
        model.atom_ids = None if of.atoms is None else tuple(of.atoms)
        model.origin = Origin(
            ref=self.ref, digest=of.digest, uri=shown(registry_uri()), resolved=of.time,
            name=of.name, version=of.version, offline=offline,
        )  # fmt: skip
        return model

    def _key(self) -> str:
        return _key_of(self.name, self.text)


def _key_of(name: str, text: str) -> str:
    return key_of(f"{tracking_uri()} {registry_uri()}", name, text)


def _from_folder(folder: Path, ref: str, device: str) -> SparseVAE:
    from vaesc.bundle import SparseVAE

    model = SparseVAE.load(folder, device)
    model.origin = Origin(
        ref=ref, digest=model_digest(folder), uri=str(folder.resolve()), resolved=_now()
    )
    return model


def _from_bucket(bucket: Bucket, device: str) -> SparseVAE:
    """Load a model from a bucket: from the kept copy of what is there now, else fetched anew."""
    from vaesc.bundle import FILES, MANIFEST, OPTIONAL

    try:
        manifest = bucket.read(MANIFEST, _MOST_BYTES)
    except ValueError as error:
        raise StoreError(f"{bucket} holds no model: {error}") from error
    if manifest is None:
        raise StoreError(f"{bucket} holds no model: it has no {MANIFEST}; check the URL")
    digest, cache = hashlib.sha256(manifest).hexdigest(), ModelCache()
    with scratch("model") as draft:
        folder = cache.find(digest)
        if folder is None:
            (draft / MANIFEST).write_bytes(manifest)
            for name in {each.key for each in bucket.list()} & {*FILES, *OPTIONAL}:
                with (draft / name).open("wb") as out:
                    out.writelines(bucket.pieces(name))
            if wrong := fault(draft, digest):
                raise StoreError(
                    f"the model in {bucket} is damaged ({wrong}); copy it there again"
                )
            cache.keep(digest, draft)
            folder = draft
        model = _from_folder(folder, bucket.url, device)
    assert model.origin is not None
    model.origin = replace(model.origin, uri=bucket.url)
    return model


def as_folder(ref: str | int | Path) -> Path | None:
    """Return the folder that a reference names; None if it means something in the registry."""
    if isinstance(ref, Path):
        return expanded(ref)
    text = str(ref)
    is_path = "/" in text or "\\" in text or text in (".", "..")
    return expanded(text) if is_path and not text.startswith("models:") else None


def _same(a: ModelVersion, b: ModelVersion) -> bool:
    return (a.name, a.version, a.tags.get(DIGEST_TAG)) == (
        b.name,
        b.version,
        b.tags.get(DIGEST_TAG),
    )


def _refusal(what: str, error: Exception) -> str:
    return f"{what} cannot be used: {error}"


def _now() -> datetime:
    return datetime.now(UTC)
