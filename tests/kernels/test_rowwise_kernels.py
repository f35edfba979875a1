"""The kernels that work on rows, against float64: in Triton's interpreter here, on the device where there is one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from rowwise_cases import DTYPES, check_all, padded, randn, spread

from kernels import reference
from kernels.add_layer_norm import add_layer_norm
from kernels.bias_gelu import bias_gelu
from kernels.l2_normalize import l2_normalize
from kernels.linear_gelu import linear_gelu

FORMS = reference.APPROXIMATIONS
# Every row count and every width in some pair, every pair in the slow grid.
SHAPES = ((1, 64), (3, 768), (50, 1280), (77, 1664), (3, 3072), (1, 5120))
GRID = tuple((rows, width) for rows in (1, 3, 50, 77) for width in (64, 768, 1280, 1664, 3072, 5120))
# Rows, inner size, outputs: fewer than a tile, more than one, none of them a multiple of anything.
PRODUCTS = ((1, 64, 64), (3, 768, 200), (50, 100, 130), (77, 1280, 64))

Runner = Callable[..., None]
somewhere = pytest.mark.parametrize("run", ["interpreter", pytest.param("cuda", marks=pytest.mark.gpu)], indirect=True)
each_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=str)


@pytest.fixture
def run(request: pytest.FixtureRequest) -> Iterator[Runner]:
    """``run(op, reference, *args)`` checks the kernel in the interpreter or on the GPU."""
    if request.param == "cuda":
        if not torch.cuda.is_available():
            pytest.skip("no CUDA device")
        yield lambda *args: check_all(*args, device="cuda")
    else:
        interpret = request.getfixturevalue("interpret")
        yield lambda *args: interpret(check_all, *args)


def layer_norm_args(rows: int, width: int, dtype: torch.dtype, scaled: bool = False, size: float = 1.0) -> list[Any]:
    """x, residual, weight, bias, eps, scale."""
    vectors = [randn(width, dtype=dtype, seed=seed) for seed in (3, 4)]
    scale = randn(width, dtype=dtype, scale=0.1, seed=5) if scaled else None
    branches = [randn(rows, width, dtype=dtype, scale=size, seed=seed) for seed in (1, 2)]
    return [*branches, *vectors, 1e-5, scale]


@somewhere
@each_dtype
@pytest.mark.parametrize(("rows", "width"), SHAPES)
def test_bias_gelu(run: Runner, rows: int, width: int, dtype: torch.dtype) -> None:
    form = FORMS[width // 64 % 3]
    run(bias_gelu, reference.bias_gelu, randn(rows, width, dtype=dtype), randn(width, dtype=dtype), form)


@somewhere
@each_dtype
@pytest.mark.parametrize("form", FORMS)
def test_bias_gelu_over_its_whole_range_without_a_bias(run: Runner, form: str, dtype: torch.dtype) -> None:
    x = torch.linspace(-12, 12, 4096).to(dtype).reshape(2, 4, 512)
    run(bias_gelu, reference.bias_gelu, x, None, form)


@somewhere
@each_dtype
@pytest.mark.parametrize("form", FORMS)
def test_bias_gelu_of_extremes(run: Runner, form: str, dtype: torch.dtype) -> None:
    # Minus infinity is NaN as PyTorch has it: infinity times nothing.
    x = torch.tensor([[-1e4, 1e4, -300.0, 300.0, 0.0, -0.0, float("inf"), float("-inf"), float("nan"), 6e-8]])
    run(bias_gelu, reference.bias_gelu, x.to(dtype), None, form)


@somewhere
@each_dtype
@pytest.mark.parametrize("view", [spread, padded])
def test_bias_gelu_of_a_view(run: Runner, view: Callable[..., torch.Tensor], dtype: torch.dtype) -> None:
    run(bias_gelu, reference.bias_gelu, view(randn(2, 3, 768, dtype=dtype)), spread(randn(768, dtype=dtype)), "quick")


@somewhere
@each_dtype
@pytest.mark.parametrize(("rows", "inner", "outputs"), PRODUCTS)
def test_linear_gelu(run: Runner, rows: int, inner: int, outputs: int, dtype: torch.dtype) -> None:
    x, bias = randn(rows, inner, dtype=dtype), randn(outputs, dtype=dtype)
    weight = randn(outputs, inner, dtype=dtype, scale=inner**-0.5)
    form = FORMS[inner % 3]
    run(linear_gelu, reference.linear_gelu, x, weight, bias, form)
    run(linear_gelu, reference.linear_gelu, x[None], weight, None, form)


@somewhere
@each_dtype
def test_linear_gelu_of_many_rows(run: Runner, dtype: torch.dtype) -> None:
    x, bias = randn(1100, 64, dtype=dtype), randn(72, dtype=dtype)
    run(linear_gelu, reference.linear_gelu, x, randn(72, 64, dtype=dtype, scale=0.125), bias, "none")


@somewhere
@each_dtype
def test_linear_gelu_of_views_and_extremes(run: Runner, dtype: torch.dtype) -> None:
    x = randn(3, 5, 96, dtype=dtype)
    weight, bias = randn(96, 40, dtype=dtype, scale=0.1).T, randn(40, dtype=dtype)
    run(linear_gelu, reference.linear_gelu, padded(x).transpose(0, 1), weight, bias, "tanh")
    run(linear_gelu, reference.linear_gelu, spread(x), weight, torch.full((40,), -1e4).to(dtype), "none")


def persistent_linear_gelu(
    x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, approximate: str, impl: str
) -> torch.Tensor:
    """The variant by TMA, whether the table of choices names it or not."""
    from kernels import triton_linear_gelu_persistent

    return triton_linear_gelu_persistent.launch(x, weight, bias, approximate)


@somewhere
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize(("rows", "inner", "outputs"), [(1, 64, 64), (77, 768, 200), (300, 104, 264)])
def test_persistent_linear_gelu(run: Runner, rows: int, inner: int, outputs: int, dtype: torch.dtype) -> None:
    if torch.cuda.is_available() and torch.cuda.get_device_capability()[0] < 9:
        pytest.skip("needs Hopper's tensor memory accelerator")
    x, weight = randn(rows, inner, dtype=dtype), randn(outputs, inner, dtype=dtype, scale=inner**-0.5)
    run(persistent_linear_gelu, reference.linear_gelu, x, weight, randn(outputs, dtype=dtype), "none")
    run(persistent_linear_gelu, reference.linear_gelu, padded(x)[None], weight, None, "quick")


@somewhere
@each_dtype
@pytest.mark.parametrize(("rows", "width"), SHAPES)
def test_add_layer_norm(run: Runner, rows: int, width: int, dtype: torch.dtype) -> None:
    run(add_layer_norm, reference.add_layer_norm, *layer_norm_args(rows, width, dtype, scaled=rows == 3))


@somewhere
@each_dtype
@pytest.mark.parametrize("width", [1408, 1792, 2048])
def test_add_layer_norm_at_the_other_widths(run: Runner, width: int, dtype: torch.dtype) -> None:
    run(add_layer_norm, reference.add_layer_norm, *layer_norm_args(2, width, dtype))


@somewhere
@each_dtype
def test_add_layer_norm_of_views_and_extremes(run: Runner, dtype: torch.dtype) -> None:
    x, residual, *rest = layer_norm_args(6, 320, dtype, scaled=True)
    run(add_layer_norm, reference.add_layer_norm, spread(x), padded(residual), *rest)
    x, residual, *rest = layer_norm_args(6, 320, dtype, size=1e4)
    run(add_layer_norm, reference.add_layer_norm, x.clamp(-1e4, 1e4), residual.clamp(-1e4, 1e4), *rest)
    x[0], x[1], residual[1], x[2, 5], x[3, 7] = 0, 7, 7, float("inf"), float("nan")
    x, residual = x.clamp(-1e4, None), residual.clamp(-1e4, 1e4)
    x[4:], residual[0] = 0, 0
    run(add_layer_norm, reference.add_layer_norm, x, residual, *rest)


@somewhere
@each_dtype
@pytest.mark.parametrize(("rows", "width"), [(1, 64), (3, 512), (50, 1280), (77, 768)])
def test_l2_normalize(run: Runner, rows: int, width: int, dtype: torch.dtype) -> None:
    run(l2_normalize, reference.l2_normalize, randn(rows, width, dtype=dtype), 1e-12)


@somewhere
@each_dtype
def test_l2_normalize_of_views_and_extremes(run: Runner, dtype: torch.dtype) -> None:
    x = randn(6, 640, dtype=dtype)
    run(l2_normalize, reference.l2_normalize, spread(x), 1e-12)
    x[0], x[1], x[2] = 0, 1e4, -1e4
    x[3], x[4, 3] = 6e-8, float("nan")
    run(l2_normalize, reference.l2_normalize, padded(x), 1e-6)


@pytest.mark.slow
@somewhere
@each_dtype
@pytest.mark.parametrize(("rows", "width"), GRID)
def test_the_full_grid(run: Runner, rows: int, width: int, dtype: torch.dtype) -> None:
    x = randn(rows, width, dtype=dtype)
    for form in FORMS:
        run(bias_gelu, reference.bias_gelu, x, randn(width, dtype=dtype), form)
        weight = randn(70, width, dtype=dtype, scale=width**-0.5)
        run(linear_gelu, reference.linear_gelu, x, weight, randn(70, dtype=dtype), form)
    for scaled in (False, True):
        run(add_layer_norm, reference.add_layer_norm, *layer_norm_args(rows, width, dtype, scaled))
    run(l2_normalize, reference.l2_normalize, x, 1e-12)
