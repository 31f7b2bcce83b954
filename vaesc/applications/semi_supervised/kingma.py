r"""M2 on latents, which is M1+M2: a deep generative model in which the class is a variable.

M1 is the VAE, trained without labels; M2 explains its latents :math:`z_1` by a class y and by
what is left of them, :math:`z_2`:

.. math::
    p(z_1, y, z_2) = p(y) \, N(z_2; 0, I) \, p(z_1 | y, z_2), \qquad
    q(y, z_2 | z_1) = q(y | z_1) \, q(z_2 | y, z_1)

A labelled latent costs L, one without label U, the mean of L over all classes less the entropy of
q(y|z_1), and the labels teach the classifier q(y|z_1), too, with the weight alpha:

.. math::
    L(z_1, y) &= -\log p(y) - \log p(z_1|y,z_2) + KL(q(z_2|y,z_1) \,\|\, p(z_2)) \\
    U(z_1) &= \textstyle\sum_y q(y|z_1) L(z_1, y) - H(q(y|z_1)) \\
    J &= \textstyle\sum L + \sum U + \alpha \sum -\log q(y|z_1)

Left to itself, M2 finds clusters that are no classes and never lets go of them. So labels alone
teach in the beginning, all of them in full; then the weight of U rises to 1, while that of L falls
to the share of the latents that are labelled, and alpha to Kingma's: 0.1 N for sums, which is 0.1
for means. Batches hold labelled latents beside the others; each pass has another order, and
another sample of q(z_1|x) of every image, as the published model is trained on.

References:
    Kingma, Rezende, Mohamed, Welling, "Semi-supervised Learning with Deep Generative Models",
    2014, equations 6 to 9.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from vaesc.applications.semi_supervised.draws import UNKNOWN

Floats = NDArray[np.float32]
HIDDEN, _REST = 256, 16
_BATCH, _LABELLED, _RATE = 250, 100, 2e-3
_FEWEST_STEPS = 300
_ALPHA = 0.1
"""Weight of the classifier's cross-entropy, mean over labels, beside the mean of U."""
_ALONE, _RISE = 0.1, 0.1
"""Share of the steps in which U has no weight, and then of those in which it rises to 1."""


class M2(nn.Module):
    """The networks of M2.

    Args:
        n_dims: Of z_1.
        n_classes: C.
        generator: Source of the initial weights.
    """

    def __init__(self, n_dims: int, n_classes: int, generator: torch.Generator) -> None:
        super().__init__()
        self.n_classes = n_classes
        self.classifier = _Perceptron(n_dims, 0, n_classes)
        self.encoder = _Perceptron(n_dims, n_classes, 2 * _REST)
        self.decoder = _Perceptron(_REST, n_classes, 2 * n_dims)
        for layer in self.modules():
            if isinstance(layer, nn.Linear):
                bound = math.sqrt(3 / layer.in_features)
                nn.init.uniform_(layer.weight, -bound, bound, generator=generator)
                if layer.bias is not None:
                    nn.init.zeros_(layer.bias)

    def costs(self, latents: Tensor, generator: torch.Generator) -> Tensor:
        """Return L(z_1, y) of every class y, in nats, shape (n, C): one sample of z_2 each.

        Args:
            latents: z_1, shape (n, d).
            generator: Source of the samples.
        """
        mean, log_var = self.encoder(latents[:, None]).chunk(2, dim=2)
        log_var = _bounded(log_var)
        rest = mean + torch.randn(mean.shape, generator=generator) * (log_var / 2).exp()
        made, spread = self.decoder(rest).chunk(2, dim=2)
        spread = _bounded(spread)
        error = (latents[:, None] - made) ** 2 * (-spread).exp()
        distortion = (spread + error + math.log(2 * math.pi)) / 2
        kl = (mean**2 + log_var.exp() - 1 - log_var) / 2
        costs: Tensor = distortion.sum(dim=2) + kl.sum(dim=2) + math.log(self.n_classes)
        return costs


class _Perceptron(nn.Module):
    """A perceptron of one hidden layer that may be told a class, and answers for every class.

    The class only shifts the hidden units, so that what they get of a latent is computed once.
    """

    def __init__(self, n_in: int, n_classes: int, n_out: int) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(n_in, HIDDEN), nn.Linear(HIDDEN, n_out)
        self.classes = nn.Linear(n_classes, HIDDEN, bias=False) if n_classes else None

    def forward(self, given: Tensor) -> Tensor:
        """Map (n, n_in) to (n, n_out); told classes, (n, 1 or C, n_in) to (n, C, n_out)."""
        hidden = self.first(given)
        if self.classes is not None:
            hidden = hidden + self.classes.weight.T
        answer: Tensor = self.last(hidden.relu())
        return answer


def unlabelled_cost(costs: Tensor, logits: Tensor) -> Tensor:
    """Return U of each latent from L of every class and the logits of q(y|z_1), shape (n,)."""
    log_q = logits.log_softmax(dim=1)
    return (log_q.exp() * (costs + log_q)).sum(dim=1)


def fit_m2(
    mean: Floats,
    std: Floats,
    labels: NDArray[np.int64],
    n_classes: int,
    *,
    epochs: int,
    seed: int,
    weight: float = 1.0,
) -> M2:
    """Train M2 on latents of which few are labelled.

    Args:
        mean: Posterior means, shape (n, d).
        std: Posterior standard deviations: each pass sees new samples of the posterior.
        labels: Class of each, or :data:`~.draws.UNKNOWN`, shape (n,).
        n_classes: C.
        epochs: Passes over all latents.
        seed: Of weights, order and samples.
        weight: Of U in the end: at 0 the labels alone teach.
    """
    generator = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng(devices=[]):  # layers draw weights when they are made
        model = M2(mean.shape[1], n_classes, generator)
    known = torch.from_numpy(np.flatnonzero(labels != UNKNOWN))
    classes, means, stds = (torch.from_numpy(each) for each in (labels, mean, std))
    share = len(known) / len(means)
    batch = min(_BATCH, len(means))
    n_steps = max(_FEWEST_STEPS, epochs * (len(means) // batch))
    optimizer = torch.optim.Adam(model.parameters(), lr=_RATE)
    order = torch.empty(0, dtype=torch.int64)
    for step in range(n_steps):
        for group in optimizer.param_groups:
            group["lr"] = _RATE * 0.5 * (1 + math.cos(math.pi * step / n_steps))
        if len(order) < batch:  # what is left of a pass begins the next
            order = torch.cat([order, torch.randperm(len(means), generator=generator)])
        others, order = order[:batch], order[batch:]
        picked = known[torch.randint(len(known), (_LABELLED,), generator=generator)]
        rows = torch.cat([others, picked])
        noise = torch.randn(len(rows), means.shape[1], generator=generator)
        latents = means[rows] + noise * stds[rows]
        logits, costs = model.classifier(latents), model.costs(latents, generator)
        own = classes[picked]
        labelled = costs[batch:].gather(1, own[:, None]).mean()
        taught = functional.cross_entropy(logits[batch:], own)
        unlabelled = unlabelled_cost(costs[:batch], logits[:batch]).mean()
        risen = weight * min(1.0, max(0.0, (step / n_steps - _ALONE) / _RISE))
        loss = risen * unlabelled + max(share, 1 - risen) * labelled
        loss = loss + max(_ALPHA, 1 - risen) * taught
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    return model.eval()


def classify(model: M2, latents: Floats) -> Floats:
    """Return q(y|z_1) of posterior means, shape (n, C)."""
    with torch.inference_mode():
        found = model.classifier(torch.from_numpy(latents)).softmax(dim=1)
    return np.asarray(found.numpy(), np.float32)


def _bounded(log_var: Tensor) -> Tensor:
    """Keep log-variances within (-8, 8), smoothly."""
    return 8 * torch.tanh(log_var / 8)
