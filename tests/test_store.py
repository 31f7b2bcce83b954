"""The store's promises: whole or absent, verified or quarantined, made once."""

import hashlib
import json
import multiprocessing
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vaesc.errors import StoreError
from vaesc.store import MANIFEST, PROVENANCE, DamagedError, Spec, Store, read_artifact


def make_spec(**changes):
    base = {"kind": "toy", "config": {"a": 1, "b": [1.5]}, "inputs": {"x": "00"}, "source": "s"}
    return Spec(**{**base, **changes})


def build(folder: Path):
    (folder / "deep").mkdir()
    (folder / "deep" / "numbers.txt").write_text("1 2 3\n")
    return {"n": 3}


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "store")


def test_the_second_make_finds_what_the_first_made(store):
    first = store.make(make_spec(), build)
    second = store.make(make_spec(), lambda folder: pytest.fail("built twice"))
    assert (first.computed, second.computed) == (True, False)
    assert first == second
    assert second.summary == {"n": 3}


def test_equal_work_in_two_stores_is_byte_identical(tmp_path):
    made = [Store(tmp_path / name).make(make_spec(), build) for name in "ab"]
    assert made[0].content == made[1].content
    assert (made[0].path / MANIFEST).read_bytes() == (made[1].path / MANIFEST).read_bytes()


@pytest.mark.parametrize(
    "change",
    [{"kind": "other"}, {"config": {"a": 2}}, {"inputs": {"x": "01"}}, {"source": "t"}],
)
def test_whatever_goes_in_changes_the_address(change):
    assert make_spec(**change).digest != make_spec().digest


@given(st.dictionaries(st.text(max_size=5), st.integers() | st.text(max_size=5), max_size=6))
def test_the_address_does_not_depend_on_the_order_of_the_config(config):
    backwards = dict(reversed(config.items()))
    assert make_spec(config=config).digest == make_spec(config=backwards).digest


def test_the_address_is_the_same_in_another_process():
    program = (
        "from vaesc.store import Spec;"
        "d = dict(config={'a': 1, 'b': [1.5]}, inputs={'x': '00'});"
        "print(Spec(kind='toy', source='s', **d).digest)"
    )
    environment = {**os.environ, "PYTHONHASHSEED": "12345"}
    printed = subprocess.run(
        [sys.executable, "-c", program],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    assert printed.stdout.strip() == make_spec().digest


def flip_a_byte(path: Path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize(
    "damage",
    [
        lambda a: flip_a_byte(a / "deep" / "numbers.txt"),
        lambda a: (a / "deep" / "numbers.txt").unlink(),
        lambda a: (a / "deep" / "numbers.txt").write_text(""),
        lambda a: (a / "stranger.txt").write_text("added"),
        lambda a: flip_a_byte(a / "summary.json"),
        lambda a: (a / MANIFEST).write_text("{"),
        lambda a: (a / MANIFEST).unlink(),
        lambda a: (a / MANIFEST).write_text("[1, 2]"),
    ],
    ids=["flip", "delete", "truncate", "add", "summary", "half", "none", "list"],
)
def test_damage_is_quarantined_and_made_anew(store, damage):
    made = store.make(make_spec(), build)
    damage(made.path)
    with pytest.raises(DamagedError):
        read_artifact(made.path)
    again = store.make(make_spec(), build)
    assert again.computed
    assert again.content == made.content
    assert len(list(store.root.glob("quarantine/*"))) == 1


def test_a_manifest_edited_to_match_a_tampered_file_is_still_refused(store):
    """The content digest is over all files, so editing one entry does not do."""
    made = store.make(make_spec(), build)
    target = made.path / "deep" / "numbers.txt"
    target.write_text("9 9 9\n")
    manifest = json.loads((made.path / MANIFEST).read_text())
    manifest["files"]["deep/numbers.txt"]["sha256"] = hashlib.sha256(b"9 9 9\n").hexdigest()
    (made.path / MANIFEST).write_text(json.dumps(manifest))
    with pytest.raises(DamagedError, match="content digest"):
        read_artifact(made.path)


def test_what_is_removed_while_it_is_read_was_not_damaged(store, monkeypatch):
    made = store.make(make_spec(), build)

    def too_late(folder):
        shutil.rmtree(folder)
        return read_artifact(folder)

    monkeypatch.setattr("vaesc.store.read_artifact", too_late)
    with pytest.raises(StoreError, match="is no longer in the store"):
        store.open(made.kind, made.digest)
    assert list(store.root.glob("quarantine/*")) == []


def test_open_says_what_was_damaged_and_where_it_is_kept(store):
    made = store.make(make_spec(), build)
    flip_a_byte(made.path / "deep" / "numbers.txt")
    with pytest.raises(StoreError, match=r"numbers\.txt .*quarantine"):
        store.open("toy", made.digest)
    with pytest.raises(StoreError, match="not in the store"):
        store.open("toy", made.digest)


def test_provenance_is_no_part_of_the_content(store):
    made = store.make(make_spec(), build, provenance={"run_id": "abc"})
    (made.path / PROVENANCE).write_text('{"run_id": "other"}')
    assert read_artifact(made.path).content == made.content


def test_a_failed_build_leaves_nothing(store):
    def fails(folder: Path):
        (folder / "half.txt").write_text("half")
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        store.make(make_spec(), fails)
    assert not store.path("toy", make_spec().digest).exists()
    assert not list(store.root.glob("tmp/*"))


def test_a_store_that_cannot_be_written_says_so(tmp_path):
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(StoreError, match="cannot be written"):
        Store(tmp_path / "file").make(make_spec(), build)


def _count_and_build(root, counter, start):
    def slow(folder: Path):
        with counter.get_lock():
            counter.value += 1
        time.sleep(0.3)
        return build(folder)

    start.wait()
    Store(root).make(make_spec(), slow)


def test_four_makers_at_once_do_the_work_once(tmp_path):
    context = multiprocessing.get_context("fork")
    counter, start = context.Value("i", 0), context.Event()
    workers = [
        context.Process(target=_count_and_build, args=(tmp_path, counter, start)) for _ in range(4)
    ]
    for worker in workers:
        worker.start()
    start.set()
    for worker in workers:
        worker.join(20)
    assert [w.exitcode for w in workers] == [0] * 4
    assert counter.value == 1


def _build_and_die(root):
    def dies(folder: Path):
        (folder / "half.txt").write_text("half")
        os.kill(os.getpid(), 9)

    Store(root).make(make_spec(), dies)


def test_a_killed_maker_leaves_no_lock_and_no_half_artifact(tmp_path):
    worker = multiprocessing.get_context("fork").Process(target=_build_and_die, args=(tmp_path,))
    worker.start()
    worker.join(20)
    assert worker.exitcode == -9
    made = Store(tmp_path).make(make_spec(), build)
    assert made.computed
    assert not (made.path / "half.txt").exists()
