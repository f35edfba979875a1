"""The ops that work on rows and pictures as compilers see them: `torch.library.opcheck`, full graphs, exported programs."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Any

import pytest
import torch
from rowwise_cases import MEAN, STD, padded, pixels, randn
from torch._subclasses.fake_tensor import FakeTensorMode

from kernels.add_layer_norm import add_layer_norm
from kernels.bias_gelu import bias_gelu
from kernels.l2_normalize import l2_normalize
from kernels.linear_gelu import linear_gelu
from kernels.normalize_image import normalize_image

HALF = torch.float16


def vector(seed: int) -> torch.Tensor:
    """64 values."""
    return randn(64, dtype=HALF, seed=seed)


def rows(seed: int) -> torch.Tensor:
    """(4, 5, 64), the first dimension of which is a batch."""
    return randn(4, 5, 64, dtype=HALF, seed=seed)


# Op, and its arguments: what has four rows is an input whose batch varies, the rest are parameters.
CALLS: dict[str, tuple[Callable[..., Any], list[Any]]] = {
    "bias_gelu": (bias_gelu, [rows(1), vector(2), "tanh"]),
    "bias_gelu without a bias": (bias_gelu, [rows(1), None, "none"]),
    "linear_gelu": (linear_gelu, [rows(1), randn(96, 64, dtype=HALF, scale=0.1), randn(96, dtype=HALF), "quick"]),
    "linear_gelu without a bias": (linear_gelu, [rows(1), randn(96, 64, dtype=HALF, scale=0.1), None, "none"]),
    "add_layer_norm": (add_layer_norm, [rows(1), rows(2), vector(3), vector(4), 1e-5]),
    "add_layer_norm with layer scale": (add_layer_norm, [rows(1), rows(2), vector(3), vector(4), 1e-6, vector(5)]),
    "normalize_image": (normalize_image, [pixels(4, 48, 35), MEAN, STD, 16, HALF]),
    "l2_normalize": (l2_normalize, [rows(1), 1e-12]),
}
each_call = pytest.mark.parametrize(("op", "args"), CALLS.values(), ids=CALLS.keys())


@pytest.fixture(autouse=True)
def _forget_compiled_graphs() -> None:
    """All tests compile one function, `Calling.forward`, and a function may be compiled only so often."""
    torch._dynamo.reset()


class Calling(torch.nn.Module):
    """A module that calls an op with some arguments fixed."""

    def __init__(self, op: Callable[..., Any], args: list[Any], device: str = "cpu") -> None:
        super().__init__()
        self.op = op
        self.args = [value.to(device) if isinstance(value, torch.Tensor) else value for value in args]
        self.varying = [i for i, value in enumerate(args) if isinstance(value, torch.Tensor) and value.shape[0] == 4]

    def inputs(self, batch: int) -> tuple[torch.Tensor, ...]:
        """The arguments that vary, with this batch."""
        repeats = (self.args[i] for i in self.varying)
        return tuple(x.repeat(-(-batch // 4), *[1] * (x.ndim - 1))[:batch] for x in repeats)

    def forward(self, *inputs: torch.Tensor) -> Any:
        args = list(self.args)
        for place, value in zip(self.varying, inputs, strict=True):
            args[place] = value
        return self.op(*args)


@each_call
def test_opcheck(op: Callable[..., Any], args: list[Any]) -> None:
    overload = getattr(torch.ops.openclip_kernels, op.__name__).default
    torch.library.opcheck(overload, tuple(args))
    views = [padded(value) if isinstance(value, torch.Tensor) and value.dtype == HALF else value for value in args]
    torch.library.opcheck(overload, tuple(views), test_utils=("test_schema", "test_faketensor"))


@each_call
def test_the_registered_op_is_the_reference_on_a_cpu(op: Callable[..., Any], args: list[Any]) -> None:
    torch.testing.assert_close(op(*args), op(*args, impl="native"), rtol=0, atol=0)


@each_call
def test_it_compiles_as_one_graph(op: Callable[..., Any], args: list[Any]) -> None:
    module = Calling(op, args)
    compiled = torch.compile(module, fullgraph=True, dynamic=True, backend="aot_eager")
    for batch in (4, 3):
        inputs = module.inputs(batch)
        torch.testing.assert_close(compiled(*inputs), module(*inputs))


@pytest.mark.slow
@each_call
def test_inductor_compiles_it_as_one_graph(op: Callable[..., Any], args: list[Any]) -> None:
    module = Calling(op, args)
    compiled = torch.compile(module, fullgraph=True, dynamic=True)
    for batch in (4, 3):
        inputs = module.inputs(batch)
        torch.testing.assert_close(compiled(*inputs), module(*inputs), rtol=2e-3, atol=2e-3)


@each_call
def test_an_exported_program_keeps_it_as_one_node(op: Callable[..., Any], args: list[Any]) -> None:
    module = Calling(op, args)
    inputs = module.inputs(4)
    shapes = [{0: torch.export.Dim("batch", min=1, max=64)} for _ in inputs]
    program = torch.export.export(module, inputs, dynamic_shapes={"inputs": tuple(shapes)})
    called = [str(node.target) for node in program.graph.nodes if "openclip_kernels" in str(node.target)]
    assert called == [f"openclip_kernels.{op.__name__}.default"]
    for batch in (1, 7):
        torch.testing.assert_close(program.module()(*module.inputs(batch)), module(*module.inputs(batch)))


@each_call
def test_a_launch_is_traced_for_any_batch_on_a_gpu_that_is_not_there(op: Callable[..., Any], args: list[Any]) -> None:
    """What a compiler sees of the op on a GPU: our kernel, started with a batch that it knows only as a symbol."""
    pytest.importorskip("triton")
    launch = import_module(f"kernels.triton_{op.__name__}").launch
    module = Calling(lambda *values: launch(*values), args)
    with FakeTensorMode():
        module.args = [
            torch.empty(value.shape, dtype=value.dtype, device="cuda") if isinstance(value, torch.Tensor) else value
            for value in args
        ]
        inputs = module.inputs(4)
        batch = torch.export.Dim("batch", min=1, max=1 << 16)
        program = torch.export.export(module, inputs, dynamic_shapes={"inputs": tuple({0: batch} for _ in inputs)})
    (node,) = (node for node in program.graph.nodes if "triton_kernel_wrapper" in str(node.target))
    assert all(isinstance(grid[0], torch.fx.Node) for grid in node.kwargs["grid"]), "a grid depends on no symbol"
    assert program.range_constraints
    assert {(str(r.lower), str(r.upper)) for r in program.range_constraints.values()} == {("1", "65536")}


@pytest.mark.gpu
@each_call
def test_on_the_gpu_compiled_and_not_it_is_the_kernel(op: Callable[..., Any], args: list[Any]) -> None:
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    module = Calling(op, args, "cuda")
    torch.library.opcheck(getattr(torch.ops.openclip_kernels, op.__name__).default, tuple(module.args))
    compiled = torch.compile(module, fullgraph=True, dynamic=True)
    for batch in (4, 3):
        inputs = module.inputs(batch)
        native = Calling(lambda *values: op(*values, impl="native"), args, "cuda")(*inputs)
        torch.testing.assert_close(module(*inputs), native, rtol=2e-3, atol=2e-3)
        torch.testing.assert_close(compiled(*inputs), module(*inputs), rtol=2e-3, atol=2e-3)


@each_call
def test_what_cannot_run_is_refused(op: Callable[..., Any], args: list[Any]) -> None:
    with pytest.raises(ValueError, match="impl='cuda' is not one of auto, triton, native"):
        op(*args, impl="cuda")
    with pytest.raises(ValueError, match="CUDA tensors only"):
        op(*args, impl="triton")


@pytest.mark.parametrize(
    "call",
    [
        lambda form: bias_gelu(rows(1), None, form),
        lambda form: linear_gelu(rows(1), randn(8, 64, dtype=HALF), None, form),
    ],
)
def test_another_form_of_gelu_is_refused(call: Callable[[str], Any]) -> None:
    with pytest.raises(ValueError, match="approximate='erf' is not one of none, tanh, quick"):
        call("erf")


def test_a_row_wider_than_a_tile_is_refused() -> None:
    from kernels.rows import row_tile

    assert row_tile(1280) == (2048, 8)
    assert row_tile(50) == (64, 1)
    with pytest.raises(ValueError, match="rows of 16385 exceed the kernel's 16384 columns"):
        row_tile(16385)
