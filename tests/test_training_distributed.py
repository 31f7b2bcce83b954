"""A training shared by processes: the same curve, the same bytes every time, and no survivors.

Each process imports torch, so there are few launches here, and each serves several questions; what
needs no process of its own is asked of ranks that are threads.
"""

import dataclasses
import json
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import torch
from imagesets import digits, write_dataset, write_digits
from safetensors.torch import load_file

from benchmarks.ranks import Killer, ranks_below
from vaesc.config import PipelineConfig, RuntimeConfig, TrainingConfig, VAEConfig
from vaesc.errors import ConfigError, MachineError, TrainingError
from vaesc.models import VAE
from vaesc.progress import Listener
from vaesc.records import Dataset
from vaesc.steps import TRAIN, run_step
from vaesc.store import Store
from vaesc.training import fit, launch, train
from vaesc.training.devices import Me, device_of
from vaesc.training.distributed import main
from vaesc.training.engine import Engine
from vaesc.training.objective import Objective
from vaesc.training.prepare import How
from vaesc.training.ranks import ALONE, Ranks
from vaesc.training.request import Work
from vaesc.training.speakers import Words
from vaesc.training.split import SplitEngine
from vaesc.training.state import State

MODEL = VAEConfig(hidden=(48,), latent_dim=4)
# 1,200 images in batches of 51: of 26 and 25 images, and a last one of 14 and 13.
TRAINING = TrainingConfig(
    epochs=30, batch_size=51, learning_rate=2e-3, weight_average=0.9, gradient_clip=50.0,
    patience=0, free_bits=0.05,
)  # fmt: skip
SHAPES = {
    "plain": {},
    "clipped and averaged": {"gradient_clip": 5.0, "weight_average": 0.99},
    "free bits": {"free_bits": 0.2},
    "capacity": {"capacity": 5.0},
    "importance-weighted": {"importance_samples": 3},
    "bf16": {"precision": "bf16"},
}
MODELS = {
    "mlp": MODEL,
    "conv": dataclasses.replace(MODEL, architecture="conv", channels=(4, 8), residual=True),
    "optimal": dataclasses.replace(MODEL, likelihood="gaussian", variance="optimal"),
    "learned": dataclasses.replace(MODEL, likelihood="gaussian", variance="learned"),
}


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return write_digits(tmp_path_factory.mktemp("digits"))


@pytest.fixture(scope="module")
def alone(dataset, tmp_path_factory):
    folder = tmp_path_factory.mktemp("alone")
    return folder, trained(dataset, folder)


@pytest.fixture(scope="module")
def pair(dataset, tmp_path_factory):
    """What two ranks make, undisturbed."""
    folder = tmp_path_factory.mktemp("pair")
    return folder, trained(dataset, folder, ranks=2)


def trained(dataset, folder, training=TRAINING, **options):
    return train(MODEL, training, dataset, folder, seed=1, device="cpu", **options)


def files(folder):
    return {f.name: f.read_bytes() for f in sorted(folder.iterdir())}


def curve(folder, *names):
    history = json.loads((folder / "history.json").read_text())
    return [[epoch[name] for epoch in history] for name in names]


class Threads(Ranks):
    """Ranks that are threads of this process and add up through its memory."""

    def __init__(self, rank, n, barrier, shared):
        self.rank, self.n, self.barrier, self.shared = rank, n, barrier, shared

    def add_up(self, numbers):
        self.shared[self.rank] = numbers.clone()
        self.barrier.wait()
        total = sum(self.shared[r] for r in range(self.n))
        self.barrier.wait()
        numbers.copy_(total)


def stepped(engine, ranks=ALONE, batches=(32, 32, 31, 2, 32)):
    """Step on the same images and noise; return every step's sums."""
    images, sums, start = torch.from_numpy(digits()), [], 0
    k = engine.objective.config.importance_samples
    for i, n in enumerate(batches):
        noise = torch.randn(k, n, 4, generator=torch.Generator().manual_seed(i))
        rows = slice(start, start + n)
        own = images[rows][ranks.part(n)]
        sums.append(engine.step(own, noise, 3e-3, (0.9, 2.0)).clone())
        start += n
    return torch.stack(sums)


def parts_of(model, training):
    vae = VAE(model, (8, 8), generator=torch.Generator().manual_seed(1))
    bf16 = training.precision == "bf16"
    state = State(vae, averaged=training.weight_average > 0)
    return Objective(vae, training, bf16=bf16), state


def split_engine(model, training, ranks=ALONE, accumulate=1):
    return SplitEngine(
        *parts_of(model, training), compiled=False, batch_size=32, ranks=ranks,
        accumulate=accumulate,
    )  # fmt: skip


def of_threads(model, training, n, accumulate):
    """Return each rank's engine and sums after the same steps, taken together."""
    barrier, shared, made = threading.Barrier(n, timeout=60), {}, {}

    def run(rank):
        ranks = Threads(rank, n, barrier, shared)
        engine = split_engine(model, training, ranks, accumulate)
        made[rank] = engine, stepped(engine, ranks)

    threads = [threading.Thread(target=run, args=(rank,)) for rank in range(n)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return [made[rank] for rank in range(n)]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("model", MODELS)
def test_a_step_in_parts_is_the_whole_step(model, shape):
    """Three ranks of two micro-batches; one batch is smaller than the number of ranks.

    Sums in float32, in another order: a relative 1e-6 of a gradient, which Adam's first steps pass
    on wherever it is small against its noise (they divide by its size). In bf16 each part's
    gradient of a weight is rounded to 8 bits before it is added, and so are the whole's: there the
    sums are held to a part in 500, and weights on the average.
    """
    training = TrainingConfig(**SHAPES[shape])
    whole = Engine(*parts_of(MODELS[model], training), compiled=False, batch_size=32)
    sums = stepped(whole)
    ranks = of_threads(MODELS[model], training, n=3, accumulate=2)
    half = shape == "bf16"
    for engine, own in ranks:
        torch.testing.assert_close(own, sums, rtol=2e-3 if half else 2e-5, atol=1e-2)
        for name, value in engine.state.flat.items():
            assert torch.equal(value, ranks[0][0].state.flat[name])
            difference = (value - whole.state.flat[name]).abs()
            if half:
                assert difference.mean() < 2e-3 * value.abs().mean()
            else:
                torch.testing.assert_close(value, whole.state.flat[name], rtol=1e-3, atol=5e-5)


@pytest.mark.parametrize("n", [1, 2, 3, 7])
@pytest.mark.parametrize("length", [0, 1, 2, 13, 128])
def test_parts_follow_one_another_and_differ_by_one(n, length):
    parts = [Threads(rank, n, None, None).part(length) for rank in range(n)]
    assert [i for part in parts for i in range(length)[part]] == list(range(length))
    sizes = [part.stop - part.start for part in parts]
    assert max(sizes) - min(sizes) <= 1
    assert sizes[0] == max(sizes)


def test_accumulation_has_the_same_curve(dataset, alone, tmp_path):
    summary = trained(dataset, tmp_path, accumulate=3)
    assert summary["engine"]["accumulate"] == 3
    compare(tmp_path, alone[0])


def compare(folder, other):
    """Hold a curve and weights against those of one process.

    The order of sums is another: float32 rounds to 6e-8, and at this size and learning rate that
    hardly grows over 720 steps of Adam. Measured: 1e-7 of the loss, 1.2e-7 of weights of 1. (At
    the digits preset's rate it does grow, see ``benchmarks/ranks.py``.)
    """
    names = ("train/negative_elbo", "validation/negative_elbo")
    for mine, others in zip(curve(folder, *names), curve(other, *names), strict=True):
        assert mine == pytest.approx(others, rel=2e-6)
    weights, others = (load_file(f / "vae.safetensors") for f in (folder, other))
    for name, value in weights.items():
        torch.testing.assert_close(value, others[name], rtol=1e-5, atol=5e-6)


@pytest.mark.slow
def test_two_ranks_have_the_curve_and_weights_of_one_process(alone, pair):
    compare(pair[0], alone[0])
    assert pair[1]["engine"] == {**alone[1]["engine"], "ranks": 2}
    assert pair[1]["best_epoch"] == alone[1]["best_epoch"]


def require_dead(pids):
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        if not any(Path(f"/proc/{pid}").exists() for pid in pids):
            return
        time.sleep(0.05)
    pytest.fail(f"{[p for p in pids if Path(f'/proc/{p}').exists()]} live on")


@pytest.mark.slow
def test_a_killed_rank_costs_no_byte(dataset, pair, tmp_path, caplog):
    """Its group starts again from the last checkpoint, written by the other rank."""
    caplog.set_level(logging.INFO, logger="vaesc")
    killer = Killer(5)
    (tmp_path / "out").mkdir()
    summary = trained(
        dataset, tmp_path / "out", ranks=2, listener=killer, checkpoints=tmp_path / "checkpoints",
        checkpoint_batches=7, checkpoint_seconds=0,
    )  # fmt: skip
    assert "restart 1 of at most 3" in caplog.text
    assert "resumed in epoch" in caplog.text
    assert files(tmp_path / "out") == files(pair[0])
    assert summary == pair[1]
    assert killer.epochs == list(range(1, 31))
    require_dead(killer.seen)
    assert ranks_below(os.getpid()) == []


@pytest.mark.slow
def test_an_error_in_a_rank_is_one_sentence(dataset, tmp_path):
    wild = TrainingConfig(epochs=3, learning_rate=1e6, on_explosion="fail", max_rollbacks=0)
    with pytest.raises(TrainingError, match=r"has exploded in epoch 1 at training\.learning_rate"):
        trained(dataset, tmp_path, wild, ranks=2)
    assert ranks_below(os.getpid()) == []
    assert not files(tmp_path)


@pytest.mark.slow
@pytest.mark.long
def test_ranks_that_die_for_ever_are_given_up(dataset, tmp_path, monkeypatch):
    monkeypatch.setattr(launch, "RESTARTS", 1)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setattr(launch, "device_of", lambda *_: ("cpu", 2))
    # No such device: every rank fails, with what is no sentence of ours.
    monkeypatch.setattr(launch, "work_as_json", lambda _: {"how": 1})
    with pytest.raises(MachineError, match=r"died 2 times[;,] .*rank \d: .*set runtime\.ranks=1"):
        trained(dataset, tmp_path, ranks=2)


@pytest.mark.parametrize(
    ("starts", "code", "said", "sentence"),
    [
        (
            0,
            1,
            "No module named x",
            "could not be started; the last words were: No module named x",
        ),
        (
            1,
            1,
            "Signal 9 (SIGKILL) received by PID 7",
            "died once, the last by SIGKILL; .*memory for 2",
        ),
        (
            3,
            1,
            "KeyError: 1",
            r"died 3 times; the last words were: KeyError: 1; set runtime.ranks=1",
        ),
        (1, -9, "", "torchrun was ended by SIGKILL; the last words were: nothing; see that"),
    ],
)
def test_it_is_said_how_ranks_have_ended(starts, code, said, sentence, tmp_path):
    (tmp_path / "stderr").write_text(f"{said}\n")
    hearer = launch._Hearer(Listener())
    for restarts in range(starts):
        hearer.hear(json.dumps({"event": "begins", "rank": 1, "restarts": restarts}))
    with pytest.raises(MachineError, match=sentence):
        raise MachineError(launch._sentence(2, hearer, code, tmp_path / "stderr"))


def test_a_restart_without_checkpoints_says_what_it_costs(caplog):
    hearer = launch._Hearer(Listener())
    hearer.hear(json.dumps({"event": "begins", "rank": 0, "restarts": 1, "checkpoints": False}))
    assert "all of them begin at epoch 1 (restart 1 of at most 3)" in caplog.text
    caplog.clear()
    by_hand = Words(Me(rank=0, n=2, local_rank=0, n_local=2, restarts=2, restarts_left=1))
    by_hand.begins(checkpoints=True)
    assert not caplog.text
    by_hand.begins(checkpoints=False)
    assert "restart 2: this training begins at epoch 1 again" in caplog.text


def test_ranks_hear_each_other_on_loopback_only(monkeypatch):
    monkeypatch.delenv("NCCL_SOCKET_IFNAME", raising=False)
    found = launch._environment(2)
    assert found["GLOO_SOCKET_IFNAME"] == found["NCCL_SOCKET_IFNAME"] == "lo"
    monkeypatch.setenv("NCCL_SOCKET_IFNAME", "eth0")
    assert launch._environment(2)["NCCL_SOCKET_IFNAME"] == "eth0"


class Pair(Ranks):
    """Rank 0 of two, of which the other one was given other work."""

    n = 2

    def __init__(self, **others):
        self.others = others

    def tell(self, value):
        return [value, {**value, **self.others}]


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("settings", "other settings: start all ranks with the same --preset"),
        ("images", "other images"),
        ("start", "another VAE to start from"),
        ("vaesc", "another vaesc"),
        ("torch", "another version of torch"),
    ],
)
def test_ranks_with_other_work_are_refused(dataset, tmp_path, name, sentence):
    work = Work(
        vae=MODEL, training=TRAINING, dataset=dataset, folder=tmp_path, seed=1, window_bytes=2**28,
        start=None, how=How(device="cpu", ranks=Pair(**{name: "x"})),
    )  # fmt: skip
    with pytest.raises(
        ConfigError, match=f"rank 1 of this training has, unlike rank 0, {sentence}"
    ):
        fit.fit(work, Listener())
    assert not files(tmp_path)


def test_what_ranks_compare_tells_settings_seeds_and_images_apart(dataset, tmp_path):
    from vaesc.datasets.reader import open_dataset

    work = Work(
        vae=MODEL, training=TRAINING, dataset=dataset, folder=tmp_path, seed=1, window_bytes=2**28,
        start=None, how=How(),
    )  # fmt: skip
    mine = fit._facts(work, open_dataset(dataset))
    for changes in (
        {"seed": 2},
        {"training": dataclasses.replace(TRAINING, epochs=31)},
        {"vae": dataclasses.replace(MODEL, latent_dim=5)},
        {"how": How(accumulate=2)},
        {"window_bytes": 2**20},
    ):
        others = fit._facts(dataclasses.replace(work, **changes), open_dataset(dataset))
        assert {name for name in mine if mine[name] != others[name]} == {"settings"}
    same = dataclasses.replace(work, how=How(block_size=7, checkpoints=tmp_path, device="cpu"))
    assert fit._facts(same, open_dataset(dataset)) == mine
    other = write_dataset(tmp_path / "other", train=digits()[:100], validation=digits()[100:])
    assert fit._facts(work, open_dataset(other))["images"] != mine["images"]


def step_of(dataset, **runtime):
    record = Dataset(
        uri=str(dataset), digest="0" * 64, content="1" * 64, run_id="", source="arrays",
        n_train=1200, n_validation=200, n_test=397, shape=(8, 8),
    )  # fmt: skip
    config = PipelineConfig(
        vae=MODEL, training=TRAINING, seed=1, runtime=RuntimeConfig(device="cpu", **runtime)
    )
    return record, config


@pytest.mark.slow
@pytest.mark.long
def test_the_step_makes_the_same_bytes(dataset, pair, tmp_path, monkeypatch):
    monkeypatch.setenv("VAESC_HOME", str(tmp_path / "home"))
    record, config = step_of(dataset, ranks=2)
    made = run_step(TRAIN, config, {"dataset": record}, store=Store(tmp_path / "store"))
    own = {name: data for name, data in files(made.path).items() if name in files(pair[0])}
    assert own == files(pair[0])
    assert made.summary["engine"]["ranks"] == 2


def test_ranks_are_no_part_of_a_step_s_key(dataset):
    keys = set()
    for runtime in ({}, {"ranks": 4}, {"accumulate": 2}):
        record, config = step_of(dataset, **runtime)
        keys.add(TRAIN.spec(config, {"dataset": record.content}).digest)
    assert len(keys) == 1


PARENT = """
import sys
from pathlib import Path
import test_training_distributed as t
dataset, folder = map(Path, sys.argv[1:])
config = t.dataclasses.replace(t.TRAINING, epochs=100_000)
class Say(t.Listener):
    def epoch(self, epoch, metrics):
        print(epoch, flush=True)
t.trained(dataset, folder, config, ranks=2, listener=Say())
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    "way", [signal.SIGINT, pytest.param(signal.SIGKILL, marks=pytest.mark.long)]
)
def test_no_rank_survives_who_wanted_it(dataset, tmp_path, way):
    paths = os.pathsep.join([str(Path(__file__).parent), *sys.path])
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT, dataset, tmp_path], stdout=subprocess.PIPE, text=True,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "PYTHONPATH": paths, "VAESC_HOME": str(tmp_path)},
    )  # fmt: skip
    try:
        assert parent.stdout.readline().strip() == "1"
        seen = ranks_below(parent.pid)
        assert len(seen) == 3
    finally:
        parent.send_signal(way)
        parent.wait(60)
    require_dead(seen)


@pytest.mark.slow
@pytest.mark.long
def test_torchrun_by_hand_writes_the_same_bytes(dataset, pair, tmp_path):
    settings = tmp_path / "config.toml"
    settings.write_text(TOML)
    command = [
        sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2",
        "-m", "vaesc.training.distributed", "--dataset", dataset, "--config", settings,
        "--out", tmp_path / "out",
    ]  # fmt: skip
    done = subprocess.run(
        command, capture_output=True, text=True, check=False,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1])["engine"]["ranks"] == 2
    assert "rank 0: epoch 30: negative ELBO" in done.stderr
    assert files(tmp_path / "out") == files(pair[0])


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.parametrize(
    ("unlike", "sentence"),
    [
        ("0", "in epoch 1 at training.learning_rate=1e+06"),
        ("RANK", "other settings: start all ranks with the same"),
    ],
)
def test_an_error_ends_torchrun_instead_of_being_repeated(dataset, tmp_path, unlike, sentence):
    """By hand, with restarts left: no rank says it twice, whoever is ended before it can."""
    settings = [
        "training.epochs=3", "training.learning_rate=1e6", "training.on_explosion=fail",
        "training.max_rollbacks=0", "runtime.device=cpu",
    ]  # fmt: skip
    own = "import os, sys; from vaesc.training.distributed import main; " + (
        f"sys.exit(main([*sys.argv[1:], '--set', 'seed=' + os.environ.get({unlike!r}, '0')]))"
    )
    (tmp_path / "rank.py").write_text(own)
    done = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2",
         "--max-restarts=3", tmp_path / "rank.py", "--dataset", dataset, "--out",
         tmp_path / "out", *[word for s in settings for word in ("--set", s)]],
        capture_output=True, text=True, check=False, timeout=900,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode != 0
    said = [line for line in done.stderr.splitlines() if sentence in line]
    assert sorted(line[:7] for line in said) in (
        ["rank 0:", "rank 1:"], ["rank 0:"], ["rank 1:"]
    ), done.stderr  # fmt: skip
    assert not (tmp_path / "out" / "vae.json").exists()


TOML = """
seed = 1
[vae]
hidden = [48]
latent_dim = 4
likelihood = "bernoulli"
[training]
epochs = 30
batch_size = 51
learning_rate = 2e-3
weight_average = 0.9
gradient_clip = 50.0
patience = 0
free_bits = 0.05
[runtime]
device = "cpu"
"""

SINGLE = """
import sys
from vaesc.training.distributed import main
assert main(sys.argv[1:]) == 0
print([m for m in ("prefect", "mlflow", "sklearn", "numba") if m in sys.modules])
"""


def test_a_rank_loads_no_orchestrator_and_alone_writes_today_s_bytes(dataset, alone, tmp_path):
    """One rank of one, as torchrun --nproc-per-node 1 would start it."""
    (tmp_path / "config.toml").write_text(TOML)
    me = {"RANK": 0, "WORLD_SIZE": 1, "LOCAL_RANK": 0, "LOCAL_WORLD_SIZE": 1,
          "TORCHELASTIC_RESTART_COUNT": 0, "MASTER_ADDR": "127.0.0.1",
          "MASTER_PORT": 0}  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-c", SINGLE, "--dataset", dataset, "--out", tmp_path / "out",
         "--config", tmp_path / "config.toml"],
        capture_output=True, text=True, check=False,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path),
             **{name: str(value) for name, value in me.items()}},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "[]"
    assert files(tmp_path / "out") == files(alone[0])


class Interrupted(Exception):
    pass


class Interrupter(Listener):
    def epoch(self, epoch, metrics):
        if epoch == 3:
            self.seen = ranks_below(os.getpid())
            raise Interrupted


def test_other_parts_go_on_from_a_checkpoint_and_the_same_only_byte_for_byte(
    dataset, alone, tmp_path, caplog
):
    options = {"checkpoints": tmp_path / "checkpoints", "checkpoint_batches": 7}
    with pytest.raises(Interrupted):
        trained(dataset, tmp_path, accumulate=2, listener=Interrupter(), **options)
    (tmp_path / "out").mkdir()
    caplog.set_level(logging.INFO, logger="vaesc")
    trained(dataset, tmp_path / "out", **options)
    assert "cut into (1, 2) parts" in caplog.text
    assert "resumed in epoch 3" in caplog.text
    compare(tmp_path / "out", alone[0])


@pytest.mark.slow
def test_one_process_goes_on_where_two_were_interrupted(dataset, alone, tmp_path, caplog):
    """An error in this process, such as a lost server, ends its ranks."""
    interrupter = Interrupter()
    options = {"checkpoints": tmp_path / "checkpoints", "checkpoint_batches": 7}
    with pytest.raises(Interrupted):
        trained(dataset, tmp_path, ranks=2, listener=interrupter, **options)
    assert len(interrupter.seen) == 3
    require_dead(interrupter.seen)
    (tmp_path / "out").mkdir()
    caplog.set_level(logging.INFO, logger="vaesc")
    trained(dataset, tmp_path / "out", **options)
    assert "cut into (2, 1) parts" in caplog.text
    assert "resumed in epoch" in caplog.text
    compare(tmp_path / "out", alone[0])


def test_ranks_need_a_device_each(monkeypatch):
    assert device_of("cpu", 1, 2) == ("cpu", 2)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert device_of("auto", 1, 2) == ("cuda:1", 1)
    with pytest.raises(ConfigError, match=r"4 ranks need a GPU each, and torch finds 2 .*ranks=2"):
        device_of("auto", 0, 4)
    with pytest.raises(ConfigError, match="have a device each"):
        device_of("mps", 0, 2)
    with pytest.raises(ValueError, match="device must be auto, cpu or cuda with ranks=2"):
        RuntimeConfig(ranks=2, device="cuda:1")


def test_a_rank_without_torchrun_says_how_it_is_started(dataset, capsys, monkeypatch):
    monkeypatch.delenv("RANK", raising=False)
    assert main(["--dataset", str(dataset), "--out", "x"]) == 2
    assert "start it with torchrun --nproc-per-node N" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.long
def test_a_compiled_gradient_has_the_same_curve(dataset, alone, tmp_path):
    summary = trained(dataset, tmp_path, accumulate=3, compile="always")
    assert summary["engine"] == {
        "compiled": True, "precision": "float32", "fallbacks": [], "accumulate": 3
    }  # fmt: skip
    compare(tmp_path, alone[0])
