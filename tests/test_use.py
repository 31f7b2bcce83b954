"""``vaesc encode|decode|reconstruct``: round trips, and mistakes found before a model loads."""

import argparse
import os

import numpy as np
import pytest
import scipy.sparse

from vaesc.cli import use
from vaesc.errors import ConfigError, DataError

CODES = {
    "format": b"csr", "_is_array": True, "data": np.ones(2, "f4"),
    "indices": np.array([0, 3], "i4"), "indptr": np.array([0, 1, 2], "i4"),
    "shape": np.array([2, 64]),
}  # fmt: skip


class Doubler:
    """A model whose arithmetic can be checked: codes are the flat images, doubled."""

    def encode(self, images):
        return scipy.sparse.csr_array(2 * images.reshape(len(images), -1))

    def decode(self, codes):
        return (codes.toarray() / 2).reshape(-1, 2, 2)

    def reconstruct(self, images):
        return self.decode(self.encode(images))


@pytest.fixture
def loads(monkeypatch):
    """How often a model was loaded."""
    seen = []

    def load_model(ref, *, device):
        seen.append((ref, device))
        return Doubler()

    monkeypatch.setattr("vaesc.registry.load_model", load_model)
    return seen


def call(function, given, out):
    options = argparse.Namespace(model="champion", device="cpu", input=given, output=out)
    return function(options)


def test_files_go_there_and_back(tmp_path, loads, capsys):
    images = np.random.default_rng(0).random((5, 2, 2)).astype(np.float32)
    np.save(tmp_path / "in.npy", images)
    assert call(use.encode, tmp_path / "in.npy", tmp_path / "codes.npz") == 0
    assert call(use.decode, tmp_path / "codes.npz", tmp_path / "out.npy") == 0
    assert call(use.reconstruct, tmp_path / "in.npy", tmp_path / "again.npy") == 0

    codes = scipy.sparse.load_npz(tmp_path / "codes.npz")
    np.testing.assert_array_equal(codes.toarray(), 2 * images.reshape(5, 4))
    np.testing.assert_array_equal(np.load(tmp_path / "out.npy"), images)
    np.testing.assert_array_equal(np.load(tmp_path / "again.npy"), images)
    assert len(loads) == 3
    assert capsys.readouterr().out.count("5 images: ") == 3
    assert {p.name for p in tmp_path.iterdir()} == {"in.npy", "codes.npz", "out.npy", "again.npy"}


@pytest.mark.parametrize(
    ("function", "suffix"),
    [(use.encode, ".npz"), (use.decode, ".npy"), (use.reconstruct, ".npy")],
)
def test_mistakes_are_found_before_a_model_is_loaded(tmp_path, loads, function, suffix):
    given = tmp_path / "in"
    given.write_bytes(b"neither .npy nor .npz")
    with pytest.raises(ConfigError, match=f"must end in {suffix}, got") as caught:
        call(function, given, tmp_path / "out.txt")
    assert caught.value.exit_code == 2
    with pytest.raises(DataError, match="nowhere does not exist; make it, or choose another OUT"):
        call(function, given, tmp_path / "nowhere" / f"out{suffix}")
    with pytest.raises(DataError, match="missing does not exist"):
        call(function, tmp_path / "missing", tmp_path / f"out{suffix}")
    with pytest.raises(DataError, match="is a folder"):
        call(function, tmp_path, tmp_path / f"out{suffix}")
    with pytest.raises(DataError, match=r"in (does not begin like|cannot be read as a .npz)"):
        call(function, given, tmp_path / f"out{suffix}")
    (tmp_path / f"taken{suffix}").mkdir()
    with pytest.raises(DataError, match="is a folder, a pipe or a device; name a file as OUT"):
        call(function, given, tmp_path / f"taken{suffix}")
    same = tmp_path / f"same{suffix}"
    same.write_bytes(b"the only copy")
    (tmp_path / f"link{suffix}").symlink_to(same)
    for given_so in (same, tmp_path / f"link{suffix}"):
        with pytest.raises(DataError, match="is an input, too, and would be lost"):
            call(function, given_so, same)
    assert same.read_bytes() == b"the only copy"
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(DataError, match="is a pipe or a device"):
        call(function, tmp_path / "pipe", tmp_path / f"out{suffix}")
    assert loads == []
    assert not (tmp_path / f"out{suffix}").exists()


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"indices": np.array([10**8, 1], "i4")}, "not a whole CSR matrix"),
        ({"indices": np.array([-(10**8), 1], "i4")}, "not a whole CSR matrix"),
        ({"indptr": np.array([0, 2, 1], "i4")}, "not a whole CSR matrix"),
        ({"indptr": np.array([0, 1, 200], "i4")}, "cannot be read as codes"),
        ({"data": np.array(["a", "b"])}, "must hold plain numbers, got type <U1"),
        ({"data": np.ones(2, "c8")}, "must hold plain numbers, got type complex64"),
        ({"data": np.array([{}, 1], object)}, r"Python objects \(pickle\), which is never loaded"),
        ({"format": 3}, "must hold a text, got type int64"),
        ({"format": b"xyz"}, "cannot be read as codes"),
        ({"shape": np.array([2.5, 64])}, "cannot be read as codes"),
        ({"shape": np.array([10**12, 64])}, "cannot be read as codes"),
        ({"format": b"csc", "indptr": np.full(65, 2) * (np.arange(65) > 0)}, "in CSC, not CSR"),
    ],
)
def test_damaged_codes_are_refused_in_one_sentence(tmp_path, loads, changes, reason):
    path = tmp_path / "codes.npz"
    np.savez(path, **{**CODES, **changes})
    with pytest.raises(DataError, match=reason) as caught:
        call(use.decode, path, tmp_path / "out.npy")
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert loads == []


def test_a_matrix_that_claims_a_trillion_rows_is_refused(tmp_path, loads):
    entries = {"row": np.array([0]), "col": np.array([0]), "data": np.ones(1)}
    path = tmp_path / "codes.npz"
    np.savez(path, format=b"coo", shape=np.array([10**12, 64]), **entries)
    with pytest.raises(DataError, match="in COO, not CSR format"):
        call(use.decode, path, tmp_path / "out.npy")


def test_no_damage_escapes_as_another_error(tmp_path):
    path, rng = tmp_path / "codes.npz", np.random.default_rng(0)
    codes = scipy.sparse.random_array((20, 64), density=0.1, format="csr", rng=rng)
    scipy.sparse.save_npz(path, codes)
    whole, refused = path.read_bytes(), 0
    for i in range(300):
        content = bytearray(whole)
        if i % 3:
            for at in rng.integers(0, len(whole), 3):
                content[at] = rng.integers(256)
        else:
            del content[rng.integers(len(whole)) :]
        path.write_bytes(content)
        try:
            # What is read is what was written, or at least can be multiplied without harm.
            use._read_codes(path) @ np.ones((64, 1))
        except DataError:
            refused += 1
    assert refused > 200
