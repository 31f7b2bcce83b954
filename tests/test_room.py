"""Room on the disk: reckoned from below, and refused in a sentence before anything is computed."""

import errno
import os
import shutil
import sqlite3
from collections import namedtuple
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors import SafetensorError

from vaesc.config import PipelineConfig
from vaesc.errors import MachineError, machine_told
from vaesc.records import Dataset
from vaesc.room import FLOOR, needed_bytes, require_room

ORDER = ("train", "extract", "learn", "refine", "evaluate")
CONFIG = PipelineConfig()
Usage = namedtuple("Usage", "total used free")


def images(n_train, side):
    return Dataset(
        uri="", digest="", content="", run_id="", source="digits", n_train=n_train,
        n_validation=n_train // 10, n_test=n_train // 10, shape=(side, side),
    )  # fmt: skip


@given(st.integers(10, 10**7), st.integers(1, 512), st.sampled_from([1, 16, 256]))
def test_less_is_needed_the_further_a_run_is_and_never_less_than_the_images(n, side, mib):
    dataset, config = images(n, side), PipelineConfig(window_mib=mib)
    needed = [needed_bytes(step, config, dataset) for step in ORDER]
    assert needed == sorted(needed, reverse=True)
    in_files = [4 * side**2 * split for split in (n, n // 10)]
    assert needed[-1] == FLOOR + sum(size for size in in_files if size <= mib << 20)
    assert needed_bytes("ingest", CONFIG, None) == FLOOR


def test_a_full_disk_is_told_before_the_work(monkeypatch, tmp_path):
    dataset = images(1_000_000, 28)
    monkeypatch.setattr("vaesc.room.shutil.disk_usage", lambda _: Usage(0, 0, 4 * 10**8))
    with pytest.raises(MachineError, match=r"train needs at least 4\d\d MB.* 400 MB are free"):
        require_room("train", CONFIG, dataset, tmp_path / "not" / "there" / "yet")
    require_room("ingest", CONFIG, None, Path("relative"))


def test_a_tree_that_cannot_be_copied_names_the_disk(tmp_path, monkeypatch):
    """`shutil.copytree` gathers its errors into one that has no number of its own."""
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree" / "weights").write_bytes(b"1")

    def refuse(source, target, **_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(target))

    says = "No space left on device; free some space"
    with pytest.raises(MachineError, match=says), machine_told():
        shutil.copytree(tmp_path / "tree", tmp_path / "copy", copy_function=refuse)
    with pytest.raises(shutil.Error), machine_told():
        raise shutil.Error([("a", "b", "the two are one file")])


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (SafetensorError("I/O error: No space left on device (os error 28)"), "free some space"),
        (sqlite3.OperationalError("database or disk is full"), "free some space"),
        (sqlite3.OperationalError("attempt to write a readonly database"), "make it writable"),
        (OSError(errno.EIO, "Input/output error", "/x/y"), "/x/y: Input/output error; check"),
    ],
)
def test_whoever_says_it_a_disk_that_refuses_is_one_sentence(error, said):
    with pytest.raises(MachineError, match=said), machine_told():
        raise error
    with pytest.raises(MachineError, match=said), machine_told():
        raise RuntimeError("somebody's own words") from error


def test_other_errors_stay_what_they_are():
    def mend():
        try:
            raise OSError(errno.EACCES, "Permission denied")
        except OSError:
            return {}["a mistake of ours, made while a refusal was dealt with"]

    with pytest.raises(KeyError), machine_told():
        mend()
