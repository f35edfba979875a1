"""What `test_gpu_code` looks for is found: code with each fault, made up or compiled."""

from __future__ import annotations

import zipfile
from pathlib import Path

import pytest
from pretended_gpu.code import GeneratedCode, Launch
from pretended_gpu.sass import doubles, instructions

_HEAD = """
void call_attention_kernel_0(const qkv_ptr_type_& qkv_ptr, int64_t length){
    /* grid_0 = 7 in the kernel's source */
    uint32_t grid_0 = 12L*(c10::div_floor_integer(length, 64L));
    uint32_t grid_1 = 1L;
    uint32_t grid_2 = 1L;
    launchKernel(kernels_.attention_kernel_0, grid_0, grid_1, grid_2, 8, 180248, kernel_args_, stream_);
}
"""
_PRODUCT = (
    "    aoti_torch_cuda_addmm_out(buf6, qkv_bias, buf5, wrap(reinterpret(qkv_weight, 2, int_array_4, 0L)), 1L, 1L);\n"
)
_COPY = "    call_triton_poi_fused_clone_2(buf6, buf7, 50L*s81, stream);\n"


def generated(folder: Path, body: str, head: str = _HEAD) -> GeneratedCode:
    package = folder / "x.pt2"
    with zipfile.ZipFile(package, "w") as archive:
        archive.writestr("x/model.wrapper.cpp", f"{head}\nvoid AOTInductorModel::run_impl() {{\n{body}}}\n")
    return GeneratedCode(package)


def attention(buffer: str) -> str:
    view = f"wrap(reinterpret({buffer}, 3, int_array_0, 0L))"
    return f"    call_attention_kernel_0({view}, {view}, {view}, buf9, 77, 1536, stream);\n"


def test_calls_are_told_from_definitions(tmp_path: Path) -> None:
    code = generated(tmp_path, _PRODUCT + attention("buf6"))
    assert [call.name for call in code.calls] == ["aoti_torch_cuda_addmm_out", "call_attention_kernel_0"]
    assert code.calls[0].arguments[0] == "buf6"
    assert len(code.calls[0].arguments) == 6


@pytest.mark.parametrize(
    ("body", "origins"),
    [
        (_PRODUCT + attention("buf6"), ["aoti_torch_cuda_addmm_out"]),
        (_PRODUCT + _COPY + attention("buf7"), ["call_triton_poi_fused_clone_2"]),
        (_PRODUCT + _COPY + attention("buf6"), ["aoti_torch_cuda_addmm_out then call_triton_poi_fused_clone_2"]),
        (_PRODUCT + attention("buf5"), ["aoti_torch_cuda_addmm_out (read)"]),
    ],
    ids=["view", "copy", "changed", "another"],
)
def test_where_q_k_and_v_come_from(tmp_path: Path, body: str, origins: list[str]) -> None:
    assert generated(tmp_path, body).attention_inputs() == [("call_attention_kernel_0", origins)]


def test_copies(tmp_path: Path) -> None:
    aligned = "    aoti_torch_clone_preserve_strides(arg29_1, &arg29_1_aligned);\n"
    code = generated(
        tmp_path, aligned + "    aoti_torch_cuda_copy_(buf7, buf6, 0);\n    aoti_torch_clone(buf7, &buf8);\n"
    )
    assert code.copies() == ["aoti_torch_cuda_copy_", "aoti_torch_clone"]


@pytest.mark.parametrize(
    ("grid", "scratch", "fits"),
    [
        (("132L", "1L", "1L"), "static_cast<int64_t>(384) * grid_0 * grid_1 * grid_2", True),
        (("12L*s81", "1L", "1L"), "static_cast<int64_t>(384) * grid_0 * grid_1 * grid_2", True),
        (("132L", "1L", "1L"), "384", False),  # PyTorch 2.11
        (("132L", "1L", "1L"), "50688", True),
        (("132L", "2L", "1L"), "50688", False),
        (("12L*s81", "1L", "1L"), "50688", False),
        (("132L", "1L", "1L"), "static_cast<int64_t>(128) * grid_0 * grid_1 * grid_2", False),
        (("132L", "1L", "1L"), None, False),
    ],
)
def test_scratch(grid: tuple[str, str, str], scratch: str | None, fits: bool) -> None:
    launch = Launch("some_kernel", grid, scratch)
    assert (launch.problem(384) is None) is fits
    assert launch.problem(0) is None


def test_launches_are_read_from_code_and_not_from_the_kernels_source(tmp_path: Path) -> None:
    (launch,) = generated(tmp_path, "").launches
    assert launch == Launch("attention_kernel_0", ("12L*(c10::div_floor_integer(length, 64L))", "1L", "1L"), None)


def test_sizes_of_inputs(tmp_path: Path) -> None:
    checks = "if (arg1_1_size[0] < 2) {{}}\n    if (arg1_1_size[0] > 211) {{}}\n    if (2 != arg1_1_size[1]) {{}}\n"
    code = generated(tmp_path, "", _HEAD + checks)
    assert code.lower_bounds() == ["arg1_1_size[0] < 2"]
    assert code.upper_bounds() == ["arg1_1_size[0] > 211"]


def test_numbers_that_should_vary(tmp_path: Path) -> None:
    varying = "    call_x(buf37, arg74_1, int_array_37, 50L*s81, 768L, stream);\n"
    assert generated(tmp_path, varying).fixed_multiples(37) == []
    in_a_path = varying.replace("50L*s81", 'load("/tmp/pytest-74/kernel.cubin")')
    assert generated(tmp_path, in_a_path).fixed_multiples(37) == []
    assert generated(tmp_path, varying.replace("50L*s81", "1850L")).fixed_multiples(37) == ["1850"]


@pytest.mark.parametrize("arch", ["sm80", "sm90"])
def test_double_precision(arch: str) -> None:
    """A factor that is handed over as float64, as PyTorch 2.11 does with Python's numbers, and the same as a constant."""
    import triton
    from pretended_gpu.scaling import scaling_kernel
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    cubins = {}
    for kind in ("fp64", "fp32"):
        signature = {"x_ptr": "*fp16", "out_ptr": "*fp16", "factor": kind}
        source = ASTSource(scaling_kernel, signature, {}, {})
        compiled = triton.compile(source, target=GPUTarget("cuda", int(arch[2:]), 32), options={"num_warps": 1})
        cubins[kind] = compiled.asm["cubin"]
    found = {kind: doubles(listing) for kind, listing in instructions(cubins, arch).items()}
    assert "DMUL" in found["fp64"]
    assert any(name.startswith("F2F") for name in found["fp64"])
    assert found["fp32"] == []
