"""Variants of ``linear_gelu``: what refuses them, and what a compiler for a GPU would see of them."""

from __future__ import annotations

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx

from kernels import descriptors, launchers
from kernels.linear_gelu import linear_gelu

HALF = torch.float16


def test_what_is_refused() -> None:
    x, weight = torch.randn(3, 16), torch.randn(32, 16)
    with pytest.raises(ValueError, match="variant='fast' of linear_gelu is none of triton, tma, cublaslt"):
        linear_gelu(x, weight, None, variant="fast")
    for bias, form in ((None, "tanh"), (torch.zeros(32), "none"), (torch.zeros(32), "quick")):
        with pytest.raises(ValueError, match="'cublaslt' is a bias and GELU by tanh"):
            linear_gelu(x, weight, bias, form, variant="cublaslt")


@pytest.mark.parametrize("variant", ["triton", "tma", "cublaslt"])
def test_on_a_cpu_every_variant_is_the_reference(variant: str) -> None:
    x, weight, bias = torch.randn(3, 16), torch.randn(32, 16), torch.randn(32)
    expected = torch.nn.functional.gelu(torch.nn.functional.linear(x, weight, bias), approximate="tanh")
    torch.testing.assert_close(linear_gelu(x, weight, bias, "tanh", variant=variant), expected)


def test_the_vendors_epilogue_is_one_call() -> None:
    with FakeTensorMode():
        x, weight, bias = (torch.empty(*shape, device="cuda", dtype=HALF) for shape in ((4, 7, 64), (128, 64), (128,)))
        graph = make_fx(lambda *a: launchers.linear_gelu(*a, "tanh", "cublaslt"))(x, weight, bias).graph
    targets = [str(node.target) for node in graph.nodes if node.op == "call_function"]
    assert sum("_addmm_activation" in target for target in targets) == 1
    assert not [target for target in targets if "clone" in target or "gelu." in target]


def test_tensor_descriptors_need_aligned_rows_of_half_precision() -> None:
    persistent = pytest.importorskip("kernels.triton_linear_gelu_persistent")
    weight = torch.empty(64, 64, dtype=HALF)
    persistent.check(torch.empty(7, 80, dtype=HALF)[:, 8:72], weight)
    for x in (torch.empty(7, 80, dtype=HALF)[:, 1:65], torch.empty(7, 67, dtype=HALF)[:, :64]):
        with pytest.raises(ValueError, match="needs rows that begin at multiples of 16 bytes"):
            persistent.check(x, weight)
    with pytest.raises(ValueError, match="begin at multiples of 16"):
        persistent.check(torch.empty(7, 100, dtype=HALF), torch.empty(64, 100, dtype=HALF))
    with pytest.raises(ValueError, match="for half precision"):
        persistent.check(torch.empty(7, 64), torch.empty(64, 64))


@pytest.mark.parametrize(
    ("release", "holds"), [("2.11.0+cu130", False), ("2.14.1", False), ("2.15.0", True), ("3.0", True)]
)
def test_a_compiler_that_breaks_descriptors_never_sees_them(
    monkeypatch: pytest.MonkeyPatch, release: str, holds: bool
) -> None:
    """PyTorch 2.11 gives all programs of a kernel in a package the memory of one program's descriptors."""
    persistent = pytest.importorskip("kernels.triton_linear_gelu_persistent")
    monkeypatch.setattr(torch, "__version__", release)
    assert descriptors.packages_hold_descriptors() is holds
    persistent.check(torch.empty(7, 64, dtype=HALF), torch.empty(64, 64, dtype=HALF))  # eager launches are right
    with FakeTensorMode():
        x, weight = torch.empty(7, 64, dtype=HALF), torch.empty(64, 64, dtype=HALF)
        if holds:
            persistent.check(x, weight)
        else:
            with pytest.raises(ValueError, match=r"cannot go into a compiled program of PyTorch .*; use 'triton'"):
                persistent.check(x, weight)
