"""The figures of an evaluation, as PNG files in a light and a dark theme.

========================= =====================================================================
``curve``                 test MSE against k for every method; the ratio the verdict rests on
``reconstructions``       originals above what each method makes of them
``atoms``                 the atoms that carry most energy, decoded to images
``learning``              the VAE's negative ELBO over the epochs
``posterior``             KL of each latent dimension, over the epochs and sorted
========================= =====================================================================
"""

from __future__ import annotations

from vaesc.report.curves import draw_curve, draw_history
from vaesc.report.mosaics import draw_atoms, draw_reconstructions
from vaesc.report.posterior import draw_posterior

__all__ = ["draw_atoms", "draw_curve", "draw_history", "draw_posterior", "draw_reconstructions"]
