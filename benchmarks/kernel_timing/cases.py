"""Every op of `kernels` at the shapes of real towers, for `benchmarks.kernel_ops` to time.

FLOPs and bytes are the least that the op has to do and move, each tensor once.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch

from benchmarks.kernel_timing import calls as kernel_calls
from benchmarks.kernel_timing.calls import Work
from kernels import choices


@dataclass(frozen=True)
class TowerShape:
    """The shapes of a tower's ops.

    Attributes:
        name: architecture and tower.
        length: number of tokens.
        width, heads, mlp: channels, attention heads and inner channels of a block.
        causal: a text tower whose tokens attend to those before them.
        pixels, patch: sides of an image and of its patches, in pixels; 0 for texts.
        mode: the kind of attention: ``plain``; ``rotary``: q and k are rotated; ``masked``: keys that are padding are masked.
        stand_in: a tiny tower, to try the commands; it is taken only where it is named whole.
    """

    name: str
    length: int
    width: int
    heads: int
    mlp: int
    causal: bool = False
    pixels: int = 0
    patch: int = 0
    mode: str = "plain"
    stand_in: bool = False

    @property
    def head_dim(self) -> int:
        """D, the channels of one head."""
        return self.width // self.heads


TOWERS = (
    TowerShape("ViT-B-32 image", 50, 768, 12, 3072, pixels=224, patch=32),
    TowerShape("ViT-B-16 image", 197, 768, 12, 3072, pixels=224, patch=16),
    TowerShape("ViT-L-14 image", 257, 1024, 16, 4096, pixels=224, patch=14),
    TowerShape("ViT-L-14-336 image", 577, 1024, 16, 4096, pixels=336, patch=14),
    TowerShape("ViT-H-14 image", 257, 1280, 16, 5120, pixels=224, patch=14),
    TowerShape("ViT-bigG-14 image", 257, 1664, 16, 8192, pixels=224, patch=14),
    TowerShape("EVA02-B-16 image", 197, 768, 12, 2048, pixels=224, patch=16, mode="rotary"),
    TowerShape("ViT-B-32 text", 77, 512, 8, 2048, causal=True),
    TowerShape("ViT-L-14 text", 77, 768, 12, 3072, causal=True),
    TowerShape("ViT-H-14 text", 77, 1024, 16, 4096, causal=True),
    TowerShape("ViT-bigG-14 text", 77, 1280, 20, 5120, causal=True),
    TowerShape("roberta-ViT-B-32 text", 77, 768, 12, 3072, mode="masked"),
    TowerShape("stand-in image", 17, 64, 2, 128, pixels=32, patch=8, stand_in=True),
    TowerShape("stand-in text", 7, 64, 2, 128, causal=True, stand_in=True),
)
# All but bias_gelu alone, which only convolutional MLPs need: `auto` takes PyTorch's own there.
OPS = tuple(op for op in choices.SHAPES if op != "bias_gelu")


@dataclass(frozen=True)
class KernelCase:
    """One op at one shape.

    Attributes:
        op: the op's name in the table of `kernels.choices`.
        shape: the shape for that table.
        label: the shape in words.
        flops: number of multiplications and additions; 0 for ops that only move data.
        bytes: bytes read and written.
        make: a function that makes the inputs, and returns each implementation's call.
    """

    op: str
    shape: tuple[int, ...]
    label: str
    flops: float
    bytes: float
    make: Callable[[], Work]


def towers_named(names: tuple[str, ...] | list[str]) -> list[TowerShape]:
    """Towers by their names or parts of them, all real ones for none; stand-ins only where they are named whole."""
    return [
        tower
        for tower in TOWERS
        if tower.name in names or (not tower.stand_in and (not names or any(name in tower.name for name in names)))
    ]


def cases_of(tower: TowerShape, batch: int, dtype: torch.dtype, device: str) -> Iterator[KernelCase]:
    """All ops of a tower at a batch size; nothing is made before `KernelCase.make`."""
    yield _attention(tower, batch, dtype, device)
    if tower.causal:
        yield _packed(tower, batch, dtype, device)
    yield from _products(tower, batch, dtype, device)
    yield from _rows(tower, batch, dtype, device)


def _attention(tower: TowerShape, n: int, dtype: torch.dtype, device: str) -> KernelCase:
    pairs = tower.length * (tower.length + 1) / 2 if tower.causal else tower.length**2
    kind = "causal_" if tower.causal else "" if tower.mode == "plain" else f"{tower.mode}_"
    shape = (n, tower.length, tower.heads, tower.head_dim)
    return KernelCase(
        f"{kind}attention",
        shape,
        "x".join(map(str, shape)),
        4 * n * pairs * tower.width,
        4 * n * tower.length * tower.width * dtype.itemsize,
        lambda: kernel_calls.attention(shape, tower.causal, tower.mode, dtype, device),
    )


def _packed(tower: TowerShape, n: int, dtype: torch.dtype, device: str) -> KernelCase:
    lengths = _caption_lengths(n, tower.length)
    total = int(lengths.sum())
    return KernelCase(
        "packed_attention",
        (total, tower.length, tower.heads, tower.head_dim),
        f"{total} tokens of {n} captions x{tower.heads}x{tower.head_dim}",
        float(4 * tower.width * (lengths * (lengths + 1) / 2).sum()),
        4 * total * tower.width * dtype.itemsize,
        lambda: kernel_calls.packed_attention(lengths, tower.length, tower.heads, tower.head_dim, dtype, device),
    )


def _products(tower: TowerShape, n: int, dtype: torch.dtype, device: str) -> Iterator[KernelCase]:
    rows, width, mlp = n * tower.length, tower.width, tower.mlp
    for op, form in (("mlp", "none"), ("quick_mlp", "quick")):
        yield KernelCase(
            op,
            (rows, width, mlp),
            f"{rows}x{width}x{mlp}",
            2.0 * rows * width * mlp,
            (rows * width + width * mlp + rows * mlp) * dtype.itemsize,
            functools.partial(kernel_calls.mlp, (rows, width, mlp), form, dtype, device),
        )


def _rows(tower: TowerShape, n: int, dtype: torch.dtype, device: str) -> Iterator[KernelCase]:
    rows, width, size = n * tower.length, tower.width, dtype.itemsize
    yield KernelCase(
        "add_layer_norm",
        (rows, width),
        f"{rows}x{width}",
        0.0,
        4 * rows * width * size,
        lambda: kernel_calls.add_layer_norm(rows, width, dtype, device),
    )
    if tower.patch:
        shape = (n, tower.pixels, tower.pixels, tower.patch, width)
        values = n * tower.pixels**2 * 3
        patches = n * (tower.pixels // tower.patch) ** 2
        yield KernelCase(
            "patches",
            shape,
            "x".join(map(str, shape)),
            2.0 * values * width,
            values + (3 * tower.patch**2 * width + patches * width) * size,
            lambda: kernel_calls.patches(shape, dtype, device),
        )
    yield KernelCase(
        "l2_normalize",
        (n, width),
        f"{n}x{width}",
        0.0,
        n * width * (size + 4),
        lambda: kernel_calls.l2_normalize(n, width, dtype, device),
    )


def _caption_lengths(count: int, longest: int) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    """(N,) numbers of ids of captions as people write them: 8 to 25, most of them short."""
    rng = np.random.default_rng(0)
    lengths = np.clip(8 + rng.gamma(2.0, 2.5, count), 8, 25).astype(np.int64)
    return np.minimum(lengths, longest)
