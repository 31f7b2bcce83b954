r"""The article's claim as an experiment: every method on the test split, at equal k and K.

The question is whether decoding sparse codes of latents reconstructs images better than
sparse-coding their pixels. The answer needs more than two curves:

- the *same budget*: every method spends at most k numbers on an image, and every dictionary has K
  atoms, learned for that k by one learner with the same settings
  (:mod:`vaesc.evaluation.dictionaries`);
- *null controls*, which show what the same machinery reaches without having learned a dictionary
  (:mod:`vaesc.evaluation.controls`);
- *peers*: the lasso as another coder, sparse autoencoders whose encoder is one product, and a
  codebook (:mod:`vaesc.evaluation.peers`);
- *equal bits* beside equal k: support and quantised coefficients, and apart from them what
  networks and dictionaries cost once (:mod:`vaesc.evaluation.rate`);
- the *floor*: no code of a latent beats decoding the latent itself by more than luck;
- *intervals*: images are resampled in pairs, and the verdict at each k follows from the interval
  (:mod:`vaesc.evaluation.verdict`).

Everything is fitted on the training split and measured on the test split, once.

What takes longest on the test split, codes by descent and errors at equal bits, may be computed by
many workers (:mod:`vaesc.evaluation.rate_shards`). What is learned or fitted, the bounds (of a
fixed number of images), the errors at equal k and the figures are this process's.
"""

from __future__ import annotations

from vaesc.evaluation.experiment import evaluate

__all__ = ["evaluate"]
