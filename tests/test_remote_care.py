"""`vaesc verify|gc|doctor` in a bucket that machines share."""

# ruff: noqa: F811 - fixtures that are imported

import json
import os
import subprocess
import sys
import time
from types import SimpleNamespace

import pytest
from registry_homes import enter_home, saved
from test_remote import build, flip, key_of, keys, make_spec, stores, url  # noqa: F401

from vaesc import remote_care
from vaesc.bucket import Bucket
from vaesc.cli import care, main
from vaesc.registry import connect, register
from vaesc.remote import STORE
from vaesc.remote_care import remote_garbage, remove, verify
from vaesc.remote_manifest import CLOSED, address
from vaesc.shared import this_store
from vaesc.store import MANIFEST, Spec

DAY = 86_400.0


def vaesc_in(home, url, *arguments, **environment):
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("PREFECT", "MLFLOW"))}
    return subprocess.run(
        [sys.executable, "-m", "vaesc", *arguments], capture_output=True, text=True, timeout=600,
        env={**kept, "VAESC_HOME": str(home), STORE: url, **environment}, check=False,
    )  # fmt: skip


def test_verify_looks_into_the_bucket_too(url, stores, tmp_path):
    made = [stores[0].make(make_spec(source=s), build) for s in "st"]
    flip(url, key_of(made[0], "big"))
    done = vaesc_in(tmp_path / "home", url, "verify", "--json")
    assert done.returncode == 1, done.stderr
    found = json.loads(done.stdout)
    assert found["artifacts"] == []
    whole = {check["digest"]: check["whole"] for check in found["shared"]}
    assert whole == {made[0].digest: False, made[1].digest: True}
    assert len(keys(url)) == 10  # nothing is moved


def test_gc_keeps_what_a_model_came_from_what_is_recent_and_what_may_be_underway(url, stores):
    parent, child, other = (make_spec(source=name) for name in ("parent", "child", "other"))
    made = stores[0].make(parent, build)
    stores[0].make(child, build, parents={"x": made.digest})
    stores[0].make(other, build)
    stray = f"{address('toy', other.digest)}/{'0' * 64}/half"
    Bucket(url).write(stray, b"half")
    remote, now = stores[0].remote, time.time()
    assert remote_garbage(remote, set(), keep_days=0) == []  # all is younger than a day
    old = remote_garbage(remote, {child.digest}, keep_days=30, now=now + 20 * DAY)
    assert [item.reason for item in old] == ["upload that was never finished"]
    old = remote_garbage(remote, {child.digest}, keep_days=30, now=now + 40 * DAY)
    assert {item.path for item in old} == {f"{url}/{address('toy', other.digest)}"}
    assert sum(item.bytes for item in old) > 51_200
    assert list(remove(remote, old)) == old
    assert [check["digest"] for check in verify(remote)] == sorted([parent.digest, child.digest])
    assert not any(other.digest in key for key in keys(url))


def test_gc_lets_be_what_was_used_since_it_looked(stores):
    made = stores[0].make(make_spec(), build)
    remote = stores[0].remote
    old = remote_garbage(remote, set(), keep_days=1, now=time.time() + 2 * DAY)
    time.sleep(1.1)  # S3 tells times to the second
    stores[1].open("toy", made.digest)
    assert list(remove(remote, old)) == []
    assert stores[0].remote.manifest("toy", made.digest) is not None


def test_doctor_says_whether_the_bucket_answers(url, tmp_path, monkeypatch):
    monkeypatch.setenv(STORE, url)
    assert care._shared_store()[0] == {
        "what": "shared store", "found": f"{url} answers", "ok": True, "advice": "",
    }  # fmt: skip
    monkeypatch.setenv(STORE, "s3://nothing")
    (finding,) = care._shared_store()
    assert (finding["ok"], "has no bucket nothing" in finding["advice"]) == (False, True)
    monkeypatch.setenv(STORE, "s3://key:hush@bucket")
    assert "hush" not in json.dumps(care._shared_store())


def test_gc_takes_the_mark_of_somebody_killed_with_what_it_lies_beside(stores, url):
    digest = make_spec().digest
    for name in (f"{CLOSED}{'0' * 8}", f"{'0' * 64}/half"):
        Bucket(url).write(f"{address('toy', digest)}/{name}", b"")
    remote, now = stores[0].remote, time.time() + 2 * DAY
    (item,) = remove(remote, remote_garbage(remote, set(), keep_days=1, now=now))
    assert (item.reason, keys(url)) == ("upload that was never finished", [])


def test_gc_knows_its_own_by_their_keys(stores, url):
    """Whatever else lies below the prefix, however old, is not an upload of ours."""
    made = stores[0].make(make_spec(), build)
    foreign = [
        f"photos/2024/{'x' * 64}/holidays.jpg", f"toy/00/{'f' * 64}/{'0' * 64}/c",
        f"{address('toy', made.digest)}/notes.txt", f"toy/ff/{'f' * 64}/readme", "a/b/c",
        "quarantine/of/people.txt",
    ]  # fmt: skip
    for key in foreign:
        Bucket(url).write(key, b"not ours")
    Bucket(url).write(f"quarantine/{made.digest}.{'0' * 8}/{MANIFEST}", b"damaged")
    old = remote_garbage(
        stores[0].remote, set(), keep_days=1, quarantine=True, now=time.time() + 400 * DAY
    )
    list(remove(stores[0].remote, old))
    assert keys(url) == sorted(foreign)


@pytest.fixture
def shared(url, tmp_path, monkeypatch):
    """A home with a model registered from one of two artifacts, old ones, in a shared store."""
    enter_home(tmp_path / "home", monkeypatch)
    monkeypatch.setenv(STORE, url)
    made = [
        this_store().make(Spec(kind="dataset", config={"i": i}, inputs={}, source="s"), build)
        for i in range(2)
    ]
    runs = connect()
    tags = {"vaesc.digest.dataset": made[0].digest}
    run = runs.start_run("register")
    register(saved(tmp_path / "bundle"), runs, run_id=run, name="vaesc", tags=tags)
    runs.finish(run)
    clock = SimpleNamespace(time=lambda: time.time() + 40 * DAY)
    monkeypatch.setattr(remote_care, "time", clock)
    return made


def left(url):
    return {key.split("/")[2] for key in keys(url) if key.endswith(MANIFEST)}


def test_gc_leaves_the_bucket_out_unless_it_is_asked_for(
    shared, url, tmp_path, capsys, monkeypatch
):
    """A machine that has registered nothing does not know what others have."""
    enter_home(tmp_path / "laptop", monkeypatch, database=False)
    assert main(["gc", "--yes", "--keep-days", "0"]) == 0
    assert f"left out: {url}; --shared collects there too" in capsys.readouterr().out
    assert left(url) == {made.digest for made in shared}


def test_gc_of_a_bucket_needs_a_registry_that_all_can_write_to(shared, url, capsys, monkeypatch):
    assert main(["gc", "--yes", "--shared"]) == 2
    assert "--shared needs MLFLOW_TRACKING_URI=http://..., the MLflow" in capsys.readouterr().err
    monkeypatch.delenv(STORE)
    assert main(["gc", "--yes", "--shared"]) == 2
    assert "the bucket of VAESC_STORE, which is not set" in capsys.readouterr().err
    assert left(url) == {made.digest for made in shared}


def test_gc_of_a_bucket_keeps_what_is_registered_at_the_server(
    shared, url, tmp_path, capsys, monkeypatch
):
    monkeypatch.setattr("vaesc.registry.connection.is_server", lambda uri: True)
    assert main(["gc", "--shared", "--keep-days", "0"]) == 0
    assert shared[1].digest in capsys.readouterr().out
    assert left(url) == {made.digest for made in shared}
    assert main(["gc", "--yes", "--shared", "--keep-days", "0"]) == 0
    assert left(url) == {shared[0].digest}
    enter_home(tmp_path / "empty", monkeypatch)
    assert main(["gc", "--yes", "--shared", "--keep-days", "0"]) == 2
    assert "no model of ours is registered there" in capsys.readouterr().err
    assert left(url) == {shared[0].digest}


def test_gc_deletes_nothing_here_before_it_can_look_there(shared, capsys, monkeypatch):
    monkeypatch.setattr("vaesc.registry.connection.is_server", lambda uri: True)
    monkeypatch.setenv(STORE, "s3://nothing")
    assert main(["gc", "--yes", "--shared", "--keep-days", "0"]) == 1
    assert "has no bucket nothing" in capsys.readouterr().err
    assert all(made.path.is_dir() for made in shared)


def test_gc_has_said_what_it_deleted_when_the_bucket_fails(shared, capsys, monkeypatch):
    monkeypatch.setattr("vaesc.registry.connection.is_server", lambda uri: True)

    def failing(remote, items):
        yield items[0]
        Bucket("s3://nothing").write("key", b"")

    monkeypatch.setattr(remote_care, "remove", failing)
    assert main(["gc", "--yes", "--shared", "--keep-days", "0"]) == 1
    said = capsys.readouterr()
    assert said.out.count(shared[1].digest) == 2  # here, and there
    assert "has no bucket nothing" in said.err


def test_verify_says_what_it_found_here_when_the_bucket_fails(shared, capsys, monkeypatch):
    (shared[0].path / "big").write_bytes(b"other bytes")
    monkeypatch.setenv(STORE, "s3://nothing")
    assert main(["verify"]) == 1
    said = capsys.readouterr()
    assert f"{shared[0].digest[:12]}                DAMAGED" in said.out
    assert "1 models, 1 damaged" in said.out
    assert "has no bucket nothing" in said.err
    assert main(["verify", "--json"]) == 1
    found = json.loads(capsys.readouterr().out)
    assert (len(found["artifacts"]), len(found["models"]), found["damaged"]) == (2, 1, 1)
    assert "has no bucket nothing" in found["unread"][0]
