"""The store of this machine, which is its own alone, or the verified cache of a shared one.

Which of the two is said by ``VAESC_STORE`` (:mod:`vaesc.remote`), as ``VAESC_HOME`` says where the
local one is: that is a property of the machine and no setting of a run, and commands that have no
config (``verify``, ``gc``) need it too. Every step works on local files, and knows of no bucket.
"""

from __future__ import annotations

import logging
import shutil
import time
from pathlib import Path

from vaesc.bucket_errors import AwayError
from vaesc.errors import StoreError
from vaesc.remote import RemoteStore, remote_store
from vaesc.scratch import own_name
from vaesc.store import Artifact, Store

logger = logging.getLogger(__name__)

_PATIENCE = 1800.0
"""Seconds for which a bucket may be away when something has been made."""
_FIRST_PAUSE, _LONGEST_PAUSE = 5.0, 60.0


def this_store() -> Store:
    """Return the store in :func:`vaesc.home`, shared with other machines if one is named.

    Raises:
        ConfigError: ``VAESC_STORE`` is no URL of S3.
        StoreError: obstore is not installed.
    """
    remote = remote_store()
    return SharedStore(remote) if remote else Store()


class SharedStore(Store):
    """A local store that fetches what it lacks, and publishes what it has.

    An artifact is made on this machine first, and then published. If the bucket is out of reach
    by then, that is tried again for half an hour; the work is kept here in any case, and the next
    run only publishes it.

    Args:
        remote: Whom it shares with.
        root: As :class:`Store`.
    """

    def __init__(self, remote: RemoteStore, root: Path | None = None) -> None:
        super().__init__(root)
        self.remote = remote

    def open(self, kind: str, digest: str) -> Artifact:
        """Return a verified artifact, from here or the bucket; see :meth:`Store.open`."""
        folder = self.path(kind, digest)
        if not folder.is_dir():
            self._adopt(kind, digest)
            return super().open(kind, digest)
        try:
            return super().open(kind, digest)
        except StoreError:  # it was damaged, and is in quarantine now
            if folder.is_dir() or not self._adopt(kind, digest):
                raise
        return super().open(kind, digest)

    def find(self, kind: str, digest: str) -> Artifact | None:
        """Return a verified artifact, from here or the bucket; None if neither has it whole."""
        if not self.path(kind, digest).is_dir() and not self._adopt(kind, digest):
            return None
        return super().find(kind, digest)

    def _adopt(self, kind: str, digest: str, *, instead: bool = False) -> bool:
        """Fetch an artifact that is missing here, or `instead` of this machine's own.

        Returns:
            Whether the bucket has it.
        """
        place = self.root / "tmp" / own_name(digest[:16])
        folder = place / digest
        folder.mkdir(parents=True)
        try:
            if not self.remote.fetch(kind, digest, folder):
                return False
            target = self.path(kind, digest)
            if instead:
                self._grave(target).rename(place / "replaced")
            self._publish(folder, target)
        finally:
            shutil.rmtree(place, ignore_errors=True)
        return True

    def _settled(self, artifact: Artifact) -> Artifact:
        """Publish an artifact; the loser of a race adopts the winner's."""
        kind, digest = artifact.kind, artifact.digest
        winner = self._published(artifact)
        if winner == artifact.content:
            return artifact
        told = "%s %s has content %s in %s, but %s on this machine, from the same inputs; %s"
        facts = (kind, digest[:12], winner[:12], self.remote.bucket, artifact.content[:12])
        if not artifact.computed:
            logger.warning(told, *facts, "both stay, and this machine goes on with its own")
            return artifact
        if not self._adopt(kind, digest, instead=True):
            return self._settled(artifact)  # the winner's was damaged, and is gone
        logger.warning(told, *facts, "this run goes on with the bucket's, which was first")
        return super().open(kind, digest)

    def _published(self, artifact: Artifact) -> str:
        """Publish an artifact; one that was just made is worth waiting for a bucket that is away.

        The machine may go with its disk, as a pod does. What was made before waits for nothing.
        """
        kind, digest = artifact.kind, artifact.digest
        until, pause = time.monotonic() + (_PATIENCE if artifact.computed else 0), _FIRST_PAUSE
        while True:
            try:
                return self.remote.publish(kind, digest, artifact.path)
            except AwayError as error:
                if time.monotonic() + pause > until:
                    raise
                logger.warning(
                    "%s %s is made, but not published: %s; tried again in %.0f s, for %.0f min",
                    kind, digest[:12], error, pause, (until - time.monotonic()) / 60,
                )  # fmt: skip
            time.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE)
