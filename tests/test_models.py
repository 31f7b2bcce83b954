import json
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from imagesets import write_dataset, write_digits
from torch.distributions import Bernoulli, MultivariateNormal, Normal
from torch.distributions import kl_divergence as reference_kl

from vaesc.config import VAEConfig
from vaesc.datasets import open_dataset
from vaesc.errors import ConfigError, DataError
from vaesc.models import (
    VAE,
    evaluate_elbo,
    kl_divergence,
    load_vae,
    mean_elbo,
    resolve_device,
    save_vae,
)
from vaesc.models.likelihoods import bernoulli_nll, gaussian_nll

# The first call pays for torch's start, so time is no criterion.
patient = settings(deadline=None, max_examples=50)


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def small_vae(**changes) -> VAE:
    return VAE(VAEConfig(**{"hidden": (32,), "latent_dim": 6, **changes}), (8, 8))


# The terms


@given(st.integers(0, 1000), st.floats(0.01, 5))
@patient
def test_kl_is_that_of_torch_distributions(seed, spread):
    mean, log_var = spread * torch.randn(2, 7, 5, generator=generator(seed), dtype=torch.float64)
    q = Normal(mean, torch.exp(log_var / 2))
    expected = reference_kl(q, Normal(torch.zeros_like(mean), 1.0)).sum(1)
    torch.testing.assert_close(kl_divergence(mean, log_var), expected, rtol=1e-10, atol=1e-12)


def test_kl_of_an_unused_dimension_keeps_its_digits():
    """For variance 1 + e the KL is e^2 / 4; float32 would round it away in exp(v) - v - 1."""
    log_var = torch.full((1, 1), 1e-3)
    assert kl_divergence(torch.zeros(1, 1), log_var).item() == pytest.approx(2.5e-7, rel=1e-2)


def test_bernoulli_nll_is_that_of_torch_distributions():
    logits = 5 * torch.randn(9, 30, generator=generator(0), dtype=torch.float64)
    x = torch.rand(9, 30, generator=generator(1), dtype=torch.float64)
    expected = -Bernoulli(logits=logits, validate_args=False).log_prob(x).sum(1)
    torch.testing.assert_close(bernoulli_nll(logits, x), expected)


def test_bernoulli_nll_survives_certainty():
    """A logit of -1000 against a white pixel costs 1000 nats, not infinity."""
    assert bernoulli_nll(torch.full((1, 1), -1000.0), torch.ones(1, 1)).item() == 1000


@given(st.floats(0.01, 10))
@patient
def test_gaussian_nll_is_that_of_torch_distributions(std):
    mean, x = torch.rand(2, 9, 30, generator=generator(2), dtype=torch.float64)
    expected = -Normal(mean, std).log_prob(x).sum(1)
    torch.testing.assert_close(gaussian_nll(mean, x, std=std), expected)


# The bound: a linear-Gaussian VAE, whose log-likelihood has a closed form


def linear_vae(seed: int, std: float) -> tuple[VAE, torch.Tensor]:
    """Return a VAE with linear encoder and decoder, columns of the latter orthogonal, and x."""
    config = VAEConfig(hidden=(), latent_dim=3, likelihood="gaussian", observation_std=std)
    vae = VAE(config, (7,), generator=generator(seed)).double()
    columns = torch.linalg.qr(torch.randn(7, 3, generator=generator(seed + 1)).double())[0]
    with torch.no_grad():
        vae.decoder[0].weight.copy_(columns * torch.tensor([0.5, 1.0, 2.0]))
    return vae, torch.rand(20, 7, generator=generator(seed + 2), dtype=torch.float64)


def exact_log_likelihood(vae: VAE, x: torch.Tensor) -> torch.Tensor:
    weight, bias = vae.decoder[0].weight, vae.decoder[0].bias
    noise = vae.config.observation_std**2 * torch.eye(7, dtype=torch.float64)
    return MultivariateNormal(bias, weight @ weight.T + noise).log_prob(x).detach()


def expected_elbo(vae: VAE, x: torch.Tensor) -> torch.Tensor:
    """Average over noise at +-sqrt(d) along each axis: exact, as the distortion is quadratic."""
    points = math.sqrt(3) * torch.cat([torch.eye(3), -torch.eye(3)]).double()
    with torch.no_grad():
        terms = [vae.negative_elbo(x, p.expand(len(x), 3)).negative_elbo(1.0) for p in points]
    return -torch.stack(terms).mean(0)


@given(st.integers(0, 1000), st.floats(0.05, 2))
@patient
def test_elbo_is_never_above_the_exact_log_likelihood(seed, std):
    vae, x = linear_vae(seed, std)
    assert (expected_elbo(vae, x) <= exact_log_likelihood(vae, x) + 1e-9).all()


@given(st.integers(0, 1000), st.floats(0.05, 2))
@patient
def test_elbo_of_the_exact_posterior_is_the_log_likelihood(seed, std):
    vae, x = linear_vae(seed, std)
    weight, bias = vae.decoder[0].weight.detach(), vae.decoder[0].bias.detach()
    precision = weight.T @ weight / std**2 + torch.eye(3)
    gain = torch.linalg.solve(precision, weight.T / std**2)
    log_var = -torch.log(precision.diagonal())
    with torch.no_grad():
        vae.encoder[0].weight.copy_(torch.cat([gain, torch.zeros(3, 7)]))
        raw = 20 * torch.atanh(log_var / 20)
        vae.encoder[0].bias.copy_(torch.cat([-gain @ bias, raw]))
    torch.testing.assert_close(expected_elbo(vae, x), exact_log_likelihood(vae, x))


# The network


@given(
    shape=st.lists(st.integers(1, 5), min_size=1, max_size=3).map(tuple),
    hidden=st.lists(st.integers(1, 9), max_size=3).map(tuple),
    latent_dim=st.integers(1, 5),
    likelihood=st.sampled_from(["bernoulli", "gaussian"]),
)
@patient
def test_any_shape_goes_in_and_comes_out(shape, hidden, latent_dim, likelihood):
    config = VAEConfig(hidden=hidden, latent_dim=latent_dim, likelihood=likelihood)
    vae = VAE(config, shape)
    x = torch.rand(4, *shape, generator=generator(0))
    mean, log_var = vae.encode(x)
    images = vae.decode(10 * mean)
    assert mean.shape == log_var.shape == (4, latent_dim)
    assert vae.decode_logits(mean).shape == images.shape == x.shape
    assert 0 <= images.min() <= images.max() <= 1


def test_the_default_is_the_articles_network():
    widths = [
        (layer.in_features, layer.out_features)
        for part in (VAE(VAEConfig(), (28, 28)).encoder, VAE(VAEConfig(), (28, 28)).decoder)
        for layer in part
        if isinstance(layer, torch.nn.Linear)
    ]
    assert widths == [(784, 512), (512, 256), (256, 64), (32, 256), (256, 512), (512, 784)]


@pytest.mark.parametrize("likelihood", ["bernoulli", "gaussian"])
def test_every_weight_has_the_right_gradient(likelihood):
    """Autograd against finite differences, in double precision."""
    vae = VAE(VAEConfig(hidden=(4,), latent_dim=2, likelihood=likelihood), (3,)).double()
    x = torch.rand(5, 3, generator=generator(0), dtype=torch.float64)
    noise = torch.randn(5, 2, generator=generator(1), dtype=torch.float64)

    def loss(*_: torch.Tensor) -> torch.Tensor:
        return vae.negative_elbo(x, noise).negative_elbo(0.7).mean()

    assert torch.autograd.gradcheck(loss, tuple(vae.parameters()))


def test_no_weights_make_the_log_variance_overflow():
    vae = small_vae()
    with torch.no_grad():
        vae.encoder[-1].weight.mul_(1e6)
    x = torch.rand(50, 8, 8, generator=generator(0))
    terms = vae.negative_elbo(x, torch.randn(50, 6, generator=generator(1)))
    log_var = vae.encode(x)[1]
    assert log_var.abs().max() <= 20
    assert torch.isfinite(terms.negative_elbo(1.0)).all()


def test_making_a_model_uses_no_global_randomness():
    before = torch.get_rng_state()
    first, second = small_vae(), small_vae()
    other = VAE(first.config, (8, 8), generator=generator(1))
    assert torch.equal(before, torch.get_rng_state())
    assert torch.equal(first.encoder[0].weight, second.encoder[0].weight)
    assert not torch.equal(first.encoder[0].weight, other.encoder[0].weight)


def test_weights_begin_as_torch_would_draw_them():
    weight = VAE(VAEConfig(), (28, 28)).encoder[0].weight.detach()
    assert weight.abs().max() <= 1 / 28
    assert weight.std().item() == pytest.approx(1 / 28 / math.sqrt(3), rel=0.01)


def test_images_of_another_shape_are_refused():
    with pytest.raises(ValueError, match=r"8, 8.*got \(2, 64\)"):
        small_vae().encode(torch.rand(2, 64))


# The negative ELBO of a split


def test_evaluation_ignores_the_block_size(tmp_path):
    dataset = open_dataset(write_digits(tmp_path))
    results = [
        evaluate_elbo(small_vae(), dataset, "train", n_samples=2, seed=3, block_size=size)
        for size in (1, 1000, 1024, 5000)
    ]
    assert all(result == results[0] for result in results)


def test_evaluation_is_the_mean_over_images_and_samples(tmp_path):
    """Against an independent estimate with other noise, in double precision."""
    dataset = open_dataset(write_digits(tmp_path))
    vae = small_vae(beta=2.0)
    found = evaluate_elbo(vae, dataset, "test", n_samples=64, seed=0, block_size=100)
    x = torch.from_numpy(dataset.floats("test", slice(0, dataset.n("test")))).double()
    vae.double()
    with torch.no_grad():
        noise = torch.randn(64, len(x), 6, generator=generator(9), dtype=torch.float64)
        terms = [vae.negative_elbo(x, sample) for sample in noise]
    assert found["kl"] == pytest.approx(terms[0].kl.mean().item(), rel=1e-5)
    distortion = torch.stack([term.distortion for term in terms]).mean().item()
    assert found["distortion"] == pytest.approx(distortion, rel=1e-3)
    assert found["negative_elbo"] == pytest.approx(found["distortion"] + 2 * found["kl"])


def test_an_empty_split_has_no_elbo(tmp_path):
    write_dataset(tmp_path, train=np.zeros((3, 8, 8), np.uint8))
    with pytest.raises(DataError, match="at least one image"):
        evaluate_elbo(small_vae(), open_dataset(tmp_path), "test", seed=0, block_size=10)


def test_noise_has_a_name():
    x = torch.rand(10, 8, 8, generator=generator(0))
    first, again, other = (
        mean_elbo(small_vae(), [x], seed=0, stream=name)["distortion"] for name in "aab"
    )
    assert first == again != other


# Files


def test_a_saved_model_is_the_same_model(tmp_path):
    vae = small_vae(likelihood="gaussian", observation_std=0.3)
    save_vae(vae, tmp_path)
    loaded = load_vae(tmp_path)
    x = torch.rand(5, 8, 8, generator=generator(0))
    assert loaded.config == vae.config
    assert loaded.shape == (8, 8)
    assert not loaded.training
    assert torch.equal(loaded.decode(loaded.encode(x)[0]), vae.decode(vae.encode(x)[0]))


def test_equal_models_make_equal_files(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        save_vae(small_vae(), tmp_path / name)
    for file in ("vae.safetensors", "vae.json"):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()


def change_config(folder, **changes):
    facts = json.loads((folder / "vae.json").read_text())
    facts["config"].update(changes)
    (folder / "vae.json").write_text(json.dumps(facts))


@pytest.mark.parametrize(
    "damage",
    [
        lambda f: (f / "vae.json").unlink(),
        lambda f: (f / "vae.json").write_text("{"),
        lambda f: (f / "vae.json").write_text('{"format": 99}'),
        lambda f: change_config(f, latent_dim=7),
        lambda f: change_config(f, hidden=[32, 32]),
        lambda f: change_config(f, latent_dim=-1),
        lambda f: change_config(f, colour="blue"),
        lambda f: (f / "vae.safetensors").unlink(),
        lambda f: (f / "vae.safetensors").write_bytes(b"\x80\x04pickle"),
        lambda f: (f / "vae.safetensors").write_bytes((f / "vae.safetensors").read_bytes()[:-9]),
    ],
)
def test_a_damaged_model_is_one_sentence(tmp_path, damage):
    save_vae(small_vae(), tmp_path)
    damage(tmp_path)
    with pytest.raises(DataError, match="train again"):
        load_vae(tmp_path)


# Devices


def test_devices_that_are_there(monkeypatch):
    assert resolve_device("cpu") == torch.device("cpu")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert resolve_device("auto") == torch.device("cuda")
    assert resolve_device("cuda:1") == torch.device("cuda:1")
    with pytest.raises(ConfigError, match="2 cuda devices"):
        resolve_device("cuda:2")


def test_devices_that_are_not(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    assert resolve_device("auto") == torch.device("cpu")
    with pytest.raises(ConfigError, match=r"runtime\.device=cuda: .*set auto or cpu"):
        resolve_device("cuda")
    with pytest.raises(ConfigError, match=r"runtime\.device=mps"):
        resolve_device("mps")


@pytest.mark.parametrize("name", ["tpu", "cuda:", "cuda:x", "cuda:-1", "", "meta", "cpu:1"])
def test_names_that_are_no_device(name):
    with pytest.raises(ConfigError, match=r"runtime\.device"):
        resolve_device(name)
