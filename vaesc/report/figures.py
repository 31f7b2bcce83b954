"""The figures of an evaluation, as PNG files.

Figures with axes are drawn in a light and a dark theme, those that hold many words also for narrow
screens (:mod:`vaesc.report.style`). Sheets of pictures have no words in them; the page writes
those (:mod:`vaesc.report.sprites`).

=========================== ===================================================================
``curve``                   test MSE against k for every method; the ratio the verdict rests on
``rate``                    test MSE against bits an image, if the evaluation counted bits
``learning``                the VAE's negative ELBO over the epochs
``refining``                the refined models' validation error over the epochs
``posterior``               KL of each latent dimension, over the epochs and sorted
``reconstructions``         sheet: originals, and what each method makes of them
``card-effects, -images``   sheets: what atoms change, and the images that use them most
=========================== ===================================================================
"""

from __future__ import annotations

from vaesc.report.curves import draw_curve
from vaesc.report.learning import draw_history, draw_refinement
from vaesc.report.posterior import draw_posterior
from vaesc.report.rate import draw_rate
from vaesc.report.sprites import draw_cards

__all__ = [
    "draw_cards",
    "draw_curve",
    "draw_history",
    "draw_posterior",
    "draw_rate",
    "draw_refinement",
]
