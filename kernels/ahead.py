"""Compiling kernels side by side before they are needed: one after the other, six configurations of a product take a minute."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextvars import ContextVar
from typing import Any

_AHEAD: ContextVar[bool] = ContextVar("compile_ahead", default=False)


class CompileOnly:
    """A jitted kernel, or one with an autotuner, whose launches compile it and run nothing."""

    def __init__(self, kernel: Any) -> None:
        self._kernel = kernel

    def __getitem__(self, grid: object) -> Callable[..., None]:
        """As ``kernel[grid]``; the grid does not matter."""

        def compile_it(*args: Any, **constants: Any) -> None:
            self._kernel.warmup(*args, grid=(1,), **constants)

        return compile_it


def compiles_only() -> bool:
    """Whether launches of this thread are to compile, and to run nothing: inside `compile_ahead`."""
    return _AHEAD.get()


def compile_ahead(calls: Iterable[Callable[[], object]], workers: int) -> None:
    """Compile every Triton kernel of this package that some calls would launch, all configurations of those that are tuned.

    What the calls return is not computed. A kernel that cannot be compiled is left out: the call itself says why.

    Args:
        calls: each launches kernels through `kernels.library.launchable`, on CUDA tensors.
        workers: kernels that are compiled at the same time.
    """
    from triton import AsyncCompileMode

    token = _AHEAD.set(True)
    try:
        with ThreadPoolExecutor(max(1, workers)) as pool, AsyncCompileMode(pool, ignore_errors=True):
            for call in calls:
                try:
                    call()
                except Exception:  # noqa: BLE001  (of Triton's compiler or of PyTorch: the call itself will say it)
                    continue
    finally:
        _AHEAD.reset(token)
