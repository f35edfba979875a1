"""The compiling process of one package: ``python -m exporter.aotinductor.worker RESULT``, a `CompileJob` as JSON on its input.

It imports none of the exporter's larger parts, so that its measured memory is the compiler's.
"""

from __future__ import annotations

import re
import sys
import time
import zipfile
from typing import Any

from engines.manifest import Build
from exporter.aotinductor.job import CompileJob, CompileResult
from exporter.child_process import serve
from exporter.memory import peak_memory

# Calls of attention as one kernel in the generated code: PyTorch's own (`_math` is its decomposition where no kernel fits), and
# this project's, whose launcher is defined in the same file.
_FUSED = re.compile(
    r"\baoti_torch_\w*?_(?:scaled_dot_product_(?!\w*math)\w*attention|flash_attention_forward)\w*\("
    r"|(?<!void )\bcall_attention_kernel_\d+\("
)
_FLOAT8 = (8, 9)  # the first compute capability with float8 in its tensor cores


def compile_package(job: CompileJob) -> CompileResult:
    """Load the program, move it to the device, compile it, and count the attentions that became one kernel."""
    import torch
    from torch._inductor import aoti_compile_and_package
    from torch.export.passes import move_to_device_pass
    from torch.fx.experimental import _config

    import kernels.blocks  # noqa: F401  (registers the ops that a swapped tower's program holds)

    start = time.perf_counter()
    _look_only_for(job.isa)
    # The setting with which the program was traced: without it, dynamic batches begin at two for the compiler.
    oblivious = _config.patch(backed_size_oblivious=True)  # type: ignore[attr-defined]
    with torch.no_grad(), oblivious:
        program = torch.export.load(job.program)
        native, ours = _attentions(program)
        if job.cuda:
            _refuse_float8(program)
            # The name has the device's number, because a program compares devices by name, and its tensors are on "cuda:0".
            program = move_to_device_pass(program, "cuda:0")
        aoti_compile_and_package(program, package_path=job.package, inductor_configs=dict(job.inductor))
    # Counted in the generated code: this project's op is one kernel on a GPU, which may be a vendor's; on the CPU the compiler
    # compiles the op's content.
    fused = min(native + ours, _fused(job.package))
    return CompileResult(
        version=str(torch.__version__),
        build=Build(
            seconds=round(time.perf_counter() - start, 3),
            peak_memory_bytes=peak_memory(),
            fused_attention=fused,
            decomposed_attention=native + ours - fused,
            options=dict(job.inductor),
        ),
    )


def _look_only_for(isa: str) -> None:
    """Limit Inductor's plan to the instruction sets up to `isa`, and skip its tests of them with the compiler, two seconds each.

    The processor has them (`cpu_isa`), and a compiler that supports x86-64-v3, which `compiler_problem` tested, supports x86-64-v4.
    """
    from torch._inductor import config, cpu_vec_isa

    of_processor = getattr(cpu_vec_isa, "x86_isa_checker", None)
    if of_processor is not None:
        names = {"avx2": ("avx2",), "avx512": ("avx2", "avx512")}[isa]
        cpu_vec_isa.x86_isa_checker = lambda: [name for name in of_processor() if name in names]
    if getattr(config.cpp, "vec_isa_ok", False) is None:  # nobody has set it
        config.cpp.vec_isa_ok = True


def _attentions(program: Any) -> tuple[int, int]:
    """The number of blocks with PyTorch's attention, and of blocks with this project's."""
    targets = [str(node.target) for node in program.graph.nodes]
    ours = sum(target.startswith("openclip_kernels.") and "attention" in target for target in targets)
    return sum("scaled_dot_product_attention" in target for target in targets), ours


def _refuse_float8(program: Any) -> None:
    """Refuse float8 products on a GPU without them, because PyTorch compiles them for any GPU and they fail when they run."""
    import torch

    major, minor = torch.cuda.get_device_capability()
    if (major, minor) < _FLOAT8 and any("_scaled_mm" in str(node.target) for node in program.graph.nodes):
        raise ValueError(
            f"float8 products need compute capability {_FLOAT8[0]}.{_FLOAT8[1]} or newer, and this GPU has {major}.{minor}: pass "
            "--int8 or --fp16"
        )


def _fused(package: str) -> int:
    """The number of attentions that one kernel computes: calls in the generated code, which the package holds."""
    with zipfile.ZipFile(package) as archive:
        sources = [name for name in archive.namelist() if name.endswith(".cpp")]
        return sum(len(_FUSED.findall(archive.read(name).decode(errors="replace"))) for name in sources)


if __name__ == "__main__":
    sys.exit(serve(CompileJob, compile_package))
