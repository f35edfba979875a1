"""Implementations of an op of `kernels`, as calls over random inputs: the candidates of `kernels.choices`, and others.

``native`` is the code that would run in a package without this project's kernels: plain PyTorch as its compiler makes it, or as it
is on a CPU, where the table decides nothing. Names that no table knows (``eager``, ``matmul alone``, ``fp8 …``) are comparisons.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F

from kernels import reference

Call = Callable[[], Any]


@dataclass(frozen=True)
class Work:
    """Inputs that were made, and the calls over them.

    Attributes:
        calls: implementation → call; ``native`` is the baseline.
        kernels: the implementations that launch Triton kernels of this project: they may be compiled ahead.
        choices: the implementations that `kernels.swap` can put in.
        head: a function that cuts the part that is checked out of a call's result.
        exact: a function from the implementation's name to that part in float64; None: it is not checked.
    """

    calls: dict[str, Call]
    kernels: tuple[str, ...]
    choices: tuple[str, ...]
    head: Callable[[Any], torch.Tensor]
    exact: Callable[[str], torch.Tensor | None]


def capability(device: str) -> int:
    """90 for an H100; 0 on a CPU."""
    if device == "cpu":
        return 0
    major, minor = torch.cuda.get_device_capability()
    return 10 * major + minor


def as_compiled(function: Callable[..., Any], device: str) -> Callable[..., Any]:
    """A function as PyTorch's compiler makes it for packages: kernels of every matrix product are timed, and the fastest stays."""
    if device == "cpu":
        return function
    compiled: Callable[..., Any] = torch.compile(function, dynamic=False, options={"max_autotune": True})
    return compiled


def _random(device: str, dtype: torch.dtype, *shape: int) -> torch.Tensor:
    return torch.randn(*shape, device=device, dtype=torch.float32).to(dtype)


def attention(shape: tuple[int, int, int, int], causal: bool, mode: str, dtype: torch.dtype, device: str) -> Work:
    """Attention of (N, L, H, D) straight from the packed projection; `mode` as in `benchmarks.kernel_timing.cases.TowerShape`."""
    from torch.nn.attention import SDPBackend, sdpa_kernel

    from kernels.attention import attention as op
    from kernels.attention_variants import candidates

    n, length, heads, size = shape
    qkv = _random(device, dtype, n, length, 3 * heads * size)
    keys = cos = sin = None
    if mode == "masked":
        ends = torch.randint(min(8, length), length + 1, (n, 1), device=device)
        keys = torch.arange(length, device=device)[None, :] < ends
    if mode == "rotary":
        angle = torch.rand(length, size // 2, device=device).repeat(1, 2)
        cos, sin = angle.cos(), angle.sin()
    half = dtype != torch.float32
    names = candidates(length, size, capability(device), keys is not None, cos is not None)[: None if half else 1]
    arguments = (qkv, heads, causal, keys, cos, sin)
    calls: dict[str, Call] = {
        name: lambda name=name: op(*arguments, impl="triton", variant=name)  # type: ignore[misc]
        for name in names
    }
    native = as_compiled(reference.attention, device)
    calls = {"native": lambda: native(*arguments), "eager": lambda: reference.attention(*arguments), **calls}
    if qkv.is_cuda:

        def efficient() -> torch.Tensor:
            with sdpa_kernel(SDPBackend.EFFICIENT_ATTENTION):
                return reference.attention(*arguments)

        calls["sdpa efficient"] = efficient
    first = None if keys is None else keys[:2]

    def exact(name: str) -> torch.Tensor:
        return reference.attention(qkv[:2].double(), heads, causal, first, _double(cos), _double(sin))

    return Work(calls, tuple(names), tuple(names), lambda out: out[:2], exact)


def _double(tensor: torch.Tensor | None) -> torch.Tensor | None:
    return None if tensor is None else tensor.double()


def packed_attention(
    lengths: np.ndarray[Any, Any], longest: int, heads: int, size: int, dtype: torch.dtype, device: str
) -> Work:
    """Attention within captions laid end to end; the baseline is that of a tower without packing, all captions at full length."""
    from kernels.attention import packed_attention as op
    from kernels.attention_variants import packed_candidates

    total = int(lengths.sum())
    packed = _random(device, dtype, total, 3 * heads * size)
    padded = _random(device, dtype, len(lengths), longest, 3 * heads * size)
    starts = torch.from_numpy(np.concatenate(([0], np.cumsum(lengths))).astype(np.int32)).to(device)
    half = dtype != torch.float32
    names = packed_candidates(longest, size, capability(device))[: None if half else 1]
    native = as_compiled(reference.attention, device)
    calls: dict[str, Call] = {"native": lambda: native(padded, heads, True)}
    for name in names:
        calls[name] = lambda name=name: op(packed, heads, starts, longest, True, impl="triton", variant=name)  # type: ignore[misc]
    calls["eager"] = lambda: reference.packed_attention(packed, heads, starts, longest, True)
    first = int(lengths[0])

    def exact(name: str) -> torch.Tensor | None:
        if name == "native":  # of other inputs
            return None
        return reference.attention(packed[None, :first].double(), heads, True)[0]

    return Work(calls, tuple(names), tuple(names), lambda out: out[:first], exact)


def mlp(shape: tuple[int, int, int], form: str, dtype: torch.dtype, device: str) -> Work:
    """A linear layer and its GELU, (M, K) to (M, C), by where GELU goes; and the product alone, in float8 too."""
    from kernels.bias_gelu import bias_gelu
    from kernels.descriptors import packages_hold_descriptors
    from kernels.linear_gelu import linear_gelu

    rows, inner, width = shape
    x, bias = _random(device, dtype, rows, inner), _random(device, dtype, width)
    weight = (_random(device, torch.float32, width, inner) * inner**-0.5).to(dtype)
    native = as_compiled(reference.linear_gelu, device)
    calls: dict[str, Call] = {
        "native": lambda: native(x, weight, bias, form),
        "eager": lambda: reference.linear_gelu(x, weight, bias, form),
        "bias_gelu": lambda: bias_gelu(F.linear(x, weight), bias, form, impl="triton"),
        "linear_gelu": lambda: linear_gelu(x, weight, bias, form, impl="triton"),
        "matmul alone": lambda: F.linear(x, weight),
    }
    kernels, choices = ["bias_gelu", "linear_gelu"], ["bias_gelu", "linear_gelu"]
    if dtype != torch.float32 and capability(device) // 10 in (9, 10):
        # Launched from Python it is right in every release; a package may hold it only where the compiler allots its memory.
        name = "linear_gelu tma"
        calls[name] = lambda: linear_gelu(x, weight, bias, form, impl="triton", variant="tma")
        kernels.append(name)
        choices += [name] if packages_hold_descriptors() else []
    if dtype != torch.float32 and form != "quick" and x.is_cuda:
        calls["linear_gelu cublaslt"] = lambda: linear_gelu(x, weight, bias, "tanh", impl="triton", variant="cublaslt")
        choices.append("linear_gelu cublaslt")
    calls |= _float8_products(x, weight, bias)
    few = 64

    def exact(name: str) -> torch.Tensor | None:
        if name.startswith(("matmul", "fp8")):
            return None
        by = "tanh" if name.endswith("cublaslt") else form
        return reference.linear_gelu(x[:few].double(), weight.double(), bias.double(), by)

    return Work(calls, tuple(kernels), tuple(choices), lambda out: out[:few], exact)


def _float8_products(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> dict[str, Call]:
    """The product in float8, one scale for a tensor or for each of its rows: the part of an fp8 tower in front of GELU."""
    if not x.is_cuda or capability("cuda") < 89:
        return {}
    eighth, other = x.to(torch.float8_e4m3fn), weight.to(torch.float8_e4m3fn).t()
    one = torch.ones((), device=x.device)
    by_row, by_column = torch.ones(len(x), 1, device=x.device), torch.ones(1, len(weight), device=x.device)
    out = torch.bfloat16
    return {
        "fp8 per tensor": lambda: torch._scaled_mm(
            eighth, other, scale_a=one, scale_b=one, bias=bias.to(out), out_dtype=out
        ),
        "fp8 per row": lambda: torch._scaled_mm(eighth, other, scale_a=by_row, scale_b=by_column, out_dtype=out),
    }


def add_layer_norm(rows: int, width: int, dtype: torch.dtype, device: str) -> Work:
    """The residual add and the norm after it, (M, C)."""
    from kernels.add_layer_norm import add_layer_norm as op

    x, residual = _random(device, dtype, rows, width), _random(device, dtype, rows, width)
    weight, bias = _random(device, dtype, width), _random(device, dtype, width)
    arguments = (x, residual, weight, bias, 1e-5)
    native = as_compiled(reference.add_layer_norm, device)
    calls: dict[str, Call] = {
        "native": lambda: native(*arguments),
        "eager": lambda: reference.add_layer_norm(*arguments),
        "triton": lambda: op(*arguments, impl="triton"),
    }
    few = (x[:64].double(), residual[:64].double(), weight.double(), bias.double(), 1e-5)
    return Work(
        calls, ("triton",), ("triton",), lambda out: out[1][:64], lambda name: reference.add_layer_norm(*few)[1]
    )


def patches(shape: tuple[int, int, int, int, int], dtype: torch.dtype, device: str) -> Work:
    """uint8 pictures (N, H, W, 3) to the patches' projection (N, P, C): normalization and convolution, or one product."""
    from benchmarks.workloads.subject import CLIP_MEAN, CLIP_STD
    from kernels.normalize_image import normalize_image

    n, height, across, patch, width = shape
    pixels = torch.randint(0, 256, (n, height, across, 3), dtype=torch.uint8, device=device)
    weight = (_random(device, torch.float32, width, 3, patch, patch) * (3 * patch * patch) ** -0.5).to(dtype)
    mean, std = list(CLIP_MEAN), list(CLIP_STD)
    gain, shift = (
        torch.tensor(values, device=device).reshape(3, 1, 1)
        for values in ([1 / (255 * s) for s in std], [-m / s for m, s in zip(mean, std, strict=True)])
    )

    def convolved(pixels: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        normalized = pixels.float().permute(0, 3, 1, 2) * gain + shift  # as the towers do it
        return F.conv2d(normalized.to(weight.dtype), weight, stride=patch).flatten(2).transpose(1, 2)

    native, rows = as_compiled(convolved, device), weight.flatten(1)
    calls: dict[str, Call] = {
        "native": lambda: native(pixels, weight),
        "eager": lambda: convolved(pixels, weight),
        "normalize_image": lambda: F.linear(normalize_image(pixels, mean, std, patch, dtype, impl="triton"), rows),
        "normalize_image alone": lambda: normalize_image(pixels, mean, std, patch, dtype, impl="triton"),
    }
    kernels = ("normalize_image", "normalize_image alone")

    def exact(name: str) -> torch.Tensor | None:
        if name.endswith("alone"):
            return None
        double = reference.normalize_image(pixels[:2], mean, std, patch, torch.float64)
        return F.linear(double, rows.double())

    return Work(calls, kernels, ("normalize_image",), lambda out: out[:2], exact)


def l2_normalize(rows: int, width: int, dtype: torch.dtype, device: str) -> Work:
    """Embeddings (M, C) to unit length."""
    from kernels.l2_normalize import l2_normalize as op

    x = _random(device, dtype, rows, width)
    native = as_compiled(reference.l2_normalize, device)
    calls: dict[str, Call] = {
        "native": lambda: native(x),
        "eager": lambda: reference.l2_normalize(x),
        "triton": lambda: op(x, impl="triton"),
    }
    return Work(
        calls, ("triton",), ("triton",), lambda out: out[:64], lambda name: reference.l2_normalize(x[:64].double())
    )
