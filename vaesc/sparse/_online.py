r"""State of online dictionary learning, and one step of it.

A step codes a small batch with the present dictionary, adds the batch to the sufficient statistics
:math:`A = Z^\top Z`, :math:`B = Z^\top X` of the batches before, which fade, and moves every atom
once to its best place given the statistics. All randomness comes from one generator and all sums
are taken in a fixed order, so the number of threads changes nothing.

References:
    Mairal, Bach, Ponce, Sapiro, "Online dictionary learning for sparse coding", 2009.
    https://doi.org/10.1145/1553374.1553463
"""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vaesc.sparse._blocks import DEFAULT_BLOCK_BYTES, BlockRunner
from vaesc.sparse._coder import Slots
from vaesc.sparse._descend import descend
from vaesc.sparse._start import unit_rows
from vaesc.sparse._truncated_coder import coder_for
from vaesc.sparse._validation import Rule


@dataclass(kw_only=True)
class OnlineState:
    """Everything that the next step depends on."""

    dictionary: NDArray[np.float32]
    """Atoms, shape (K, d), unit rows."""
    n_nonzero_coefs: int
    selection: Rule
    memory: float = 2.0
    """Batches that the statistics remember at first: a step fades them by ``1 - 1/memory``."""
    memory_growth: float = 0.03
    """Part of all batches so far that they remember later: few at first, while old codes are
    far from what the present dictionary gives, then more and more, to average the noise out."""
    dead_below: float = 0.02
    """An atom used less than this fraction of the mean use is replaced."""
    max_coherence: float = 1.0
    """Of two atoms with a larger absolute cosine one is replaced; 1 allows any."""
    gram: NDArray[np.float32] = field(init=False)
    products: NDArray[np.float32] = field(init=False)
    usage: NDArray[np.float32] = field(init=False)
    n_steps: int = 0
    n_revived: int = 0

    def __post_init__(self) -> None:
        n_atoms, d = self.dictionary.shape
        self.gram = np.zeros((n_atoms, n_atoms), np.float32)
        self.products = np.zeros((n_atoms, d), np.float32)
        self.usage = np.zeros(n_atoms, np.float32)

    def step(self, batch: NDArray[np.float32], runner: BlockRunner) -> float:
        """Learn from one batch, shape (b, d); return its squared error per element before."""
        coder = coder_for(self.dictionary, self.n_nonzero_coefs, self.selection)
        slots = coder.code(batch, runner, _code_block_bytes(len(batch), self.dictionary))
        self.n_steps += 1
        remembered = max(float(self.memory), self.memory_growth * self.n_steps)
        kept = np.float32(1 - 1 / min(self.n_steps, remembered))
        for statistic in (self.gram, self.products, self.usage):
            statistic *= kept
        self._add(slots, batch, runner)
        descend(self.dictionary, self.gram, self.products)
        if self.n_steps % max(int(remembered), 1) == 0:
            self._revive(slots, batch)
        return float(slots.residual.mean()) / int(batch.shape[1])

    def _add(self, slots: Slots, batch: NDArray[np.float32], runner: BlockRunner) -> None:
        from vaesc.sparse._update import add_gram, add_products

        codes = slots.atoms, slots.values, slots.counts

        def columns(first: int, last: int) -> None:
            add_products(*codes, batch, first, last, self.products)

        runner.run(columns, batch.shape[1], max(64, -(-batch.shape[1] // 4)))
        add_gram(*codes, self.gram, self.usage)

    def _revive(self, slots: Slots, batch: NDArray[np.float32]) -> None:
        """Put the worst-coded samples of the batch in the place of atoms that do no work."""
        spare = self._spare_atoms()
        worst = np.argsort(-slots.residual, kind="stable")[: len(spare)]
        scale = float(np.square(batch).sum(axis=1).max())
        worst = worst[slots.residual[worst] > max(1e-6 * scale, 1e-30)]
        spare = spare[: len(worst)]
        if spare.size == 0:
            return
        self.dictionary[spare] = unit_rows(batch[worst])
        self.gram[spare] = 0.0
        self.gram[:, spare] = 0.0
        self.products[spare] = 0.0
        self.usage[spare] = self.usage.mean()
        self.n_revived += int(spare.size)

    def _spare_atoms(self) -> NDArray[np.int64]:
        """Atoms hardly used, least first, then the less used of nearly parallel pairs."""
        dead = np.flatnonzero(self.usage < self.dead_below * self.usage.mean())
        dead = dead[np.argsort(self.usage[dead], kind="stable")]
        if self.max_coherence >= 1:
            return dead
        cosines = np.abs(np.tril(self.dictionary @ self.dictionary.T, -1))
        pairs = np.argwhere(cosines > self.max_coherence)
        order = np.argsort(-cosines[pairs[:, 0], pairs[:, 1]], kind="stable")
        twins: dict[int, None] = {}
        for i, j in pairs[order]:
            if not {int(i), int(j)} & (twins.keys() | set(dead.tolist())):
                twins[int(i if self.usage[i] < self.usage[j] else j)] = None
        few = max(1, len(self.dictionary) // 50)
        return np.concatenate([dead, np.array(list(twins)[:few], np.int64)])


def _code_block_bytes(n: int, dictionary: NDArray[Any]) -> int:
    """Blocks of a quarter of the batch, so that up to four threads share it."""
    return min(DEFAULT_BLOCK_BYTES, max(1, -(-n // 4)) * max(len(dictionary), 64) * 4)
