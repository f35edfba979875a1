"""The family of open_clip's own transformers: ViT image towers (CLIP, CoCa) and text towers (CLIP, CoCa, SigLIP's kind)."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from exporter.towers.blocks import FirstTokenAttention, QueryPool, Scale, SelfAttention, linear_of
from exporter.towers.units import Block, ImageEncoder, Residual, TextEncoder, Unit, Whole


def encoder_of_image(visual: Any) -> ImageEncoder | None:
    """Make the encoder of an ``open_clip.transformer.VisionTransformer``; None for other modules and unknown variants."""
    from open_clip.transformer import VisionTransformer

    if not isinstance(visual, VisionTransformer) or visual.pool_type == "none":
        return None
    if visual.attn_pool is not None and (visual.attn_pool_contrastive is not None or visual.pool_type != "tok"):
        return None
    blocks = blocks_of(visual.transformer, causal=False)
    pools_first = visual.attn_pool is None and visual.pool_type == "tok"
    last = blocks[-1] if blocks else None
    if pools_first and isinstance(last, Block) and isinstance(last.attention, Residual):
        body = last.attention.body
        if isinstance(body, SelfAttention):
            last.attention.body = FirstTokenAttention(body)
    return ImageEncoder(PatchStem(visual), blocks, AttentionHead(visual) if visual.attn_pool else TokenHead(visual))


def encoder_of_text(model: Any) -> TextEncoder | None:
    """Make the encoder of a ``TextTransformer``, or of a ``CLIP`` that holds a text tower's parts itself; None for others."""
    from open_clip.model import CLIP
    from open_clip.transformer import TextTransformer

    text = getattr(model, "text", model)
    is_clip = isinstance(model, CLIP)
    if not is_clip and not isinstance(text, TextTransformer):
        return None
    pool = model.text_pool_type if is_clip else text.pool_type
    end_id = getattr(model if is_clip else text, "text_eos_id" if is_clip else "eos_id", None)
    class_token = None if is_clip else text.cls_emb
    if class_token is None and pool not in ("argmax", "first", "last", "eos"):
        return None
    pad_masked = not is_clip and (text.use_pad_mask or class_token is not None)
    causal = text.attn_mask is not None
    if not is_clip and text.correct_cls_mask and class_token is not None:
        return None  # no published checkpoint has this mask
    stem = TextStem(text, pad_id=int(text.pad_id) if pad_masked else None, causal=causal)
    blocks = blocks_of(text.transformer, causal=causal and not pad_masked)
    if any(not isinstance(block, Block) for block in blocks):
        return None
    return TextEncoder(stem, blocks, TextHead(text, "last" if class_token is not None else pool, end_id))


def blocks_of(transformer: Any, causal: bool) -> list[nn.Module]:
    """Make units of the blocks of open_clip's ``Transformer``; blocks of an unknown kind stay whole."""
    return [_block(block, causal) for block in transformer.resblocks]


def _block(block: Any, causal: bool) -> nn.Module:
    from open_clip.transformer import LayerScale, ResidualAttentionBlock

    attention = block.attn
    if type(block) is not ResidualAttentionBlock or hasattr(block, "ln_1_kv") or attention.in_proj_weight is None:
        return Whole(block)
    scales = [Scale(m.gamma) if isinstance(m, LayerScale) else None for m in (block.ls_1, block.ls_2)]
    attend = SelfAttention(
        linear_of(attention.in_proj_weight, attention.in_proj_bias),
        linear_of(attention.out_proj.weight, attention.out_proj.bias),
        attention.num_heads,
        causal=causal,
    )
    return Block(Residual(block.ln_1, attend, scales[0]), Residual(block.ln_2, block.mlp, scales[1]))


class PatchStem(Unit):
    """A stem of patches, class token, positions and pre-norm: normalized pixels (N, 3, H, W) to the stream (N, 1 + P, C)."""

    def __init__(self, visual: Any) -> None:
        super().__init__()
        self.patches = visual.conv1
        self.class_token = nn.Parameter(visual.class_embedding.detach().reshape(1, 1, -1), requires_grad=False)
        self.positions = nn.Parameter(visual.positional_embedding.detach(), requires_grad=False)
        self.norm = visual.ln_pre

    @property
    def length(self) -> int:
        """The number of tokens of the stream."""
        return int(self.positions.shape[0])

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """Embed the patches."""
        return self.assemble(self.patches(pixels.to(self.compute_dtype)).flatten(2).transpose(1, 2))

    def assemble(self, x: torch.Tensor) -> torch.Tensor:
        """Add class token, positions and norm to the patches' projection (N, P, C)."""
        x = torch.cat((self.class_token.expand(x.shape[0], -1, -1), x), dim=1) + self.positions
        return self.norm(x).to(self.stream_dtype)


class TokenHead(Unit):
    """A head of first-token or mean pooling, final norm and projection: (N, L, C) to (N, D)."""

    def __init__(self, visual: Any) -> None:
        super().__init__()
        self.norm = visual.ln_post
        self.mean = visual.pool_type == "avg"
        self.norm_first = not visual.final_ln_after_pool
        self.projection = linear_of(visual.proj.T, None) if visual.proj is not None else nn.Identity()

    def entry(self) -> nn.Module | None:
        """The final norm."""
        return self.norm

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Pool and project."""
        if not self.mean:
            return self.projection(self.enter(x[:, 0])).to(self.stream_dtype)
        if self.norm_first:
            return self.projection(self.enter(x)[:, 1:].mean(dim=1)).to(self.stream_dtype)
        return self.projection(self.enter(x[:, 1:].mean(dim=1))).to(self.stream_dtype)


class AttentionHead(Unit):
    """The head of CoCa's attentional pooling, with the first of its hundreds of queries, because only its output is used."""

    def __init__(self, visual: Any) -> None:
        super().__init__()
        pool = visual.attn_pool
        attention = pool.attn
        q, k, v = _projections(attention)
        self.norm = pool.ln_k
        out = linear_of(attention.out_proj.weight, attention.out_proj.bias)
        self.pool = QueryPool(k, v, out, attention.num_heads)
        query = q(pool.ln_q(pool.query[:1]))  # the same for every image
        self.query = nn.Parameter(query.detach().reshape(1, 1, -1), requires_grad=False)
        self.final_norm = visual.ln_post
        self.projection = linear_of(visual.proj.T, None) if visual.proj is not None else nn.Identity()

    def entry(self) -> nn.Module | None:
        """Return the norm of the keys."""
        return self.norm

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Pool and project."""
        pooled = self.final_norm(self.pool(self.query, self.enter(x)))
        return self.projection(pooled).to(self.stream_dtype)


def _projections(attention: Any) -> tuple[nn.Linear, nn.Linear, nn.Linear]:
    """Return the three input projections of an ``nn.MultiheadAttention``, packed or not."""
    if attention.in_proj_weight is not None:
        weights = attention.in_proj_weight.chunk(3)
    else:
        weights = (attention.q_proj_weight, attention.k_proj_weight, attention.v_proj_weight)
    biases = attention.in_proj_bias.chunk(3) if attention.in_proj_bias is not None else (None,) * 3
    q, k, v = (linear_of(w, b) for w, b in zip(weights, biases, strict=True))
    return q, k, v


class TextStem(Unit):
    """A stem of token and position embeddings: ids (N, L) to the stream (N, L, C), or (N, L + 1, C) with CoCa's class token.

    CoCa appends its class token *after* the padding. Its position is the last one of the table whatever the row's length, and
    its key mask is that of the published weights: shifted by one, so that one padding token takes part.
    """

    def __init__(self, text: Any, pad_id: int | None, causal: bool) -> None:
        super().__init__()
        self.tokens = text.token_embedding
        self.pad_id, self.causal = pad_id, causal
        class_token = getattr(text, "cls_emb", None)
        positions = text.positional_embedding.detach()
        self.has_class_token = class_token is not None
        if class_token is not None:
            placed = class_token.detach() + positions[-1]
            self.class_token = nn.Parameter(placed.reshape(1, 1, -1), requires_grad=False)
            positions = positions[:-1]
        self.positions = nn.Parameter(positions, requires_grad=False)

    def forward(self, ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Embed the ids; returns the stream and the mask, which is None where attention is plain or purely causal."""
        x = self.tokens(ids) + self.positions[: ids.shape[1]]
        if self.has_class_token:
            x = torch.cat((x, self.class_token.expand(x.shape[0], -1, -1)), dim=1)
        return x.to(self.stream_dtype), self._mask(ids)

    def _mask(self, ids: torch.Tensor) -> torch.Tensor | None:
        if self.pad_id is None:
            return None
        keys = ids != self.pad_id
        if self.has_class_token:
            keys = torch.cat((torch.ones_like(keys[:, :1]), keys), dim=1)
        mask = keys[:, None, None, :].expand(
            -1, 1, keys.shape[1], -1
        )  # because ONNX Runtime broadcasts neither of the last two
        if self.causal:
            positions = torch.arange(keys.shape[1], device=ids.device)
            mask = mask & (positions[None, :] <= positions[:, None])
        return mask


class TextHead(Unit):
    """A head of one token's pooling, final norm and projection: (N, L, C) to (N, D)."""

    def __init__(self, text: Any, pool: str, end_id: int | None) -> None:
        super().__init__()
        self.norm = text.ln_final
        self.pool, self.end_id = pool, end_id
        projection = text.text_projection
        if isinstance(projection, torch.Tensor):
            projection = linear_of(projection.T, None)
        self.projection = projection if projection is not None else nn.Identity()

    def entry(self) -> nn.Module | None:
        """Return the final norm; it works token by token, so it may follow the pooling."""
        return self.norm

    def forward(self, x: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
        """Pool and project."""
        return self.projection(self.enter(self._pooled(x, ids))).to(self.stream_dtype)

    def _pooled(self, x: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
        if self.pool == "first":
            return x[:, 0]
        if self.pool == "last":
            return x[:, -1]
        # The ids are converted to floats, which hold every id exactly, because ONNX Runtime's CUDA provider has argmax for floats
        # only, and would copy integers to the CPU for it at every call.
        marks = torch.eq(ids, self.end_id or 0) if self.pool == "eos" else ids
        index = marks.float().argmax(dim=-1)
        return x.gather(1, index.reshape(-1, 1, 1).expand(-1, -1, x.shape[-1])).squeeze(1)
