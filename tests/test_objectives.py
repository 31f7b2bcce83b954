"""Likelihoods, bounds and posterior statistics against closed forms and torch's own."""

import dataclasses
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from imagesets import write_dataset, write_digits
from torch.distributions import ContinuousBernoulli, MultivariateNormal, Normal

from vaesc.config import TrainingConfig, VAEConfig
from vaesc.datasets import open_dataset
from vaesc.errors import ConfigError, DataError
from vaesc.models import (
    VAE,
    PosteriorStatistics,
    evaluate_elbo,
    evaluate_iwae,
    kl_divergence,
    load_vae,
    save_vae,
)
from vaesc.models.likelihoods import (
    LEAST_STD,
    bernoulli_nll,
    continuous_bernoulli_mean,
    continuous_bernoulli_nll,
)
from vaesc.models.posterior import mutual_information
from vaesc.training.objective import Objective, knobs_at

patient = settings(deadline=None, max_examples=40)


def generator(seed):
    return torch.Generator().manual_seed(seed)


def rand(*shape, seed=0):
    return torch.rand(*shape, generator=generator(seed), dtype=torch.float64)


# Likelihoods


@given(st.integers(0, 1000), st.floats(1e-3, 30))
@patient
def test_continuous_bernoulli_is_that_of_torch(seed, spread):
    logits = spread * (2 * rand(5, 20, seed=seed) - 1)
    x = rand(5, 20, seed=seed + 1)
    q = ContinuousBernoulli(logits=logits, validate_args=False)
    # torch expands around one half more coarsely than we do, and clips probabilities.
    torch.testing.assert_close(
        continuous_bernoulli_nll(logits, x), -q.log_prob(x).sum(1), rtol=1e-4, atol=1e-4
    )
    torch.testing.assert_close(continuous_bernoulli_mean(logits), q.mean, rtol=1e-4, atol=1e-4)


@given(st.floats(-40, 40))
@patient
def test_continuous_bernoulli_integrates_to_one(logit):
    x = torch.linspace(0, 1, 20_001, dtype=torch.float64)[:, None]
    density = torch.exp(-continuous_bernoulli_nll(torch.full_like(x, logit), x))
    assert torch.trapezoid(density, x[:, 0]).item() == pytest.approx(1, abs=2e-4)
    mean = torch.trapezoid(density * x[:, 0], x[:, 0]).item()
    shown = continuous_bernoulli_mean(torch.tensor([logit], dtype=torch.float64)).item()
    assert shown == pytest.approx(mean, abs=2e-4)


@pytest.mark.parametrize("nll", [bernoulli_nll, continuous_bernoulli_nll])
@pytest.mark.parametrize("n_pixels", [1, 7, 64, 144])
def test_gradients_are_those_of_finite_differences(nll, n_pixels):
    logits = (8 * rand(2, n_pixels) - 4).requires_grad_()
    x = rand(2, n_pixels, seed=1).requires_grad_()
    assert torch.autograd.gradcheck(nll, (logits, x))


@pytest.mark.parametrize("variance", ["learned", "optimal"])
def test_a_free_variance_finds_the_error(variance):
    """Fitted to noise of std 0.2, which no encoder can know, the stored std becomes 0.2."""
    config = VAEConfig(
        hidden=(), latent_dim=1, likelihood="gaussian", variance=variance, observation_std=1.0
    )
    vae = VAE(config, (16,))
    x = (0.5 + 0.2 * torch.randn(4000, 16, generator=generator(0))).float()
    objective = Objective(vae, TrainingConfig())
    adam = torch.optim.Adam(vae.parameters(), lr=0.02)
    for step in range(300):
        adam.zero_grad()
        noise = torch.randn(1, 500, 1, generator=generator(step))
        rows = slice(500 * (step % 8), 500 * (step % 8 + 1))
        objective(x[rows], noise, torch.tensor([1.0, 0.0]))[0].backward()
        adam.step()
    assert vae.log_std is not None
    assert vae.log_std.exp().item() + LEAST_STD == pytest.approx(0.2, rel=0.05)


def test_the_optimal_variance_steers_the_network_as_the_batchs_error_would():
    """The gradient is that of P/2 log(mean squared error), the sigma-VAE's objective."""
    config = VAEConfig(hidden=(), latent_dim=2, likelihood="gaussian", variance="optimal")
    vae = VAE(config, (9,)).double()
    x, z = rand(6, 9), rand(6, 2, seed=1)
    vae.distortion(x, z).mean().backward()
    found = vae.decoder[0].weight.grad.clone()
    vae.zero_grad()
    (9 / 2 * torch.log((x - vae.decoder(z)).square().mean())).backward()
    torch.testing.assert_close(found, vae.decoder[0].weight.grad)


# Shapes of the objective


def objective_and_batch(**changes):
    vae = VAE(VAEConfig(hidden=(16,), latent_dim=3), (4, 4)).double()
    x, noise = rand(6, 4, 4), torch.randn(1, 6, 3, generator=generator(1)).double()
    return Objective(vae, TrainingConfig(**changes)), x, noise


def test_the_plain_objective_is_the_negative_elbo():
    objective, x, noise = objective_and_batch()
    loss, sums = objective(x, noise, torch.tensor([0.7, 0.0]))
    terms = objective.vae.negative_elbo(x, noise[0])
    torch.testing.assert_close(loss, terms.negative_elbo(0.7).mean(), check_dtype=False)
    torch.testing.assert_close(sums, torch.stack([t.sum() for t in terms]))


def test_free_bits_cost_what_exceeds_them():
    objective, x, noise = objective_and_batch(free_bits=1000.0)
    loss, sums = objective(x, noise, torch.tensor([1.0, 0.0]))
    assert loss.item() == pytest.approx((sums[0] / 6 + 3000).item())
    loss.backward()
    untouched = objective.vae.encoder[0].weight.grad
    objective, x, noise = objective_and_batch()
    objective.vae.negative_elbo(x, noise[0]).distortion.mean().backward()
    torch.testing.assert_close(untouched, objective.vae.encoder[0].weight.grad)


def test_capacity_costs_the_distance_to_it():
    objective, x, noise = objective_and_batch(capacity=10.0)
    loss, sums = objective(x, noise, torch.tensor([2.0, 7.0]))
    assert loss.item() == pytest.approx((sums[0] / 6 + 2 * abs(sums[1] / 6 - 7)).item(), rel=1e-6)


def test_the_kl_weight_rises_once_or_again_and_again():
    def betas(schedule, epochs=4.0):
        config = TrainingConfig(beta_schedule=schedule, beta_epochs=epochs, epochs=20)
        return [knobs_at(config, 0.5, step, 10)[0] for step in range(200)]

    assert set(betas("constant")) == {0.5}
    warm = betas("warm-up")
    assert warm[0] == 0
    assert warm[20] == pytest.approx(0.25)
    assert set(warm[40:]) == {0.5}
    cycle = betas("cyclical")
    assert cycle[40:80] == pytest.approx(cycle[:40])
    assert cycle[10] == pytest.approx(0.25)
    assert set(cycle[21:40]) == {0.5}
    rising = TrainingConfig(capacity=25.0, epochs=2)
    assert [knobs_at(rising, 1.0, step, 10)[1] for step in (0, 19, 30)] == [0, 25, 25]


def test_settings_that_exclude_one_another():
    with pytest.raises(ValueError, match="capacity excludes free_bits"):
        TrainingConfig(free_bits=0.1, capacity=5.0)
    with pytest.raises(ValueError, match="importance_samples above 1 excludes"):
        TrainingConfig(importance_samples=5, beta_schedule="warm-up")


# The importance-weighted bound


def linear_vae():
    """A linear VAE with a poor posterior, whose log-likelihood is known."""
    config = VAEConfig(hidden=(), latent_dim=2, likelihood="gaussian", observation_std=0.5)
    vae = VAE(config, (5,), generator=generator(0))
    with torch.no_grad():
        vae.encoder[0].weight.mul_(0.3)
    return vae


def test_the_bound_rises_with_samples_to_the_log_likelihood(tmp_path):
    vae = linear_vae()
    x = rand(1000, 5).float()
    dataset = open_dataset(write_dataset(tmp_path, test=x.numpy()))
    weight, bias = vae.decoder[0].weight.detach(), vae.decoder[0].bias.detach()
    covariance = weight @ weight.T + 0.25 * torch.eye(5)
    exact = -MultivariateNormal(bias, covariance).log_prob(x).mean().item()
    options = {"seed": 0, "block_size": 20}
    bounds = [
        evaluate_iwae(vae, dataset, "test", n_samples=k, **options) for k in (1, 10, 100, 3000)
    ]
    elbo = evaluate_elbo(vae, dataset, "test", n_samples=200, **options)["negative_elbo"]
    assert bounds[0] == pytest.approx(elbo, abs=0.3)
    assert bounds[0] > bounds[1] > bounds[2] > exact - 0.02
    assert bounds[3] == pytest.approx(exact, abs=0.01)


def test_training_and_evaluation_share_one_importance_weighted_bound(tmp_path):
    vae = linear_vae()
    x = rand(1000, 5).float()
    dataset = open_dataset(write_dataset(tmp_path, test=x.numpy()))
    evaluated = evaluate_iwae(vae, dataset, "test", n_samples=50, seed=0, block_size=1000)
    objective = Objective(vae, TrainingConfig(importance_samples=50))
    losses = [
        objective(x, torch.randn(50, 1000, 2, generator=generator(s)), torch.tensor([1.0, 0.0]))[0]
        for s in range(20)
    ]
    assert torch.stack(losses).mean().item() == pytest.approx(evaluated, abs=0.02)


def test_a_subset_and_the_block_size(tmp_path):
    vae = VAE(VAEConfig(hidden=(8,), latent_dim=2), (8, 8))
    dataset = open_dataset(write_digits(tmp_path))
    found = [
        evaluate_iwae(vae, dataset, "train", n_samples=5, n_images=1100, seed=0, block_size=b)
        for b in (10, 2000)
    ]
    assert found[0] == found[1]
    empty = open_dataset(write_dataset(tmp_path / "none", train=torch.zeros(2, 8, 8).numpy()))
    with pytest.raises(DataError, match="at least one test image"):
        evaluate_iwae(vae, empty, "test", n_samples=2, seed=0, block_size=5)


# What the posteriors say


def test_posterior_statistics_add_up():
    mean, log_var = torch.randn(2, 300, 5, generator=generator(2))
    mean[:, 3:] = 0.01 * mean[:, 3:] + 4
    statistics = PosteriorStatistics()
    for rows in (slice(0, 100), slice(100, 300)):
        statistics.add(mean[rows], log_var[rows])
    total = kl_divergence(mean, log_var).mean().item()
    assert sum(statistics.kl_per_dimension()) == pytest.approx(total, rel=1e-5)
    assert statistics.active_units() == 3


@pytest.mark.parametrize("noise", [0.1, 0.5, 2.0])
def test_mutual_information_of_a_gaussian_channel(noise):
    """z = x + noise n: I = 1/2 log(1 + 1 / noise^2) in each dimension."""
    mean = torch.randn(4000, 2, generator=generator(0), dtype=torch.float64)
    log_var = torch.full_like(mean, 2 * math.log(noise))
    exact = math.log(1 + noise**-2)
    assert mutual_information(mean, log_var, seed=0) == pytest.approx(exact, abs=0.08)


def test_mutual_information_by_brute_force_and_its_ceiling():
    mean, log_var = torch.randn(2, 50, 3, generator=generator(1)).double()
    found = mutual_information(mean, log_var, seed=0)
    assert 0 < found <= math.log(50)
    apart = 1000 * torch.arange(50.0)[:, None].double()
    ceiling = mutual_information(apart, torch.zeros_like(apart), seed=0)
    assert ceiling == pytest.approx(math.log(50))
    density = Normal(mean[:1], torch.exp(log_var[:1] / 2)).log_prob(mean[:1]).sum()
    assert torch.isfinite(density)


# Architectures


@given(
    shape=st.tuples(st.integers(1, 3), st.integers(1, 13), st.integers(1, 13)),
    channels=st.lists(st.integers(1, 4), max_size=3).map(tuple), residual=st.booleans(),
    activation=st.sampled_from(["relu", "silu"]), flat=st.booleans(),
)  # fmt: skip
@patient
def test_convolutions_mirror_any_size(shape, channels, residual, activation, flat):
    shape = shape[1:] if flat else shape
    config = VAEConfig(
        architecture="conv", channels=channels, residual=residual, activation=activation,
        hidden=(6, 6), latent_dim=2,
    )  # fmt: skip
    vae = VAE(config, shape)
    x = torch.rand(3, *shape, generator=generator(0))
    mean, _ = vae.encode(x)
    assert mean.shape == (3, 2)
    assert vae.decode(mean).shape == x.shape
    assert torch.isfinite(vae.negative_elbo(x, torch.zeros(3, 2)).distortion).all()


def test_a_convolutional_model_is_saved_and_read(tmp_path):
    config = VAEConfig(
        architecture="conv", residual=True, channels=(3, 5), hidden=(7,), latent_dim=2,
        likelihood="gaussian", variance="learned",
    )  # fmt: skip
    vae = VAE(config, (3, 9, 6), generator=generator(5))
    save_vae(vae, tmp_path)
    again = load_vae(tmp_path)
    assert again.config == config
    for name, weight in vae.state_dict().items():
        assert torch.equal(weight, again.state_dict()[name])


def test_derived_channels_follow_the_size():
    def stages(side):
        vae = VAE(VAEConfig(architecture="conv", hidden=(), latent_dim=2), (side, side))
        return [m.out_channels for m in vae.encoder if isinstance(m, torch.nn.Conv2d)]

    assert [stages(side) for side in (4, 8, 28, 32, 64)] == [
        [32], [32], [32, 64], [32, 64, 128], [32, 64, 128, 256],
    ]  # fmt: skip


def test_vectors_have_no_convolutions():
    with pytest.raises(ConfigError, match=r"convolutions need.*\(16,\).*mlp"):
        VAE(VAEConfig(architecture="conv"), (16,))


def test_residual_layers_add_only_where_widths_agree():
    config = VAEConfig(hidden=(6, 6, 4), latent_dim=2, residual=True)
    vae = VAE(config, (5,))
    kinds = [type(layer).__name__ for layer in vae.encoder]
    assert kinds == ["Linear", "ReLU", "Residual", "Linear", "ReLU", "Linear"]
    plain = VAE(dataclasses.replace(config, residual=False), (5,))
    assert sum(p.numel() for p in vae.parameters()) == sum(p.numel() for p in plain.parameters())
