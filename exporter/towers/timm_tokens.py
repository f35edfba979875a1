"""Stem and heads that timm's transformers share: ViT, SigLIP, MobileCLIP-B, ViTamin (`timm_vit`), EVA and PE-Core (`eva`)."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from exporter.towers.blocks import FirstTokenAttention, QueryPool, SelfAttention, linear_of
from exporter.towers.resnet import fold
from exporter.towers.units import Block, Residual, Unit


def is_known_pooling(trunk: Any) -> bool:
    """Whether the units below can compute a trunk's stem and pooling; every transformer of open_clip's list says yes."""
    pool = trunk.attn_pool
    prefix = trunk.num_prefix_tokens
    return (
        prefix == (0 if trunk.cls_token is None else 1)
        and trunk.pos_embed is not None
        and not trunk.dynamic_img_size
        and (_is_known_latent_pool(pool) if pool is not None else trunk.global_pool in ("token", "avg"))
        and (prefix == 1 or trunk.global_pool != "token" or pool is not None)
        and (pool is None or prefix == 0 or getattr(trunk, "pool_include_prefix", True))
        and (pool is not None or not getattr(trunk, "pool_include_prefix", False))
    )


def _is_known_latent_pool(pool: Any) -> bool:
    from timm.layers.attention_pool import AttentionPoolLatent

    return (
        type(pool) is AttentionPoolLatent
        and pool.latent_len == 1
        and pool.pool in ("token", "avg")  # the same for one row
        and pool.pos_embed is None
        and isinstance(pool.q_norm, nn.Identity)
        and isinstance(pool.k_norm, nn.Identity)
    )


def head_of(trunk: Any, head: nn.Module) -> Unit:
    """Make the head for the trunk's pooling; `head` is the projection of ``TimmModel``."""
    return LatentHead(trunk, head) if trunk.attn_pool is not None else TokenHead(trunk, head)


def attend_from_first_token(trunk: Any, blocks: list[nn.Module]) -> None:
    """Let the last block attend from the first token only, where the trunk pools nothing else."""
    last = blocks[-1]
    first_only = trunk.attn_pool is None and trunk.global_pool == "token"
    if first_only and isinstance(last, Block) and isinstance(last.attention, Residual):
        full = last.attention.body
        if isinstance(full, SelfAttention):
            last.attention.body = FirstTokenAttention(full)


def fold_batch_norms(module: nn.Module) -> nn.Module:
    """Fold every batch norm of timm's ``ConvNormAct`` and of pairs ``conv``, ``bn`` below `module`, in place; returns `module`."""
    from timm.layers import BatchNormAct2d

    for parent in module.modules():
        convolution, norm = getattr(parent, "conv", None), getattr(parent, "bn", None)
        if not isinstance(convolution, nn.Conv2d) or not isinstance(norm, nn.BatchNorm2d):
            continue
        follows: nn.Module = nn.Identity()
        if isinstance(norm, BatchNormAct2d):
            follows = nn.Sequential(norm.drop, norm.act)
        parent.conv, parent.bn = _as_convolution(convolution, norm), follows
    return module


def _as_convolution(convolution: nn.Conv2d, norm: nn.BatchNorm2d) -> nn.Conv2d:
    with torch.no_grad():
        return fold(convolution, norm)


class TokenStem(Unit):
    """A stem of patches, class token and positions: normalized pixels (N, 3, H, W) to the stream (N, L, C), L = P or 1 + P.

    The patches come from one convolution, or from a small convolutional network and a projection (timm's ``HybridEmbed``).
    """

    def __init__(self, trunk: Any) -> None:
        super().__init__()
        embed = trunk.patch_embed
        if hasattr(embed, "backbone"):
            self.patches: nn.Module = nn.Sequential(fold_batch_norms(embed.backbone), embed.proj)
            self.patch_norm: nn.Module = nn.Identity()
        else:
            self.patches, self.patch_norm = embed.proj, embed.norm
        positions = trunk.pos_embed.detach()[0]
        self.class_token = None
        if trunk.cls_token is not None:
            token = trunk.cls_token.detach()
            if not trunk.no_embed_class:
                token, positions = token + positions[:1], positions[1:]
            self.class_token = nn.Parameter(token, requires_grad=False)
        self.positions = nn.Parameter(positions, requires_grad=False)
        self.norm = trunk.norm_pre

    @property
    def length(self) -> int:
        """The number of tokens of the stream."""
        return int(self.positions.shape[0]) + (self.class_token is not None)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """Embed the patches."""
        return self.assemble(self.patches(pixels.to(self.compute_dtype)).flatten(2).transpose(1, 2))

    def assemble(self, x: torch.Tensor) -> torch.Tensor:
        """Add norm, positions and class token to the patches' projection (N, P, C)."""
        x = self.patch_norm(x) + self.positions
        if self.class_token is not None:
            x = torch.cat((self.class_token.expand(x.shape[0], -1, -1), x), dim=1)
        return self.norm(x).to(self.stream_dtype)


class TokenHead(Unit):
    """A head of final norm, pooling of the first token or of the patches' mean, and projection: (N, L, C) to (N, D)."""

    def __init__(self, trunk: Any, head: nn.Module) -> None:
        super().__init__()
        self.mean = trunk.global_pool == "avg"
        self.prefix = int(trunk.num_prefix_tokens)
        self.norm, self.pooled_norm = trunk.norm, trunk.fc_norm
        self.projection = nn.Sequential(trunk.head, *head.children())

    def entry(self) -> nn.Module | None:
        """The final norm."""
        return self.norm

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Pool and project."""
        pooled = self.enter(x)[:, self.prefix :].mean(dim=1) if self.mean else self.enter(x[:, 0])
        y: torch.Tensor = self.projection(self.pooled_norm(pooled))
        return y.to(self.stream_dtype)


class LatentHead(Unit):
    """The head of SigLIP and PE-Core: a learned query attends to all tokens, an MLP follows: (N, L, C) to (N, D).

    The query is the same for every image, so its projection is computed once, here.
    """

    def __init__(self, trunk: Any, head: nn.Module) -> None:
        super().__init__()
        pool = trunk.attn_pool
        k, v = pool.kv.weight.detach().chunk(2)
        biases = (None, None) if pool.kv.bias is None else pool.kv.bias.detach().chunk(2)
        self.norm = trunk.norm
        self.pool = QueryPool(linear_of(k, biases[0]), linear_of(v, biases[1]), pool.proj, pool.num_heads)
        pool.kv = None  # the packed copy replaces it
        query = pool.q(pool.latent).detach()
        self.query = nn.Parameter(query.reshape(1, 1, -1), requires_grad=False)
        self.mlp_norm, self.mlp = pool.norm, pool.mlp
        self.projection = nn.Sequential(trunk.fc_norm, trunk.head, *head.children())

    def entry(self) -> nn.Module | None:
        """The final norm."""
        return self.norm

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Pool and project."""
        y = self.pool(self.query, self.enter(x))
        if self.mlp is not None:
            y = y + self.mlp(self.mlp_norm(y))
        y = self.projection(y)
        return y.to(self.stream_dtype)
