"""Registration of ops with PyTorch, and the selection of a call's implementation.

An op is four things with one signature: the reference (`kernels.reference`), the launcher of its Triton kernel (a function of a
module ``kernels.triton_*``), a fake, and the function that users call. The module of an op is then a few lines::

    _OP = register("double", reference.double, lambda x: torch.empty_like(x), launcher="triton_double:launch")

    def double(x: torch.Tensor, impl: str = "auto") -> torch.Tensor:
        \"\"\"Twice x; for `impl` see `kernels.library.call`.\"\"\"
        return call(_OP, impl, x)

and the launcher starts its kernel through `launchable`::

    launchable(_double_kernel)[(triton.cdiv(x.numel(), 1024),)](x, out, ...)

In a jitted function ``tl.constexpr`` marks constants and ``tl.tensor`` is documentation only. Because `triton.jit` has no types, a
module ``triton_*`` begins with ``# mypy: disallow-untyped-decorators=False``.

Registration is `torch.library.triton_op`: ``torch.export`` keeps the op as one node, and ``torch.compile`` and AOTInductor trace
into it and get the Triton kernel on a GPU and, as the CPU implementation of the op, the operations of the reference.
A package compiled for the CPU therefore needs none of this code to run.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import importlib
import inspect
import logging
import sys
import typing
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from kernels.ahead import CompileOnly, compiles_only

NAMESPACE = "openclip_kernels"
IMPLEMENTATIONS = ("auto", "triton", "native")


@dataclass(frozen=True)
class Op:
    """A registered op: `overload` is ``torch.ops.openclip_kernels.<name>.default``."""

    name: str
    reference: Callable[..., Any]
    launcher: Callable[..., Any]
    overload: Callable[..., Any]


def _lazily(launcher: str) -> Callable[..., Any]:
    """The function "module:function" of this package; a call imports its module, because only then is Triton needed."""
    module, function = launcher.split(":")

    def launch(*args: Any) -> Any:
        return getattr(importlib.import_module(f"kernels.{module}"), function)(*args)

    return launch


@functools.cache
def _mark_compiler_caches() -> None:
    """Make compiled code depend on this package's sources, because keys of PyTorch's caches hold an op's name and not its code.

    Without it, a process started after an edit or an upgrade would get code that was compiled from the older kernels.
    """
    digest = hashlib.sha256()
    for source in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(source.read_bytes())
    import torch.compiler.config

    torch.compiler.config.cache_key_tag += f"{NAMESPACE}:{digest.hexdigest()[:16]}"


@contextlib.contextmanager
def _quiet_without_triton() -> Iterator[None]:
    """Silence torch's warning for each op that it cannot search for Triton kernels without Triton, because then there are none.

    A broken Triton counts as not installed for the time of the block, because torch expects no other error of its import.
    """
    if triton_works():
        yield
        return
    logger = logging.getLogger("torch._library.triton")
    level, hidden = logger.level, sys.modules.get("triton")
    logger.setLevel(logging.ERROR)
    sys.modules["triton"] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        logger.setLevel(level)
        if hidden is None:
            del sys.modules["triton"]
        else:
            sys.modules["triton"] = hidden


@functools.cache
def triton_works() -> bool:
    """Whether Triton is installed and can be imported; any exception of a broken one means False."""
    try:
        from triton.runtime import autotuner, jit  # noqa: F401  (the modules that torch imports)
    except (Exception, SystemExit):  # noqa: BLE001 - see above
        return False
    return True


def register(name: str, reference: Callable[..., Any], fake: Callable[..., Any], launcher: str) -> Op:
    """Register ``openclip_kernels::<name>`` with the schema of `reference`'s signature.

    Args:
        name: the op's name.
        reference: the op in plain PyTorch.
        fake: function of the same arguments that returns empty contiguous tensors of the right shape, dtype and device.
        launcher: "module:function" in this package, which is called with the op's arguments in order.
    """
    launch = _lazily(launcher)

    @functools.wraps(reference)
    def implementation(*args: Any, **kwargs: Any) -> Any:
        arguments = signature.bind(*args, **kwargs)
        arguments.apply_defaults()
        first = arguments.args[0]
        return launch(*arguments.args) if first.is_cuda else reference(*arguments.args)

    signature = _resolved_signature(reference)
    implementation.__signature__ = signature  # type: ignore[attr-defined]
    _mark_compiler_caches()
    with _quiet_without_triton():
        registered: Any = torch.library.triton_op(f"{NAMESPACE}::{name}", implementation, mutates_args=())
    registered.register_fake(fake)
    return Op(name, reference, launch, getattr(getattr(torch.ops, NAMESPACE), name).default)


def _resolved_signature(function: Callable[..., Any]) -> inspect.Signature:
    """The signature with types as annotations, because the schema is inferred from them and not every release reads strings."""
    signature = inspect.signature(function)
    hints = typing.get_type_hints(function)
    parameters = [p.replace(annotation=hints[p.name]) for p in signature.parameters.values()]
    return signature.replace(parameters=parameters, return_annotation=hints["return"])


def call(op: Op, impl: str, *args: Any) -> Any:
    """Run `op` by the implementation with the name `impl`.

    "auto": the Triton kernel on a GPU and the reference on other devices. "triton": the kernel, or an error where there is
    none; on CPU tensors it runs in Triton's interpreter where TRITON_INTERPRET=1 was set before Triton was imported.
    "native": PyTorch's own operations on any device.

    Raises:
        ValueError: `impl` is another name, or is "triton" for tensors on a device where no kernel can run.
    """
    if impl == "native":
        return op.reference(*args)
    if impl == "auto":
        return op.overload(*args)
    if impl != "triton":
        raise ValueError(f"impl={impl!r} is not one of {', '.join(IMPLEMENTATIONS)}")
    device = args[0].device.type
    if device == "cuda":
        return op.overload(*args)
    if device == "cpu" and interpreted():
        return op.launcher(*args)
    raise ValueError(
        f"{op.name} has a Triton kernel for CUDA tensors only, these are on {device}: move them to a GPU, "
        "set TRITON_INTERPRET=1 to debug on a CPU, or use impl='native'"
    )


def check_dtypes(op: Op, first: torch.Tensor, **others: torch.Tensor | None) -> None:
    """Raise ValueError unless all tensors have the first one's dtype, because kernels write that and PyTorch would promote."""
    for name, tensor in others.items():
        if tensor is not None and tensor.dtype != first.dtype:
            raise ValueError(f"{op.name}: {name} is {tensor.dtype} and x is {first.dtype}: convert one of them first")


def interpreted() -> bool:
    """Whether Triton functions that are defined from now on run in its interpreter, on CPU tensors."""
    if not triton_works():
        return False
    from triton import knobs

    return bool(knobs.runtime.interpret)


def launchable(kernel: Any) -> Any:
    """The kernel for ``[grid](...)``: traceable by compilers; unwrapped in the interpreter, because some releases cannot wrap it.

    Inside `kernels.ahead.compile_ahead` its launches only compile.
    """
    from triton.runtime.autotuner import Autotuner, Heuristics
    from triton.runtime.jit import JITFunction

    inner = kernel
    while isinstance(inner, (Autotuner, Heuristics)):
        inner = inner.fn
    if compiles_only() and isinstance(inner, JITFunction):
        return CompileOnly(kernel)
    return torch.library.wrap_triton(kernel) if isinstance(inner, JITFunction) else kernel
