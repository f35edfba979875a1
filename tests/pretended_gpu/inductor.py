"""AOTInductor on a pretended GPU: weights without memory, kernels that are compiled and never timed, no C++ compiler at the end.

Everything else is the installed PyTorch's: tracing, lowering, fusion, the generated C++, Triton's compilation, packaging. Matrix
products are the vendor's, because a search among kernels (`max_autotune`) times them.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

# Weights have no values here, so that none can be stored; the rest of a job's options are the exporter's.
OPTIONS: dict[str, bool | int | str] = {"aot_inductor.package_constants_in_so": False}
_FEW = 8  # what Inductor writes into the code instead of reading it


def pretend_compiling(link: bool = False) -> None:
    """Change Inductor for the rest of this process, after `pretended_gpu.device.pretend`.

    Args:
        link: the C++ compiler and the linker run; else they leave empty files.
    """
    _weights_without_memory()
    _no_timing()
    _one_configuration()
    _fused_attention()
    if not link:
        _no_linking()


def _weights_without_memory() -> None:
    """Programs move to the device by PyTorch's own pass, with fake tensors in the places of weights and examples."""
    import torch._inductor.graph
    import torch.export.passes
    from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode

    move = torch.export.passes.move_to_device_pass

    def move_fakes(program: Any, location: Any) -> Any:
        placed = (node.meta.get("val") for node in program.graph.nodes if node.op == "placeholder")
        mode = next(value.fake_mode for value in placed if isinstance(value, torch.Tensor))

        def fake(value: Any) -> Any:
            if not isinstance(value, torch.Tensor):
                return value
            made = mode.from_tensor(value.detach(), static_shapes=True)
            return torch.nn.Parameter(made, requires_grad=False) if isinstance(value, torch.nn.Parameter) else made

        inputs, named = program._example_inputs
        program._example_inputs = (tuple(fake(value) for value in inputs), named)
        all_weights = (program._state_dict, program._constants)
        real = [dict(weights) for weights in all_weights]
        for weights in all_weights:
            weights.update({name: fake(value) for name, value in weights.items()})
        moved = move(program, location)
        for weights, values in zip((moved._state_dict, moved._constants), real, strict=True):
            for name, value in values.items():
                if isinstance(value, torch.Tensor) and value.numel() <= _FEW:
                    weights[name].pretended_values = value.tolist()
        return moved

    torch.export.passes.move_to_device_pass = move_fakes
    # Values of the smallest weights become numbers in the code.
    for name in ("item", "tolist"):
        setattr(FakeTensor, name, _of_values(getattr(FakeTensor, name)))
    # A number that an operator wants as a tensor is put on the device.
    make = torch.tensor

    def tensor(data: Any, *args: Any, **kwargs: Any) -> torch.Tensor:
        if torch.device(kwargs.get("device") or "cpu").type != "cuda":
            return make(data, *args, **kwargs)
        on_host = make(data, *args, **{**kwargs, "device": "cpu"})
        with FakeTensorMode():
            made = torch.empty(on_host.shape, dtype=on_host.dtype, device="cuda:0")
        made.pretended_values = on_host.tolist()  # type: ignore[attr-defined]
        return made

    torch.tensor = tensor  # type: ignore[assignment]
    # By their addresses, which are all zero, any two weights of one shape would be the same.
    torch._inductor.graph.is_same_tensor = lambda data, value: data is value


def _of_values(method: Any) -> Any:
    def answer(self: Any) -> Any:
        return self.pretended_values if hasattr(self, "pretended_values") else method(self)

    return answer


def _no_timing() -> None:
    """Where Inductor would run every kernel once to choose its configuration, kernels are compiled and the first one is taken."""
    from torch._inductor.codegen import wrapper

    def compile_all(self: Any) -> None:
        self.kernel_autotune_defs.splice(
            """
            async_compile.wait(globals())
            del async_compile
            """
        )
        scope: dict[str, Any] = {}
        exec(self.kernel_autotune_defs.getvalue(), scope)
        for kernel in scope.values():
            if hasattr(kernel, "save_gpu_kernel"):
                _keep(kernel)

    wrapper.PythonWrapperCodegen.generate_and_run_autotune_block = compile_all


def _keep(kernel: Any) -> None:
    if not kernel.launchers:
        kernel.precompile()
    kernel.save_gpu_kernel(0, kernel.launchers[0])


def _one_configuration() -> None:
    """Of an autotuner's configurations only the first is compiled: tests/kernels/test_static_kernels.py compiles all of ours."""
    from torch._inductor.runtime.triton_heuristics import CachingAutotuner

    precompile = CachingAutotuner.precompile

    def precompile_one(self: Any, *args: Any, **kwargs: Any) -> Any:
        if self.configs:
            self.configs = self.configs[:1]
        return precompile(self, *args, **kwargs)

    CachingAutotuner.precompile = precompile_one


def _fused_attention() -> None:
    """PyTorch asks the card which of its attentions fits; without one it would say none, and decompose. Flash and efficient fit."""
    operator = torch.ops.aten.scaled_dot_product_attention.default

    @operator.py_impl(torch._C.DispatchKey.CompositeImplicitAutograd)
    def attend(
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        attn_mask: torch.Tensor | None = None,
        dropout_p: float = 0.0,
        is_causal: bool = False,
        *,
        scale: float | None = None,
        enable_gqa: bool = False,
    ) -> torch.Tensor:
        if attn_mask is None:
            flash = torch.ops.aten._scaled_dot_product_flash_attention.default
            return flash(query, key, value, dropout_p, is_causal, False, scale=scale)[0]
        bias = attn_mask
        if bias.dtype == torch.bool:
            zeros = torch.zeros_like(attn_mask, dtype=query.dtype)
            bias = torch.where(attn_mask, zeros, torch.full_like(zeros, float("-inf")))
        bias = bias.expand(query.shape[0], query.shape[1], query.shape[2], key.shape[2])
        efficient = torch.ops.aten._scaled_dot_product_efficient_attention.default
        return efficient(query, key, value, bias, False, dropout_p, is_causal, scale=scale)[0]


def _no_linking() -> None:
    from torch._inductor.cpp_builder import CppBuilder

    def build(self: Any) -> None:
        target = Path(self.get_target_file_path())
        target.parent.mkdir(parents=True, exist_ok=True)
        target.touch()

    CppBuilder.build = build


def compiled_kernels() -> Iterator[tuple[str, dict[str, Any]]]:
    """What is known of every kernel that this process compiled, by its name in generated code; names begin anew in each package."""
    from torch._inductor.codecache import CudaKernelParamCache

    yield from CudaKernelParamCache.cache.items()
