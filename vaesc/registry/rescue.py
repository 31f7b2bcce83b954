"""The home's own run database: a copy of it is kept, and taken when the original is damaged.

Everything that was computed lies in the store, but which version is champion, and why, lies in
one SQLite file. A copy is made by SQLite's own online backup after every run and every move of an
alias, and the one before it is kept, too. A run looks at every page of the file first, and
everybody at whether it can be opened: one that SQLite finds damaged is set aside as evidence, and
the newest whole copy takes its place, as it does of a file that is gone. What was recorded since
that copy was made is lost, and the next run says so. To begin anew, move ``backups`` away together
with the file.

A server's database is its keeper's business, and so is a file that the user named himself. The
local Prefect server's, which holds no result, is only set aside (:mod:`tasks.server`).
"""

from __future__ import annotations

import logging
import os
import shutil
import sqlite3
import time
import uuid
from contextlib import closing, suppress
from pathlib import Path

from vaesc.config import home
from vaesc.scratch import own_name

logger = logging.getLogger(__name__)

_BESIDE = ("-journal", "-wal", "-shm")
"""What SQLite keeps beside a database: of a damaged one it must not meet the copy."""
_DAMAGED = ("SQLITE_CORRUPT", "SQLITE_NOTADB", "SQLITE_IOERR_SHORT_READ")


def own_database() -> Path:
    """Return the run database of this home."""
    return home() / "mlflow.db"


def copy_of_database() -> Path:
    """Return where its copy is kept."""
    return home() / "backups" / "mlflow.db"


def keep_copy() -> None:
    """Copy the home's run database as it is now, and keep the copy before.

    A database that is damaged by now takes no good copy's place. A disk or a memory that refuses
    costs the copy only.
    """
    path, copy = own_database(), copy_of_database()
    if not path.exists():
        return
    beside = home() / "tmp" / own_name("database")
    try:
        for folder in (copy.parent, beside.parent):
            folder.mkdir(parents=True, exist_ok=True)
        with closing(_opened(path)) as source, closing(sqlite3.connect(beside)) as target:
            source.backup(target)
        if not is_whole(beside):
            logger.warning("the run database %s is damaged: the last copy of it is kept", path)
            return
        with suppress(FileNotFoundError):  # there is none, or a run that ends with us moved it
            copy.replace(_before(copy))
        beside.replace(copy)
    except (OSError, sqlite3.Error, MemoryError) as error:
        logger.warning("no copy of the run database was made in %s: %s", copy.parent, error)
    finally:
        with suppress(OSError):
            beside.unlink(missing_ok=True)


def rescue(*, thorough: bool) -> None:
    """Put the copy in the place of a run database that is damaged or gone.

    What was done is logged, and told by the next run (:func:`told`).

    Args:
        thorough: Look at every page of the database, as who writes to it should: that takes about
            a second a gigabyte. Else only at whether it can be opened.
    """
    path, newest = own_database(), copy_of_database()
    copies = [each for each in (newest, _before(newest)) if each.exists()]
    if not copies or is_whole(path, thorough=thorough):
        return
    from filelock import FileLock

    with FileLock(f"{path}.lock"):
        if is_whole(path, thorough=thorough):  # somebody else was faster
            return
        copy = next(filter(is_whole, copies), None)
        if copy is None:
            logger.warning("the copies of the run database in %s are damaged, too", newest.parent)
            return
        found = "damaged" if path.exists() else "gone"
        evidence = set_aside(path, keep=True)
        # Into the very file, so that who has it open (MLflow keeps connections) sees what it is
        # now; if this is cut short, the next one finds it damaged and begins again.
        with path.open("wb") as file:
            file.write(copy.read_bytes())
            file.flush()
            os.fsync(file.fileno())
        made = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(copy.stat().st_mtime))
        sentence = (
            f"the run database {path} was {found} (what there was lies in {evidence}); its copy "
            f"of {made} took its place, and what was recorded since is lost"
        )
        logger.warning("%s", sentence)
        with _notes().open("a", encoding="utf-8") as notes:
            notes.write(f"{sentence}\n")


def told() -> list[str]:
    """Return what was rescued since the last run told of it, and forget it."""
    try:
        found = _notes().read_text("utf-8").splitlines()
        _notes().unlink()
    except FileNotFoundError:
        return []
    return found


def _notes() -> Path:
    return copy_of_database().with_name("rescued.txt")


def _before(copy: Path) -> Path:
    return copy.with_name("mlflow-before.db")


def is_whole(path: Path, *, thorough: bool = True) -> bool:
    """Say whether a database is there and not damaged.

    What cannot be told (it is locked, or may not be read) is no damage: opening it says the rest.
    """
    if not path.exists():
        return False
    try:
        with closing(_opened(path)) as database:
            # What is empty is whole to SQLite, but nothing that MLflow has written.
            (tables,) = database.execute("SELECT count(*) FROM sqlite_master").fetchone()
            if not thorough or not tables:
                return bool(tables)
            (found,) = database.execute("PRAGMA quick_check(1)").fetchone()
            return bool(found == "ok")
    except sqlite3.Error as error:
        return not getattr(error, "sqlite_errorname", "").startswith(_DAMAGED)


def _opened(path: Path) -> sqlite3.Connection:
    # Not as a read-only URI: of a process that was killed a journal may have to be rolled back.
    return sqlite3.connect(path, timeout=30)


def set_aside(path: Path, *, keep: bool = False) -> Path:
    """Move a damaged database and what lies beside it away, and return where to.

    Args:
        path: The database; it may be gone, and what lay beside it still there.
        keep: Leave the database itself in its place, too: only a copy of it goes.
    """
    when = time.strftime("%Y%m%d-%H%M%S")
    evidence = home() / "backups" / f"damaged-{when}-{uuid.uuid4().hex[:6]}"
    evidence.mkdir(parents=True)
    if path.exists() and keep:
        shutil.copyfile(path, evidence / path.name)
    for each in (path, *(path.with_name(path.name + end) for end in _BESIDE)):
        if each.exists() and not (keep and each == path):
            each.replace(evidence / each.name)
    return evidence
