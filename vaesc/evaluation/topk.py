r"""A TopK sparse autoencoder: the amortised peer, whose codes a network finds in one product.

Dictionary and encoder are learned together. With :math:`b` what is subtracted first (the mean, to
begin with), a sample x is coded and rebuilt as

.. math:: a = \operatorname{TopK}(W (x - b) + c), \qquad \hat x = D^\top a + b, \qquad \|d_j\| = 1,

where TopK keeps the k entries of largest magnitude. The published ones keep the k largest, which
are positive; here a coefficient may have either sign, as every other method's may, or the peer
would have half the freedom at the same budget.

Encoder and dictionary start as one matrix (W = D, atoms are random training samples). An atom
that no sample of the last epoch used is dead, and dead atoms learn to code what is left of each
sample (AuxK); a shorter memory would take rare atoms for dead ones, which on digits made every
level worse. Adam, a rate that falls to zero along a cosine, and the epoch of least validation
error is kept.

References:
    Makhzani and Frey, "k-Sparse Autoencoders", 2014. https://arxiv.org/abs/1312.5663
    Gao et al., "Scaling and evaluating sparse autoencoders", 2024. https://arxiv.org/abs/2406.04093
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vaesc import windows
from vaesc.config import derive_seed
from vaesc.evaluation.batches import Floats, in_batches, mean_of
from vaesc.training.determinism import deterministic, stream

BATCH = 512
"""Most samples of a gradient step."""
STEPS = 100
"""Fewest gradient steps of an epoch, as long as a step has :data:`SMALLEST` samples."""
SMALLEST = 16
STEP = 0.08
"""Adam's largest step, as a share of what an entry of a unit atom typically is, 1 / sqrt(D)."""
AUXILIARY = 1 / 32
"""Weight of the error that dead atoms leave, beside that of the reconstruction (Gao et al.)."""


@dataclass(frozen=True, kw_only=True)
class TopK:
    """A trained TopK sparse autoencoder."""

    dictionary: Floats
    """Atoms of unit norm, shape (K, D)."""
    encoder: Floats
    """W, shape (K, D)."""
    threshold: Floats
    """c, shape (K,)."""
    mean: Floats
    """b, shape (D,)."""
    k: int

    @property
    def numbers(self) -> int:
        """How many numbers it holds."""
        return int(sum(a.size for a in (self.dictionary, self.encoder, self.threshold, self.mean)))

    def encode(self, samples: Floats) -> Floats:
        """Return the codes of `samples`, dense, shape (m, K), at most k entries a row nonzero."""
        dense = (samples - self.mean) @ self.encoder.T + self.threshold
        return largest(torch.from_numpy(dense), self.k).numpy()

    def approximate(self, samples: Floats) -> Floats:
        """Return `samples`, shape (m, D), coded and rebuilt."""
        return np.asarray(self.encode(samples) @ self.dictionary + self.mean, np.float32)


def largest(dense: Tensor, k: int) -> Tensor:
    """Return `dense`, shape (m, K), with all but the k entries of largest magnitude a row at 0."""
    if k >= dense.shape[1]:
        return dense
    chosen = dense.detach().abs().topk(k, dim=1, sorted=False).indices
    return dense * torch.zeros_like(dense).scatter_(1, chosen, 1.0)


def fit_topk(
    train: windows.Rows,
    validation: windows.Rows,
    *,
    n_atoms: int,
    k: int,
    epochs: int,
    seed: int,
    on_rows: Callable[[int], None],
) -> TopK:
    """Train a TopK autoencoder.

    Args:
        train: Samples, shape (n, D); may be a memory map, of which one batch is held at a time,
            or lazy: then they are shuffled window by window (:mod:`vaesc.windows`).
        validation: Samples that choose the epoch, shape (m, D).
        n_atoms: K.
        k: Sparsity level; more than K acts as K.
        epochs: Passes over `train`.
        seed: Seed of the start and of the order.
        on_rows: Hears how many more samples have been passed over.
    """
    n = train.shape[0]
    with deterministic():
        net = _Net(train, n_atoms, min(k, n_atoms), seed)
        size = min(BATCH, max(SMALLEST, n // STEPS))
        total = epochs * math.ceil(n / size)
        best, least = net.frozen(), math.inf
        for epoch in range(epochs):
            for batch in _batches(train, size, seed, epoch):
                net.step(torch.from_numpy(batch), total)
                on_rows(len(batch))
            net.end_epoch()
            error = _error(net.frozen(), validation if validation.shape[0] else train)
            if error < least:
                best, least = net.frozen(), error
    return best


def _batches(train: windows.Rows, size: int, seed: int, epoch: int) -> Iterator[NDArray[Any]]:
    """Yield each sample once, `size` at a time, in the order of the seed and the epoch."""
    if isinstance(train, np.ndarray):
        parts: Iterator[NDArray[Any]] = iter([train])
    else:
        rng = np.random.default_rng(derive_seed(seed, f"pages/{epoch}"))
        pages = windows.dealt(train, rng, windows.page_rows(train, size))
        parts = (windows.read(train, window) for window in pages)
    random = stream(seed, f"order/{epoch}")
    for part in parts:
        order = torch.randperm(len(part), generator=random).numpy()
        for start in range(0, len(part), size):
            # In rising order: a memory map is read from front to back.
            yield np.ascontiguousarray(part[np.sort(order[start : start + size])])
        del part  # before the next one is read


class _Net:
    """The weights while they are trained, and which atoms are dead."""

    def __init__(self, train: windows.Rows, n_atoms: int, k: int, seed: int) -> None:
        mean = mean_of(in_batches(train))
        atoms = torch.from_numpy(_start(train, mean, n_atoms, derive_seed(seed, "start")))
        self.dictionary = atoms.clone().requires_grad_()
        self.encoder = atoms.clone().requires_grad_()
        self.threshold = torch.zeros(n_atoms, requires_grad=True)
        self.mean = torch.from_numpy(mean).clone().requires_grad_()
        self.k, self.steps, self.rate = k, 0, STEP / math.sqrt(mean.size)
        weights = [self.dictionary, self.encoder, self.threshold, self.mean]
        self.adam = torch.optim.Adam(weights, lr=self.rate)
        self.used = torch.zeros(n_atoms, dtype=torch.bool)
        self.dead = torch.zeros(n_atoms, dtype=torch.bool)

    def step(self, x: Tensor, total: int) -> None:
        """Take one of `total` gradient steps on samples x, shape (m, D)."""
        cosine = (1 + math.cos(math.pi * self.steps / total)) / 2
        self.adam.param_groups[0]["lr"] = self.rate * cosine
        self.steps += 1
        self.adam.zero_grad()
        self._loss(x).backward()  # type: ignore[no-untyped-call]
        self.adam.step()
        with torch.no_grad():
            self.dictionary /= self.dictionary.norm(dim=1, keepdim=True).clamp_min(1e-12)

    def _loss(self, x: Tensor) -> Tensor:
        """Mean squared error, and that of dead atoms on what is left: both per sample."""
        dense = (x - self.mean) @ self.encoder.T + self.threshold
        codes = largest(dense, self.k)
        left = x - codes @ self.dictionary - self.mean
        self.used |= (codes.detach() != 0).any(dim=0)
        loss = left.square().sum(dim=1).mean()
        if not self.dead.any():
            return loss
        # Gao et al. take k_aux = D / 2 dead atoms a sample; here as many as the level, twice.
        helped = largest(dense[:, self.dead], 2 * self.k) @ self.dictionary[self.dead]
        return loss + AUXILIARY * (left.detach() - helped).square().sum(dim=1).mean()

    def end_epoch(self) -> None:
        """Atoms that the epoch did not use are dead in the next one, until they are used."""
        self.dead = ~self.used
        self.used = torch.zeros_like(self.used)

    def frozen(self) -> TopK:
        """Return the autoencoder as it is now."""
        parts = (self.dictionary, self.encoder, self.threshold, self.mean)
        atoms, encoder, threshold, mean = (p.detach().clone().numpy() for p in parts)
        return TopK(dictionary=atoms, encoder=encoder, threshold=threshold, mean=mean, k=self.k)


def _start(train: windows.Rows, mean: Floats, n_atoms: int, seed: int) -> Floats:
    """Random training samples as unit atoms; random directions where samples run out or are 0."""
    rng = np.random.default_rng(seed)
    atoms = rng.standard_normal((n_atoms, mean.size))
    n = min(n_atoms, train.shape[0])
    rows = np.sort(rng.choice(train.shape[0], n, replace=False))
    # Each is read by itself: lazy samples know slices only.
    chosen = np.concatenate([train[int(i) : int(i) + 1] for i in rows]) - mean
    varied = np.square(chosen).sum(axis=1) > 1e-12
    atoms[:n][varied] = chosen[varied]
    return np.asarray(atoms / np.linalg.norm(atoms, axis=1, keepdims=True), np.float32)


def _error(model: TopK, samples: windows.Rows) -> float:
    """Sum of squared errors of `samples`, a batch at a time."""
    total = 0.0
    for batch in in_batches(samples)():
        x = np.asarray(batch)
        total += float(np.square(x - model.approximate(x), dtype=np.float64).sum())
    return total
