"""Check a shared store and reclaim its space, by the rules of the local one.

What a registered version was made from stays, and what was made or used lately, by whichever
machine, and everything those were made from in turn. Other machines cannot be asked what they work
on, so nothing goes that is younger than a day, whatever is said: neither an artifact nor the files
of one whose manifest is not there yet. What other machines registered is known only where all of
them register: the roots must come from there (:func:`vaesc.needed.require_shared_registry`).
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from vaesc.bucket import Stored
from vaesc.needed import followed
from vaesc.remote import NOTED_EVERY, QUARANTINE, RemoteStore
from vaesc.remote_manifest import address, is_evidence, place_of
from vaesc.store import MANIFEST, DamagedError

_DAY = 86_400.0
_QUARANTINED = "quarantined"
_Place = tuple[str, str]


@dataclass(frozen=True, kw_only=True)
class RemoteGarbage:
    """Objects that may go, together."""

    path: str
    """URL that all their own begin with."""
    reason: str
    objects: tuple[Stored, ...]

    @property
    def bytes(self) -> int:
        """Bytes of all."""
        return sum(each.bytes for each in self.objects)


def addresses(remote: RemoteStore) -> dict[_Place, list[Stored]]:
    """Return our objects at every address, (kind, digest), in a fixed order."""
    found: dict[_Place, list[Stored]] = {}
    for each in remote.bucket.list():
        if place := place_of(each.key):
            found.setdefault(place, []).append(each)
    return dict(sorted(found.items()))


def verify(remote: RemoteStore) -> Iterator[dict[str, Any]]:
    """Check every artifact against its manifest; nothing is moved or changed.

    Yields:
        kind, digest, content, whole (bool), problem (empty when whole).

    Raises:
        StoreError: The bucket cannot be read.
    """
    for kind, digest in addresses(remote):
        facts = {"kind": kind, "digest": digest}
        try:
            content = remote.verified(kind, digest)
        except DamagedError as error:
            yield {**facts, "content": "", "whole": False, "problem": str(error)}
        else:
            if content is not None:  # else it was never finished: no artifact
                yield {**facts, "content": content, "whole": True, "problem": ""}


def remote_garbage(
    remote: RemoteStore,
    roots: set[str],
    *,
    keep_days: float,
    quarantine: bool = False,
    now: float | None = None,
) -> list[RemoteGarbage]:
    """List what nobody needs in a shared store.

    Args:
        remote: The store.
        roots: Addresses that must stay, see :func:`vaesc.needed.registered_addresses`.
        keep_days: What was made or used in the last so many days stays too; a day at least.
        quarantine: List the quarantined evidence as well.
        now: Seconds since 1970; default: now.

    Raises:
        StoreError: The bucket cannot be read.
    """
    now = time.time() if now is None else now
    places = addresses(remote)
    manifests = {place: _manifest(remote, place, objects) for place, objects in places.items()}
    oldest = now - max(keep_days * _DAY, _DAY) - NOTED_EVERY
    recent = {digest for (_, digest), objects in places.items() if _newest(objects) >= oldest}
    parents = {
        digest: list((found or {}).get("parents", {}).values())
        for (_, digest), found in manifests.items()
    }
    kept = followed(parents, roots | recent)
    items = []
    for place, objects in places.items():
        whole, stray = _divided(place, objects, manifests[place])
        if whole and place[1] not in kept:
            items.append(_item(remote, place, "no model or recent run uses it", whole))
        if stray and _newest(stray) < now - _DAY:
            items.append(_item(remote, place, "upload that was never finished", stray))
    if quarantine:
        for each in filter(lambda o: is_evidence(o.key), remote.bucket.list(QUARANTINE)):
            path = f"{remote.bucket}/{each.key}"
            items.append(RemoteGarbage(path=path, reason=_QUARANTINED, objects=(each,)))
    return items


def remove(remote: RemoteStore, items: Iterable[RemoteGarbage]) -> Iterator[RemoteGarbage]:
    """Delete what was listed, unless it was used or written since; yield each once it is gone.

    An artifact's manifest goes first, so that nobody finds half of one; and nobody can complete
    one meanwhile.

    Raises:
        StoreError: The bucket cannot be written.
    """
    for item in items:
        keys = [each.key for each in item.objects]
        if item.reason == _QUARANTINED:
            remote.bucket.delete(keys)
            yield item
            continue
        place = item.path.removeprefix(f"{remote.bucket}/")
        with remote.closed(place) as there:
            unchanged = all(there.get(each.key) == each for each in item.objects)
            if unchanged:
                first = [key for key in keys if key.endswith(f"/{MANIFEST}")]
                remote.bucket.delete(first)
                remote.bucket.delete(key for key in keys if key not in first)
        if unchanged:
            yield item


def _manifest(remote: RemoteStore, place: _Place, objects: list[Stored]) -> dict[str, Any] | None:
    """Return an artifact's manifest; None if it has none, or a damaged one."""
    if not any(each.key == f"{address(*place)}/{MANIFEST}" for each in objects):
        return None
    try:
        return remote.manifest(*place)
    except DamagedError:
        return None  # `verify` says so; what it came from cannot be known


def _divided(
    place: _Place, objects: list[Stored], manifest: dict[str, Any] | None
) -> tuple[list[Stored], list[Stored]]:
    """Return what belongs to the artifact of an address, and what to an upload beside it."""
    key = f"{address(*place)}/{MANIFEST}"
    if not any(each.key == key for each in objects):
        return [], objects
    if manifest is None:
        return objects, []
    content = f"{address(*place)}/{manifest['content']}/"
    whole = [each for each in objects if each.key == key or each.key.startswith(content)]
    return whole, [each for each in objects if each not in whole]


def _newest(objects: list[Stored]) -> float:
    return max((each.modified for each in objects), default=0.0)


def _item(remote: RemoteStore, place: _Place, reason: str, objects: list[Stored]) -> RemoteGarbage:
    path = f"{remote.bucket}/{address(*place)}"
    return RemoteGarbage(path=path, reason=reason, objects=tuple(objects))
