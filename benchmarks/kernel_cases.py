"""Every op of `kernels` at the shapes of real towers, with its rivals: what `benchmarks.kernel_ops` times.

Inputs are random; FLOPs and bytes are the least that the op has to do and move, each tensor once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F

Calls = dict[str, Callable[[], object]]


@dataclass(frozen=True)
class TowerShape:
    """What a tower asks of the kernels.

    Attributes:
        name: architecture and tower.
        length: tokens.
        width, heads, mlp: of a block.
        causal: a text tower.
        pixels, patch: of an image tower, in pixels; 0 for texts.
        approximate: form of GELU.
    """

    name: str
    length: int
    width: int
    heads: int
    mlp: int
    causal: bool = False
    pixels: int = 0
    patch: int = 0

    @property
    def head_dim(self) -> int:
        """D."""
        return self.width // self.heads


TOWERS = (
    TowerShape("ViT-B-32 image", 50, 768, 12, 3072, pixels=224, patch=32),
    TowerShape("ViT-B-16 image", 197, 768, 12, 3072, pixels=224, patch=16),
    TowerShape("ViT-L-14 image", 257, 1024, 16, 4096, pixels=224, patch=14),
    TowerShape("ViT-L-14-336 image", 577, 1024, 16, 4096, pixels=336, patch=14),
    TowerShape("ViT-H-14 image", 257, 1280, 16, 5120, pixels=224, patch=14),
    TowerShape("ViT-bigG-14 image", 257, 1664, 16, 8192, pixels=224, patch=14),
    TowerShape("ViT-B-32 text", 77, 512, 8, 2048, causal=True),
    TowerShape("ViT-L-14 text", 77, 768, 12, 3072, causal=True),
    TowerShape("ViT-H-14 text", 77, 1024, 16, 4096, causal=True),
    TowerShape("ViT-bigG-14 text", 77, 1280, 20, 5120, causal=True),
)


@dataclass(frozen=True)
class KernelCase:
    """One op at one shape.

    Attributes:
        op: its name in `kernels`.
        shape: for the table of choices; see `kernels.choices`.
        label: of the shape, with the tower it is from.
        flops: multiplications and additions; 0 for ops that only move data.
        bytes: read and written.
        calls: makes the inputs, and gives each implementation's call: ``triton`` is ours, ``native`` plain PyTorch.
    """

    op: str
    shape: tuple[int, ...]
    label: str
    flops: float
    bytes: float
    calls: Callable[[], Calls]


def cases_of(tower: TowerShape, batch: int, dtype: torch.dtype, device: str) -> Iterator[KernelCase]:
    """All ops of a tower at a batch size."""
    size = dtype.itemsize
    n, length, width, heads, mlp = batch, tower.length, tower.width, tower.heads, tower.mlp
    rows = n * length

    def random(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, device=device, dtype=torch.float32).to(dtype)

    pairs = length * (length + 1) / 2 if tower.causal else length * length
    yield KernelCase(
        "attention",
        (n, length, heads, tower.head_dim),
        f"{n}x{length}x{heads}x{tower.head_dim}{' causal' if tower.causal else ''}",
        4 * n * pairs * width,
        4 * rows * width * size,
        lambda: _attention_calls(random(n, length, 3 * width), heads, tower.causal),
    )
    if tower.causal:
        lengths = _caption_lengths(n)
        total, longest = int(lengths.sum()), int(lengths.max())
        yield KernelCase(
            "packed_attention",
            (total, longest, heads, tower.head_dim),
            f"{total} tokens of {n} captions x{heads}x{tower.head_dim}",
            float(4 * width * (lengths * (lengths + 1) / 2).sum()),
            4 * total * width * size,
            lambda: _packed_calls(random(total, 3 * width), random(n, length, 3 * width), heads, lengths, device),
        )
    yield KernelCase(
        "bias_gelu",
        (rows, mlp),
        f"{rows}x{mlp}",
        0.0,
        2 * rows * mlp * size,
        lambda: _bias_gelu_calls(random(rows, mlp), random(mlp)),
    )
    yield KernelCase(
        "linear_gelu",
        (rows, width, mlp),
        f"{rows}x{width}x{mlp}",
        2.0 * rows * width * mlp,
        (rows * width + width * mlp + rows * mlp) * size,
        lambda: _linear_gelu_calls(random(rows, width), random(mlp, width) * width**-0.5, random(mlp)),
    )
    yield KernelCase(
        "add_layer_norm",
        (rows, width),
        f"{rows}x{width}",
        0.0,
        4 * rows * width * size,
        lambda: _add_norm_calls(random(rows, width), random(rows, width), random(width), random(width)),
    )
    if tower.patch:
        pixels = n * tower.pixels**2 * 3
        yield KernelCase(
            "normalize_image",
            (n, tower.pixels, tower.pixels, tower.patch),
            f"{n}x{tower.pixels}x{tower.pixels}x{tower.patch}",
            0.0,
            pixels * (1 + size),
            lambda: _image_calls(n, tower.pixels, tower.patch, dtype, device),
        )
    yield KernelCase(
        "l2_normalize",
        (n, width),
        f"{n}x{width}",
        0.0,
        n * width * (size + 4),
        lambda: _normalize_calls(random(n, width)),
    )


def _compiled(function: Callable[..., Any], *args: Any) -> Callable[[], object]:
    compiled = torch.compile(function, dynamic=False)
    return lambda: compiled(*args)


def _attention_calls(qkv: torch.Tensor, heads: int, causal: bool) -> Calls:
    from torch.nn.attention import SDPBackend, sdpa_kernel

    from kernels import reference
    from kernels.attention import attention

    def backend(which: Any) -> Callable[[], object]:
        def call() -> object:
            with sdpa_kernel(which):
                return reference.attention(qkv, heads, causal)

        return call

    calls: Calls = {
        "triton": lambda: attention(qkv, heads, causal, impl="triton"),
        "native": lambda: reference.attention(qkv, heads, causal),
        "torch.compile": _compiled(reference.attention, qkv, heads, causal),
    }
    if qkv.is_cuda:
        calls |= {
            "sdpa flash": backend(SDPBackend.FLASH_ATTENTION),
            "sdpa cudnn": backend(SDPBackend.CUDNN_ATTENTION),
            "sdpa efficient": backend(SDPBackend.EFFICIENT_ATTENTION),
        }
    return calls


def _packed_calls(
    packed: torch.Tensor, padded: torch.Tensor, heads: int, lengths: np.ndarray[Any, Any], device: str
) -> Calls:
    from kernels import reference
    from kernels.attention import packed_attention

    ends = torch.from_numpy(np.concatenate(([0], np.cumsum(lengths))).astype(np.int32)).to(device)
    longest = int(lengths.max())
    return {
        "triton": lambda: packed_attention(packed, heads, ends, longest, True, impl="triton"),
        "native": lambda: reference.packed_attention(packed, heads, ends, longest, True),
        # What a tower without packing computes: all captions at full length.
        "padded to 77": lambda: reference.attention(padded, heads, True),
    }


def _bias_gelu_calls(x: torch.Tensor, bias: torch.Tensor) -> Calls:
    from kernels import reference
    from kernels.bias_gelu import bias_gelu

    return {
        "triton": lambda: bias_gelu(x, bias, "none", impl="triton"),
        "native": lambda: reference.bias_gelu(x, bias),
        "torch.compile": _compiled(reference.bias_gelu, x, bias),
    }


def _linear_gelu_calls(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> Calls:
    from kernels import reference
    from kernels.bias_gelu import bias_gelu
    from kernels.linear_gelu import linear_gelu

    calls: Calls = {
        "triton": lambda: linear_gelu(x, weight, bias, "none", impl="triton"),
        "native": lambda: reference.linear_gelu(x, weight, bias),
        "torch.compile": _compiled(reference.linear_gelu, x, weight, bias),
        "matmul alone": lambda: F.linear(x, weight),
    }
    if x.is_cuda:
        calls["vendor matmul + bias_gelu"] = lambda: bias_gelu(F.linear(x, weight), bias, "none", impl="triton")
    return calls


def _add_norm_calls(x: torch.Tensor, residual: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> Calls:
    from kernels import reference
    from kernels.add_layer_norm import add_layer_norm

    return {
        "triton": lambda: add_layer_norm(x, residual, weight, bias, 1e-5, impl="triton"),
        "native": lambda: reference.add_layer_norm(x, residual, weight, bias, 1e-5),
        "torch.compile": _compiled(reference.add_layer_norm, x, residual, weight, bias, 1e-5),
    }


def _image_calls(n: int, pixels: int, patch: int, dtype: torch.dtype, device: str) -> Calls:
    from benchmarks.subject import CLIP_MEAN, CLIP_STD
    from kernels import reference
    from kernels.normalize_image import normalize_image

    x = torch.randint(0, 256, (n, pixels, pixels, 3), dtype=torch.uint8, device=device)
    mean, std = list(CLIP_MEAN), list(CLIP_STD)
    return {
        "triton": lambda: normalize_image(x, mean, std, patch, dtype, impl="triton"),
        "native": lambda: reference.normalize_image(x, mean, std, patch, dtype),
        "torch.compile": _compiled(reference.normalize_image, x, mean, std, patch, dtype),
    }


def _normalize_calls(x: torch.Tensor) -> Calls:
    from kernels import reference
    from kernels.l2_normalize import l2_normalize

    return {
        "triton": lambda: l2_normalize(x, impl="triton"),
        "native": lambda: reference.l2_normalize(x),
        "torch.compile": _compiled(reference.l2_normalize, x),
    }


def _caption_lengths(count: int) -> np.ndarray[Any, Any]:
    """Ids of captions as people write them: 8 to 25, most of them short."""
    rng = np.random.default_rng(0)
    return np.clip(8 + rng.gamma(2.0, 2.5, count), 8, 25).astype(np.int64)
