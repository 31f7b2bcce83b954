"""Public data sets in their published files: where they are looked for, how they are read."""

import gzip
import struct
from pathlib import Path

import numpy as np
import pytest
import torchvision.datasets

from vaesc.config import DatasetConfig
from vaesc.datasets import (
    DownloadError,
    download,
    fingerprint,
    ingest,
    is_present,
    open_dataset,
    places,
)
from vaesc.errors import DataError

NAMES = (
    "train-images-idx3-ubyte",
    "train-labels-idx1-ubyte",
    "t10k-images-idx3-ubyte",
    "t10k-labels-idx1-ubyte",
)


@pytest.fixture(autouse=True)
def empty_machine(tmp_path, monkeypatch):
    """A home of its own, and no Debian data sets."""
    monkeypatch.setenv("VAESC_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(places, "DEBIAN", tmp_path / "debian")


def idx(values: np.ndarray) -> bytes:
    return (
        bytes([0, 0, 8, values.ndim]) + struct.pack(f">{values.ndim}I", *values.shape)
    ) + values.astype(np.uint8).tobytes()


def published(folder: Path, *, seed=0, zipped=True, names=NAMES) -> Path:
    """Write four small IDX files in the form of MNIST."""
    rng = np.random.default_rng(seed)
    folder.mkdir(parents=True, exist_ok=True)
    for images, labels, n in ((names[0], names[1], 40), (names[2], names[3], 10)):
        for name, values in (
            (images, rng.integers(0, 256, (n, 28, 28))),
            (labels, rng.integers(0, 10, n)),
        ):
            raw = idx(values)
            target = folder / (f"{name}.gz" if zipped else name)
            target.write_bytes(gzip.compress(raw, mtime=0) if zipped else raw)
    return folder


def made(config, out):
    out.mkdir(parents=True)
    summary = ingest(config, out, seed=0, block_size=64)
    return summary, open_dataset(out)


def refused(config, out) -> str:
    with pytest.raises(DataError) as caught:
        ingest(config, out, seed=0, block_size=64)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def mnist(folder=None, **settings) -> DatasetConfig:
    return DatasetConfig(source="mnist", folder=folder and str(folder), **settings)


@pytest.mark.parametrize("inside", ["MNIST/raw", "MNIST", "raw", ""])
@pytest.mark.parametrize("zipped", [True, False])
def test_every_layout_of_the_named_folder_is_found(tmp_path, inside, zipped):
    published(tmp_path / "in" / inside, zipped=zipped)
    config = mnist(tmp_path / "in")
    summary, dataset = made(config, tmp_path / "out")

    assert is_present(config)
    assert dataset.counts == {"train": 36, "validation": 4, "test": 10}
    assert summary["n_classes"] == 10
    assert dataset.shape == (28, 28)


def test_the_order_is_downloads_then_the_named_folder_then_debian(tmp_path):
    found = []
    for folder in ("debian/mnist", "mine/MNIST/raw", "home/downloads/MNIST/raw"):
        published(tmp_path / folder, seed=len(found))
        (tmp_path / "mine").mkdir(exist_ok=True)
        found.append(fingerprint(mnist(tmp_path / "mine")))

    assert len(set(found)) == 3
    assert fingerprint(mnist()) == found[2]


def test_the_fingerprint_does_not_depend_on_the_place(tmp_path):
    published(tmp_path / "a/MNIST/raw")
    published(tmp_path / "b")

    assert fingerprint(mnist(tmp_path / "a")) == fingerprint(mnist(tmp_path / "b"))


def test_what_is_nowhere_is_said_with_the_places(tmp_path):
    said = refused(mnist(), tmp_path)

    assert not is_present(mnist())
    assert "mnist is nowhere on this machine" in said
    assert str(tmp_path / "debian/mnist") in said
    assert "dataset.folder" in said
    assert "is not there" in refused(mnist(tmp_path / "typo"), tmp_path)


def test_an_incomplete_place_is_named(tmp_path):
    folder = published(tmp_path / "in")
    (folder / "t10k-labels-idx1-ubyte.gz").unlink()

    assert not is_present(mnist(folder))
    assert "t10k-labels-idx1-ubyte (or .gz) is missing" in refused(mnist(folder), tmp_path)


@pytest.mark.parametrize("share", [0, 0.001, 0.3, 0.99])
@pytest.mark.parametrize("name", NAMES)
def test_a_truncated_download_is_named(tmp_path, name, share):
    path = published(tmp_path / "in") / f"{name}.gz"
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * share)])

    assert path.name in refused(mnist(tmp_path / "in"), tmp_path)


def test_files_that_do_not_belong_together_are_refused(tmp_path):
    folder = published(tmp_path / "in")
    labels = folder / "train-labels-idx1-ubyte.gz"
    labels.write_bytes((folder / "t10k-labels-idx1-ubyte.gz").read_bytes())
    assert "(10,), but there are 40 images" in refused(mnist(folder), tmp_path / "a")
    labels.write_bytes(gzip.compress(idx(np.full(40, 77))))
    assert "labels must lie in 0..9, got values from 77 to 77" in refused(
        mnist(folder), tmp_path / "b"
    )
    images = folder / "train-images-idx3-ubyte.gz"
    images.write_bytes(labels.read_bytes())
    assert "must hold bytes of shape (n, h, w)" in refused(mnist(folder), tmp_path / "c")


def test_download_puts_whole_files_into_place_and_only_then(tmp_path, monkeypatch):
    def pretend(root, download):
        assert download
        published(Path(root) / "MNIST/raw", zipped=False)
        published(Path(root) / "MNIST/raw", zipped=True)

    monkeypatch.setattr(torchvision.datasets, "MNIST", pretend)
    download(mnist())

    assert is_present(mnist())
    assert sorted(p.name for p in (tmp_path / "home/downloads").iterdir()) == ["MNIST"]
    monkeypatch.setattr(torchvision.datasets, "MNIST", None)
    download(mnist())  # present: nothing to do


def test_a_failed_download_leaves_nothing_and_says_why(tmp_path, monkeypatch):
    def broken(root, download):
        (Path(root) / "MNIST/raw").mkdir(parents=True)
        (Path(root) / "MNIST/raw/train-images-idx3-ubyte").write_bytes(b"half")
        raise RuntimeError("Error downloading train-images\nTried a mirror, got: no network")

    monkeypatch.setattr(torchvision.datasets, "MNIST", broken)
    with pytest.raises(DownloadError, match=r"mnist could not be downloaded \(Error downloading"):
        download(mnist())
    assert not [p for p in (tmp_path / "home").rglob("*") if p.is_file()]


def test_a_forbidden_download_is_not_tried(monkeypatch):
    monkeypatch.setattr(torchvision.datasets, "MNIST", None)
    with pytest.raises(DataError, match="nowhere on this machine"):
        download(mnist(download=False))


def test_emnist_is_turned_upright(tmp_path):
    names = [
        f"emnist-balanced-{split}-{kind}"
        for split in ("train", "test")
        for kind in ("images-idx3-ubyte", "labels-idx1-ubyte")
    ]
    published(tmp_path / "in/EMNIST/raw", names=names)
    config = DatasetConfig(source="emnist", folder=str(tmp_path / "in"))
    _, dataset = made(config, tmp_path / "out")
    with gzip.open(tmp_path / "in/EMNIST/raw" / f"{names[2]}.gz") as stream:
        stored = np.frombuffer(stream.read()[16:], np.uint8).reshape(-1, 28, 28)

    assert np.array_equal(dataset.images("test"), stored.swapaxes(1, 2))
    assert len(dataset.classes) == 47
    assert dataset.classes == tuple(torchvision.datasets.EMNIST.classes_split_dict["balanced"])


@pytest.mark.parametrize(
    ("source", "kind"), [("fashion-mnist", "FashionMNIST"), ("kmnist", "KMNIST")]
)
def test_class_names_are_torchvisions(tmp_path, source, kind):
    published(tmp_path / kind / "raw")
    _, dataset = made(DatasetConfig(source=source, folder=str(tmp_path)), tmp_path / "out")

    assert list(dataset.classes) == getattr(torchvision.datasets, kind).classes


def cifar(folder: Path) -> Path:
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for name in (*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"):
        rows = rng.integers(0, 256, (8, 3073), dtype=np.uint8)
        rows[:, 0] %= 10
        rows.tofile(folder / f"{name}.bin")
    return folder


def test_cifar10_in_its_binary_version(tmp_path):
    folder = cifar(tmp_path / "cifar-10-batches-bin")
    _, dataset = made(DatasetConfig(source="cifar10", folder=str(tmp_path)), tmp_path / "out")
    rows = np.fromfile(folder / "test_batch.bin", np.uint8).reshape(8, 3073)

    assert dataset.shape == (3, 32, 32)
    assert dataset.counts == {"train": 36, "validation": 4, "test": 8}
    assert np.array_equal(dataset.images("test")[:, 0, 0, 1], rows[:, 2])
    assert np.array_equal(dataset.images("test")[:, 2].reshape(8, -1), rows[:, 2049:])
    assert np.array_equal(dataset.labels("test"), rows[:, 0])


def test_damaged_cifar10_is_refused(tmp_path):
    path = cifar(tmp_path / "cifar-10-batches-bin") / "data_batch_3.bin"
    path.write_bytes(path.read_bytes()[:-1])
    config = DatasetConfig(source="cifar10", folder=str(tmp_path))

    assert "data_batch_3.bin must hold rows of 3073 bytes" in refused(config, tmp_path / "out")


def test_pickled_cifar10_of_unknown_content_is_never_opened(tmp_path, monkeypatch):
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    trap = b"cos\nsystem\n(S'touch " + str(tmp_path / "sprung").encode() + b"'\ntR."
    for name in (*(f"data_batch_{i}" for i in range(1, 6)), "test_batch", "batches.meta"):
        (folder / name).write_bytes(trap)
    config = DatasetConfig(source="cifar10", folder=str(tmp_path))

    assert is_present(config)
    assert "cannot be read as torchvision's CIFAR-10" in refused(config, tmp_path / "out")
    assert not (tmp_path / "sprung").exists()
