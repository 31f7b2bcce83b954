"""Scores in shards: the same bytes, of the same images, and nothing held when all is over."""

import gc
import weakref

import numpy as np
import pytest
from registry_homes import SHAPE, tiny_model
from test_latents import files
from test_shards import Elsewhere

from vaesc import scoring_shards, shards
from vaesc.drift.reference import described
from vaesc.errors import ConfigError, DataError
from vaesc.scoring import score_images


@pytest.fixture(scope="module")
def model():
    model = tiny_model(low=0, high=255)
    own = np.random.default_rng(1).integers(0, 256, (500, *SHAPE), np.uint8)
    model.reference = described(model.encode(own), model.score(own))
    return model


@pytest.mark.parametrize("kind", ["bytes", "unit floats", "two parts"])
def test_scores_in_shards_are_the_same_bytes(model, tmp_path, monkeypatch, kind):
    monkeypatch.setattr(scoring_shards, "ROWS", 2048)
    images = np.random.default_rng(2).integers(0, 256, (5000, *SHAPE), np.uint8)
    path = tmp_path / ("images.npz" if kind == "two parts" else "images.npy")
    if kind == "two parts":
        np.savez(path, x_train=images[:3000], x_test=images[3000:])
    else:
        np.save(path, images if kind == "bytes" else (images / 255).astype(np.float32))
    one = score_images(model, path, tmp_path / "one", workers=2, block_size=1024)
    runner = Elsewhere()
    other = score_images(model, path, tmp_path / "two", block_size=3000, runner=runner)
    assert one == other
    assert files(tmp_path / "one") == files(tmp_path / "two")
    assert runner.computed == 3  # 2048, 2048 and 904 images, or 2048, 952 and 2000


@pytest.mark.parametrize("what", ["other", "none"])
def test_a_worker_that_finds_other_images_scores_none(model, tmp_path, monkeypatch, what):
    """The model looks at them before and after: only the worker's are others."""
    path, out = tmp_path / "images.npy", tmp_path / "out"
    np.save(path, np.zeros((50, *SHAPE), np.uint8))

    class OtherMachine(Elsewhere):
        def map(self, every, then):
            monkeypatch.setattr(scoring_shards, "surroundings", lambda: "other")
            path.unlink()
            if what == "other":
                np.save(path, np.ones((50, *SHAPE), np.uint8))
            super().map(every, then)

    with pytest.raises(DataError, match=r"images\.npy" if what == "none" else "other images for"):
        score_images(model, path, out, runner=OtherMachine())
    assert [p.name for p in tmp_path.iterdir() if p.name != path.name] == []


@pytest.mark.parametrize("machine", ["other", None])
def test_each_machine_but_the_leader_s_looks_once_whether_images_are_the_same(
    model, tmp_path, monkeypatch, machine
):
    looked, found = [], scoring_shards.source_of
    monkeypatch.setattr(scoring_shards, "ROWS", 1024)
    monkeypatch.setattr(
        scoring_shards, "source_of", lambda config: looked.append(config) or found(config)
    )

    class Processes(Elsewhere):
        """Each shard is another process's."""

        def map(self, every, then):
            if machine:
                monkeypatch.setattr(scoring_shards, "surroundings", lambda: machine)
            for shard in every:
                shards.let_go()
                super().map([shard], then)

    np.save(tmp_path / "images.npy", np.zeros((3000, *SHAPE), np.uint8))
    runner = Processes()
    score_images(model, tmp_path / "images.npy", tmp_path / "out", runner=runner)
    assert runner.computed == 3
    assert len(looked) == (1 if machine else 0)


def test_what_the_shards_of_a_batch_share_is_opened_once_and_let_go(model, tmp_path, monkeypatch):
    opened, load = [], scoring_shards.open_parts
    monkeypatch.setattr(scoring_shards, "ROWS", 1024)
    monkeypatch.setattr(
        scoring_shards, "open_parts", lambda path: opened.append(load(path)) or opened[-1]
    )
    np.save(tmp_path / "images.npy", np.zeros((3000, *SHAPE), np.uint8))
    score_images(model, tmp_path / "images.npy", tmp_path / "out", runner=Elsewhere())
    assert len(opened) == 1
    seen = weakref.ref(opened.pop()[0])
    assert seen() is not None
    shards.let_go()
    gc.collect()
    assert seen() is None


def test_threads_of_this_process_are_not_counted_where_others_score(model, tmp_path):
    np.save(tmp_path / "images.npy", np.zeros((3, *SHAPE), np.uint8))
    with pytest.raises(ConfigError, match="workers=2 has no effect with a runner"):
        score_images(
            model, tmp_path / "images.npy", tmp_path / "out", workers=2, runner=Elsewhere()
        )


def test_images_in_memory_cannot_be_scored_elsewhere(model, tmp_path):
    images = np.zeros((3, *SHAPE), np.uint8)
    with pytest.raises(ConfigError, match=r"save them as \.npy"):
        score_images(model, images, tmp_path / "out", runner=Elsewhere())
    assert not (tmp_path / "out").exists()
