"""Rows of a user's Zarr array: the right ones, in little more memory than they take."""

import tracemalloc

import numpy as np
import zarr
from hypothesis import given
from hypothesis import strategies as st

from vaesc.datasets import zarr_rows
from vaesc.datasets.zarr_places import ZarrFolder
from vaesc.datasets.zarr_rows import open_zarr


def opened(folder, values, **how):
    array = zarr.create_array(str(folder), shape=values.shape, dtype=values.dtype, **how)
    array[:] = values
    return open_zarr(ZarrFolder(folder))[""]


@given(
    wanted=st.sets(st.integers(0, 99), min_size=1),
    window=st.sampled_from([1, 100, 10**6]),
    shards=st.sampled_from([None, (28, 3)]),
)
def test_any_rows_are_those_of_the_array(tmp_path_factory, wanted, window, shards):
    values = np.arange(300, dtype=np.int16).reshape(100, 3)
    folder = tmp_path_factory.mktemp("rows") / "a.zarr"
    found = opened(folder, values, chunks=(7, 3), shards=shards)
    rows = np.array(sorted(wanted))
    before, zarr_rows._WINDOW_BYTES = zarr_rows._WINDOW_BYTES, window
    try:
        np.testing.assert_array_equal(found[rows], values[rows])
        assert found[rows].dtype == values.dtype
    finally:
        zarr_rows._WINDOW_BYTES = before


def test_a_few_rows_of_many_take_little_memory(tmp_path):
    """As those of a test split do, which lie anywhere among the others."""
    draw = np.random.default_rng(0)
    values = draw.integers(0, 256, (100_000, 28, 28), np.uint8)
    found = opened(tmp_path / "a.zarr", values, chunks=(500, 28, 28), shards=(20_000, 28, 28))
    rows = np.flatnonzero(draw.random(len(values)) < 0.1)
    found[rows[:10]]
    tracemalloc.start()
    taken = found[rows]
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < taken.nbytes + 4 * zarr_rows._WINDOW_BYTES
