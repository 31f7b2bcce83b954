"""How much work a training is, and what that decides: threads and compilation.

Both rules know the config and the data's size only, never the machine's load or what lies in a
cache: the same config always runs alike.
"""

from __future__ import annotations

import torch
from torch import nn

from vaesc.models import VAE

_WORTH_COMPILING = {"float32": 2.5e13, "bf16": 1.5e13}
"""Floating-point operations of a whole training on a CPU above which compiling wins.

Measured on one core of AMD Zen 4 with the article's network: compiling takes 20 to 45 s, twice
that on a busy machine (6 s from the compiler's cache), and saves 13 % of the time in float32, 30 %
in bf16; the eager form makes 46 and 65 GFLOP/s.
"""
_GPU_FACTOR = 50.0
"""How many times faster a GPU is, and so how much more work it takes to win as many seconds."""


def flops_per_image(vae: VAE) -> float:
    """Return the floating-point operations of forward and backward products for one image."""
    total = 0.0

    def count(layer: nn.Module, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
        nonlocal total
        weight = layer.weight
        assert isinstance(weight, torch.Tensor)
        # A convolution applies its weights at every pixel of its smaller side.
        small = min(inputs[0][0, 0].numel(), output[0, 0].numel())
        # Two operations per weight forward, twice that backward.
        total += 6.0 * weight.numel() * small

    kinds = (nn.Linear, nn.Conv2d, nn.ConvTranspose2d)
    hooks = [m.register_forward_hook(count) for m in vae.modules() if isinstance(m, kinds)]
    with torch.no_grad():
        vae.decode_logits(vae.encode(torch.zeros(1, *vae.shape, device=vae.device))[0])
    for hook in hooks:
        hook.remove()
    return total


def is_worth_compiling(flops: float, precision: str, device_type: str) -> bool:
    """Say whether a training of so many operations wins back the time to compile its step."""
    return flops > _WORTH_COMPILING[precision] * (1.0 if device_type == "cpu" else _GPU_FACTOR)


def has_bf16(device: torch.device) -> bool:
    """Say whether a device multiplies bfloat16 numbers faster than float32."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if device.type == "cpu":
        return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())
    return False
