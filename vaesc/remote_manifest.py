"""Where in a bucket an artifact's objects lie, and what its manifest says, held against that."""

from __future__ import annotations

import json
import logging
import re
from pathlib import PurePosixPath
from typing import Any

from vaesc.store import MANIFEST, PROVENANCE, DamagedError, checked_manifest
from vaesc.untrusted import parse_json

logger = logging.getLogger(__name__)

_ANNOUNCED = 256 * 2**20
CLOSED = "closed."
"""What the name of a mark begins with that lies at an address while something is taken away."""
_OURS = re.compile(
    r"(?P<kind>[a-z][a-z0-9_-]*)/(?P<start>[0-9a-f]{2})/(?P<digest>(?P=start)[0-9a-f]{62})/"
    rf"({re.escape(MANIFEST)}|{re.escape(CLOSED)}[0-9a-f]{{8}}|[0-9a-f]{{64}}/.+)"
)
_EVIDENCE = re.compile(r"quarantine/[0-9a-f]{64}\.[0-9a-f]{8}/.+")


def address(kind: str, digest: str) -> str:
    """Return the prefix of the keys of all there is of an artifact."""
    return f"{kind}/{digest[:2]}/{digest}"


def place_of(key: str) -> tuple[str, str] | None:
    """Return (kind, digest) of the artifact that an object is of; None: it is not one of ours."""
    found = _OURS.fullmatch(key)
    return (found["kind"], found["digest"]) if found else None


def is_evidence(key: str) -> bool:
    """Tell whether an object is of something that was found damaged, and kept."""
    return bool(_EVIDENCE.fullmatch(key))


def is_mark(key: str) -> bool:
    """Tell whether an object of an address is a mark that something is taken away from there."""
    return key.rpartition("/")[2].startswith(CLOSED) and key.count("/") == 3


def checked_text(text: bytes, kind: str, digest: str) -> dict[str, Any]:
    """Return what a manifest says, once it is known to be of this address and safe to follow.

    Raises:
        DamagedError, ValueError, KeyError, TypeError, AttributeError: It is not.
    """
    manifest = parse_json(text)
    spec = checked_manifest(manifest, digest)
    if spec.kind != kind:
        raise DamagedError("the manifest does not describe this address")
    if text != as_written(manifest).encode():
        raise DamagedError("the manifest is not as it was written")
    for name, facts in manifest["files"].items():
        path = PurePosixPath(name)
        inside = path.parts and not path.is_absolute() and ".." not in path.parts
        if not inside or str(path) != name or name in (MANIFEST, PROVENANCE):
            raise DamagedError(f"{name} is no name of a file of an artifact")
        if not isinstance(facts["bytes"], int):
            raise DamagedError(f"{name} has no length")
    return dict(manifest)


def as_written(manifest: dict[str, Any]) -> str:
    """Return the text of a manifest, byte for byte as the store writes it."""
    return json.dumps(manifest, indent=1, sort_keys=True, allow_nan=False) + "\n"


def announce(verb: str, manifest: dict[str, Any], url: str) -> None:
    """Log that an artifact is copied, if it is so large that this takes a while."""
    n_bytes = sum(facts["bytes"] for facts in manifest["files"].values())
    if n_bytes >= _ANNOUNCED:
        logger.info(
            "%s %s %s: %.0f MB, %s", verb, manifest["kind"], manifest["digest"][:12],
            n_bytes / 1e6, url,
        )  # fmt: skip
