"""Attention in a parsed TensorRT network: one kernel where the library has a fused one, an exact decomposition elsewhere.

TensorRT refuses to build an attention for which it has no fused kernel unless the layer is marked decomposable, and the set of
kernels depends on dtype, head size, mask, GPU and version. So the library itself is tested: a network of only that attention is
built, in about a tenth of a second, and if the build fails, the blocks of the same case are marked.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

# The smallest, usual and largest sizes of the test network's inputs where the network's own are dynamic.
_BATCHES = (1, 8, 32)
_TOKENS = (2, 64, 128)


@dataclass(frozen=True)
class AttentionCase:
    """The properties of an attention that decide whether there is a fused kernel.

    Attributes:
        dtype: the dtype of query, key and value, as the library's `DataType`.
        heads, head_dim: H and D of (N, H, L, D); None if dynamic.
        query_tokens, key_tokens: L of the query, and L of key and value; None if dynamic. Towers that pool one token compute their
            last block for that token only, with one query.
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
    """The flags of a strongly typed network; later versions have no other kind of network, and may have no such flag."""
    flag = getattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED", None)
    return 0 if flag is None else 1 << int(flag)


def attention_blocks(trt: Any, network: Any) -> list[Any]:
    """Find every `IAttention` of a network, in order."""
    kind = getattr(trt.LayerType, "ATTENTION_INPUT", None)
    blocks: list[Any] = []
    if kind is None:  # versions before IAttention parse the operator into matrix products, and fuse them where they can
        return blocks
    for index in range(network.num_layers):
        layer = network.get_layer(index)
        if layer.type == kind:
            layer.__class__ = trt.IAttentionInputLayer  # because the bindings return the base class
            blocks.append(layer.attention)
    return blocks


def describe(trt: Any, attention: Any) -> AttentionCase:
    """Read the case of an attention."""
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
        network: the parsed network.
        has_kernel: whether the library has a fused kernel for a case, see `FusedKernels`.

    Returns:
        The number of attentions that one kernel computes, and the number of decomposed ones.
    """
    blocks = attention_blocks(trt, network)
    decomposed = 0
    for block in blocks:
        if not has_kernel(describe(trt, block)):
            block.decomposable = True
            decomposed += 1
    return len(blocks) - decomposed, decomposed


class FusedKernels:
    """The library's fused kernels, tested once for each case.

    Args:
        trt: the library's module.
        builder: the builder of the network with the attentions.
        make_config: a function that makes a builder configuration, with the target set and no profile.
    """

    def __init__(self, trt: Any, builder: Any, make_config: Callable[[], Any]) -> None:
        self._trt = trt
        self._builder = builder
        self._make_config = make_config
        self._known: dict[AttentionCase, bool] = {}

    def __call__(self, case: AttentionCase) -> bool:
        """Whether the library computes this case with one kernel."""
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
