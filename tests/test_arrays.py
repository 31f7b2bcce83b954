"""Arrays on disk: what is read is what was written, or an error."""

import itertools

import numpy as np
import pytest
import scipy.sparse
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from vaesc.arrays import (
    Appender,
    CsrAppender,
    create_array,
    create_group,
    open_group,
    read_csr,
    shard_blocks,
    write_array,
    write_csr,
)


@settings(max_examples=25, deadline=None)
@given(
    hnp.arrays(
        st.sampled_from([np.uint8, np.float32, np.int64]),
        hnp.array_shapes(min_dims=1, max_dims=3, max_side=20),
        elements=st.integers(0, 200),
    )
)
def test_round_trip(tmp_path_factory, values):
    path = tmp_path_factory.mktemp("zarr") / "a.zarr"
    write_array(create_group(path), "x", values, tuple("abc"[: values.ndim]))
    read = open_group(path)["x"]
    assert read.dtype == values.dtype
    np.testing.assert_array_equal(read[...], values)


def test_equal_arrays_give_equal_bytes(tmp_path):
    values = np.random.default_rng(0).normal(size=(5000, 32)).astype(np.float32)
    for name in "ab":
        write_array(create_group(tmp_path / name), "x", values, ("sample", "latent"))
    files = [
        {
            p.relative_to(tmp_path / n): p.read_bytes()
            for p in (tmp_path / n).rglob("*")
            if p.is_file()
        }
        for n in "ab"
    ]
    assert files[0] == files[1]


def test_every_flipped_byte_of_a_shard_is_noticed(tmp_path):
    values = np.random.default_rng(0).integers(0, 255, (400, 28, 28)).astype(np.uint8)
    write_array(create_group(tmp_path / "a"), "x", values, ("sample", "row", "column"))
    shard = next(
        p for p in (tmp_path / "a" / "x").rglob("*") if p.is_file() and p.name != "zarr.json"
    )
    whole = shard.read_bytes()
    silent = 0
    for position in np.random.default_rng(1).integers(0, len(whole), 40):
        damaged = bytearray(whole)
        damaged[position] ^= 1 << int(position % 8)
        shard.write_bytes(damaged)
        try:
            silent += not np.array_equal(open_group(tmp_path / "a")["x"][...], values)
        except Exception:
            continue
    assert silent == 0


def test_chunks_of_zeros_are_written(tmp_path):
    """A missing chunk reads as the fill value; so a chunk that equals it must exist as a file."""
    array = write_array(
        create_group(tmp_path / "a"), "x", np.zeros((100, 8), np.uint8), ("n", "d")
    )
    assert array.nchunks_initialized == array.nchunks


def test_blocks_are_whole_shards_and_cover_everything(tmp_path):
    array = create_array(create_group(tmp_path / "a"), "x", (100_000, 784), np.uint8, ("n", "d"))
    blocks = list(shard_blocks(array, 8192))
    assert blocks[0].start == 0
    assert blocks[-1].stop == 100_000
    assert all(a.stop == b.start for a, b in itertools.pairwise(blocks))
    assert all(b.start % array.shards[0] == 0 for b in blocks)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 30), st.integers(1, 20), st.floats(0, 1), st.integers(0, 2**31))
def test_csr_round_trip(tmp_path_factory, n, k, density, seed):
    matrix = scipy.sparse.random_array(
        (n, k), density=density, format="csr", dtype=np.float32, rng=np.random.default_rng(seed)
    )
    group = create_group(tmp_path_factory.mktemp("csr") / "c.zarr")
    write_csr(group, "train/codes", matrix)
    read = read_csr(group, "train/codes")
    assert read.shape == matrix.shape
    assert (read != matrix).nnz == 0
    assert read.dtype == np.float32


def test_the_format_is_plain_zarr_v3(tmp_path):
    write_array(create_group(tmp_path / "a"), "x", np.ones((10, 4), np.float32), ("n", "d"))
    array = zarr.open_array(str(tmp_path / "a" / "x"), mode="r")
    assert array.metadata.zarr_format == 3
    assert np.isnan(array.fill_value)
    with pytest.raises(Exception, match=r"(?i)read.?only"):
        open_group(tmp_path / "a")["x"][0] = 1


def tree(folder):
    return {p.relative_to(folder): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.mark.parametrize("sizes", [[9_000_000], [1, 4_194_303, 5, 4_500_000], [0, 3], [0]])
def test_what_is_appended_in_pieces_reads_as_one(tmp_path, sizes):
    n = sum(sizes)
    values = np.arange(n, dtype=np.float32)
    array = create_array(create_group(tmp_path / "a"), "x", (9_500_000,), np.float32, ("row",))
    appender, start, writes = Appender(array), 0, []
    for size in sizes:
        appender.append(values[start : start + size])
        start += size
        writes.append(array.nchunks_initialized)
    appender.close()
    np.testing.assert_array_equal(open_group(tmp_path / "a")["x"][...], values)
    # Held back until a shard is full, and written then: memory is bounded from both sides.
    assert (writes[-1] > 0) == (n >= 4_194_304)


@settings(max_examples=20, deadline=None)
@given(st.lists(st.integers(0, 40), min_size=1, max_size=5), st.integers(0, 1000))
def test_a_csr_matrix_appended_by_rows_has_the_bytes_of_one_written_whole(
    tmp_path_factory, sizes, seed
):
    folder, rng = tmp_path_factory.mktemp("csr"), np.random.default_rng(seed)
    n = sum(sizes)
    matrix = scipy.sparse.random_array((n, 7), density=0.3, rng=rng, dtype=np.float32).tocsr()
    write_csr(create_group(folder / "whole"), "codes", matrix)
    rows = CsrAppender(
        create_group(folder / "parts"), "codes", (n, 7), int(matrix.nnz), np.float32
    )
    for start, size in zip(np.cumsum([0, *sizes]), sizes, strict=False):
        rows.append(matrix[start : start + size])
    rows.close()
    assert tree(folder / "whole") == tree(folder / "parts")
    read = read_csr(open_group(folder / "parts"), "codes")
    assert (read != matrix).nnz == 0


def test_a_csr_matrix_may_have_fewer_entries_than_was_made_room_for(tmp_path):
    matrix = scipy.sparse.csr_array(np.eye(5, dtype=np.float32))
    rows = CsrAppender(create_group(tmp_path / "a"), "codes", (5, 5), 5000, np.float32)
    rows.append(matrix)
    rows.close()
    group = open_group(tmp_path / "a")
    assert group["codes/data"].shape == group["codes/indices"].shape == (5,)
    assert (read_csr(group, "codes") != matrix).nnz == 0
