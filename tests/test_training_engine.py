"""One gradient step in its two forms, and what decides between them."""

import dataclasses
import json

import pytest
import torch
from imagesets import digits, write_digits

from vaesc.config import TrainingConfig, VAEConfig
from vaesc.models import VAE, load_vae
from vaesc.training import train, work
from vaesc.training.engine import Engine, compile_options, hold_still, pure_step
from vaesc.training.objective import Objective
from vaesc.training.state import State

MODEL = VAEConfig(hidden=(48, 32), latent_dim=4)
SHAPES = {
    "plain": {},
    "clipped and averaged": {"gradient_clip": 5.0, "weight_average": 0.99},
    "free bits": {"free_bits": 0.2},
    "capacity": {"capacity": 5.0},
    "importance-weighted": {"importance_samples": 3},
}
MODELS = {
    "mlp": MODEL,
    "residual": dataclasses.replace(MODEL, hidden=(32, 32, 32), residual=True),
    "conv": dataclasses.replace(MODEL, architecture="conv", channels=(4, 8), residual=True),
    "continuous": dataclasses.replace(MODEL, likelihood="continuous-bernoulli"),
    "learned": dataclasses.replace(MODEL, likelihood="gaussian", variance="learned"),
    "optimal": dataclasses.replace(MODEL, likelihood="gaussian", variance="optimal"),
}


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return write_digits(tmp_path_factory.mktemp("digits"))


def engine_of(model, training, *, bf16=False, compiled=False):
    vae = VAE(model, (8, 8), generator=torch.Generator().manual_seed(1))
    state = State(vae, averaged=training.weight_average > 0)
    objective = Objective(vae, training, bf16=bf16)
    return Engine(objective, state, compiled=compiled, batch_size=32)


def stepped(engine, n_steps=20):
    """Step on the same images and noise; return every step's sums."""
    images = torch.from_numpy(digits())
    sums = []
    for i in range(n_steps):
        rows = torch.arange(32 * i, 32 * (i + 1)) % len(images)
        generator = torch.Generator().manual_seed(i)
        noise = torch.randn(engine.objective.config.importance_samples, 32, 4, generator=generator)
        sums.append(engine.step(images[rows], noise, 3e-3, (0.9, 2.0)))
    return torch.stack(sums)


def pure(engine):
    """Let the engine step by the function that is compiled, uncompiled."""
    engine._graph = pure_step(engine.objective, engine.state.names)
    return engine


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("model", MODELS)
def test_the_graph_and_the_eager_step_agree(model, shape):
    """Differentiated by two mechanisms, updated by two Adams."""
    training = TrainingConfig(**SHAPES[shape])
    a = engine_of(MODELS[model], training)
    b = pure(engine_of(MODELS[model], training))
    torch.testing.assert_close(stepped(a), stepped(b), rtol=2e-4, atol=1e-2)
    for name, value in a.state.flat.items():
        torch.testing.assert_close(value, b.state.flat[name], rtol=5e-2, atol=2e-4)


@pytest.mark.parametrize("model", MODELS)
def test_adam_is_that_of_torch(model):
    """Against torch.optim, which knows nothing of flat states."""
    training = TrainingConfig()
    engine = engine_of(MODELS[model], training)
    vae = VAE(MODELS[model], (8, 8), generator=torch.Generator().manual_seed(1))
    reference = torch.optim.Adam(vae.parameters(), lr=3e-3)
    objective = Objective(vae, training)
    images = torch.from_numpy(digits()[:32])
    for seed in range(10):
        noise = torch.randn(1, 32, 4, generator=torch.Generator().manual_seed(seed))
        engine.step(images, noise, 3e-3, (0.9, 2.0))
        reference.zero_grad()
        objective(images, noise, torch.tensor([0.9, 2.0]))[0].backward()
        reference.step()
    for mine, other in zip(engine.state.weights, vae.parameters(), strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-4, atol=1e-5)


def test_bf16_keeps_float32_weights_and_follows_the_same_curve():
    single, half = (engine_of(MODEL, TrainingConfig(), bf16=bf16) for bf16 in (False, True))
    a, b = stepped(single, 100), stepped(half, 100)
    assert all(value.dtype == torch.float32 for value in half.state.flat.values())
    assert not torch.equal(a, b)
    torch.testing.assert_close(a.mean(0), b.mean(0), rtol=5e-3, atol=1.0)


def test_the_precision_of_evaluation_does_not_depend_on_training(dataset, tmp_path):
    train(
        MODEL, TrainingConfig(epochs=1, precision="bf16"), dataset, tmp_path, seed=0, device="cpu"
    )
    assert all(w.dtype == torch.float32 for w in load_vae(tmp_path).state_dict().values())


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["float32", pytest.param("bf16", marks=pytest.mark.long)])
def test_compiled_training_has_the_same_curve_and_repeats_itself(dataset, tmp_path, precision):
    """The tolerance: 0.5 % of the negative ELBO, far below the spread between seeds."""
    training = TrainingConfig(epochs=4, precision=precision, learning_rate=3e-3)
    summaries = {}
    for name, mode in {"eager": "never", "a": "always", "b": "always"}.items():
        (tmp_path / name).mkdir()
        summaries[name] = train(
            MODEL, training, dataset, tmp_path / name, seed=0, device="cpu", compile=mode
        )
    if summaries["a"]["engine"]["fallbacks"]:
        pytest.skip(f"cannot compile here: {summaries['a']['engine']['fallbacks']}")
    assert summaries["a"]["engine"]["compiled"]
    histories = {n: json.loads((tmp_path / n / "history.json").read_text()) for n in summaries}
    for eager, compiled in zip(histories["eager"], histories["a"], strict=True):
        for key in ("train/negative_elbo", "validation/negative_elbo"):
            assert compiled[key] == pytest.approx(eager[key], rel=5e-3)
    for file in (tmp_path / "a").iterdir():
        assert file.read_bytes() == (tmp_path / "b" / file.name).read_bytes()


def test_a_machine_without_a_compiler_says_so_and_trains(dataset, tmp_path, monkeypatch, caplog):
    def broken(*_, **__):
        def call(*_):
            raise RuntimeError("No working C++ compiler found\nand a long trace")

        return call

    monkeypatch.setattr(torch, "compile", broken)
    training = TrainingConfig(epochs=2)
    for name, mode in (("a", "always"), ("b", "never")):
        (tmp_path / name).mkdir()
        summary = train(
            MODEL, training, dataset, tmp_path / name, seed=0, device="cpu", compile=mode
        )
        assert summary["engine"]["fallbacks"] == (["eager: RuntimeError"] if name == "a" else [])
        assert not summary["engine"]["compiled"]
    assert "No working C++ compiler" in caplog.text
    weights = [(tmp_path / name / "vae.safetensors").read_bytes() for name in "ab"]
    assert weights[0] == weights[1]


def test_a_machine_without_bf16_says_so_and_trains(dataset, tmp_path, monkeypatch):
    monkeypatch.setattr("vaesc.training.prepare.has_bf16", lambda _: False)
    training = TrainingConfig(epochs=1, precision="bf16")
    summary = train(MODEL, training, dataset, tmp_path, seed=0, device="cpu")
    assert summary["engine"]["precision"] == "float32"
    assert "no fast bf16" in summary["engine"]["fallbacks"][0]


def test_on_a_gpu_the_step_would_be_a_graph_over_memory_that_stays():
    assert compile_options("cpu") == {"fullgraph": True, "dynamic": False}
    assert compile_options("cuda")["mode"] == "reduce-overhead"
    state = State(VAE(VAEConfig(hidden=(8,), latent_dim=2), (8, 8)), averaged=True)
    hold_still(state)
    places = [w.data_ptr() for w in (*state.weights, *state.average)]
    state.restore(state.copy(), 3)
    with state.kept_weights():
        assert [w.data_ptr() for w in (*state.weights, *state.average)] == places


def test_only_long_trainings_are_compiled():
    article = 6.0 * (2 * (784 * 512 + 512 * 256) + 256 * 64 + 32 * 256)
    flops = work.flops_per_image(VAE(VAEConfig(), (28, 28)))
    assert flops == article
    assert not work.is_worth_compiling(flops * 54_000 * 10, "bf16", "cpu")
    assert work.is_worth_compiling(flops * 54_000 * 60, "bf16", "cpu")
    assert not work.is_worth_compiling(flops * 54_000 * 60, "bf16", "cuda")


def test_the_work_of_convolutions_counts_their_pixels():
    """One stage of 3x3 on 8x8: 4 channels at 4x4 pixels each way, then 64 features."""
    config = VAEConfig(architecture="conv", channels=(4,), hidden=(), latent_dim=2)
    expected = 6.0 * (9 * 4 * 16 + 64 * 4 + 2 * 64 + 9 * 4 * 16)
    assert work.flops_per_image(VAE(config, (8, 8))) == expected
