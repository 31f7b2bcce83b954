"""From a reference to a verified model: its origin, races, and a registry that is out of reach."""

import hashlib
import itertools
import json
import os
import shutil
import socket
import sqlite3
from datetime import UTC, datetime
from pathlib import Path

import pytest
from registry_homes import (
    damage,
    enter_home,
    files_of,
    look_up_while_it_moves,
    reconstructed,
    registered,
    same_model,
    saved,
    tiny_model,
)

from vaesc.errors import DataError, RegistryError, StoreError
from vaesc.registry import connect, load_model
from vaesc.registry import loading as loading_module
from vaesc.registry.failures import AbsentError, UnreachableError
from vaesc.registry.files import DIGEST_TAG, model_digest


@pytest.fixture
def home(tmp_path, monkeypatch):
    return enter_home(tmp_path / "home", monkeypatch)


COPIES = itertools.count(1)


@pytest.fixture(scope="module")
def template(tmp_path_factory):
    """A home with versions 1 (champion) and 2 (challenger), made once."""
    base = tmp_path_factory.mktemp("homes")
    with pytest.MonkeyPatch.context() as patch:
        folder = enter_home(base / "h000", patch)
        records = [registered(folder, seed) for seed in (0, 1)]
    return folder, records


@pytest.fixture
def two(template, monkeypatch):
    """A home of its own with the two versions: their records."""
    folder, records = template
    own = folder.with_name(f"h{next(COPIES):03}")
    shutil.copytree(folder, own)
    # The database names its files by absolute paths; these are of one length, so pages stay whole.
    database = (folder / "mlflow.db").read_bytes()
    (own / "mlflow.db").write_bytes(database.replace(bytes(folder), bytes(own)))
    enter_home(own, monkeypatch, database=False)
    return records


@pytest.fixture
def here(two):
    """The home that is in use."""
    return Path(os.environ["VAESC_HOME"])


@pytest.fixture
def far(two, monkeypatch):
    """The same two versions, as if their registry were on another machine: copies are kept."""
    monkeypatch.setattr(loading_module, "sqlite_path", lambda _: None)
    return two


def away(monkeypatch):
    """Let the registry answer no more."""

    def unreachable(**_):
        raise UnreachableError("nothing answers at MLFLOW_TRACKING_URI=http://far (refused)")

    monkeypatch.setattr(loading_module, "connect", unreachable)


def every_ref(record, alias):
    number = str(record.version)
    return (
        alias, number, record.version, f"models:/vaesc/{number}", f"models:/vaesc@{alias}",
        record.run_id,
    )  # fmt: skip


def kept_digests(folder):
    return {p.name for p in (folder / "models").glob("*") if len(p.name) == 64}


# Where it came from


def test_paths_of_the_servers_own_machine_are_not_called_damage(far, monkeypatch):
    """As `mlflow server --no-serve-artifacts` hands them out, to a client that is elsewhere."""
    monkeypatch.setattr("vaesc.registry.files.is_server", lambda _: True)
    assert load_model("1").origin.version == 1  # the folder is mounted here, too
    folder = files_of(far[1])
    folder.rename(folder.with_name("elsewhere"))
    with pytest.raises(RegistryError, match=r"not on this machine.*--serve-artifacts") as caught:
        load_model("2")
    assert "damaged" not in str(caught.value)


def test_a_model_says_where_it_came_from(two, here):
    before = datetime.now(UTC)
    for record, alias in zip(two, ("champion", "challenger"), strict=True):
        for ref in every_ref(record, alias):
            origin = load_model(ref).origin
            assert (origin.ref, origin.name, origin.version) == (str(ref), "vaesc", record.version)
            assert (origin.digest, origin.offline) == (record.digest, False)
            assert origin.uri == f"sqlite:///{here / 'mlflow.db'}"
            assert before <= origin.resolved <= datetime.now(UTC)
    # The registry is a file on this machine, and so are its bundles: no second copy.
    assert kept_digests(here) == set()


def test_a_folder_says_where_it_is(tmp_path):
    folder = saved(tmp_path / "model", 3)
    origin = load_model(folder).origin
    assert (origin.uri, origin.digest) == (str(folder), model_digest(folder))
    assert (origin.name, origin.version, origin.offline) == ("", None, False)
    assert tiny_model(3).origin is None


# While it moves


def test_twenty_lookups_during_fifty_moves_are_whole(two):
    expected = {
        record.digest: (record.version, reconstructed(tiny_model(seed)))
        for seed, record in enumerate(two)
    }
    found = look_up_while_it_moves(connect().client, [1, 2])
    assert len(found) == 20
    for origin, reconstructions in found:
        assert (origin.version, reconstructions) == expected[origin.digest]


def test_a_version_deleted_between_two_questions_is_not_the_answer(two, monkeypatch):
    """The alias said 1; before 1 is asked for, the alias is on 2 and 1 is gone."""
    from mlflow import MlflowClient

    asked = MlflowClient.get_model_version

    def too_late(client, name, number):
        if number == "1":
            client.set_registered_model_alias(name, "champion", "2")
            client.delete_model_version(name, "1")
        return asked(client, name, number)

    monkeypatch.setattr(MlflowClient, "get_model_version", too_late)
    assert load_model("champion").origin.version == 2
    with pytest.raises(AbsentError, match="has no version 1; there are the aliases"):
        load_model(1)


def test_files_that_go_while_they_are_fetched_are_not_the_answer(two, monkeypatch):
    """The alias said 1; before its files are read, the alias is on 2 and they are damaged."""
    where = loading_module.local_folder

    def too_late(tracking, version):
        if str(version.version) == "1":
            tracking.client.set_registered_model_alias("vaesc", "champion", "2")
            (where(tracking, version) / "vae.safetensors").write_bytes(b"another")
        return where(tracking, version)

    monkeypatch.setattr(loading_module, "local_folder", too_late)
    assert load_model("champion").origin.version == 2
    with pytest.raises(RegistryError, match="models:/vaesc/1 is damaged"):
        load_model(1)


# Out of reach


@pytest.mark.parametrize("of", [0, 1])
def test_what_was_loaded_before_is_loaded_while_the_registry_is_away(
    far, here, monkeypatch, caplog, of
):
    record, alias = far[of], ("champion", "challenger")[of]
    refs = every_ref(record, alias)
    before = {ref: load_model(ref).origin for ref in refs}
    assert kept_digests(here) == {record.digest}
    shutil.rmtree(here / "mlartifacts")
    away(monkeypatch)
    for ref in refs:
        caplog.clear()
        model = load_model(ref)
        assert same_model(model, tiny_model(of))
        assert model.origin.offline
        assert before[ref].resolved <= model.origin.resolved
        assert (model.origin.version, model.origin.digest) == (record.version, record.digest)
        moves = alias in str(ref)
        doubt = "it may have moved" if moves else "what that names does not change"
        assert f"is models:/vaesc/{record.version} from this machine's copy, as of" in caplog.text
        assert doubt in caplog.text
        assert str(model.origin.resolved.year) in caplog.text


def test_a_busy_local_registry_is_answered_for_by_its_own_files(two, here, monkeypatch):
    load_model("champion")
    files, connection = files_of(two[0]), sqlite3.connect
    monkeypatch.setattr(
        "vaesc.registry.connection.sqlite3.connect",
        lambda *arguments, **options: connection(*arguments, **{**options, "timeout": 0}),
    )
    holder = connection(here / "mlflow.db", isolation_level=None)
    holder.execute("BEGIN EXCLUSIVE")
    try:
        model = load_model("champion")
        assert model.origin.offline
        assert same_model(model, tiny_model(0))
        damage(files / "dictionary.safetensors")
        with pytest.raises(UnreachableError, match="no copy of 'champion' is kept"):
            load_model("champion")
    finally:
        holder.close()


def test_a_registry_that_answers_is_believed(far):
    load_model("champion")
    load_model(2)
    client = connect().client
    client.delete_registered_model_alias("vaesc", "champion")
    client.delete_model_version("vaesc", "2")
    for ref in ("champion", 2):
        with pytest.raises(AbsentError, match="has no"):
            load_model(ref)


def test_the_registry_says_which_even_if_another_is_kept(far, here):
    assert load_model("champion").origin.version == 1
    connect().client.set_registered_model_alias("vaesc", "champion", "2")
    assert load_model("champion").origin.version == 2
    assert kept_digests(here) == {record.digest for record in far}


def test_one_registry_does_not_answer_for_another(far, monkeypatch):
    load_model("champion")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        uri = f"http://me:secret@127.0.0.1:{probe.getsockname()[1]}"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    with pytest.raises(
        UnreachableError, match=r"nothing answers .* no copy of 'champion'"
    ) as error:
        load_model("champion")
    assert "secret" not in str(error.value)
    assert "\n" not in str(error.value)


def test_a_damaged_copy_is_fetched_again_and_offline_refused(far, here, monkeypatch, caplog):
    load_model("champion")
    damage(here / "models" / far[0].digest / "vae.safetensors")
    assert same_model(load_model("champion"), tiny_model(0))
    assert "was damaged" in caplog.text
    assert len(list((here / "models" / "quarantine").iterdir())) == 1

    damage(here / "models" / far[0].digest / "vae.safetensors")
    away(monkeypatch)
    with pytest.raises(UnreachableError, match="no copy of 'champion' is kept"):
        load_model("champion")


def test_a_kept_copy_is_as_good_as_damaged_files(far):
    load_model("champion")
    damage(files_of(far[0]) / "vae.safetensors")
    assert same_model(load_model("champion"), tiny_model(0))


def test_a_copy_that_goes_while_it_is_read_is_fetched_again(far, here, monkeypatch):
    load_model("champion")
    find = loading_module.ModelCache.find

    def found_and_gone(cache, digest):
        folder = find(cache, digest)
        shutil.rmtree(folder)
        return folder

    monkeypatch.setattr(loading_module.ModelCache, "find", found_and_gone)
    assert same_model(load_model("champion"), tiny_model(0))
    assert kept_digests(here) == {far[0].digest}


# What is wrong, by every name


def wrong_pair(record):
    """Put another VAE into a version's bundle, with every digest set right again."""
    folder = files_of(record)
    other = saved(folder.with_name("other"), 7)
    for name in ("vae.safetensors", "vae.json"):
        (other / name).replace(folder / name)
    manifest = json.loads((folder / "bundle.json").read_text())
    manifest["files"] = {
        name: hashlib.sha256((folder / name).read_bytes()).hexdigest()
        for name in manifest["files"]
    }
    (folder / "bundle.json").write_text(json.dumps(manifest))
    connect().client.set_model_version_tag(
        record.name, str(record.version), DIGEST_TAG, model_digest(folder)
    )
    return folder


@pytest.mark.parametrize("home_of", ["two", "far"])
def test_a_dictionary_of_another_vae_is_refused_by_every_name(request, home_of):
    records = request.getfixturevalue(home_of)
    folder = wrong_pair(records[0])
    for ref in every_ref(records[0], "champion")[:-1]:  # runs are found by the digest of the model
        with pytest.raises(
            RegistryError, match=r"models:/vaesc/1 cannot be used: .*of another VAE"
        ) as error:
            load_model(ref)
        assert "\n" not in str(error.value)
    with pytest.raises(DataError, match="learned on the latents of another VAE"):
        load_model(folder)


def test_damaged_files_are_refused_by_every_name(two):
    folder = files_of(two[0])
    damage(folder / "vae.safetensors")
    for ref in every_ref(two[0], "champion"):
        with pytest.raises(RegistryError, match="models:/vaesc/1 is damaged") as error:
            load_model(ref)
        assert "\n" not in str(error.value)
    with pytest.raises(StoreError, match="not the file that was saved"):
        load_model(folder)


def test_a_deleted_version_is_missed_by_every_name(two):
    connect().client.delete_model_version("vaesc", "1")
    for ref in every_ref(two[0], "champion"):
        with pytest.raises(AbsentError, match=r"has no|has registered no model") as error:
            load_model(ref)
        assert "versions 2" in str(error.value)
        assert "\n" not in str(error.value)


def test_an_empty_registry_says_so_by_every_name(home):
    for ref in ("champion", "latest", 1, "models:/vaesc/1", "models:/vaesc@champion"):
        with pytest.raises(AbsentError, match=r"no model 'vaesc' is .* it is empty"):
            load_model(ref)
    with pytest.raises(AbsentError, match="cannot look up run") as error:
        load_model("0" * 32)
    assert "\n" not in str(error.value)


def test_a_registry_out_of_reach_says_so_by_every_name(home, monkeypatch):
    away(monkeypatch)
    for ref in ("champion", "latest", 1, "models:/vaesc/1", "models:/vaesc@champion", "0" * 32):
        with pytest.raises(UnreachableError, match=f"nothing answers .* no copy of '{ref}'"):
            load_model(ref)
    with pytest.raises(RegistryError, match="models:/NAME/VERSION"):
        load_model("models:/vaesc")
