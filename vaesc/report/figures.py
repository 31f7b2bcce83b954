"""The figures of an evaluation, as PNG files in a light and a dark theme.

========================= =====================================================================
``curve``                 test MSE against k for every method; the ratio the verdict rests on
``reconstructions``       originals above what each method makes of them
``atoms``                 the atoms that carry most energy, decoded to images
``learning``              the VAE's negative ELBO over the epochs
========================= =====================================================================
"""

from __future__ import annotations

from vaesc.report.curves import draw_curve, draw_history
from vaesc.report.mosaics import draw_atoms, draw_reconstructions

__all__ = ["draw_atoms", "draw_curve", "draw_history", "draw_reconstructions"]
