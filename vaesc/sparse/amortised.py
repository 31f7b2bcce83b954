r"""An amortised coder: a small network distilled from exact codes (LISTA with a top-k end).

Unrolled shrinkage steps with learned weights,

.. math::
    z_0 = s_{\theta_0}(W x), \qquad z_{t+1} = s_{\theta_t}(W x + S z_t),

of a sample of norm 1 propose a support: the k largest entries. Their coefficients are refitted by
least squares, so an amortised code is never worse than its support. On a CPU the exact kernels are
about as fast; a network is for GPUs, and for where a coder must be differentiable.

References:
    Gregor, LeCun, "Learning Fast Approximations of Sparse Coding", 2010.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from scipy.sparse import csr_array
from torch import Tensor, nn

from vaesc.sparse._blocks import AMORTISED_ROWS
from vaesc.sparse._coder import to_csr
from vaesc.sparse._validation import (
    Selection,
    as_dictionary,
    as_samples,
    check_finite_rows,
    check_level,
)
from vaesc.sparse.pursuit import orthogonal_matching_pursuit


class AmortisedCoder(nn.Module):
    """Codes samples by a network; made by :func:`distil`. A plain module: save its state dict."""

    dictionary: Tensor

    def __init__(self, dictionary: ArrayLike, n_nonzero_coefs: int, n_layers: int = 3) -> None:
        super().__init__()
        atoms = torch.from_numpy(as_dictionary(dictionary, np.float32).copy())
        self.n_nonzero_coefs = check_level("n_nonzero_coefs", n_nonzero_coefs, len(atoms))
        if n_layers < 0:
            raise ValueError(f"n_layers must be 0 or more, got {n_layers}")
        gram = atoms @ atoms.T
        rate = float(1 / torch.linalg.eigvalsh(gram.double())[-1].clamp_min(1e-30))
        self.register_buffer("dictionary", atoms)
        self.read = nn.Parameter(atoms * rate)
        self.mix = nn.Parameter(torch.eye(len(atoms)) - gram * rate)
        self.thresholds = nn.Parameter(torch.full((n_layers + 1, len(atoms)), 0.01 * rate))

    def forward(self, X: Tensor) -> Tensor:
        """Propose dense codes, shape (n, K), differentiably.

        Args:
            X: Samples of norm 1 (or 0), shape (n, d), float32.

        Returns:
            Proposal; its k largest entries are the support.
        """
        drive = X @ self.read.T
        codes = _shrink(drive, self.thresholds[0])
        for threshold in self.thresholds[1:]:
            codes = _shrink(drive + codes @ self.mix.T, threshold)
        return codes

    def weights(self) -> dict[str, NDArray[np.float32]]:
        """Return what was learned, as arrays: ``read``, ``mix`` and ``thresholds``."""
        return {name: p.detach().cpu().numpy().copy() for name, p in self.named_parameters()}

    @torch.no_grad()
    def encode(self, X: ArrayLike, n_nonzero_coefs: int | None = None) -> csr_array:
        """Code samples: the network's support, least-squares coefficients.

        Args:
            X: Samples, shape (n, d).
            n_nonzero_coefs: Sparsity level, from 1 to K; None means the one distilled at, where
                the network is best.

        Returns:
            Codes, shape (n, K), float32, `n_nonzero_coefs` a row; none for a zero sample.

        Raises:
            ValueError: `X` does not fit the dictionary or is not finite, or the level is out of
                range.
        """
        n_atoms, d = self.dictionary.shape
        samples = as_samples(X, d)
        level = self.n_nonzero_coefs if n_nonzero_coefs is None else n_nonzero_coefs
        n, k = samples.shape[0], check_level("n_nonzero_coefs", level, n_atoms)
        atoms, values = np.zeros((n, k), np.int32), np.zeros((n, k), np.float32)
        for start in range(0, n, AMORTISED_ROWS):
            rows = slice(start, min(start + AMORTISED_ROWS, n))
            unit, norms = _unit_rows(np.asarray(samples[rows]), start)
            block = torch.from_numpy(unit).to(self.dictionary.device)
            support = self(block).abs().topk(k, dim=1).indices.sort(dim=1).values
            atoms[rows] = support.cpu().numpy()
            with np.errstate(over="ignore"):  # to_csr looks for what does not fit
                values[rows] = self._refit(block, support).cpu().numpy() * norms
        counts = np.where(np.abs(values).max(axis=1, initial=0) > 0, k, 0).astype(np.int32)
        return to_csr(atoms, values, counts, n_atoms)

    def _refit(self, X: Tensor, support: Tensor) -> Tensor:
        """Least-squares coefficients on each sample's support, with a whisper of ridge."""
        chosen = self.dictionary[support]
        gram = chosen @ chosen.transpose(1, 2)
        gram.diagonal(dim1=1, dim2=2).add_(1e-6)
        target = (chosen @ X[:, :, None]).squeeze(2)
        coefs: Tensor = torch.linalg.solve(gram, target)
        return coefs


def from_weights(
    dictionary: ArrayLike, n_nonzero_coefs: int, weights: Mapping[str, NDArray[np.float32]]
) -> AmortisedCoder:
    """Put a coder together from its :meth:`AmortisedCoder.weights`.

    Args:
        dictionary: Atoms, shape (K, d).
        n_nonzero_coefs: Sparsity level it was distilled at.
        weights: What was learned.

    Raises:
        ValueError: The weights are not those of a coder of this dictionary.
    """
    try:
        n_layers, k, d = len(weights["thresholds"]) - 1, *np.shape(dictionary)
        shapes = {"read": (k, d), "mix": (k, k), "thresholds": (n_layers + 1, k)}
        for name, shape in shapes.items():  # first: a coder of K atoms takes room for K^2 numbers
            if np.shape(weights[name]) != shape:
                raise TypeError(f"{name} must be of shape {shape}")
        coder = AmortisedCoder(dictionary, n_nonzero_coefs, n_layers)
        for name, parameter in coder.named_parameters():
            value = torch.from_numpy(np.array(weights[name], np.float32))
            if not value.isfinite().all():
                raise TypeError(f"{name} must be finite")
            with torch.no_grad():
                parameter.copy_(value)
    except (KeyError, TypeError) as error:
        raise ValueError(f"these are no weights of an amortised coder: {error}") from error
    return coder.eval()


def _unit_rows(X: NDArray[Any], first_row: int) -> tuple[NDArray[np.float32], NDArray[np.float64]]:
    """Samples divided by their norms, and the norms, shape (n, 1); zero rows stay.

    The thresholds know one scale only: without this a small sample would have no code.
    """
    wide = np.asarray(X, np.float64)
    check_finite_rows(wide, np.arange(first_row, first_row + len(wide)))
    shift = np.frexp(np.abs(wide).max(axis=1, initial=0.0))[1][:, None]
    wide = np.ldexp(wide, -shift)
    norms = np.linalg.norm(wide, axis=1, keepdims=True)
    unit = np.ascontiguousarray(wide / np.where(norms > 0, norms, 1.0), np.float32)
    return unit, np.ldexp(norms, shift)


def _shrink(codes: Tensor, threshold: Tensor) -> Tensor:
    """Soft threshold; a negative threshold counts as zero."""
    return codes.sign() * (codes.abs() - threshold.clamp_min(0)).clamp_min(0)


def distil(
    X: ArrayLike,
    dictionary: ArrayLike,
    n_nonzero_coefs: int,
    *,
    seed: int,
    n_layers: int = 3,
    max_epochs: int = 10,
    batch_size: int = 256,
    learning_rate: float = 3e-3,
    selection: Selection = "ols",
) -> AmortisedCoder:
    """Train an amortised coder to give the exact greedy codes of the samples.

    Args:
        X: Samples to learn from, shape (n, d).
        dictionary: Atoms, shape (K, d), unit rows.
        n_nonzero_coefs: Sparsity level of the codes.
        seed: Fixes the order of the samples, the only random choice.
        n_layers: Shrinkage steps after the first; more are slower and more accurate.
        max_epochs: Passes over the samples.
        batch_size: Samples per step.
        learning_rate: Adam's rate at the start; it falls to zero along a cosine.
        selection: Rule of the exact codes.

    Returns:
        The trained coder.

    Raises:
        ValueError: Shapes do not fit or a setting is out of range.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1)  # small products, and the same sums on any number of cores
    try:
        return _distil(
            X, dictionary, n_nonzero_coefs, seed, n_layers, max_epochs, batch_size,
            learning_rate, selection,
        )  # fmt: skip
    finally:
        torch.set_num_threads(before)


def _distil(
    X: ArrayLike, dictionary: ArrayLike, n_nonzero_coefs: int, seed: int, n_layers: int,
    max_epochs: int, batch_size: int, learning_rate: float, selection: Selection,
) -> AmortisedCoder:  # fmt: skip
    if batch_size < 1 or max_epochs < 0:
        raise ValueError(
            f"batch_size must be at least 1 and max_epochs at least 0, got {batch_size} and "
            f"{max_epochs}"
        )
    coder = AmortisedCoder(dictionary, n_nonzero_coefs, n_layers)
    given = as_samples(X, coder.dictionary.shape[1])
    if given.shape[0] == 0:
        raise ValueError("X must hold at least one sample, got none")
    samples, _ = _unit_rows(np.asarray(given[:]), 0)
    exact = orthogonal_matching_pursuit(
        samples, dictionary, coder.n_nonzero_coefs, selection=selection
    ).astype(np.float32)
    scale = float(np.square(exact.data).mean()) if exact.nnz else 1.0
    optimiser = torch.optim.Adam(coder.parameters(), learning_rate)
    n_steps = max_epochs * -(-len(samples) // batch_size)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, max(n_steps, 1))
    rng = np.random.default_rng(seed)
    for _ in range(max_epochs):
        order = rng.permutation(len(samples))
        for start in range(0, len(samples), batch_size):
            rows = order[start : start + batch_size]
            loss = _misfit(coder, samples[rows], exact[rows].toarray(), scale)
            optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
            schedule.step()
    return coder.eval()


def _misfit(
    coder: AmortisedCoder, X: NDArray[np.float32], codes: NDArray[Any], scale: float
) -> Tensor:
    """Squared distance from the exact codes; entries of the support weigh as much as the rest."""
    wanted = torch.from_numpy(codes)
    square = (coder(torch.from_numpy(X)) - wanted).square()
    used = wanted != 0
    loss: Tensor = (square * used).sum() / used.sum().clamp_min(1) / scale
    loss += (square * ~used).sum() / used.sum().clamp_min(1) / scale
    return loss
