"""Attention modules that trace to few nodes: one packed projection, one Attention, one output projection.

open_clip uses ``nn.MultiheadAttention`` for attention, Hugging Face and timm use classes of their own. Traced as they are, each
block has about twenty shape nodes around its attention, and a causal tower passes a mask tensor, from which an engine cannot see
that the attention is causal. The modules here hold *the same parameters* and trace to the fewest nodes.

Shapes: N batch, L tokens, C width, H heads, D head size.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn
from torch.nn import functional as F


def linear_of(weight: torch.Tensor, bias: torch.Tensor | None) -> nn.Linear:
    """Make a Linear of the given tensors, (out, in) and (out,), without a copy."""
    with torch.device("meta"):
        linear = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None)
    linear.weight = nn.Parameter(weight.detach(), requires_grad=False)
    if bias is not None:
        linear.bias = nn.Parameter(bias.detach(), requires_grad=False)
    return linear


def packed_projections(attention: nn.Module, names: tuple[str, str, str]) -> nn.Linear:
    """Make one Linear of an attention's three, which are taken out of it, so that memory does not double.

    Args:
        attention: the module that holds the Linears of queries, keys and values.
        names: their names in it.
    """
    projections = [getattr(attention, name) for name in names]
    weight = torch.cat([projection.weight.detach() for projection in projections])
    bias = torch.cat([projection.bias.detach() for projection in projections])
    for name in names:
        setattr(attention, name, None)
    return linear_of(weight, bias)


class DotProduct(nn.Module):
    """The product ``softmax(q kᵀ / √D) v`` over (N, H, L, D); it is a module, so that a probe can observe q and k."""

    def __init__(self, causal: bool = False) -> None:
        super().__init__()
        self.causal = causal

    def forward(
        self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, mask: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Attend; `mask` is boolean, broadcastable to (N, H, Lq, Lk), True where a key may be attended to."""
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=self.causal and mask is None)


class Rotary(nn.Module):
    """A rotary position embedding by halves (RoFormer, arXiv:2104.09864) on (N, H, L, D).

    Checkpoints that rotate interleaved pairs are converted to this form by reordering the rows of their query and key
    projections (`pairs_to_halves`): the scores are the same, and the rotation costs four nodes instead of nine.
    """

    cos: torch.Tensor
    sin: torch.Tensor

    def __init__(self, cos: torch.Tensor, sin: torch.Tensor) -> None:
        """`cos`, `sin`: (L, D), both halves alike; rows of tokens without a position hold 1 and 0."""
        super().__init__()
        self.register_buffer("cos", cos, persistent=False)
        self.register_buffer("sin", sin, persistent=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Rotate the tokens of `x`."""
        first, second = x.chunk(2, dim=-1)
        return x * self.cos.to(x.dtype) + torch.cat((-second, first), dim=-1) * self.sin.to(x.dtype)

    def _apply(self, fn: Callable[[torch.Tensor], torch.Tensor], recurse: bool = True) -> Rotary:
        # The tables stay in float32 and are cast at use, because all blocks share them and each block may have its own dtype.
        return self


def pairs_to_halves(rows: torch.Tensor, heads: int) -> torch.Tensor:
    """Reorder the rows (H·D, …) of a query or key projection from interleaved pairs to halves, head by head."""
    by_head = rows.reshape(heads, -1, 2, *rows.shape[1:])
    return by_head.transpose(1, 2).flatten(0, 2)


class SelfAttention(nn.Module):
    """Multi-head self-attention with one packed projection: (N, L, C) to (N, L, C)."""

    def __init__(
        self,
        qkv: nn.Linear,
        out: nn.Linear,
        heads: int,
        causal: bool = False,
        rotary: Rotary | None = None,
        inner_norm: nn.Module | None = None,
    ) -> None:
        """Args: `qkv`, with rows in the order q, k, v; `inner_norm`, a norm before `out` (EVA02)."""
        super().__init__()
        self.heads = heads
        self.head_dim = qkv.out_features // (3 * heads)
        self.qkv, self.out, self.rotary, self.inner_norm = qkv, out, rotary, inner_norm
        self.dot_product = DotProduct(causal)

    def forward(self, x: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
        """Attend over all tokens."""
        # The heads of q, k and v are in one dimension, so that one Reshape, one Transpose and one Split serve all three.
        qkv = self.qkv(x).unflatten(-1, (3 * self.heads, self.head_dim)).transpose(1, 2)
        if self.rotary is None:
            q, k, v = qkv.chunk(3, dim=1)
        else:
            qk, v = qkv.split((2 * self.heads, self.heads), dim=1)
            q, k = self.rotary(qk).chunk(2, dim=1)
        y = self.dot_product(q, k, v, mask).transpose(1, 2).flatten(2)
        return self.out(y if self.inner_norm is None else self.inner_norm(y))


class FirstTokenAttention(nn.Module):
    """Attention with a query of the first token only, for the last block of a tower that pools its first token.

    The outputs of the other tokens are not computed, because the pooling does not use them; the result is exact.
    `forward` takes (N, L, C) and returns (N, 1, C).
    """

    def __init__(self, full: SelfAttention) -> None:
        """Args: `full`, an attention without a mask; with a rotary embedding its first token must have no position."""
        super().__init__()
        inner = full.heads * full.head_dim
        weight, bias = full.qkv.weight, full.qkv.bias
        self.heads, self.head_dim = full.heads, full.head_dim
        self.q = linear_of(weight[:inner], None if bias is None else bias[:inner])
        self.kv = linear_of(weight[inner:], None if bias is None else bias[inner:])
        self.out, self.rotary, self.inner_norm = full.out, full.rotary, full.inner_norm
        self.dot_product = DotProduct()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Attend from the first token to all."""
        # With one token, (N, 1, H·D) and (N, H, 1, D) are the same memory, so no Transpose is needed.
        q = self.q(x[:, :1]).reshape(-1, self.heads, 1, self.head_dim)
        kv = self.kv(x).unflatten(-1, (2 * self.heads, self.head_dim)).transpose(1, 2)
        k, v = kv.chunk(2, dim=1)
        y = self.dot_product(q, k if self.rotary is None else self.rotary(k), v)
        y = y.reshape(-1, 1, self.heads * self.head_dim)
        return self.out(y if self.inner_norm is None else self.inner_norm(y))


class QueryPool(nn.Module):
    """Pooling by one query that attends to all tokens: CoCa's and ResNet's pooling, reduced to the query whose output is used.

    `forward` takes the projected query (N or 1, 1, H·D) and the context (N, L, Ck) and returns (N, Co).
    """

    def __init__(self, k: nn.Linear, v: nn.Linear, out: nn.Linear, heads: int) -> None:
        super().__init__()
        self.out, self.heads, self.head_dim = out, heads, k.out_features // heads
        bias = None if k.bias is None or v.bias is None else torch.cat((k.bias, v.bias))
        self.kv = linear_of(torch.cat((k.weight, v.weight)), bias)
        self.dot_product = DotProduct()

    def forward(self, query: torch.Tensor, context: torch.Tensor) -> torch.Tensor:
        """Attend from the query to the context."""
        q = query.reshape(-1, self.heads, 1, self.head_dim)
        kv = self.kv(context).unflatten(-1, (2 * self.heads, self.head_dim)).transpose(1, 2)
        k, v = kv.chunk(2, dim=1)
        if query.shape[0] != context.shape[0]:
            q = q.expand(context.shape[0], -1, -1, -1)
        return self.out(self.dot_product(q, k, v).reshape(-1, self.heads * self.head_dim))


class L2Normalize(nn.Module):
    """The last step of a tower: (N, D) of any dtype to float32 rows of unit length; rows of zeros stay zeros."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Normalize."""
        y = x.to(torch.float32)
        return y / y.norm(dim=-1, keepdim=True).clamp_min(1e-12)


class Scale(nn.Module):
    """Layer scale: one factor for each channel of the last dimension."""

    def __init__(self, gamma: torch.Tensor) -> None:
        super().__init__()
        self.gamma = nn.Parameter(gamma.detach(), requires_grad=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Scale the channels."""
        return x * self.gamma
