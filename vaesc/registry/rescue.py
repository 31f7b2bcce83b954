"""The home's own run database: a copy of it is kept, and taken when the original is damaged.

Everything that was computed lies in the store, but which version is champion, and why, lies in one
SQLite file. A copy is made by SQLite's own online backup after every run and every move of an
alias, beside it and renamed. Whoever is about to write looks at the file first: one that SQLite
finds damaged is set aside as evidence, and the copy takes its place, as it does of a file that is
gone. What was recorded since the copy was made is lost, and that is said.

A server's database is its keeper's business, and so is a file that the user named himself. The
local Prefect server's, which holds no result, is only set aside (:mod:`tasks.server`).
"""

from __future__ import annotations

import logging
import shutil
import sqlite3
import time
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
    """Copy the home's run database as it is now; a disk that refuses costs the copy only."""
    path, copy = own_database(), copy_of_database()
    if not path.exists():
        return
    beside = copy.with_name(own_name("mlflow"))
    try:
        copy.parent.mkdir(parents=True, exist_ok=True)
        with closing(_opened(path)) as source, closing(sqlite3.connect(beside)) as target:
            source.backup(target)
        beside.replace(copy)
    except (OSError, sqlite3.Error) as error:
        logger.warning("no copy of the run database was made in %s: %s", copy.parent, error)
        with suppress(OSError):
            beside.unlink(missing_ok=True)


def rescue(*, thorough: bool) -> str:
    """Put the copy in the place of a run database that is damaged or gone.

    Args:
        thorough: Look at every page of the database, as who writes to it should: that takes about
            a second a gigabyte. Else only at whether it can be opened.

    Returns:
        A sentence on what was done; empty if there was nothing to do, or no copy to do it with.
    """
    path, copy = own_database(), copy_of_database()
    if not copy.exists() or is_whole(path, thorough=thorough):
        return ""
    from filelock import FileLock

    with FileLock(f"{path}.lock"):
        if is_whole(path):  # somebody else was faster
            return ""
        if not is_whole(copy):
            logger.warning("the copy of the run database in %s is damaged, too", copy)
            return ""
        found = f"damaged and lies in {set_aside(path)} now" if path.exists() else "gone"
        beside = path.with_name(own_name("mlflow"))
        shutil.copyfile(copy, beside)
        beside.rename(path)
    made = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(copy.stat().st_mtime))
    sentence = (
        f"the run database {path} was {found}; its copy of {made} took its place, and what was "
        "recorded since is lost"
    )
    logger.warning("%s", sentence)
    return sentence


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


def set_aside(path: Path) -> Path:
    """Move a damaged database and what lies beside it away, and return where to."""
    evidence = home() / "backups" / f"damaged-{time.strftime('%Y%m%d-%H%M%S')}"
    evidence.mkdir(parents=True, exist_ok=True)
    for each in (path, *(path.with_name(path.name + end) for end in _BESIDE)):
        if each.exists():
            each.replace(evidence / each.name)
    return evidence
