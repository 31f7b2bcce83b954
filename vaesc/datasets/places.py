"""Where the files of a public data set are looked for, and how they are fetched.

In this order: our own downloads, the folder the user names (``dataset.folder``: torchvision's
layout, or the raw folder itself), Debian's ``/usr/share/datasets``. A place counts only when it
has every file. Nothing is fetched while ingesting: that is :func:`fetch`'s business alone.
"""

from __future__ import annotations

import logging
import shutil
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from vaesc.config import DatasetConfig, expanded, home
from vaesc.datasets.files import first_line
from vaesc.errors import DataError

logger = logging.getLogger(__name__)

DEBIAN = Path("/usr/share/datasets")


class DownloadError(DataError):
    """Fetching failed for a reason outside this machine: the one failure worth a retry."""


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """The files of a data set."""

    source: str
    layout: str
    """Folder inside torchvision's root, such as ``MNIST/raw``."""
    files: tuple[str, ...]
    """Their names, without ``.gz``."""


def downloads() -> Path:
    """Return the folder for what is downloaded, a root in torchvision's layout."""
    return home() / "downloads"


def find(wanted: Wanted, config: DatasetConfig) -> Mapping[str, Path] | None:
    """Return the path of each file, plain or gzipped, from the first place that has them all.

    Raises:
        DataError: ``dataset.folder`` is not a folder.
    """
    for place in _places(wanted, config):
        found = _files_in(place, wanted)
        if len(found) == len(wanted.files):
            return found
        if found:
            logger.info("%s has only %s of %s", place, sorted(found), wanted.source)
    return None


def missing(wanted: Wanted, config: DatasetConfig) -> DataError:
    """Return the complaint that the files are nowhere."""
    places = list(dict.fromkeys(_places(wanted, config)))
    for place in places:
        if found := _files_in(place, wanted):
            lacking = next(name for name in wanted.files if name not in found)
            return DataError(
                f"{place} has only part of {wanted.source}: {lacking} (or .gz) is missing; "
                "complete it, or set dataset.download=true"
            )
    return DataError(
        f"{wanted.source} is nowhere on this machine (looked in {', '.join(map(str, places))}); "
        "set dataset.folder to the folder that holds it, or dataset.download=true"
    )


def fetch(wanted: Wanted, config: DatasetConfig, into: Callable[[Path], object]) -> None:
    """Download with torchvision beside, then move the files into place one by one.

    Args:
        wanted: The files.
        config: For `download`.
        into: Has torchvision download into the root it is given.

    Raises:
        DataError: Downloading is switched off.
        DownloadError: It failed.
    """
    if not config.download:
        raise missing(wanted, config)
    root = downloads() / f".{uuid.uuid4().hex[:8]}"
    target = downloads() / wanted.layout
    try:
        root.mkdir(parents=True)
        target.mkdir(parents=True, exist_ok=True)
        into(root)
        found = _files_in(root / wanted.layout, wanted)
        for name in wanted.files:
            found[name].replace(target / found[name].name)
    except (OSError, RuntimeError, KeyError) as error:
        raise DownloadError(
            f"{wanted.source} could not be downloaded ({first_line(error)}); try again, or set "
            "dataset.folder to a folder that holds it"
        ) from error
    finally:
        shutil.rmtree(root, ignore_errors=True)


def _places(wanted: Wanted, config: DatasetConfig) -> Iterator[Path]:
    yield downloads() / wanted.layout
    if config.folder is not None:
        folder = expanded(config.folder)
        if not folder.is_dir():
            raise DataError(
                f"dataset.folder must be a folder, got {folder}, which is "
                f"{'a file' if folder.exists() else 'not there'}; name the folder that holds "
                f"{wanted.layout}"
            )
        first, *deeper = Path(wanted.layout).parts
        yield from (folder / wanted.layout, folder / first, folder.joinpath(*deeper), folder)
    yield DEBIAN / wanted.source


def _files_in(place: Path, wanted: Wanted) -> dict[str, Path]:
    # The plain file first: it need not be unpacked.
    choices = {name: (place / name, place / f"{name}.gz") for name in wanted.files}
    return {
        n: next(filter(Path.is_file, c)) for n, c in choices.items() if any(map(Path.is_file, c))
    }
