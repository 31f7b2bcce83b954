"""How methods are called, grouped and drawn; a name unknown here is drawn as a plain peer.

Whatever reads a comparison must see first what the verdict is on, then what others do with the
same k, then the controls, which say what each part of the method is worth.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

LABELS = {
    "refined": "refined latents",
    "article": "sparse latents",
    "pixel": "sparse pixels",
    "pixel_descended": "pixels, descended",
    "lasso": "lasso on latents",
    "pixel_lasso": "lasso on pixels",
    "topk_latents": "top-k AE, latents",
    "topk_pixels": "top-k AE, pixels",
    "vq": "VQ codebook",
    "literal": "step 4, literally",
    "random": "random dictionary",
    "shuffled": "shuffled latents",
    "largest": "k largest latents",
    "pca_latents": "PCA of latents",
    "pca": "PCA of pixels",
}
"""Short names, written at the curves' ends."""
MAIN = ("refined", "article", "pixel")
"""Methods drawn with intervals: the verdict is on two of them."""
CONTROLS = ("literal", "random", "shuffled", "largest", "pca_latents", "pca")
GROUPS = {
    "main": "Latents against pixels",
    "peers": "Others with the same k",
    "controls": "Controls",
}
"""Group -> its heading, in the order in which they are shown."""
_DASHES = {
    "pixel_descended": (2, 1),
    "lasso": (6, 1.4), "pixel_lasso": (6, 1.4), "topk_latents": (3, 1.2), "topk_pixels": (3, 1.2),
    "literal": (4, 1.6), "random": (1.2, 1.4), "shuffled": (1, 2.4), "largest": (5, 1.5, 1, 1.5),
    "pca_latents": (2.5, 1.2), "pca": (7, 2),
}  # fmt: skip


def label(name: str) -> str:
    """Return a method's short name."""
    return LABELS.get(name, name.replace("_", " "))


def dashes(name: str) -> tuple[float, ...]:
    """Return a method's dashes, in line widths."""
    return _DASHES.get(name, (3, 1.5))


def group_of(name: str) -> str:
    """Return the group a method is shown in."""
    if name in MAIN:
        return "main"
    return "controls" if name in CONTROLS else "peers"


def grouped(order: list[str]) -> Iterator[tuple[str, list[str]]]:
    """Yield each group's heading and its methods, in the order of `order`; no empty group."""
    for group, heading in GROUPS.items():
        names = [name for name in order if group_of(name) == group]
        if names:
            yield heading, names


def title(methods: Mapping[str, Any], name: str) -> str:
    """Return a method's full title, as far as its curve brings one."""
    return str(methods.get(name, {}).get("title") or label(name))
