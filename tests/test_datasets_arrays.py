"""The user's own arrays: every format and type that is taken, every damage that is refused."""

import gzip
import logging
import os
import re
import struct
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import zarr
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from vaesc.config import DatasetConfig
from vaesc.datasets import check, fingerprint, ingest, is_present, open_dataset, read_npy
from vaesc.datasets.base import SPLITS
from vaesc.datasets.idx import read_idx
from vaesc.errors import DataError

RNG = np.random.default_rng(0)
CODES = {"u1": 8, "i1": 9, "i2": 11, "i4": 12, "f4": 13, "f8": 14}


def bytes_images(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


def idx_bytes(values: np.ndarray) -> bytes:
    head = bytes([0, 0, CODES[values.dtype.str[1:]], values.ndim])
    return (
        head
        + struct.pack(f">{values.ndim}I", *values.shape)
        + values.astype(values.dtype.newbyteorder(">")).tobytes()
    )


def arrays(path: Path, **settings) -> DatasetConfig:
    return DatasetConfig(source="arrays", path=str(path), **settings)


def saved(tmp_path: Path, values: np.ndarray, **settings) -> DatasetConfig:
    np.save(tmp_path / "x.npy", values)
    return arrays(tmp_path / "x.npy", **settings)


def made(config: DatasetConfig, folder: Path, **options):
    folder.mkdir(parents=True, exist_ok=True)
    summary = ingest(config, folder, **{"seed": 0, "block_size": 16, **options})
    return summary, open_dataset(folder)


def refused(config: DatasetConfig, tmp_path: Path) -> str:
    """Return the sentence with which ingestion refuses; it names the file and is one line."""
    (tmp_path / "out").mkdir(exist_ok=True)
    with pytest.raises(DataError) as caught:
        ingest(config, tmp_path / "out", seed=0, block_size=16)
    sentence = str(caught.value)
    assert "\n" not in sentence
    assert ";" in sentence  # what is wrong; what to do
    return sentence


def everything(dataset) -> np.ndarray:
    rows = np.concatenate([dataset.floats(s) for s in SPLITS])
    return rows[np.lexsort(rows.reshape(len(rows), -1).T)]


def in_order(images: np.ndarray) -> np.ndarray:
    return images[np.lexsort(images.reshape(len(images), -1).T)]


@pytest.mark.parametrize("shape", [(40, 5), (40, 4, 5), (40, 3, 4, 5), (40, 1, 6, 6)])
@pytest.mark.parametrize(
    "kind", ["uint8", "int64", ">i2", "bool", "float16", "float32", "float64"]
)
def test_every_shape_and_type_ends_up_in_the_unit_interval(tmp_path, shape, kind):
    raw = bytes_images(*shape)
    values = raw > 127 if kind == "bool" else raw
    values = (raw / 255).astype(kind) if "float" in kind else values.astype(kind)
    expected = values if kind == "bool" or "float" in kind else raw / np.float32(255)
    _, dataset = made(saved(tmp_path, values), tmp_path / "out")

    assert dataset.shape == shape[1:]
    assert np.array_equal(everything(dataset), in_order(expected.astype(np.float32)))


@pytest.mark.parametrize("zipped", [False, True])
@pytest.mark.parametrize("kind", list(CODES))
def test_idx_of_every_type_is_read_back(tmp_path, kind, zipped):
    values = RNG.integers(0, 100, (3, 4, 5)).astype(kind)
    raw = idx_bytes(values)
    path = tmp_path / "x-idx3"
    path.write_bytes(gzip.compress(raw) if zipped else raw)

    assert np.array_equal(read_idx(path), values)
    assert read_idx(path).dtype == values.dtype


def test_all_formats_of_one_array_give_one_data_set(tmp_path):
    x, y = bytes_images(30, 4, 4), np.arange(30) % 3
    np.save(tmp_path / "x.npy", x)
    np.save(tmp_path / "fortran.npy", np.asfortranarray(x))
    np.save(tmp_path / "y.npy", y)
    np.savez(tmp_path / "plain.npz", x=x, y=y)
    np.savez_compressed(tmp_path / "packed.npz", x=np.asfortranarray(x), y=y[:, None])
    (tmp_path / "x.idx").write_bytes(idx_bytes(x))
    (tmp_path / "x-idx3-ubyte.gz").write_bytes(gzip.compress(idx_bytes(x)))
    (tmp_path / "y-idx1").write_bytes(idx_bytes(y.astype("i4")))
    group = zarr.create_group(str(tmp_path / "g.zarr"))
    group.create_array("x", data=x, chunks=(7, 4, 4))
    group.create_array("y", data=y.astype(float))
    zarr.create_array(str(tmp_path / "a.zarr"), data=x, chunks=(4, 4, 4), shards=(8, 4, 4))
    labelled = {"labels": str(tmp_path / "y.npy")}
    configs = [
        arrays(tmp_path / "x.npy", **labelled),
        arrays(tmp_path / "fortran.npy", **labelled),
        arrays(tmp_path / "plain.npz"),
        arrays(tmp_path / "packed.npz"),
        arrays(tmp_path / "x.idx", labels=str(tmp_path / "y-idx1")),
        arrays(tmp_path / "x-idx3-ubyte.gz", **labelled),
        arrays(tmp_path / "g.zarr"),
        arrays(tmp_path / "a.zarr", **labelled),
    ]
    summaries = [made(c, tmp_path / f"out{i}")[0] for i, c in enumerate(configs)]

    assert all(summary == summaries[0] for summary in summaries)
    assert summaries[0]["n_classes"] == 3


def test_a_split_of_the_file_is_kept(tmp_path):
    x, test = bytes_images(30, 4), bytes_images(12, 4)[::-1]
    np.savez(tmp_path / "x.npz", x_train=x, x_test=test)
    _, dataset = made(arrays(tmp_path / "x.npz"), tmp_path / "out")

    assert np.array_equal(dataset.images("test"), test)
    assert dataset.counts == {"train": 27, "validation": 3, "test": 12}
    assert dataset.labels("train") is None


def test_our_own_data_set_can_be_ingested_again(tmp_path):
    np.savez(tmp_path / "x.npz", x=bytes_images(30, 4), y=np.arange(30))
    first, _ = made(arrays(tmp_path / "x.npz"), tmp_path / "a")
    again, _ = made(arrays(tmp_path / "a/dataset.zarr"), tmp_path / "b", seed=5)

    assert again["sha256"] == first["sha256"]


def test_minmax_maps_the_range_of_the_training_images_and_clips_the_rest(tmp_path):
    train = RNG.uniform(-3, 7, (50, 6))
    test = np.vstack([np.full((1, 6), -100.0), np.full((1, 6), 100.0), train[:1]])
    np.savez(tmp_path / "x.npz", x_train=train, x_test=test)
    _, dataset = made(arrays(tmp_path / "x.npz", rescale="minmax"), tmp_path / "out")
    kept = dataset.floats("train") * (dataset.high - dataset.low) + dataset.low

    assert dataset.floats("train").min() == 0
    assert dataset.floats("train").max() == 1
    assert np.abs(kept[:, None] - train).sum(axis=2).min(axis=1).max() < 1e-5
    assert (dataset.floats("test")[0] == 0).all()
    assert (dataset.floats("test")[1] == 1).all()


def test_minmax_leaves_what_is_in_range_alone(tmp_path):
    x = RNG.uniform(0.2, 0.8, (30, 5))
    a, _ = made(saved(tmp_path, x), tmp_path / "a")
    b, _ = made(saved(tmp_path, x, rescale="minmax"), tmp_path / "b")

    assert a == b


def test_minmax_of_sixteen_bit_integers(tmp_path):
    x = RNG.integers(0, 4096, (40, 9)).astype(np.uint16)
    x[:, 0], x[:, 1] = 0, 4095
    _, dataset = made(saved(tmp_path, x, rescale="minmax"), tmp_path / "out")

    assert (dataset.low, dataset.high) == (0, 4095)
    assert np.allclose(everything(dataset), in_order((x / 4095).astype(np.float32)))


def test_dark_bytes_are_taken_with_a_warning(tmp_path, caplog):
    with caplog.at_level(logging.WARNING):
        made(saved(tmp_path, bytes_images(30, 4) // 16), tmp_path / "out")

    assert "minmax" in caplog.text


def test_the_fingerprint_is_of_content_not_of_place(tmp_path):
    (tmp_path / "else").mkdir()
    x = bytes_images(10, 3)
    here = saved(tmp_path, x)
    np.save(tmp_path / "else/other.npy", x)
    there = arrays(tmp_path / "else/other.npy")

    assert fingerprint(here) == fingerprint(there)
    np.save(tmp_path / "else/other.npy", x[::-1])
    assert fingerprint(here) != fingerprint(there)
    np.save(tmp_path / "y.npy", np.arange(10))
    assert fingerprint(saved(tmp_path, x, labels=str(tmp_path / "y.npy"))) != fingerprint(here)


BAD_VALUES = {
    "nan": (np.where(np.eye(30) > 0, np.nan, 0.5), r"image \d+ holds NaN"),
    "infinity": (np.where(np.eye(30) > 0, np.inf, 0.5), r"image \d+ holds NaN or infinity"),
    "above 1": (
        np.linspace(0, 255, 300).reshape(30, 10),
        r"\[0, 1\].*0 to .*divide by 255, or set",
    ),
    "below 0": (np.linspace(-1, 1, 300).reshape(30, 10), "dataset.rescale=minmax"),
    "beyond bytes": (np.arange(600).reshape(30, 20), r"0\.\.255, got values from \d+ to 5\d\d"),
    "binary integers": (np.eye(30, dtype=int), "only 0 and 1; save them as bool or float"),
    "constant": (np.full((30, 5), 0.5), "constant, all equal"),
    "the same image": (np.tile(np.arange(5.0) / 5, (30, 1)), "constant, all equal"),
    "black bytes": (np.zeros((30, 5), np.uint8), "only 0 and 1|constant"),
    "empty": (np.empty((0, 4, 4)), r"is empty: its shape is \(0, 4, 4\)"),
    "no pixels": (np.empty((10, 0)), "is empty"),
    "one axis": (np.arange(30.0) / 30, r"\(n, d\).*got \(30,\)"),
    "no axis": (np.array(0.5), r"got \(\)"),
    "five axes": (np.zeros((2, 2, 2, 2, 2)), "must have shape"),
    "channels last": (bytes_images(10, 8, 8, 3), "channels last.*moveaxis"),
    "objects": (np.array([{"a": 1}, None]), "Python objects"),
    "text": (np.array([["a", "b"]]), "plain numbers"),
    "complex": (np.ones((5, 5), complex), "plain numbers"),
    "records": (np.zeros((5, 5), [("a", "i4"), ("b", "f4")]), "plain numbers"),
}


@pytest.mark.parametrize("name", list(BAD_VALUES))
def test_bad_values_are_refused_with_one_sentence(tmp_path, name):
    values, sentence = BAD_VALUES[name]
    said = refused(saved(tmp_path, values), tmp_path)

    assert re.search(sentence, said), said
    assert "x.npy" in said


@pytest.mark.parametrize(
    ("labels", "sentence"),
    [
        (np.arange(29), r"labels have shape \(29,\), but there are 30 images"),
        (np.zeros((30, 10)), "one label per image"),
        (np.linspace(0, 1, 30), "must be integers, got 0.03"),
        (np.where(np.arange(30) == 4, np.nan, 0), "got nan at row 4"),
        (np.array(["cat"] * 30), "plain numbers"),
    ],
)
def test_bad_labels_are_refused(tmp_path, labels, sentence):
    np.save(tmp_path / "y.npy", labels)
    config = saved(tmp_path, bytes_images(30, 4), labels=str(tmp_path / "y.npy"))
    said = refused(config, tmp_path)

    assert re.search(sentence, said), said
    assert "y.npy" in said


def test_labels_beside_labels_are_refused(tmp_path):
    np.savez(tmp_path / "x.npz", x=bytes_images(30, 4), y=np.arange(30))
    np.save(tmp_path / "y.npy", np.arange(30))
    config = arrays(tmp_path / "x.npz", labels=str(tmp_path / "y.npy"))

    assert "labels of its own" in refused(config, tmp_path)


def test_labels_for_a_source_that_reads_none_are_refused():
    with pytest.raises(ValueError, match="only read by the source arrays, not by digits"):
        DatasetConfig(labels="y.npy")


@pytest.mark.parametrize("missing", ["path", "labels"])
def test_what_is_not_there_is_found_before_anything_is_read(tmp_path, missing):
    (tmp_path / "x.npy").write_bytes(b"not looked at")
    names = {"path": tmp_path / "x.npy", "labels": tmp_path / "x.npy"}
    names[missing] = tmp_path / "nothing.npy"
    config = DatasetConfig(source="arrays", **{key: str(path) for key, path in names.items()})
    with pytest.raises(DataError) as caught:
        check(config)
    assert str(caught.value) == f"{tmp_path / 'nothing.npy'} does not exist; check the path"
    if missing == "path":
        assert refused(config, tmp_path) == str(caught.value)
    check(DatasetConfig(source="arrays", path=str(tmp_path / "x.npy")))


def test_only_a_relative_path_is_told_where_it_starts(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match="check the path \\(it is relative to ") as caught:
        check(DatasetConfig(source="arrays", path="x.npy"))
    assert str(tmp_path) in str(caught.value)
    with pytest.raises(DataError, match=r"nothing does not exist; check the path$"):
        check(DatasetConfig(source="folder", path=str(tmp_path / "nothing")))


def test_a_limit_that_leaves_too_little_to_train_on_is_refused(tmp_path):
    config = saved(tmp_path, bytes_images(30, 4), limit=1)
    said = refused(config, tmp_path)
    assert "too few images to split (train 1, validation 1, test 1): training needs" in said
    assert said.endswith("raise dataset.limit")
    # Where there are too few to begin with, no limit helps.
    few = saved(tmp_path, bytes_images(2, 4), limit=1)
    assert refused(few, tmp_path).endswith("give more images")


def test_labels_of_one_split_only_are_refused(tmp_path):
    x = bytes_images(30, 4)
    np.savez(tmp_path / "x.npz", x_train=x, x_test=x, y_train=np.arange(30))

    assert "add y_test" in refused(arrays(tmp_path / "x.npz"), tmp_path)


def test_splits_that_do_not_fit_together_are_refused(tmp_path):
    np.savez(tmp_path / "x.npz", x_train=bytes_images(30, 4), x_test=bytes_images(30, 5))
    assert "all splits need one shape" in refused(arrays(tmp_path / "x.npz"), tmp_path)
    np.savez(tmp_path / "x.npz", x_train=bytes_images(30, 4), x_test=bytes_images(30, 4) / 255)
    assert "save all splits in one type" in refused(arrays(tmp_path / "x.npz"), tmp_path)
    np.savez(tmp_path / "x.npz", images=bytes_images(30, 4), x_train=bytes_images(30, 4))
    assert "got images, x_train; rename" in refused(arrays(tmp_path / "x.npz"), tmp_path)


def test_paths_that_are_not_a_file_we_read(tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "x.csv").write_text("1,2\n")
    missing = arrays(tmp_path / "nowhere.npy")

    assert "does not exist" in refused(missing, tmp_path)
    assert not is_present(missing)
    assert "dataset.source=folder" in refused(arrays(tmp_path / "folder"), tmp_path)
    assert ".npy, .npz or .zarr" in refused(arrays(tmp_path / "x.csv"), tmp_path)
    for config in (missing, arrays(tmp_path / "x.csv"), arrays(tmp_path / "folder")):
        with pytest.raises(DataError):
            fingerprint(config)


FILES = {
    "x.npy": lambda path, x: np.save(path, x),
    "x.npz": lambda path, x: np.savez(path, x=x),
    "packed.npz": lambda path, x: np.savez_compressed(path, x=x),
    "x-idx3-ubyte": lambda path, x: path.write_bytes(idx_bytes(x)),
    "x-idx3-ubyte.gz": lambda path, x: path.write_bytes(gzip.compress(idx_bytes(x), mtime=0)),
}


@pytest.mark.parametrize("name", list(FILES))
@pytest.mark.parametrize("share", [0.0, 0.001, 0.02, 0.5, 0.999])
def test_a_file_cut_short_anywhere_is_refused(tmp_path, name, share):
    path = tmp_path / name
    FILES[name](path, bytes_images(40, 8, 8))
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * share)])

    assert name in refused(arrays(path), tmp_path)


@pytest.mark.parametrize("name", ["x-idx3-ubyte", "x-idx3-ubyte.gz"])
def test_bytes_after_the_end_of_idx_are_refused(tmp_path, name):
    raw = idx_bytes(bytes_images(5, 4, 4)) + b"more"
    path = tmp_path / name
    path.write_bytes(gzip.compress(raw) if name.endswith("gz") else raw)

    # A plain file could be an image file with a longer tail, a zipped one a bomb.
    assert "goes on after" in refused(arrays(path), tmp_path)


def test_a_wrong_magic_number_is_refused(tmp_path):
    (tmp_path / "x-idx").write_bytes(b"\x89PNG" + bytes(100))
    assert "does not begin like an IDX file" in refused(arrays(tmp_path / "x-idx"), tmp_path)
    (tmp_path / "x.npy").write_bytes(b"\x80\x04\x95" + bytes(100))
    assert "does not begin like a .npy file" in refused(arrays(tmp_path / "x.npy"), tmp_path)
    (tmp_path / "x.npz").write_bytes(b"<html>" + bytes(100))
    assert "cannot be read as a .npz file" in refused(arrays(tmp_path / "x.npz"), tmp_path)


def npy_bytes(descr: str, shape: tuple[int, ...], body: bytes) -> bytes:
    head = f"{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape!r}, }}\n".encode()
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(head)) + head + body


def liars(tmp_path: Path) -> dict[str, Path]:
    """Small files whose headers claim terabytes."""
    import zipfile

    huge = bytes([0, 0, 8, 3]) + struct.pack(">3I", 2**31, 2**15, 2**15) + bytes(84)
    files = {
        "l-idx3-ubyte": huge,
        "l-idx3-ubyte.gz": gzip.compress(huge),
        "l.npy": npy_bytes("|u1", (2**40, 28, 28), bytes(100)),
        "over.npy": npy_bytes("|u1", (2**62, 2**62), bytes(100)),
    }
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    with zipfile.ZipFile(tmp_path / "l.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x.npy", files["l.npy"])
    return {name: tmp_path / name for name in (*files, "l.npz")}


@pytest.mark.parametrize("name", ["l-idx3-ubyte", "l-idx3-ubyte.gz", "l.npy", "over.npy", "l.npz"])
def test_a_header_that_lies_allocates_nothing(tmp_path, name):
    path = liars(tmp_path)[name]
    tracemalloc.start()
    try:
        said = refused(arrays(path), tmp_path)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert "the header claims" in said
    assert peak < 50e6


def test_a_gzip_bomb_is_read_no_further_than_its_header_says(tmp_path):
    bomb = tmp_path / "bomb-idx.gz"
    with gzip.open(bomb, "wb", compresslevel=1) as stream:
        stream.write(bytes([0, 0, 8, 2]) + struct.pack(">2I", 10, 10))
        for _ in range(200):
            stream.write(bytes(10**6))
    tracemalloc.start()
    try:
        assert "goes on after" in refused(arrays(bomb), tmp_path)
        assert tracemalloc.get_traced_memory()[1] < 50e6
    finally:
        tracemalloc.stop()


@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data(), name=st.sampled_from(list(FILES)))
def test_random_damage_is_a_sentence_or_is_harmless(tmp_path, data, name):
    path = tmp_path / name
    FILES[name](path, bytes_images(12, 3, 3))
    raw = bytearray(path.read_bytes())
    # The header is where damage misleads.
    places = st.integers(0, min(len(raw), 400) - 1)
    for at, value in data.draw(st.lists(st.tuples(places, st.integers(0, 255)), max_size=4)):
        raw[at] = value
    path.write_bytes(raw)
    out = tmp_path / os.urandom(8).hex()
    out.mkdir()
    said = ""
    try:
        ingest(arrays(path), out, seed=0, block_size=16)
    except DataError as error:
        said = str(error)
    assert "\n" not in said


def test_damaged_zarr_is_refused(tmp_path):
    x = bytes_images(40, 6, 6)
    path = tmp_path / "x.zarr"
    zarr.create_array(str(path), data=x, chunks=(5, 6, 6))
    chunk = path / "c/3/0/0"
    whole = chunk.read_bytes()

    chunk.write_bytes(whole[:10])
    assert "x.zarr cannot be read" in refused(arrays(path), tmp_path)
    chunk.unlink()
    assert "has at most 7 of its 8 chunks" in refused(arrays(path), tmp_path)
    (path / "zarr.json").write_text("{")
    assert "x.zarr cannot be read" in refused(arrays(path), tmp_path)
    (path / "zarr.json").unlink()
    assert "x.zarr cannot be read" in refused(arrays(path), tmp_path)


def test_zarr_that_claims_terabytes_is_refused(tmp_path):
    path = tmp_path / "x.zarr"
    zarr.create_array(str(path), shape=(2**20 * 1000, 28, 28), chunks=(1, 28, 28), dtype="u1")

    assert "of its 1048576000 chunks" in refused(arrays(path), tmp_path)


def test_read_npy_loads_the_whole_file_and_refuses_objects(tmp_path):
    x = bytes_images(5, 4)
    np.save(tmp_path / "x.npy", x)
    assert np.array_equal(read_npy(tmp_path / "x.npy"), x)
    assert not isinstance(read_npy(tmp_path / "x.npy"), np.memmap)
    np.save(tmp_path / "o.npy", np.array([None]), allow_pickle=True)
    with pytest.raises(DataError, match="never loaded"):
        read_npy(tmp_path / "o.npy")
