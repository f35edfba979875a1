"""Attention in a parsed TensorRT network: computed by one kernel where the library has one, decomposed exactly where it has not.

TensorRT refuses to build an attention for which it has no fused kernel unless the layer is marked decomposable, and which kernels
there are depends on dtype, head size, mask, GPU and version. So the library itself is asked: a network of nothing but that
attention is built, in about a tenth of a second, and if that fails the blocks like it are marked.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

# Smallest, usual and largest sizes of the question's inputs where the network's own are dynamic.
_BATCHES = (1, 8, 32)
_TOKENS = (2, 64, 128)


@dataclass(frozen=True)
class AttentionCase:
    """What decides whether there is a fused kernel.

    Attributes:
        dtype: of query, key and value, as the library's `DataType`.
        heads, head_dim: H and D of (N, H, L, D); None if dynamic.
        query_tokens, key_tokens: L of query and of key and value; None if dynamic. Towers that read one token compute their last
            block for that token only: then there is one query.
        causal: whether later tokens are masked.
        mask: the mask's `DataType`, or None.
    """

    dtype: Any
    heads: int | None
    head_dim: int | None
    query_tokens: int | None
    key_tokens: int | None
    causal: bool
    mask: Any


def strongly_typed_flags(trt: Any) -> int:
    """Flags of a network whose types are the graph's; later versions know no other kind, and may drop the flag."""
    flag = getattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED", None)
    return 0 if flag is None else 1 << int(flag)


def attention_blocks(trt: Any, network: Any) -> list[Any]:
    """Every `IAttention` of a network, in order."""
    kind = getattr(trt.LayerType, "ATTENTION_INPUT", None)
    blocks: list[Any] = []
    if kind is None:  # versions before IAttention parse the operator into matrix products, and fuse them where they can
        return blocks
    for index in range(network.num_layers):
        layer = network.get_layer(index)
        if layer.type == kind:
            layer.__class__ = trt.IAttentionInputLayer  # the bindings give the base class
            blocks.append(layer.attention)
    return blocks


def describe(trt: Any, attention: Any) -> AttentionCase:
    """An attention as a case."""
    query = attention.get_input(0)
    _, heads, queries, size = (n if n > 0 else None for n in tuple(query.shape))
    keys = tuple(attention.get_input(1).shape)[2]
    mask = attention.mask
    kind = getattr(attention, "causal_kind", None)
    causal = kind != trt.CausalMaskKind.NONE if kind is not None else bool(attention.causal)
    return AttentionCase(
        query.dtype, heads, size, queries, keys if keys > 0 else None, causal, None if mask is None else mask.dtype
    )


def mark_decomposable(trt: Any, network: Any, has_kernel: Callable[[AttentionCase], bool]) -> tuple[int, int]:
    """Mark the attentions for which there is no fused kernel.

    Args:
        trt: the library's module.
        network: parsed.
        has_kernel: see `FusedKernels`.

    Returns:
        How many are computed by one kernel, and how many are decomposed.
    """
    blocks = attention_blocks(trt, network)
    decomposed = 0
    for block in blocks:
        if not has_kernel(describe(trt, block)):
            block.decomposable = True
            decomposed += 1
    return len(blocks) - decomposed, decomposed


class FusedKernels:
    """Asks the library once for each case.

    Args:
        trt: the library's module.
        builder: of the network that the question is about.
        make_config: gives a builder configuration, with the target set and no profile.
    """

    def __init__(self, trt: Any, builder: Any, make_config: Callable[[], Any]) -> None:
        self._trt = trt
        self._builder = builder
        self._make_config = make_config
        self._known: dict[AttentionCase, bool] = {}

    def __call__(self, case: AttentionCase) -> bool:
        """Whether the library computes this case by one kernel."""
        if case not in self._known:
            self._known[case] = None not in (case.heads, case.head_dim) and self._builds(case)
        return self._known[case]

    def _builds(self, case: AttentionCase) -> bool:
        trt = self._trt
        network = self._builder.create_network(strongly_typed_flags(trt))
        profile = self._builder.create_optimization_profile()
        inputs = []
        for name, tokens in (("query", case.query_tokens), ("key", case.key_tokens), ("value", case.key_tokens)):
            inputs.append(network.add_input(name, case.dtype, (-1, case.heads, tokens or -1, case.head_dim)))
            profile.set_shape(
                name,
                *[(n, case.heads, tokens or usual, case.head_dim) for n, usual in zip(_BATCHES, _TOKENS, strict=True)],
            )
        attention = network.add_attention(*inputs, trt.AttentionNormalizationOp.SOFTMAX, case.causal)
        if case.mask is not None:
            mask = (-1, 1, case.query_tokens or -1, case.key_tokens or -1)
            attention.mask = network.add_input("mask", case.mask, mask)
            profile.set_shape(
                "mask",
                *[
                    (n, 1, case.query_tokens or usual, case.key_tokens or usual)
                    for n, usual in zip(_BATCHES, _TOKENS, strict=True)
                ],
            )
        network.mark_output(attention.get_output(0))
        config = self._make_config()
        config.add_optimization_profile(profile)
        return self._builder.build_serialized_network(network, config) is not None
