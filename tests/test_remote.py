"""The shared store's promises, on real S3 servers: whole or absent, verified, made once."""

import json
import os
import signal
import subprocess
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest
from object_storage import BUCKET

from deployments.storage import Storage
from vaesc import bucket as bucket_module
from vaesc import shared
from vaesc.bucket import PIECE, Bucket
from vaesc.bucket_errors import BucketError
from vaesc.errors import ConfigError, StoreError
from vaesc.remote import STORE, RemoteStore
from vaesc.remote_care import verify
from vaesc.remote_manifest import address
from vaesc.shared import SharedStore, this_store
from vaesc.store import MANIFEST, Spec, Store, read_artifact

SECRETS = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")


def make_spec(**changes):
    base = {"kind": "toy", "config": {"a": 1}, "inputs": {"x": "00"}, "source": "s"}
    return Spec(**{**base, **changes})


def build(folder: Path):
    (folder / "deep").mkdir()
    (folder / "deep" / "numbers.txt").write_text("1 2 3\n")
    (folder / "big").write_bytes(bytes(range(256)) * 200)
    return {"n": 3}


def never(folder):
    pytest.fail("built twice")


@pytest.fixture
def url(moto, monkeypatch, tmp_path):
    """A prefix of this test's own."""
    for name, value in moto.environment.items():
        monkeypatch.setenv(name, value)
    return f"s3://{BUCKET}/{tmp_path.name}"


@pytest.fixture
def stores(url, tmp_path):
    """Two machines that share a bucket."""
    return [SharedStore(RemoteStore(Bucket(url)), tmp_path / name) for name in "ab"]


def keys(url):
    return sorted(each.key for each in Bucket(url).list())


def key_of(made, name):
    return f"{address(made.kind, made.digest)}/{made.content}/{name}"


def test_the_second_machine_finds_what_the_first_made(stores):
    made = [store.make(make_spec(), build if i == 0 else never) for i, store in enumerate(stores)]
    assert [m.computed for m in made] == [True, False]
    trees = [
        {f.relative_to(m.path): f.read_bytes() for f in m.path.rglob("*") if f.is_file()}
        for m in made
    ]
    assert trees[0] == trees[1]
    assert list(stores[1].root.glob("tmp/*")) == []
    assert list(verify(stores[0].remote)) == [
        {"kind": "toy", "digest": made[0].digest, "content": made[0].content, "whole": True,
         "problem": ""}
    ]  # fmt: skip


def test_a_file_of_many_pieces_comes_back_as_it_was(stores):
    def build(folder):
        (folder / "long").write_bytes(os.urandom(2 * PIECE + 1))
        return {}

    made = stores[0].make(make_spec(), build)
    assert stores[1].make(make_spec(), never).content == made.content


def test_content_and_manifest_are_those_of_a_local_store(stores, tmp_path):
    local, shared = (
        Store(tmp_path / "c").make(make_spec(), build),
        stores[0].make(make_spec(), build),
    )
    assert (local.content, local.digest) == (shared.content, shared.digest)
    remote = stores[0].remote.bucket.read(f"{address('toy', local.digest)}/{MANIFEST}", 10**6)
    assert remote == (local.path / MANIFEST).read_bytes()


def test_what_was_made_before_there_was_a_bucket_is_published_when_used(stores):
    before = Store(stores[0].root).make(make_spec(), build)
    stores[0].use("toy", before.digest)
    assert stores[1].make(make_spec(), never).content == before.content


def test_a_record_in_two_homes_opens_in_both(stores):
    made = stores[0].make(make_spec(), build)
    assert stores[1].open("toy", made.digest).content == made.content
    with pytest.raises(StoreError, match="is not in the store"):
        stores[1].open("toy", "0" * 64)


def test_the_loser_of_a_race_adopts_the_winners_and_says_so(stores, caplog):
    """Not the same bytes from the same inputs: another processor, for one."""

    def other(folder):
        stores[1].make(make_spec(), build)  # is first, while we are still building
        return {"n": 4}

    made = stores[0].make(make_spec(), other)
    assert made.summary == {"n": 3}
    assert "goes on with the bucket's, which was first" in caplog.text
    assert "damaged" not in caplog.text
    assert not any(list(stores[0].root.glob(f"{name}/*")) for name in ("quarantine", "tmp"))
    assert all(check["whole"] for check in verify(stores[0].remote))


def test_this_machines_older_work_is_not_replaced(stores, caplog):
    mine = Store(stores[0].root).make(make_spec(), lambda folder: {"n": 4})
    stores[1].make(make_spec(), build)
    assert stores[0].make(make_spec(), never).content == mine.content
    assert "goes on with its own" in caplog.text


RACER = """
import sys
import time
from pathlib import Path
from vaesc.bucket import Bucket
from vaesc.remote import RemoteStore
from vaesc.shared import SharedStore
from vaesc.store import Spec
def build(folder):
    print("ready", flush=True); sys.stdin.readline()
    for i in range(20): (folder / f"{i}").write_bytes(bytes([i]) * 1000)
    (folder / "who").write_text(sys.argv[3])
    return {}
store = SharedStore(RemoteStore(Bucket(sys.argv[1])), Path(sys.argv[2]))
spec = Spec(kind="toy", config={}, inputs={}, source="race")
print(store.make(spec, build).content, flush=True)
"""


def racer(url, root, who):
    return subprocess.Popen(
        [sys.executable, "-c", RACER, url, str(root), who],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip


def contents_of(racers):
    """Let all go at once, and return what each says it got."""
    for each in racers:
        assert each.stdout.readline() == "ready\n"
    for each in racers:
        each.stdin.write("\n")
        each.stdin.flush()
    return [each.communicate(timeout=600)[0].strip() for each in racers]


@pytest.mark.parametrize("names", [("same", "same"), ("one", "other")])
def test_two_processes_on_two_machines_make_it_at_once_and_agree(url, tmp_path, names):
    racers = [racer(url, tmp_path / f"home-{i}", who) for i, who in enumerate(names)]
    contents = contents_of(racers)
    remote = RemoteStore(Bucket(url))
    (check,) = verify(remote)
    assert check["whole"]
    # On a server that honours the condition, both have what the first made.
    assert set(contents) == {check["content"]}


def test_where_conditions_are_ignored_the_last_wins_and_all_is_whole(rclone, tmp_path):
    racers = [racer("s3://vaesc/p", tmp_path / f"home-{i}", str(i)) for i in range(2)]
    contents = contents_of(racers)
    (check,) = verify(RemoteStore(Bucket("s3://vaesc/p")))
    assert check["whole"]
    assert check["content"] in contents
    kept = [read_artifact(f).content for f in sorted(tmp_path.glob("home-*/toy/??/*"))]
    assert kept == contents


KILLED = """
import os, signal, sys, time
from pathlib import Path
from vaesc import bucket
from vaesc.remote import RemoteStore
from vaesc.shared import SharedStore
sys.path.insert(0, sys.argv[3])
from test_remote import build, make_spec
upload, done = bucket.Bucket.upload, []
def killing(self, path, key):
    while key.endswith("/big") and not done: time.sleep(0.01)
    if key.endswith("/big"): os.kill(os.getpid(), signal.SIGKILL)
    upload(self, path, key); done.append(key)
bucket.Bucket.upload = killing
SharedStore(RemoteStore(bucket.Bucket(sys.argv[1])), Path(sys.argv[2])).make(make_spec(), build)
"""


def test_an_upload_that_is_killed_leaves_nothing_to_read_and_is_completed(url, stores, tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", KILLED, url, str(stores[0].root), str(Path(__file__).parent)],
        check=False, timeout=600,
    )  # fmt: skip
    assert done.returncode == -signal.SIGKILL
    left = keys(url)
    assert left
    assert not any(key.endswith(MANIFEST) for key in left)
    assert stores[1].find("toy", make_spec().digest) is None
    assert list(verify(stores[1].remote)) == []
    made = stores[0].make(make_spec(), never)  # built before it was published
    assert stores[1].make(make_spec(), never).content == made.content
    assert made.content == Store(tmp_path / "c").make(make_spec(), build).content


def flip(url, key):
    there = Bucket(url)
    data = bytearray(there.read(key, 10**9))
    data[len(data) // 2] ^= 1
    there.write(key, bytes(data))


@pytest.mark.parametrize("what", ["deep/numbers.txt", "big", "summary.json", MANIFEST, "missing"])
def test_damage_in_the_bucket_is_never_read_and_made_anew(url, stores, what, caplog):
    made = stores[0].make(make_spec(), build)
    if what == "missing":
        Bucket(url).delete([key_of(made, "big")])
    else:
        place = address("toy", made.digest)
        flip(url, f"{place}/{MANIFEST}" if what == MANIFEST else key_of(made, what))
    (check,) = verify(stores[0].remote)
    assert not check["whole"]
    again = stores[1].make(make_spec(), build)
    assert (again.computed, again.content) == (True, made.content)
    assert "was damaged" in caplog.text
    evidence = [key for key in keys(url) if key.startswith("quarantine/")]
    assert len(evidence) == (4 if what == "missing" else 5)
    assert [check["whole"] for check in verify(stores[0].remote)] == [True]


def test_a_manifest_that_names_a_file_outside_is_damage(stores):
    made = stores[0].make(make_spec(), build)
    key = f"{address('toy', made.digest)}/{MANIFEST}"
    manifest = json.loads(stores[0].remote.bucket.read(key, 10**6))
    manifest["files"]["../../escaped"] = manifest["files"].pop("big")
    from vaesc.store import _content_digest

    manifest["content"] = _content_digest(manifest["files"])
    text = json.dumps(manifest, indent=1, sort_keys=True) + "\n"
    stores[0].remote.bucket.write(key, text.encode())
    assert stores[1].find("toy", made.digest) is None
    assert list(stores[1].root.rglob("escaped")) == []


def test_the_store_of_this_machine_is_named_by_the_environment(url, monkeypatch):
    monkeypatch.delenv(STORE, raising=False)
    assert type(this_store()) is Store
    monkeypatch.setenv(STORE, url)
    assert this_store().remote.bucket.url == url


@pytest.mark.parametrize(
    ("url", "rule"),
    [
        ("/a/folder", "must be s3://bucket or"),
        ("s3://", "must be s3://bucket or"),
        ("s3://Bucket/x", "must be s3://bucket or"),
        ("s3://key:hush@bucket/x", "must not hold credentials"),
    ],
)
def test_a_store_that_is_none_is_refused_by_name(url, rule, monkeypatch):
    monkeypatch.setenv(STORE, url)
    with pytest.raises(ConfigError, match=rule) as caught:
        this_store()
    assert "hush" not in str(caught.value)


@pytest.fixture
def rclone(tmp_path, monkeypatch):
    (tmp_path / "server").mkdir()
    monkeypatch.setattr(bucket_module, "_RETRIES", 2)
    with Storage(tmp_path / "server") as server:
        for name, value in server.environment.items():
            monkeypatch.setenv(name, value)
        yield server


def test_a_server_that_goes_down_costs_no_work_and_comes_back(rclone, tmp_path, monkeypatch):
    """Also: the second machine is refused what it lacks, and keeps what it has."""
    stores = [SharedStore(RemoteStore(Bucket("s3://vaesc/p")), tmp_path / n) for n in "ab"]
    monkeypatch.setattr(shared, "_PATIENCE", 0)
    first = stores[0].make(make_spec(), build)
    other = make_spec(source="t")

    def build_and_stop(folder):
        rclone.stop()
        return build(folder)

    with pytest.raises(BucketError, match="does not answer, so s3://vaesc/p cannot be used"):
        stores[0].make(other, build_and_stop)
    with pytest.raises(BucketError, match="does not answer"):
        stores[1].make(make_spec(), never)
    assert stores[0].open("toy", first.digest) == first
    rclone.start()
    assert stores[0].make(other, never).content == first.content
    assert stores[1].make(other, never).content == first.content


@pytest.mark.parametrize(
    ("change", "url", "sentence"),
    [
        ({"AWS_SECRET_ACCESS_KEY": "f" * 40}, "s3://vaesc", r"let us read.*SignatureDoesNotMatch"),
        ({"AWS_ACCESS_KEY_ID": "stranger" * 2}, "s3://vaesc", r"let us read.*InvalidAccessKeyId"),
        ({}, "s3://other/x", "has no bucket other; make it"),
    ],
)
def test_no_entry_is_one_sentence_without_secrets(
    rclone, tmp_path, monkeypatch, change, url, sentence
):
    for name, value in change.items():
        monkeypatch.setenv(name, value)
    store = SharedStore(RemoteStore(Bucket(url)), tmp_path / "a")
    with pytest.raises(BucketError, match=sentence) as caught:
        store.make(make_spec(), never)
    assert not any(os.environ[name] in str(caught.value) for name in SECRETS)
    assert caught.value.__cause__ is None


class Busy(BaseHTTPRequestHandler):
    """Answers 503 so many times, and then with an object."""

    times = 0

    def do_GET(self):
        body, code = b"<Error><Code>SlowDown</Code><Key>hush</Key></Error>", 503
        if Busy.times <= 0:
            body, code = b"whole", 200
        Busy.times -= 1
        self.send_response(code)
        for name, value in (
            ("Content-Length", str(len(body))), ("ETag", '"1"'),
            ("Last-Modified", "Wed, 25 Nov 2026 00:00:00 GMT"),
        ):  # fmt: skip
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


@pytest.fixture
def busy(monkeypatch):
    server = ThreadingHTTPServer(("127.0.0.1", 0), Busy)
    Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{server.server_port}")
    for name in SECRETS:
        monkeypatch.setenv(name, "hush")
    monkeypatch.setattr(bucket_module, "_RETRIES", 2)
    yield Bucket("s3://vaesc")
    server.shutdown()
    server.server_close()


def test_a_busy_server_is_asked_again_and_given_up_in_the_end(busy):
    Busy.times = 2
    assert busy.read("key", 100) == b"whole"
    Busy.times = 100
    with pytest.raises(BucketError, match=r"fails to read s3://vaesc \(503.*SlowDown") as caught:
        busy.read("key", 100)
    assert "hush" not in str(caught.value)
