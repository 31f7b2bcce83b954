"""Machines that make, read and take away the same artifact of a shared store at once."""

# ruff: noqa: F811 - fixtures that are imported

import time
from threading import Thread
from types import SimpleNamespace

import pytest
from test_remote import (  # noqa: F401
    build,
    flip,
    key_of,
    keys,
    make_spec,
    never,
    rclone,
    stores,
    url,
)

from vaesc import remote as remote_module
from vaesc import shared
from vaesc.bucket import Bucket
from vaesc.bucket_errors import AwayError, BucketError
from vaesc.errors import StoreError
from vaesc.remote import RemoteStore
from vaesc.remote_care import remote_garbage, remove, verify
from vaesc.remote_manifest import CLOSED, address
from vaesc.shared import SharedStore
from vaesc.store import MANIFEST, PROVENANCE, Store

DAY = 86_400.0


@pytest.fixture(autouse=True)
def impatient(monkeypatch):
    monkeypatch.setattr(remote_module, "_PAUSE", 0.05)
    monkeypatch.setattr(shared, "_FIRST_PAUSE", 0.05)


def test_who_publishes_while_gc_removes_leaves_a_whole_artifact(stores, monkeypatch):
    made = stores[0].make(make_spec(), build)
    Store(stores[1].root).make(make_spec(), build)
    old = remote_garbage(stores[0].remote, set(), keep_days=1, now=time.time() + 40 * DAY)
    monkeypatch.setattr(remote_module, "_RECENT", 0)  # what is uploaded is that old, too
    delete = Bucket.delete
    publisher = Thread(target=lambda: stores[1].make(make_spec(), never))

    def deleting(self, gone):
        gone = list(gone)
        delete(self, gone)
        if any(key.endswith(MANIFEST) for key in gone):
            publisher.start()
            publisher.join(2)  # it would be done by now, but has to wait for us

    monkeypatch.setattr(Bucket, "delete", deleting)
    assert list(remove(stores[0].remote, old)) == old
    publisher.join()
    (check,) = verify(stores[0].remote)
    assert (check["digest"], check["whole"]) == (made.digest, True)


def test_a_mark_of_somebody_killed_does_not_stop_others_for_ever(stores, monkeypatch):
    bucket = stores[0].remote.bucket
    bucket.write(f"{address('toy', make_spec().digest)}/{CLOSED}{'0' * 8}", b"")
    monkeypatch.setattr(remote_module, "_WAIT", 0.2)
    made = stores[0].make(make_spec(), build)
    assert [check["whole"] for check in verify(stores[0].remote)] == [True]
    assert not any(CLOSED in each.key for each in bucket.list(address("toy", made.digest)))


def test_a_second_reader_of_damage_lets_be_what_was_made_anew(stores, url, tmp_path, monkeypatch):
    made = stores[0].make(make_spec(), build)
    flip(url, key_of(made, "big"))
    third = SharedStore(RemoteStore(Bucket(url)), tmp_path / "c")
    quarantine = RemoteStore.quarantine

    def late(self, kind, digest):
        monkeypatch.setattr(RemoteStore, "quarantine", quarantine)
        assert third.make(make_spec(), build).computed
        return quarantine(self, kind, digest)

    monkeypatch.setattr(RemoteStore, "quarantine", late)
    assert stores[1].make(make_spec(), never).content == made.content
    assert [check["whole"] for check in verify(third.remote)] == [True]
    assert sum(key.startswith("quarantine/") for key in keys(url)) == 5


def test_quarantine_takes_only_what_was_damaged(stores, url):
    made = stores[0].make(make_spec(), build)
    flip(url, key_of(made, "big"))
    other = f"{address('toy', made.digest)}/{'0' * 64}/half"
    Bucket(url).write(other, b"somebody uploads that now")
    assert stores[1].find("toy", made.digest) is None
    assert [key for key in keys(url) if not key.startswith("quarantine/")] == [other]


def test_a_damaged_copy_here_is_fetched_again(stores):
    made = stores[0].make(make_spec(), build)
    (made.path / "big").write_bytes(b"other bytes")
    assert stores[0].open("toy", made.digest) == made
    assert len(list(stores[0].root.glob("quarantine/*"))) == 1


def test_a_damaged_copy_here_that_nobody_else_has_is_told_as_such(stores):
    made = Store(stores[0].root).make(make_spec(), build)
    (made.path / "big").write_bytes(b"other bytes")
    with pytest.raises(StoreError, match=r"was damaged .*big does not have its SHA-256"):
        stores[0].open("toy", made.digest)


def test_use_of_what_is_here_is_seen_in_the_bucket(stores, monkeypatch):
    made = stores[0].make(make_spec(), build)
    bucket, key = stores[0].remote.bucket, key_of(made, PROVENANCE)
    first = bucket.modified(key)
    time.sleep(1.1)  # S3 tells times to the second
    stores[0].use("toy", made.digest)
    assert bucket.modified(key) == first, "so lately need not be said"
    monkeypatch.setattr(remote_module, "NOTED_EVERY", 0.5)
    stores[0].use("toy", made.digest)
    assert bucket.modified(key) > first
    assert bucket.read(key, 10**6) == (made.path / PROVENANCE).read_bytes()


def test_what_was_just_made_waits_for_a_bucket_that_is_away(
    rclone,
    tmp_path,
    caplog,
    monkeypatch,
):
    """The server comes back while the publisher sleeps."""
    clock = SimpleNamespace(monotonic=time.monotonic, sleep=lambda _: rclone.start())
    monkeypatch.setattr(shared, "time", clock)
    store = SharedStore(RemoteStore(Bucket("s3://vaesc/p")), tmp_path / "a")

    def build_and_stop(folder):
        rclone.stop()
        return build(folder)

    made = store.make(make_spec(), build_and_stop)
    assert "is made, but not published" in caplog.text
    assert [check["content"] for check in verify(store.remote)] == [made.content]


def test_what_is_up_is_not_uploaded_again_when_the_bucket_is_back(stores, monkeypatch):
    done, upload = [], Bucket.upload

    def failing(self, path, key):
        if key.endswith("/big") and "away" not in done:
            done.append("away")
            raise AwayError("away")
        upload(self, path, key)
        done.append(key.rpartition("/")[2])

    monkeypatch.setattr(Bucket, "upload", failing)
    stores[0].make(make_spec(), build)
    files = ["away", "big", "numbers.txt", PROVENANCE, "summary.json"]
    assert sorted(done) == sorted(files)
    assert [check["whole"] for check in verify(stores[0].remote)] == [True]


def test_what_was_made_before_waits_for_nothing(rclone, tmp_path):
    store = SharedStore(RemoteStore(Bucket("s3://vaesc/p")), tmp_path / "a")
    Store(store.root).make(make_spec(), build)
    rclone.stop()
    with pytest.raises(BucketError, match="does not answer"):
        store.make(make_spec(), never)
