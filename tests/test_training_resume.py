"""Killed and resumed equals uninterrupted, byte for byte."""

import dataclasses
import errno
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from imagesets import write_digits
from safetensors import safe_open
from safetensors.torch import save_file

from vaesc.config import PipelineConfig, RuntimeConfig, TrainingConfig, VAEConfig
from vaesc.housekeeping import collect_garbage
from vaesc.progress import Listener
from vaesc.records import Dataset
from vaesc.steps import TRAIN, run_step
from vaesc.store import Store
from vaesc.training import train
from vaesc.training.checkpoints import Checkpoints

VAE = VAEConfig(hidden=(64,), latent_dim=8)
TRAINING = TrainingConfig(
    epochs=6, batch_size=32, learning_rate=3e-3, weight_average=0.9, gradient_clip=50.0
)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return write_digits(tmp_path_factory.mktemp("digits"))


def files(folder):
    return {f.name: f.read_bytes() for f in folder.iterdir()}


def trained(dataset, folder, training=TRAINING, **options):
    folder.mkdir()
    train(VAE, training, dataset, folder, seed=3, device="cpu", **options)
    return files(folder)


class Interrupted(Exception):
    pass


class Interrupter(Listener):
    """Fails at an epoch's end, as a full disk or a lost server might."""

    def __init__(self, epoch):
        self.last = epoch

    def epoch(self, epoch, metrics):
        if epoch == self.last:
            raise Interrupted


KILLED = """
import sys
from pathlib import Path
from vaesc.config import TrainingConfig, VAEConfig
from vaesc.training import train
import test_training_resume as t

import dataclasses
dataset, folder, checkpoints, precision = sys.argv[1:]
Path(folder).mkdir(exist_ok=True)
config = dataclasses.replace(t.TRAINING, precision=precision, epochs=10_000, patience=0)
train(t.VAE, config, Path(dataset), Path(folder), seed=3, device="cpu",
      checkpoints=Path(checkpoints), checkpoint_batches=7)
"""


def kill_at_a_random_batch(dataset, tmp_path, precision):
    """Train in another process for ever, and kill it some time after its first checkpoints."""
    place = tmp_path / "checkpoints"
    command = [sys.executable, "-c", KILLED, dataset, tmp_path / "killed", place, precision]
    # The library and this module, wherever the tests are run from.
    paths = os.pathsep.join([str(Path(__file__).parent), *sys.path])
    process = subprocess.Popen(command, env={**os.environ, "PYTHONPATH": paths})
    try:
        deadline = time.monotonic() + 120
        while not list(place.glob("*.safetensors")) and time.monotonic() < deadline:
            assert process.poll() is None
            time.sleep(0.01)
        time.sleep(random.uniform(0.0, 0.5))
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    return place


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["float32", "bf16"])
def test_killed_and_resumed_equals_uninterrupted(dataset, tmp_path, precision):
    place = kill_at_a_random_batch(dataset, tmp_path, precision)
    found = read_checkpoint(place)
    done = len(found["history"])
    # What was being trained for ever is now trained for two epochs more.
    config = dataclasses.replace(TRAINING, precision=precision, patience=0)
    # The schedule knows the number of epochs: so both runs take the killed one's.
    endless = dataclasses.replace(config, epochs=10_000)
    stop = Interrupter(done + 2)
    for name, checkpoints in (("resumed", place), ("uninterrupted", tmp_path / "other")):
        with pytest.raises(Interrupted):
            trained(
                dataset, tmp_path / name, endless, checkpoints=checkpoints, checkpoint_batches=19,
                listener=stop,
            )  # fmt: skip
    resumed, uninterrupted = read_checkpoint(place), read_checkpoint(tmp_path / "other")
    assert resumed["history"][: done + 1] == uninterrupted["history"][: done + 1]
    tensors = Checkpoints(place, resumed["fingerprint"]).load()
    others = Checkpoints(tmp_path / "other", resumed["fingerprint"]).load()
    assert tensors is not None
    assert others is not None
    assert torch.equal(tensors[0]["good.weights"], others[0]["good.weights"])
    assert torch.equal(tensors[0]["best"], others[0]["best"])


def read_checkpoint(folder):
    with safe_open(next(folder.glob("*.safetensors")), "pt") as file:
        return json.loads(file.metadata()["vaesc"])


@pytest.mark.parametrize("precision", ["float32", "bf16"])
@pytest.mark.parametrize("every", [1, 37, 100])
def test_interrupted_and_resumed_writes_the_same_files(dataset, tmp_path, precision, every):
    """38 batches an epoch: interrupted after a checkpoint in an epoch's middle, or at its end."""
    config = dataclasses.replace(TRAINING, precision=precision)
    whole = trained(dataset, tmp_path / "whole", config)
    place = tmp_path / "checkpoints"
    options = {"checkpoints": place, "checkpoint_batches": every, "checkpoint_seconds": 0}
    for epoch in (3, 5):
        with pytest.raises(Interrupted):
            trained(
                dataset, tmp_path / f"until{epoch}", config, listener=Interrupter(epoch), **options
            )
        assert place.exists()
    assert trained(dataset, tmp_path / "resumed", config, **options) == whole


def test_a_rollback_survives_an_interruption(dataset, tmp_path):
    wild = dataclasses.replace(
        TRAINING, learning_rate=1e6, schedule="constant", max_rollbacks=9, gradient_clip=0.0
    )
    options = {"checkpoint_batches": 5, "checkpoint_seconds": 0}
    whole = trained(dataset, tmp_path / "whole", wild)
    place = tmp_path / "checkpoints"
    with pytest.raises(Interrupted):
        trained(
            dataset, tmp_path / "part", wild, checkpoints=place, listener=Interrupter(2), **options
        )
    assert trained(dataset, tmp_path / "resumed", wild, checkpoints=place, **options) == whole


def test_a_checkpoint_of_another_training_is_left_alone(dataset, tmp_path):
    place = tmp_path / "checkpoints"
    options = {"checkpoints": place, "checkpoint_batches": 5}
    with pytest.raises(Interrupted):
        trained(dataset, tmp_path / "part", listener=Interrupter(2), **options)
    other = dataclasses.replace(TRAINING, learning_rate=1e-3)
    assert trained(dataset, tmp_path / "a", other, **options) == trained(
        dataset, tmp_path / "b", other
    )


def test_a_damaged_checkpoint_costs_its_progress_only(dataset, tmp_path, caplog):
    place = tmp_path / "checkpoints"
    place.mkdir()
    (place / "training.safetensors").write_bytes(b"half a file")
    resumed = trained(dataset, tmp_path / "a", checkpoints=place)
    assert resumed == trained(dataset, tmp_path / "b")
    assert "cannot be read" in caplog.text


def test_a_full_disk_costs_the_checkpoint_only(dataset, tmp_path, caplog):
    (tmp_path / "file").write_text("a file where the folder should be")
    written = trained(
        dataset, tmp_path / "a", checkpoints=tmp_path / "file" / "x", checkpoint_batches=50
    )
    assert written == trained(dataset, tmp_path / "b")
    assert "no checkpoint was written" in caplog.text


def test_seconds_and_batches_both_make_one_due(tmp_path):
    never = Checkpoints(None, "", seconds=0, batches=1)
    assert not any(never.is_due() for _ in range(5))
    every = Checkpoints(tmp_path, "", seconds=0, batches=3)
    assert [every.is_due() for _ in range(3)] == [False, False, True]
    often = Checkpoints(tmp_path, "", seconds=1e-9)
    assert often.is_due()


def step_of(dataset):
    """Return what the step *train* works on: the record of a dataset, and a run's config."""
    record = Dataset(
        uri=str(dataset), digest="0" * 64, content="1" * 64, run_id="", source="arrays",
        n_train=1200, n_validation=200, n_test=397, shape=(8, 8),
    )  # fmt: skip
    config = PipelineConfig(
        vae=VAE, training=TRAINING,
        runtime=RuntimeConfig(device="cpu", checkpoint_seconds=1e-9),
    )  # fmt: skip
    return record, config


def test_a_step_that_was_killed_resumes(dataset, tmp_path, caplog, monkeypatch):
    """The pipeline's step keeps its checkpoints outside the artifact, under its address."""
    monkeypatch.setenv("VAESC_HOME", str(tmp_path / "home"))
    caplog.set_level("INFO", logger="vaesc")
    record, config = step_of(dataset)
    options = {"store": Store(tmp_path / "killed")}
    with pytest.raises(Interrupted):
        run_step(TRAIN, config, {"dataset": record}, listener=Interrupter(4), **options)
    left = list((tmp_path / "home" / "checkpoints").glob("*/training.safetensors"))
    assert len(left) == 1
    resumed = run_step(TRAIN, config, {"dataset": record}, **options)
    assert "resumed in epoch 4" in caplog.text
    assert left[0].parent.name == resumed.digest
    assert not left[0].parent.exists()
    whole = run_step(TRAIN, config, {"dataset": record}, store=Store(tmp_path / "whole"))
    assert whole.content == resumed.content


def test_old_checkpoints_are_garbage(tmp_path, monkeypatch):
    monkeypatch.setenv("VAESC_HOME", str(tmp_path))
    for name, age_days in (("old", 9), ("new", 1)):
        place = tmp_path / "checkpoints" / name
        Checkpoints(place, "x").save({"a": torch.zeros(1)}, {})
        then = time.time() - age_days * 86_400
        for path in (place / "training.safetensors", place):
            os.utime(path, (then, then))
    found = collect_garbage(Store(), set(), keep_days=7, delete=True)
    assert [item.path.name for item in found] == ["old"]
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["new"]


@pytest.mark.parametrize("damage", ["bytes", "missing", "nan"])
def test_a_checkpoint_of_other_numbers_is_not_gone_on_from(dataset, tmp_path, caplog, damage):
    place = tmp_path / "checkpoints"
    with pytest.raises(Interrupted):
        trained(
            dataset, tmp_path / "one", checkpoints=place, checkpoint_batches=2,
            listener=Interrupter(1),
        )  # fmt: skip
    (path,) = place.glob("*.safetensors")
    if damage == "bytes":
        whole = bytearray(path.read_bytes())
        whole[-400:] = bytes(400)
        path.write_bytes(whole)
    else:
        with safe_open(path, "pt") as file:
            header = file.metadata()
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        if damage == "missing":
            del tensors["sums"]
        else:
            tensors["now.weights"][3] = float("nan")
        save_file(tensors, path, metadata=header)

    resumed = trained(dataset, tmp_path / "two", checkpoints=place)
    anew = trained(dataset, tmp_path / "three")

    assert "starting anew" in caplog.text
    assert resumed == anew
    assert files(tmp_path / "two") == files(tmp_path / "three")


@pytest.mark.parametrize("way", ["refused", "killed"])
def test_what_goes_wrong_while_it_is_published_costs_no_training(
    dataset, tmp_path, monkeypatch, caplog, way
):
    """The checkpoint stays until the artifact is there."""
    monkeypatch.setenv("VAESC_HOME", str(tmp_path / "home"))
    record, config = step_of(dataset)
    store, publish = Store(tmp_path / "store"), Store._publish

    def refuse(*_):
        raise KeyboardInterrupt if way == "killed" else OSError(errno.ENOSPC, "full")

    monkeypatch.setattr(Store, "_publish", refuse)
    with pytest.raises((KeyboardInterrupt, OSError)):
        run_step(TRAIN, config, {"dataset": record}, store=store)
    (left,) = (tmp_path / "home" / "checkpoints").glob("*/training.safetensors")
    monkeypatch.setattr(Store, "_publish", publish)
    caplog.set_level("INFO", logger="vaesc")
    made = run_step(TRAIN, config, {"dataset": record}, store=store)
    assert "resumed in epoch 6" in caplog.text
    assert not left.parent.exists()
    whole = run_step(TRAIN, config, {"dataset": record}, store=Store(tmp_path / "whole"))
    assert whole.content == made.content
