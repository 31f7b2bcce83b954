r"""The step *refine*: train encoder, dictionary and decoder on what the decoder will really see.

In the article's recipe the decoder is trained on samples of q(z|x) and then shown
:math:`D^\top a`, which it never saw; and at large k the VAE's own error is a floor below which no
code can come. Refinement removes both obstacles, for each sparsity level k by itself:

1. *Start from the rival* (:mod:`vaesc.refinement.network`). The pixel dictionary of level k is
   written as a linear VAE: latents are coordinates in the span of its atoms, where coding is what
   it was in pixel space, to rounding. So the first decoder(D a) has exactly the pixel
   dictionary's error, and training goes on from there.
2. *Train through the code* (:mod:`vaesc.refinement.fit`). With the atoms S that the pursuit chose
   held fixed, the coded latent is the orthogonal projection of the latent on their span: a smooth
   function of latent and atoms, differentiated exactly, without a straight-through guess. With a
   single atom the nearest decoded picture chooses instead, and the decoder learns a curve for
   each atom.
3. *Stay a VAE*. Plain reconstruction from sampled latents and the KL term stay in the loss.
4. *Choose on validation data*: the epoch with the lowest error of decoder(D a), the start among
   the candidates.
5. *Code by what will be seen* (:mod:`vaesc.decoder_coding`). When an image is coded, coefficients
   descend the decoded error; with a single atom the nearest decoded picture chooses, as in
   training.

What comes out is an ordinary VAE and an ordinary dictionary for each level, and the dictionary
knows how it is to be coded in.
"""

from __future__ import annotations

from typing import Any

__all__ = ["refine"]


def __getattr__(name: str) -> Any:  # noqa: ANN401 - whatever the module defines
    """Load the step when it is first asked for (PEP 562): it imports torch."""
    if name != "refine":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from vaesc.refinement.step import refine

    return refine
