"""The op ``normalize_image``: uint8 pictures to normalized patches, so that a patch embedding is one matrix product."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from kernels import reference
from kernels.library import call, register


def _fake(
    pixels: torch.Tensor, mean: Sequence[float], std: Sequence[float], patch: int, dtype: torch.dtype
) -> torch.Tensor:
    n, height, width, _ = pixels.shape
    patches = (height // patch) * (width // patch)
    return torch.empty((n, patches, 3 * patch * patch), dtype=dtype, device=pixels.device)


_OP = register("normalize_image", reference.normalize_image, _fake, launcher="triton_normalize_image:launch")


def normalize_image(
    pixels: torch.Tensor,
    mean: Sequence[float],
    std: Sequence[float],
    patch: int,
    dtype: torch.dtype,
    impl: str = "auto",
) -> torch.Tensor:
    """Convert uint8 (N, H, W, 3) to patches (N, P, 3·patch²) of `dtype`, ``(pixel / 255 - mean) / std``.

    ``normalize_image(...) @ conv1.weight.flatten(1).T`` is the patch embedding of a ViT: a patch's values are in the order
    channel, row, column. Pixels that fill no whole patch are left out, as in a convolution with that stride.

    Args:
        pixels: pictures after resize and crop, channels last.
        mean: mean of each channel, of values from 0 to 1.
        std: standard deviation of each channel.
        patch: side of a patch in pixels.
        dtype: dtype of the result: float16, bfloat16 or float32.
        impl: "auto", "triton" or "native", see `kernels.library.call`.

    Raises:
        ValueError: pixels have another dtype or shape, `impl` is another name, or "triton" is given where no kernel can run.
    """
    if pixels.dtype != torch.uint8 or pixels.ndim != 4 or pixels.shape[3] != 3:
        raise ValueError(f"pixels are {pixels.dtype} {tuple(pixels.shape)}, expected torch.uint8 (N, H, W, 3)")
    if len(mean) != 3 or len(std) != 3:
        raise ValueError(f"mean and std have {len(mean)} and {len(std)} values, expected one for each of 3 channels")
    return call(_OP, impl, pixels, mean, std, patch, dtype)
