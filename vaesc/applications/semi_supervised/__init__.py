"""Semi-supervised learning: classes of all images from a few labels.

The model was trained without labels; in its latents images of one class lie together. How many
labels does it take to name the classes? Measured on the test images, which no method sees before:

- M1: a classifier of the labelled images' latents, or sparse codes (:mod:`.probes`).
- M1+M2: a generative model of latents in which the class is a variable (:mod:`.kingma`).
- Spreading: labels spread over the graph of nearest latents (:mod:`.spreading`).
- Ours. With few labels self-training: a network of pixels learns from what the graph is sure of,
  is corrected by the graph, and learns again (:mod:`.selftraining`). With dozens of each class a
  network that the labels alone taught, times the graph (:mod:`.agreement`).

All are *inductive*: graph and trainings know the training images alone. Settings were chosen on
validation images, with other draws of labels than those that are reported. For files of
images the application is ``vaesc label`` (:mod:`.labelling`).
"""

from __future__ import annotations

from vaesc.applications.findings import Findings
from vaesc.applications.semi_supervised.features import part_of
from vaesc.applications.semi_supervised.measurement import measure
from vaesc.applications.semi_supervised.telling import nothing, told
from vaesc.applications.subject import Subject
from vaesc.config import SemiSupervisedConfig
from vaesc.parts import PART, save_part


def apply(config: SemiSupervisedConfig, subject: Subject) -> Findings:
    """Measure how well few labels do; keep the encoder if the model's own is another."""
    if subject.model is not subject.article:
        save_part(part_of(subject.article.vae), subject.folder / PART)
    try:
        errors, missed = measure(subject, config)
    except ValueError as error:
        return nothing(str(error))
    return told(config, subject, errors, missed)
