"""What a run asks for grows with what it holds at once, and with nothing else."""

from dataclasses import replace

import pytest

from vaesc.config import (
    DatasetConfig,
    DictionaryConfig,
    PipelineConfig,
    RuntimeConfig,
    TrainingConfig,
    VAEConfig,
)
from vaesc.config_files import load_config, presets
from vaesc.resources import PROCESS_BYTES, requests_for
from vaesc.windows import IMAGE_WINDOWS, VALIDATION_WINDOWS, WINDOW_BYTES

SHAPE = (28, 28)
ARRAYS = DatasetConfig(source="arrays", path="images.npy")


def memory(n=70_000, shape=SHAPE, **sections):
    config = PipelineConfig(**{"dataset": ARRAYS, **sections})
    return requests_for(config, n_images=n, shape=shape).memory_bytes


def growing(values):
    assert values == sorted(values)
    return values[-1] > values[0]


def test_requests_do_not_grow_with_images_beyond_a_window():
    values = [memory(n) for n in (10**4, 10**5, 10**6, 10**7)]
    assert growing(values)
    assert values[-2] == values[-1]
    held = IMAGE_WINDOWS + VALIDATION_WINDOWS
    assert values[-1] < 1.25 * (PROCESS_BYTES + (held + 2) * WINDOW_BYTES)
    assert memory(None) == values[-1], "what is not known is taken as more than a window"
    rows = memory(2 * 10**9) - memory(10**9)
    assert rows == pytest.approx(40e9 * 1.25, rel=0.02), "but for the numbers of their rows"


@pytest.mark.parametrize(
    "sections",
    [
        [{"runtime": RuntimeConfig(block_size=b)} for b in (1024, 8192, 262_144, 1 << 20)],
        [{"training": TrainingConfig(batch_size=b)} for b in (32, 128, 8192, 65_536)],
        [{"vae": VAEConfig(latent_dim=d)} for d in (2, 32, 512, 8192)],
        [{"vae": VAEConfig(hidden=(w, 256))} for w in (512, 4096, 16_384)],
        [{"dictionary": DictionaryConfig(n_atoms=k)} for k in (64, 256, 4096, 32_768)],
    ],
    ids=["block_size", "batch_size", "latent_dim", "hidden", "n_atoms"],
)
def test_requests_grow_with_what_is_held_at_once(sections):
    assert growing([memory(10**7, **each) for each in sections])


def test_requests_grow_with_the_images_size():
    assert growing([memory(10**7, (side, side)) for side in (8, 28, 64, 256)])


def test_colours_come_first_and_convolutions_work_on_the_pictures_sides():
    vae = VAEConfig(architecture="conv", channels=(32, 64), hidden=(16,))
    training = TrainingConfig(batch_size=4096)
    grey, colour = (memory(shape=s, vae=vae, training=training) for s in ((64, 64), (3, 64, 64)))
    assert grey < colour < 1.5 * grey
    cifar = load_config("cifar10")
    assert requests_for(cifar) == requests_for(cifar, n_images=60_000, shape=(3, 32, 32))


def test_a_limit_on_images_makes_a_small_run():
    few = replace(ARRAYS, limit=1000)
    assert memory(10**9, dataset=few) < memory(10**9)


@pytest.mark.parametrize("preset", sorted({*presets()} - {"arrays", "folder"}))
def test_the_presets_fit_a_small_machine(preset):
    asked = requests_for(load_config(preset))
    assert PROCESS_BYTES < asked.memory_bytes <= 4 << 30
    assert asked.memory_bytes % (256 << 20) == 0
    assert (asked.cpus, asked.gpus) == (2, 0)


def test_memory_asked_for_is_above_what_was_measured():
    """Peak resident sizes of `vaesc run` (MiB), see the module's docstring."""
    assert requests_for(load_config("digits")).memory_bytes > 1295 << 20
    assert memory(40_000) > 1474 << 20
    wide = {
        "dictionary": DictionaryConfig(n_atoms=1024),
        "runtime": RuntimeConfig(block_size=65_536),
    }
    assert memory(40_000, **wide) > 1624 << 20


def test_gpus_are_asked_for_only_by_name():
    for device, gpus in (("auto", 0), ("cpu", 0), ("mps", 0), ("cuda", 1), ("cuda:1", 1)):
        config = PipelineConfig(runtime=RuntimeConfig(device=device))
        assert requests_for(config).gpus == gpus


def asked(**runtime):
    config = PipelineConfig(dataset=ARRAYS, runtime=RuntimeConfig(**runtime))
    return requests_for(config, n_images=10**6, shape=SHAPE)


ONE = asked()


@pytest.mark.parametrize(
    ("runtime", "processes", "cpus", "gpus"),
    [
        ({"workers": 8}, 1, 2, 0),
        ({"runner": "dask://scheduler:8786", "workers": 8}, 1, 2, 0),
        ({"runner": "dask", "workers": 1}, 2, 2, 0),
        ({"runner": "dask", "workers": 8}, 9, 8, 0),
        ({"runner": "dask"}, 3, 2, 0),  # as many workers as OMP_NUM_THREADS says, which is `cpus`
        ({"runner": "dask", "ranks": 4}, 5, 4, 0),
        ({"runner": "dask", "ranks": 4, "workers": 6}, 7, 6, 0),
        ({"ranks": 2}, 3, 2, 0),
        ({"ranks": 4, "device": "cuda"}, 5, 4, 4),
        ({"runner": "dask", "workers": 4, "device": "cuda"}, 5, 4, 1),
    ],
)
def test_every_process_that_a_run_starts_has_memory_and_a_core(runtime, processes, cpus, gpus):
    found = asked(**runtime)
    assert (found.cpus, found.gpus) == (cpus, gpus)
    assert 0 <= processes * ONE.memory_bytes - found.memory_bytes < processes * (256 << 20)


def test_a_run_starts_the_workers_that_it_has_asked_for(monkeypatch):
    """By the code that starts them, with the threads that a pool tells it of."""
    from tasks.workers import Crew

    for workers in (0, 1, 3):
        runtime = RuntimeConfig(runner="dask", workers=workers)
        found = asked(runner="dask", workers=workers)
        monkeypatch.setenv("OMP_NUM_THREADS", str(found.cpus))
        monkeypatch.setattr("os.sched_getaffinity", lambda _: range(64), raising=False)
        started = Crew(runtime).n_workers
        assert 0 <= (started + 1) * ONE.memory_bytes - found.memory_bytes < (started + 1) << 28
