"""Compression: a codec for images like those that the model was trained on.

======================  =========================================================================
module                  what it says
======================  =========================================================================
:mod:`.quantise`        which level of a coefficient is worth its bits
:mod:`.transforms`      what a sparse code leaves over, in coordinates of its kind of image
:mod:`.layers`          an image as a sparse code, with as many atoms as pay, and as details
:mod:`.entropy`         levels to bits and back, by a model of codes and a range coder
:mod:`.files`           the file: header, index, blocks, checksums
:mod:`.codec`           images to bytes and back: :class:`.Codec`
:mod:`.learning`        all of this from training images
:mod:`.peers`           PNG, JPEG, WebP, AVIF, JPEG XL
:mod:`.pixels`          the same coder without the VAE: kinds of pixels, and PCA
:mod:`.bound`           what a lossless coder would need, by bits back
:mod:`.evaluation`      rate and distortion of them all on the test images
:mod:`.telling`         figures, sentence and tables of what was measured
======================  =========================================================================
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vaesc.applications.findings import Findings
    from vaesc.applications.subject import Subject
    from vaesc.config import CompressionConfig


def apply(config: CompressionConfig, subject: Subject) -> Findings:
    """Learn the model's codec, and measure it on test images beside others.

    Args:
        config: Its settings.
        subject: The model, its data, and the folder for the part and the pictures.
    """
    from vaesc.applications.compression.evaluation import evaluate

    return evaluate(config, subject)
