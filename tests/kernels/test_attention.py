"""Attention as an op of PyTorch on the CPU: registered, compiled, exported; and what it refuses."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import attention_cases as cases
import pytest
import torch
from kernel_bound import as_double, assert_bounded
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx
from torch.fx.experimental.symbolic_shapes import DimDynamic, ShapeEnv, StatelessSymbolicContext

from kernels import attention as module
from kernels import reference
from kernels.attention import attention, packed_attention
from kernels.attention_tiles import SINGLE_PASS, split, tiles_for

STARTS = torch.tensor([0, 5, 5, 12], dtype=torch.int32)


class Attend(torch.nn.Module):
    def forward(self, qkv: torch.Tensor, keys: torch.Tensor) -> torch.Tensor:
        return attention(qkv, 2, True, keys) + 1


class AttendPacked(torch.nn.Module):
    def forward(self, qkv: torch.Tensor, starts: torch.Tensor) -> torch.Tensor:
        return packed_attention(qkv, 2, starts, 7, True) + 1


def inputs(kind: str, n: int = 3) -> tuple[torch.Tensor, torch.Tensor]:
    if kind == "packed":
        return cases.made(1, 12, 2, 16, "fp32")[0], STARTS
    return cases.made(n, 9, 2, 16, "fp32"), cases.padding(n, 9)


MODULES: dict[str, Callable[[], torch.nn.Module]] = {"batched": Attend, "packed": AttendPacked}


@pytest.mark.parametrize("dtype", cases.DTYPES)
@pytest.mark.parametrize("mode", cases.MODES)
def test_the_reference_is_attention_written_out(mode: str, dtype: str) -> None:
    """scores, mask, softmax, sum, in float64; no fused function of PyTorch's takes part."""
    qkv = cases.made(3, 20, 2, 16, dtype)
    keys = cases.padding(3, 20) if "padding" in mode else None
    cos, sin = cases.tables(20, 16) if mode == "rotary" else (None, None)
    q, k, v = qkv.double().view(3, 20, 3, 2, 16).permute(2, 0, 3, 1, 4)
    if cos is not None and sin is not None:
        turn = torch.complex(cos.double(), sin.double())[:, :8]
        q, k = (torch.cat(((z := torch.complex(*x.chunk(2, -1)) * turn).real, z.imag), -1) for x in (q, k))
    scores = q @ k.mT / 4
    if keys is not None:
        scores = scores.masked_fill(~keys[:, None, None, :], -torch.inf)
    if "causal" in mode:
        scores = scores.masked_fill(torch.ones(20, 20, dtype=torch.bool).triu(1), -torch.inf)
    expected = (scores.softmax(-1) @ v).transpose(1, 2).reshape(3, 20, 32)
    exact = reference.attention(qkv.double(), 2, "causal" in mode, keys, as_double(cos), as_double(sin))
    torch.testing.assert_close(exact, expected, rtol=1e-12, atol=1e-12)
    got = reference.attention(qkv, 2, "causal" in mode, keys, cos, sin)
    torch.testing.assert_close(got.double(), expected, rtol=0, atol={"fp16": 1e-2, "bf16": 6e-2, "fp32": 1e-5}[dtype])


@pytest.mark.parametrize("dtype", cases.DTYPES.values())
def test_a_query_without_keys_gives_zeros(dtype: torch.dtype) -> None:
    qkv = torch.randn(2, 6, 96).to(dtype)
    keys = torch.tensor([[True] * 6, [False] * 6])
    out = attention(qkv, 2, False, keys)
    assert out[1].eq(0).all()
    assert_bounded(out[:1], attention(qkv[:1], 2), reference.attention(qkv[:1].double(), 2))


def test_packed_is_each_sequence_alone() -> None:
    qkv, starts = inputs("packed")
    alone = torch.cat([attention(part[None], 2, True)[0] for part in (qkv[:5], qkv[5:])])
    torch.testing.assert_close(packed_attention(qkv, 2, starts, 7, True), alone)
    torch.testing.assert_close(packed_attention(qkv, 2, starts, 40, True), alone)


@pytest.mark.parametrize("kind", MODULES)
def test_the_registration_is_sound(kind: str) -> None:
    qkv, other = inputs(kind)
    if kind == "packed":
        torch.library.opcheck(module._PACKED.overload, (qkv, 2, other, 7, True))
    else:
        torch.library.opcheck(module._ATTENTION.overload, (qkv, 2, True, other))
        torch.library.opcheck(module._ATTENTION.overload, (qkv, 2, False, None, *cases.tables(9, 16), 0.5))


@pytest.mark.parametrize("kind", MODULES)
def test_a_compiler_sees_one_graph(kind: str) -> None:
    module = MODULES[kind]()
    torch.compiler.reset()
    compiled = torch.compile(module, fullgraph=True, backend="aot_eager", dynamic=kind == "batched")
    torch.testing.assert_close(compiled(*inputs(kind)), module(*inputs(kind)))


@pytest.mark.parametrize("kind", MODULES)
def test_export_keeps_the_op_and_decomposition_opens_it(kind: str) -> None:
    module = MODULES[kind]()
    batch = torch.export.Dim("n", min=1, max=64)
    shapes: Any = ({0: batch}, {0: batch}) if kind == "batched" else None
    program = torch.export.export(module, inputs(kind), dynamic_shapes=shapes)
    assert sum("openclip_kernels" in str(node.target) for node in program.graph.nodes) == 1
    for n in (1, 3):
        torch.testing.assert_close(program.module()(*inputs(kind, n)), module(*inputs(kind, n)))


def symbolic(sizes: list[DimDynamic], *shape: int, dtype: torch.dtype, mode: FakeTensorMode) -> torch.Tensor:
    """A tensor on a GPU that is not there, the first of whose sizes are symbols."""
    context = StatelessSymbolicContext(dynamic_sizes=[*sizes, *[DimDynamic.STATIC] * (len(shape) - len(sizes))])
    like = mode.from_tensor(torch.empty(shape, device="meta"), symbolic_context=context)
    with mode:
        return torch.empty(like.shape, device="cuda", dtype=dtype)


@pytest.mark.parametrize("kind", MODULES)
def test_a_gpu_launches_one_kernel_for_every_size(monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    """What a compiler records for a GPU: no copy of qkv, and no condition on a symbolic batch or length."""
    triton_attention = pytest.importorskip("kernels.triton_attention")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    mode, free = FakeTensorMode(shape_env=ShapeEnv()), DimDynamic.DYNAMIC
    if kind == "batched":
        args = [symbolic([free, free], 3, 77, 384, dtype=torch.float16, mode=mode)]

        def call(x: torch.Tensor) -> torch.Tensor:
            return triton_attention.attention(x, 2, True, None, None, None, None)
    else:
        args = [
            symbolic([free], 231, 384, dtype=torch.float16, mode=mode),
            symbolic([free], 4, dtype=torch.int32, mode=mode),
        ]

        def call(x: torch.Tensor, starts: torch.Tensor) -> torch.Tensor:
            return triton_attention.packed_attention(x, 2, starts, 77, True, None)

    # PyTorch 2.11 records a launch where the mode is on, and does not look for it in the kernel's arguments.
    with mode:
        graph = make_fx(call)(*args)
    calls = [node for node in graph.graph.nodes if node.op == "call_function"]
    (launch,) = (node for node in calls if "triton_kernel_wrapper_mutation" in str(node.target))
    assert not [node for node in calls if "copy" in str(node.target) or "clone" in str(node.target)]
    assert any(isinstance(size, torch.fx.Node) for size in launch.kwargs["grid"][0])
    if kind == "batched":
        assert isinstance(launch.kwargs["kwargs"]["length"], torch.fx.Node)
    assert mode.shape_env is not None
    assert not mode.shape_env.guards


def test_the_triton_implementation_needs_a_gpu_or_the_interpreter() -> None:
    qkv, keys = inputs("batched")
    with pytest.raises(ValueError, match="CUDA tensors only"):
        attention(qkv, 2, impl="triton")
    with pytest.raises(ValueError, match="auto, triton, native"):
        attention(qkv, 2, impl="flash")
    torch.testing.assert_close(attention(qkv, 2, True, keys, impl="native"), attention(qkv, 2, True, keys))


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"qkv": torch.zeros(4, 96)}, "packed_attention"),
        ({"heads": 5}, "head size"),
        ({"heads": 4}, "head size"),
        ({"qkv": torch.zeros(2, 4, 3 * 129), "heads": 1}, "head size from 16 to 128"),
        ({"key_padding": torch.zeros(2, 4)}, "expected bool"),
        ({"key_padding": torch.zeros(2, 5, dtype=torch.bool)}, "expected bool"),
        ({"rotary_cos": torch.zeros(4, 16)}, "belong together"),
        ({"rotary_cos": torch.zeros(4, 8), "rotary_sin": torch.zeros(4, 8)}, "rotary table"),
        ({"scale": 0.0}, "not positive"),
    ],
)
def test_wrong_arguments_are_named(arguments: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        attention(**{"qkv": torch.zeros(2, 4, 96), "heads": 2, **arguments})


def test_wrong_arguments_of_packed_are_named() -> None:
    with pytest.raises(ValueError, match="use attention"):
        packed_attention(torch.zeros(2, 4, 96), 2, STARTS, 4)
    with pytest.raises(ValueError, match="int32"):
        packed_attention(torch.zeros(4, 96), 2, STARTS.long(), 4)


@pytest.mark.parametrize("size", range(1, 273))
def test_tiles_cover_and_waste_less_than_the_next_power_of_two(size: int) -> None:
    first, second = split(size)
    assert size <= first + second <= max(16, 1 << (size - 1).bit_length())
    assert (first + second) - size < max(16, size / 2)
    for part in (first, second):
        assert not part or (part >= 16 and part & (part - 1) == 0)


def test_the_lengths_that_matter_are_one_pass() -> None:
    for length in (50, 77, 197, 257, SINGLE_PASS):
        for capability in (80, 90, 100):
            assert tiles_for(length, 64, 2, capability=capability).single
    assert not tiles_for(577, 64, 2).single
    assert not tiles_for(None, 64, 2).single
