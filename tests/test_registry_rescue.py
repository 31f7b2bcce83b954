"""A damaged or lost run database: its copy takes its place, and champion and evidence stay."""

import json
import shutil
import sqlite3
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from registry_homes import enter_home, registered

from vaesc.errors import RegistryError
from vaesc.registry import connect
from vaesc.registry.mutex import promoting
from vaesc.registry.rescue import copy_of_database, is_whole, keep_copy, rescue, told

DAMAGES = {
    "header": lambda data: b"x" * 16 + data[16:],
    "half": lambda data: data[: len(data) // 2],
    "empty": lambda data: b"",
    "pages": lambda data: data[:4096] + b"\xff" * (len(data) - 4096),
    "other": lambda data: b"not a database" * 1000,
}


PROGRAM = """
import json, logging, sys
logging.basicConfig(stream=sys.stderr)
from vaesc.registry import connect, load_model, show_model
from vaesc.registry.rescue import told
if sys.argv[1] == "look":
    print(json.dumps(load_model("champion").origin.version))
else:
    said = []
    for _ in range(2):
        connect()
        said.append(told())
    print(json.dumps([*said, show_model("champion")["version"]]))
"""


def anew(what="connect"):
    """Ask in a process of its own: this one's MLflow holds on to the file it has opened."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, what], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout), done.stderr


@pytest.fixture
def home(tmp_path, monkeypatch):
    return enter_home(tmp_path / "home", monkeypatch)


@pytest.fixture(scope="module")
def with_champion(tmp_path_factory):
    """A home in which a champion was registered, and a copy of its database was kept."""
    with pytest.MonkeyPatch.context() as patch:
        home = enter_home(tmp_path_factory.mktemp("champion") / "home", patch)
        registered(home)
        keep_copy()
    return home


@pytest.fixture
def kept(home, with_champion):
    """A copy of it; the champion's files stay where they were."""
    shutil.copytree(with_champion, home, dirs_exist_ok=True)
    return home


@pytest.mark.parametrize("damage", [*DAMAGES, "deleted"])
def test_a_damaged_database_is_replaced_by_its_copy(kept, damage):
    path = kept / "mlflow.db"
    before = path.read_bytes()
    if damage == "deleted":
        path.unlink()
        path.with_name("mlflow.db-journal").write_bytes(hot_journal(before, kept))
    else:
        path.write_bytes(DAMAGES[damage](before))
        (kept / "mlflow.db-journal").write_bytes(b"of the damaged one")
    ((told,), again, champion), said = anew()
    assert champion == 1
    assert told in said
    assert "its copy of" in told
    assert again == []
    assert not (kept / "mlflow.db-journal").exists()
    evidence = list((kept / "backups").glob("damaged-*/mlflow.db"))
    if damage == "deleted":
        assert "was gone" in told
        assert not evidence
    else:
        assert [found.read_bytes() for found in evidence] == [DAMAGES[damage](before)]
    assert sorted(p.name for p in kept.glob("mlflow.*")) == ["mlflow.db", "mlflow.db.lock"]


def hot_journal(database, folder):
    """Return the journal of a process that was killed in the middle of a transaction."""
    place = folder / "killed.db"
    place.write_bytes(database)
    program = f"""
import os, signal, sqlite3
database = sqlite3.connect({str(place)!r}, isolation_level=None)
database.execute("PRAGMA cache_size=1")
database.execute("BEGIN")
database.execute("UPDATE registered_models SET name = 'nobody''s'")
database.execute("CREATE TABLE much AS SELECT hex(randomblob(2000)) FROM sqlite_master")
os.kill(os.getpid(), signal.SIGKILL)
"""
    subprocess.run([sys.executable, "-c", program], check=False)
    journal = place.with_name("killed.db-journal")
    content = journal.read_bytes()
    assert content.startswith(bytes.fromhex("d9d505f920a163d7"))  # SQLite would play it back
    journal.unlink()
    place.unlink()
    return content


def test_the_one_who_has_it_open_goes_on_after_the_rescue(kept):
    """MLflow keeps connections: what they see from now on is what lies there."""
    connect("test").start_run("before")
    data = bytearray((kept / "mlflow.db").read_bytes())
    data[:16] = bytes(16)
    (kept / "mlflow.db").write_bytes(data)
    tracking = connect("test")
    run = tracking.start_run("after")
    tracking.log_metrics(run, {"train/kl": 1.0}, step=0)
    assert is_whole(kept / "mlflow.db")
    assert len(told()) == 1


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_database_takes_no_good_copy_s_place(kept, damage, caplog):
    before = copy_of_database().read_bytes()
    path = kept / "mlflow.db"
    path.write_bytes(DAMAGES[damage](path.read_bytes()))
    keep_copy()
    keep_copy()
    assert copy_of_database().read_bytes() == before
    assert "no copy of" in caplog.text or "the last copy of it is kept" in caplog.text
    assert not list((kept / "tmp").glob("database.*"))


def test_the_copy_before_serves_if_the_last_one_is_damaged(kept):
    keep_copy()
    for path in (kept / "mlflow.db", copy_of_database()):
        path.write_bytes(b"not a database" * 100)
    assert anew()[0][2] == 1


def test_who_only_looks_something_up_is_rescued_too(kept):
    (kept / "mlflow.db").write_bytes(b"not a database" * 100)
    assert anew("look")[0] == 1


def test_without_a_copy_a_damaged_database_stays_where_it_is(home):
    (home / "mlflow.db").write_bytes(b"not a database" * 100)
    with pytest.raises(RegistryError, match="cannot be read"):
        connect()
    assert (home / "mlflow.db").read_bytes() == b"not a database" * 100


def test_damaged_copies_are_not_taken(kept, caplog):
    for path in (kept / "mlflow.db", *(kept / "backups").glob("*.db")):
        path.write_bytes(b"not a database" * 100)
    with pytest.raises(RegistryError, match="cannot be read"):
        connect()
    assert "are damaged, too" in caplog.text


def test_a_database_in_use_is_not_damaged(kept, monkeypatch):
    connection = sqlite3.connect
    monkeypatch.setattr(
        "vaesc.registry.rescue.sqlite3.connect",
        lambda *arguments, **options: connection(*arguments, **{**options, "timeout": 0}),
    )
    holder = connection(kept / "mlflow.db", isolation_level=None)
    holder.execute("BEGIN EXCLUSIVE")
    try:
        rescue(thorough=True)
        assert told() == []
    finally:
        holder.close()


def test_the_copy_is_whole_while_others_write(home):
    tracking, stop = connect("test"), threading.Event()
    run = tracking.start_run("busy")

    def write():
        step = 0
        while not stop.is_set():
            step += 1
            tracking.log_metrics(run, {"train/kl": float(step)}, step=step)

    writer = threading.Thread(target=write)
    writer.start()
    try:
        for _ in range(20):
            keep_copy()
            assert is_whole(copy_of_database())
    finally:
        stop.set()
        writer.join()


def test_of_two_that_copy_at_once_none_is_refused(home, monkeypatch, caplog):
    """Both see the last copy; when the second moves it aside, the first has done so."""
    connect("test").start_run("one")
    keep_copy()
    move = Path.replace

    def quicker(path, target):
        if path == copy_of_database():
            move(path, target)
        return move(path, target)

    monkeypatch.setattr(Path, "replace", quicker)
    keep_copy()
    assert "no copy" not in caplog.text
    assert is_whole(copy_of_database())


def test_every_promotion_is_in_the_copy(home):
    registered(home, 0)
    tracking = connect("test")
    registered(home, 1)
    with promoting(tracking, "vaesc") as check:
        check()
        tracking.client.set_registered_model_alias("vaesc", "champion", "2")
    (home / "mlflow.db").unlink()
    assert anew()[0][2] == 2


def test_a_disk_that_refuses_costs_the_copy_only(home, caplog):
    (home / "backups").write_text("a file where the folder should be")
    keep_copy()
    assert "no copy of the run database" in caplog.text


def test_of_many_who_find_it_damaged_one_puts_it_right(kept):
    (kept / "mlflow.db").write_bytes(b"not a database" * 100)
    program = "from vaesc.registry import show_model; print(show_model('champion')['version'])"
    several = [
        subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
        for _ in range(4)
    ]
    assert [each.communicate()[0].strip() for each in several] == ["1"] * 4
    assert len(list((kept / "backups").glob("damaged-*"))) == 1
