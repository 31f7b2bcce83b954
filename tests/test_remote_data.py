"""Zarr arrays and models in a bucket, read in place or fetched: as if they lay in a folder."""

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import zarr
from object_storage import BUCKET, Moto
from test_scoring import model  # noqa: F401 - a fixture
from zarr.codecs import ZstdCodec

from deployments.storage import Storage
from vaesc import bucket as bucket_module
from vaesc import load_model
from vaesc.arrays import create_group, open_group, write_array
from vaesc.bucket import Bucket
from vaesc.cli import main
from vaesc.config import DatasetConfig
from vaesc.datasets import check, fingerprint, ingest
from vaesc.errors import ConfigError, DataError, StoreError
from vaesc.store import file_digest


@pytest.fixture
def url(moto, monkeypatch, tmp_path):
    monkeypatch.setattr(bucket_module, "_RETRIES", 1)
    for name, value in moto.environment.items():
        monkeypatch.setenv(name, value)
    return f"s3://{BUCKET}/{tmp_path.name}/x.zarr"


def copied(folder: Path, url: str) -> str:
    there = Bucket(url)
    for path in folder.rglob("*"):
        if path.is_file():
            there.upload(path, path.relative_to(folder).as_posix())
    return url


def digits() -> np.ndarray:
    from sklearn.datasets import load_digits

    return np.ascontiguousarray(load_digits().images[:, 2:6, 2:7].astype(np.uint8))


@pytest.fixture
def images(tmp_path):
    """A group of images and labels in two shards, as other tools write it too."""
    group = create_group(tmp_path / "x.zarr")
    images = digits()
    group.create_array(
        "x", shape=images.shape, dtype=np.uint8, chunks=(100, 4, 5), shards=(1000, 4, 5),
        compressors=[ZstdCodec(level=3, checksum=True)], config={"write_empty_chunks": True},
    )[...] = images  # fmt: skip
    write_array(group, "y", np.arange(len(images)) % 10, ("sample",))
    return tmp_path / "x.zarr"


def configs(*places):
    return [DatasetConfig(source="arrays", path=str(place)) for place in places]


def tree(folder: Path):
    return {p.relative_to(folder): file_digest(p) for p in folder.rglob("*") if p.is_file()}


def test_ingesting_from_a_bucket_gives_the_bytes_of_a_folder(images, url, tmp_path):
    local, remote = configs(images, copied(images, url))
    check(remote)
    assert fingerprint(remote) == fingerprint(local)
    for name, config in (("a", local), ("b", remote)):
        (tmp_path / name).mkdir()
        ingest(config, tmp_path / name, seed=0, block_size=500)
    assert tree(tmp_path / "a") == tree(tmp_path / "b")


def test_a_group_in_a_bucket_opens_like_a_folder(images, url):
    group = open_group(copied(images, url))
    assert np.array_equal(group["x"][990:1010], digits()[990:1010])
    with pytest.raises(FileNotFoundError):
        open_group(f"{url}-not")


def test_missing_chunks_in_a_bucket_are_refused(images, url):
    (remote,) = configs(copied(images, url))
    key = next(each.key for each in Bucket(url).list("x") if "/c/1" in each.key)
    Bucket(url).delete([key])
    with pytest.raises(DataError, match="has at most 1 of its 2 chunks"):
        ingest(remote, Path("unused"), seed=0, block_size=500)


def test_a_flipped_byte_in_a_bucket_is_an_error(images, url, tmp_path):
    (remote,) = configs(copied(images, url))
    there = Bucket(url)
    key = next(each.key for each in there.list("x") if "/c/0" in each.key)
    data = bytearray(there.read(key, 10**9))
    data[len(data) // 3] ^= 1
    there.write(key, bytes(data))
    with pytest.raises(DataError, match=f"{url}.* cannot be read as a Zarr array"):
        ingest(remote, tmp_path, seed=0, block_size=500)


def test_a_chunk_that_claims_gigabytes_is_refused_unread(url, tmp_path):
    root = zarr.create_array(
        str(tmp_path / "x.zarr"), shape=(64, 4, 5), chunks=(64, 4, 5), dtype="u1"
    )
    root[...] = digits()[:64]
    chunk = tmp_path / "x.zarr" / "c" / "0" / "0" / "0"
    data = bytearray(chunk.read_bytes())
    assert data[:4] == b"\x28\xb5\x2f\xfd"
    chunk.write_bytes(data[:4] + bytes([0b11100000]) + (2**32).to_bytes(8, "little") + data[6:])
    (remote,) = configs(copied(tmp_path / "x.zarr", url))
    with pytest.raises(DataError, match="has 4294967296"):
        ingest(remote, tmp_path, seed=0, block_size=500)


@pytest.mark.parametrize(
    ("path", "source", "sentence"),
    [
        ("s3://vaesc/nothing.zarr", "arrays", "is not a Zarr array or group"),
        ("s3://vaesc/images.npy", "arrays", "nothing else is read from a bucket"),
        ("s3://vaesc/images", "folder", "only Zarr is read from a bucket"),
    ],
)
def test_what_is_no_zarr_in_a_bucket_is_refused(url, path, source, sentence):
    with pytest.raises(DataError, match=sentence):
        check(DatasetConfig(source=source, path=path))
    with pytest.raises(StoreError, match="has no bucket other"):
        check(DatasetConfig(source="arrays", path="s3://other/x.zarr"))


def test_credentials_in_a_path_are_refused_and_not_repeated():
    with pytest.raises(ValueError, match="must not hold credentials") as caught:
        DatasetConfig(source="arrays", path="s3://key:hush@bucket/x.zarr")
    assert "hush" not in str(caught.value)


def test_a_server_that_ends_while_images_are_read_is_one_sentence(images, url, moto, tmp_path):
    from vaesc.datasets.zarr_places import zarr_in_bucket
    from vaesc.datasets.zarr_rows import open_zarr

    own = Moto(tmp_path)
    own.start()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", own.environment["AWS_ENDPOINT_URL"])
        rows = open_zarr(zarr_in_bucket(copied(images, url)))["x"]
        assert len(rows[np.arange(5)]) == 5
        own.stop()
        with pytest.raises(StoreError, match="does not answer"):
            rows[np.arange(5)]


def test_a_server_without_ranges_is_named(images, tmp_path, monkeypatch):
    """The stack's rclone: good enough for the store, not for reading sharded Zarr in place."""
    (tmp_path / "server").mkdir()
    with Storage(tmp_path / "server") as server:
        for name, value in server.environment.items():
            monkeypatch.setenv(name, value)
        (remote,) = configs(copied(images, "s3://vaesc/x.zarr"))
        with pytest.raises(StoreError, match="ignores which part of an object"):
            ingest(remote, tmp_path, seed=0, block_size=500)


def test_scores_of_images_in_a_bucket_are_those_of_a_folder(model, images, url, tmp_path, capsys):  # noqa: F811
    places = (images, copied(images, url))
    model.save(tmp_path / "model")
    for i, place in enumerate(places):
        arguments = ["score", "--json", "--model", str(tmp_path / "model"), "--workers", "1"]
        assert main([*arguments, str(place), str(tmp_path / f"out-{i}")]) == 0
        assert json.loads(capsys.readouterr().out)["images"] == str(place)
    assert tree(tmp_path / "out-0") == tree(tmp_path / "out-1")


def test_a_model_in_a_bucket_is_loaded_verified_and_kept(model, url, tmp_path, monkeypatch):  # noqa: F811
    monkeypatch.setenv("VAESC_HOME", str(tmp_path / "home"))
    model.save(tmp_path / "model")
    copied(tmp_path / "model", url)
    back = load_model(url, device="cpu")
    unit = digits()[:20]
    assert (back.encode(unit) != model.encode(unit)).nnz == 0
    assert (back.origin.uri, back.origin.ref) == (url, url)
    assert len(list((tmp_path / "home" / "models").glob("?" * 64))) == 1
    Bucket(url).write("vae.safetensors", b"other bytes")
    assert load_model(url, device="cpu").digest == back.digest  # from the verified copy
    monkeypatch.setenv("VAESC_HOME", str(tmp_path / "other"))
    with pytest.raises(StoreError, match=r"is damaged \(vae\.safetensors does not have its SHA"):
        load_model(url, device="cpu")
    Bucket(url).delete(["dictionary.safetensors", "bundle.json"])
    with pytest.raises(StoreError, match="holds no model: it has no bundle"):
        load_model(url, device="cpu")


def test_a_url_that_is_none_is_refused():
    with pytest.raises(ConfigError, match="must be s3://bucket"):
        load_model("s3://x")


def test_a_model_saved_into_a_bucket_is_the_model(model, url, tmp_path, monkeypatch):  # noqa: F811
    monkeypatch.setenv("VAESC_HOME", str(tmp_path / "home"))
    order, create = [], Bucket.create
    monkeypatch.setattr(
        Bucket, "create", lambda self, key, data: order.append(key) or create(self, key, data)
    )
    model.save(url)
    model.save(tmp_path / "model")
    assert order[-1] == "bundle.json", "whoever finds it finds all"
    there = {each.key: Bucket(url).read(each.key, 10**9) for each in Bucket(url).list()}
    assert there == {path.name: path.read_bytes() for path in (tmp_path / "model").iterdir()}
    assert (
        load_model(url, device="cpu").encode(digits()[:9]) != model.encode(digits()[:9])
    ).nnz == 0
    with pytest.raises(StoreError, match=r"holds bundle\.json already; choose another prefix"):
        model.save(url)


def test_saving_a_model_never_writes_over_another(model, url, monkeypatch):  # noqa: F811
    """Neither over one that is being written, nor over one that is whole meanwhile."""
    monkeypatch.setenv("VAESC_HOME", "unused")
    there = Bucket(url)
    there.write("vae.safetensors", b"another model's")
    with pytest.raises(StoreError, match=r"holds another vae\.safetensors already"):
        model.save(url)
    assert there.read("vae.safetensors", 100) == b"another model's"
    assert there.read("bundle.json", 10**6) is None
    with pytest.raises(StoreError, match="holds no model"):
        load_model(url, device="cpu")
    there.delete(["vae.safetensors"])
    model.save(url)  # what an interrupted attempt left is completed


def test_of_two_who_save_at_once_one_wins_or_both_have_the_same(model, url, tmp_path):  # noqa: F811
    from vaesc.bucket_folders import publish_folder

    for name in "ab":
        (tmp_path / name).mkdir()
        for i in range(8):
            (tmp_path / name / str(i)).write_text(f"{name if i % 2 else 'same'} {i}")

    def attempt(name):
        try:
            publish_folder(tmp_path / name, Bucket(url), "7")
        except StoreError:
            return ""
        return name

    with ThreadPoolExecutor(2) as pool:
        won = [name for name in pool.map(attempt, "ab") if name]
    found = {each.key: Bucket(url).read(each.key, 100) for each in Bucket(url).list()}
    assert len(won) == ("7" in found) <= 1
    for name in won:
        assert found == {path.name: path.read_bytes() for path in (tmp_path / name).iterdir()}


def test_a_model_is_saved_to_no_other_url(model, tmp_path, monkeypatch):  # noqa: F811
    monkeypatch.chdir(tmp_path)
    for place in ("gs://bucket/x", Path("s3://bucket/x"), "file:///x"):
        with pytest.raises(ConfigError, match="is given where a file or folder of this machine"):
            model.save(place)
    assert list(tmp_path.iterdir()) == []
