"""Fused modules over the same parameters as the native ones, which `kernels.swap` puts in their place.

Shapes: N batch, L tokens, C width, H heads, D head size. The residual stream is (N, L, C).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from kernels.add_layer_norm import add_layer_norm
from kernels.attention import attention, packed_attention
from kernels.attention_variants import DEFAULT
from kernels.bias_gelu import bias_gelu
from kernels.l2_normalize import l2_normalize
from kernels.linear_gelu import linear_gelu
from kernels.normalize_image import normalize_image


class FusedSelfAttention(nn.Module):
    """Self-attention on the packed projection, without transposes, copies or a mask tensor.

    Args:
        qkv, out: the projections; rows of `qkv` are ordered q, k, v.
        heads: H.
        causal: whether every token attends only to itself and to the tokens before it.
        cos, sin: rotary tables (L, D) by halves, or None.
        inner_norm: the norm before `out` (EVA02), or None.
        variant: the kernel, by its name in `kernels.attention_variants`.
    """

    cos: torch.Tensor | None
    sin: torch.Tensor | None

    def __init__(
        self,
        qkv: nn.Linear,
        out: nn.Linear,
        heads: int,
        causal: bool,
        cos: torch.Tensor | None = None,
        sin: torch.Tensor | None = None,
        inner_norm: nn.Module | None = None,
        variant: str = DEFAULT,
    ) -> None:
        super().__init__()
        self.qkv, self.out, self.inner_norm = qkv, out, inner_norm
        self.heads, self.causal, self.variant = heads, causal, variant
        self.register_buffer("cos", cos, persistent=False)
        self.register_buffer("sin", sin, persistent=False)

    def forward(self, x: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
        """Attend.

        Args:
            x: (N, L, C).
            mask: (N, 1, L, L) boolean, True where a key may be attended to. Only its last row is read: in every mask of this
                project's towers the last row marks the keys that are no padding, and the rest is causality, which `causal` has.

        Returns:
            (N, L, C).
        """
        keys = None if mask is None else mask[:, 0, -1, :]
        y = attention(self.qkv(x), self.heads, self.causal, keys, self.cos, self.sin, variant=self.variant)
        return self.out(y if self.inner_norm is None else self.inner_norm(y))


class FusedPackedAttention(nn.Module):
    """Causal self-attention within each of several sequences laid end to end, without padding.

    Args:
        qkv, out: the projections; rows of `qkv` are ordered q, k, v.
        heads: H.
        longest: largest number of tokens in a sequence.
        inner_norm: the norm before `out`, or None.
        variant: the kernel, by its name in `kernels.attention_variants`.
    """

    def __init__(
        self,
        qkv: nn.Linear,
        out: nn.Linear,
        heads: int,
        longest: int,
        inner_norm: nn.Module | None = None,
        variant: str = DEFAULT,
    ) -> None:
        super().__init__()
        self.qkv, self.out, self.inner_norm = qkv, out, inner_norm
        self.heads, self.longest, self.variant = heads, longest, variant

    def forward(self, x: torch.Tensor, starts: torch.Tensor) -> torch.Tensor:
        """Attend from (T, C) to (T, C); `starts` is int32 (N + 1,), the `cu_seqlens` of `kernels.attention.packed_attention`."""
        y = packed_attention(self.qkv(x), self.heads, starts, self.longest, causal=True, variant=self.variant)
        return self.out(y if self.inner_norm is None else self.inner_norm(y))


class FusedMlp(nn.Module):
    """Two linear layers with a GELU between them.

    Args:
        fc1, fc2: the layers.
        approximate: ``none``, ``tanh`` or ``quick``.
        implementation: ``bias_gelu``: the vendor's product, then `kernels.bias_gelu`. ``linear_gelu``, alone or with a variant:
            bias and activation in the first product's epilogue (`kernels.linear_gelu`). The variant ``cublaslt`` has only GELU by
            tanh, and computes it in the place of the exact GELU.
    """

    def __init__(self, fc1: nn.Linear, fc2: nn.Linear, approximate: str, implementation: str) -> None:
        super().__init__()
        self.fc1, self.fc2 = fc1, fc2
        kernel, _, variant = implementation.partition(" ")
        self.in_epilogue, self.variant = kernel == "linear_gelu", variant or DEFAULT
        self.approximate = "tanh" if self.variant == "cublaslt" and approximate == "none" else approximate

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, L, C) to (N, L, C)."""
        if self.in_epilogue:
            h = linear_gelu(x, self.fc1.weight, self.fc1.bias, self.approximate, variant=self.variant)
        else:
            h = bias_gelu(F.linear(x, self.fc1.weight), self.fc1.bias, self.approximate)
        return self.fc2(h)


class FusedGelu(nn.Module):
    """The activation alone, where another layer than a linear one is before it."""

    def __init__(self, approximate: str) -> None:
        super().__init__()
        self.approximate = approximate

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Apply GELU to every element."""
        return bias_gelu(x, None, self.approximate)


class FusedBranch(nn.Module):
    """The parts of one pre-norm residual branch, which stand between two residual adds.

    Args:
        norm: the branch's layer norm.
        body: attention or MLP; its result may be for the first token only.
        gamma: layer scale (C,), or None.
        takes_mask: whether the body is attention with the mask as an argument.
    """

    gamma: torch.Tensor | None

    def __init__(self, norm: nn.LayerNorm, body: nn.Module, gamma: torch.Tensor | None, takes_mask: bool) -> None:
        super().__init__()
        self.norm, self.body, self.takes_mask = norm, body, takes_mask
        self.register_buffer("gamma", gamma, persistent=False)


class FusedStack(nn.Module):
    """All blocks of a pre-norm transformer: each residual add is done in one pass with the norm that follows it."""

    def __init__(self, branches: Sequence[FusedBranch]) -> None:
        super().__init__()
        self.branches = nn.ModuleList(branches)

    def forward(self, x: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
        """Run the stream (N, L, C) through all branches; (N, 1, C) where the last attention returns only the first token."""
        branches: list[FusedBranch] = list(self.branches)  # type: ignore[arg-type]
        h = branches[0].norm(x)
        for i, branch in enumerate(branches):
            y = branch.body(h, mask) if branch.takes_mask and mask is not None else branch.body(h)
            if y.shape[1] != x.shape[1]:
                x = x[:, : y.shape[1]]
            if i + 1 == len(branches):
                return x + (y if branch.gamma is None else y * branch.gamma)
            norm = branches[i + 1].norm
            x, h = add_layer_norm(y, x, norm.weight, norm.bias, norm.eps, branch.gamma)
        return x


class FusedPostNorm(nn.Module):
    """One post-norm branch as in BERT, ``norm(x + body(x))``, with add and norm in one pass."""

    def __init__(self, body: nn.Module, norm: nn.LayerNorm, takes_mask: bool) -> None:
        super().__init__()
        self.body, self.norm, self.takes_mask = body, norm, takes_mask

    def forward(self, x: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
        """(N, L, C) to (N, L, C)."""
        y = self.body(x, mask) if self.takes_mask and mask is not None else self.body(x)
        return add_layer_norm(y, x, self.norm.weight, self.norm.bias, self.norm.eps)[1]


class FusedPatchStem(nn.Module):
    """The stem of a ViT on bytes: one pass makes normalized patches, and the patch embedding is one product over them.

    Args:
        stem: the tower's stem; its ``assemble`` does the steps after the patches' projection (N, P, C).
        convolution: the stem's patch embedding, square windows without overlap, whose weight is taken.
        mean, std: means and standard deviations of red, green and blue, scaled to 0…1.
    """

    def __init__(self, stem: Any, convolution: nn.Conv2d, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        self.stem = stem
        self.mean, self.std, self.patch = list(mean), list(std), convolution.kernel_size[0]
        self.weight = nn.Parameter(convolution.weight.detach().flatten(1), requires_grad=False)
        bias = convolution.bias
        self.bias = None if bias is None else nn.Parameter(bias.detach(), requires_grad=False)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """uint8 (N, H, W, 3) to the stream (N, L, C)."""
        # A traced convolution makes this comparison on its input. Without it, first-token attention later compares N with 1 in a
        # form that torch.export takes for a specialization, and torch.export then refuses dynamic batches of 1 or more.
        bool(pixels.shape[0] > 1)
        patches = normalize_image(pixels, self.mean, self.std, self.patch, self.weight.dtype)
        stream: torch.Tensor = self.stem.assemble(F.linear(patches, self.weight, self.bias))
        return stream


class FusedL2Normalize(nn.Module):
    """The last step of a tower: embeddings to unit length."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Normalize (N, D) of any dtype to float32 rows of unit length."""
        return l2_normalize(x)
