"""Classifiers that see only the labelled images: M1, which is a VAE and a classifier of latents.

Their settings are fixed beforehand: a handful of labels has none to spare for choosing them.

References:
    Kingma, Rezende, Mohamed, Welling, "Semi-supervised Learning with Deep Generative Models",
    2014 (M1, with a transductive support vector machine).
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]


def probe(
    kind: Literal["linear", "svm"], features: NDArray[Any], classes: Ints, others: NDArray[Any]
) -> Ints:
    """Return the classes of `others`, as the labelled ones teach them.

    Args:
        kind: Logistic regression, or a support vector machine with a Gaussian kernel.
        features: Of the labelled images, shape (n, d).
        classes: Theirs, two at least, shape (n,).
        others: Features of other images, shape (m, d).

    Returns:
        Shape (m,).
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.svm import SVC

    # One scale for all dimensions: a latent that does not vary must not be blown up.
    mean, scale = features.mean(axis=0), max(float(features.std()), 1e-6)
    fitted: Any = (
        LogisticRegression(C=1.0, max_iter=1000) if kind == "linear" else SVC(C=10, gamma="scale")
    )
    fitted.fit((features - mean) / scale, classes)
    return np.asarray(fitted.predict((others - mean) / scale), np.int64)
