"""Compiles one package: ``python -m exporter.aotinductor.worker RESULT`` with a `CompileJob` as JSON on its input.

It imports none of the exporter's other parts, so that its memory is the compiler's.
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

# Attention as one kernel, as the generated code calls it: PyTorch's own (`_math` is what it is decomposed to where no kernel fits),
# and this project's, whose launcher is defined in the same file.
_FUSED = re.compile(
    r"\baoti_torch_\w*?_(?:scaled_dot_product_(?!\w*math)\w*attention|flash_attention_forward)\w*\("
    r"|(?<!void )\bcall_attention_kernel_\d+\("
)
_FLOAT8 = (8, 9)  # the first compute capability with float8 in its tensor cores


def compile_package(job: CompileJob) -> CompileResult:
    """Load the program, bring it to the device, compile, count."""
    import torch
    from torch._inductor import aoti_compile_and_package
    from torch.export.passes import move_to_device_pass
    from torch.fx.experimental import _config

    import kernels.blocks  # noqa: F401  (registers the ops that a swapped tower's program holds)

    start = time.perf_counter()
    _look_only_for(job.isa)
    # As when it was traced: else the compiler takes dynamic batches to begin at two.
    oblivious = _config.patch(backed_size_oblivious=True)  # type: ignore[attr-defined]
    with torch.no_grad(), oblivious:
        program = torch.export.load(job.program)
        native, own = _attentions(program)
        if job.cuda:
            _refuse_float8(program)
            # With its number: a program knows devices by name, and "cuda" is none of those that its tensors will say they are on.
            program = move_to_device_pass(program, "cuda:0")
        aoti_compile_and_package(program, package_path=job.package, inductor_configs=dict(job.inductor))
    # Counted in what came out: an op of ours is one kernel on a GPU, which may be a vendor's; on the CPU the compiler looks inside.
    fused = min(native + own, _fused(job.package))
    return CompileResult(
        version=str(torch.__version__),
        build=Build(
            seconds=round(time.perf_counter() - start, 3),
            peak_memory_bytes=peak_memory(),
            fused_attention=fused,
            decomposed_attention=native + own - fused,
            options=dict(job.inductor),
        ),
    )


def _look_only_for(isa: str) -> None:
    """Have Inductor plan for the instruction sets up to `isa`, and not try them with the compiler, two seconds each.

    The processor has them (`cpu_isa`), and a compiler that knows x86-64-v3, which was asked before, knows x86-64-v4, too.
    """
    from torch._inductor import config, cpu_vec_isa

    of_processor = getattr(cpu_vec_isa, "x86_isa_checker", None)
    if of_processor is not None:
        names = {"avx2": ("avx2",), "avx512": ("avx2", "avx512")}[isa]
        cpu_vec_isa.x86_isa_checker = lambda: [name for name in of_processor() if name in names]
    if getattr(config.cpp, "vec_isa_ok", False) is None:  # nobody has set it
        config.cpp.vec_isa_ok = True


def _attentions(program: Any) -> tuple[int, int]:
    """Blocks with PyTorch's attention, and with this project's."""
    targets = [str(node.target) for node in program.graph.nodes]
    own = sum(target.startswith("openclip_kernels.") and "attention" in target for target in targets)
    return sum("scaled_dot_product_attention" in target for target in targets), own


def _refuse_float8(program: Any) -> None:
    """PyTorch compiles float8 products for any GPU, and they fail when they run on one that has none."""
    import torch

    major, minor = torch.cuda.get_device_capability()
    if (major, minor) < _FLOAT8 and any("_scaled_mm" in str(node.target) for node in program.graph.nodes):
        raise ValueError(
            f"float8 products need compute capability {_FLOAT8[0]}.{_FLOAT8[1]} or newer, and this GPU has {major}.{minor}: pass "
            "--int8 or --fp16"
        )


def _fused(package: str) -> int:
    """Attentions that one kernel computes: calls in the generated code, which travels in the package."""
    with zipfile.ZipFile(package) as archive:
        sources = [name for name in archive.namelist() if name.endswith(".cpp")]
        return sum(len(_FUSED.findall(archive.read(name).decode(errors="replace"))) for name in sources)


if __name__ == "__main__":
    sys.exit(serve(CompileJob, compile_package))
