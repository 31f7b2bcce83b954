"""Folders of image files."""

import numpy as np
import pytest
from PIL import Image

from vaesc.config import DatasetConfig
from vaesc.datasets import fingerprint, ingest, open_dataset
from vaesc.datasets.base import SPLITS
from vaesc.errors import DataError


def picture(seed: int, *shape: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8))


def filled(folder, n=12, *shape, suffix=".png"):
    folder.mkdir(parents=True, exist_ok=True)
    for i in range(n):
        picture(i, *(shape or (5, 7))).save(folder / f"{i:03}{suffix}")
    return folder


def config(path) -> DatasetConfig:
    return DatasetConfig(source="folder", path=str(path))


def made(path, out):
    out.mkdir()
    summary = ingest(config(path), out, seed=0, block_size=5)
    return summary, open_dataset(out)


def refused(path, tmp_path) -> str:
    with pytest.raises(DataError) as caught:
        ingest(config(path), tmp_path, seed=0, block_size=5)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_grey_images_come_back_pixel_for_pixel_in_the_order_of_names(tmp_path):
    filled(tmp_path / "in")
    summary, dataset = made(tmp_path / "in", tmp_path / "out")
    originals = [np.asarray(picture(i, 5, 7)) for i in range(12)]
    found = {x.tobytes(): s for s in SPLITS for x in dataset.images(s)}

    assert summary["shape"] == [5, 7]
    assert summary["n_classes"] is None
    assert set(found) == {x.tobytes() for x in originals}
    order = [x.tobytes() for x in originals]
    for split in SPLITS:
        places = [order.index(x.tobytes()) for x in dataset.images(split)]
        assert places == sorted(places)


def test_colour_images_have_their_channels_first(tmp_path):
    filled(tmp_path / "in", 12, 5, 7, 3)
    _, dataset = made(tmp_path / "in", tmp_path / "out")
    originals = {np.moveaxis(np.asarray(picture(i, 5, 7, 3)), -1, 0).tobytes() for i in range(12)}

    assert dataset.shape == (3, 5, 7)
    assert {x.tobytes() for s in SPLITS for x in dataset.images(s)} == originals


def test_one_colour_image_makes_all_of_them_rgb_and_transparency_is_dropped(tmp_path):
    filled(tmp_path / "in")
    picture(99, 5, 7, 4).save(tmp_path / "in/rgba.png")
    _, dataset = made(tmp_path / "in", tmp_path / "out")

    assert dataset.shape == (3, 5, 7)


def test_subfolders_are_classes_and_train_and_test_are_splits(tmp_path):
    for split in ("train", "test"):
        for i, name in enumerate(("dog", "cat")):
            folder = tmp_path / "in" / split / name
            folder.mkdir(parents=True)
            for k in range(6):
                Image.new("L", (4, 4), 100 * i + 10 * k).save(folder / f"{k}.png")
    summary, dataset = made(tmp_path / "in", tmp_path / "out")

    assert dataset.classes == ("cat", "dog")
    assert summary["n_classes"] == 2
    assert dataset.n("test") == 12
    for split in SPLITS:
        bright = dataset.images(split)[:, 0, 0] >= 100
        assert np.array_equal(bright, dataset.labels(split) == 0)


def test_the_fingerprint_sees_names_of_classes_but_not_of_the_folder(tmp_path):
    filled(tmp_path / "a/cat")
    filled(tmp_path / "b/cat")
    filled(tmp_path / "c/dog")

    assert fingerprint(config(tmp_path / "a")) == fingerprint(config(tmp_path / "b"))
    assert fingerprint(config(tmp_path / "a")) != fingerprint(config(tmp_path / "c"))


def test_a_folder_of_mixed_sizes_names_the_odd_one(tmp_path):
    filled(tmp_path / "in")
    picture(1, 6, 7).save(tmp_path / "in/zz.png")

    said = refused(tmp_path / "in", tmp_path / "out")
    assert "zz.png is 7x6 pixels, but 000.png is 7x5; all images must have one size" in said


def test_damaged_images_are_named(tmp_path):
    filled(tmp_path / "in", 12, 60, 60)
    whole = (tmp_path / "in/004.png").read_bytes()
    (tmp_path / "in/004.png").write_bytes(whole[: len(whole) // 2])
    assert "004.png cannot be read as an image" in refused(tmp_path / "in", tmp_path / "out")
    (tmp_path / "in/004.png").write_bytes(b"not an image")
    assert "004.png is not an image" in refused(tmp_path / "in", tmp_path / "out")
    (tmp_path / "in/004.png").write_bytes(b"")
    assert "004.png is not an image" in refused(tmp_path / "in", tmp_path / "out")


def test_sixteen_bits_are_refused_rather_than_cut_to_eight(tmp_path):
    filled(tmp_path / "in")
    Image.fromarray(np.arange(35, dtype=np.uint16).reshape(5, 7) * 999).save(tmp_path / "in/x.png")

    assert "only 8-bit images are read" in refused(tmp_path / "in", tmp_path / "out")


def test_a_picture_too_large_to_decode_is_refused(tmp_path, monkeypatch):
    filled(tmp_path / "in")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)

    assert "too large to decode safely" in refused(tmp_path / "in", tmp_path / "out")


def test_folders_that_cannot_be_meant(tmp_path):
    (tmp_path / "in").mkdir()
    assert "holds no image files" in refused(tmp_path / "in", tmp_path)
    assert "does not exist" in refused(tmp_path / "nowhere", tmp_path)
    (tmp_path / "in/notes.txt").write_text("hello")
    assert "holds no image files" in refused(tmp_path / "in", tmp_path)
    assert "dataset.source=arrays" in refused(tmp_path / "in/notes.txt", tmp_path)
    filled(tmp_path / "in")
    filled(tmp_path / "in/cat")
    assert "both beside its subfolders" in refused(tmp_path / "in", tmp_path)


def test_equal_images_are_refused(tmp_path):
    (tmp_path / "in").mkdir()
    for i in range(12):
        picture(0, 5, 7).save(tmp_path / f"in/{i}.png")

    assert "constant, all equal" in refused(tmp_path / "in", tmp_path / "out")
