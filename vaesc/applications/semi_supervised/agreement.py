r"""Many labels: the classes that a network and the graph agree on.

With a handful of labels a network needs the graph's guesses to learn from. With dozens of each
class it is better off without: it then errs on other images than the graph does, and their
product,

.. math:: p(y) \propto (p_{network}(y) + \epsilon) \, (p_{graph}(y) + \epsilon),

errs less than either; a network that was taught by the graph has its mistakes, too. On validation
images (one draw) network, graph, product and self-training err on 17.5, 19.6, 15.5 and 21.0 % with
1,000 labels of Fashion-MNIST, on 1.87, 3.58, 1.70 and 2.47 % with 600 of MNIST, and on 1.40, 3.68,
1.37 and 2.32 % with 3,000.

References:
    Hinton, "Training Products of Experts by Minimizing Contrastive Divergence", 2002.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]

ENOUGH = 60
"""Labels, mean over classes, from which the product is better than self-training."""
_FLOOR = 1e-3
"""Neither may rule a class out."""


def enough(n_labels: int, n_classes: int) -> bool:
    """Return whether there are labels enough for a network to learn from them alone."""
    return n_labels >= ENOUGH * n_classes


def agreed(network: Floats, graph: Floats) -> Floats:
    """Return the normalised product of two predictions, shape (n, C) each."""
    product = (network + _FLOOR) * (graph + _FLOOR)
    return np.asarray(product / product.sum(axis=1, keepdims=True), np.float32)
