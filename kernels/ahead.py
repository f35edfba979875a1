"""Parallel compilation of kernels before they are needed, because six configurations of a product take a minute in sequence."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextvars import ContextVar
from typing import Any

_AHEAD: ContextVar[bool] = ContextVar("compile_ahead", default=False)


class CompileOnly:
    """A wrapper of a jitted kernel, with or without an autotuner, whose launches compile the kernel and do not run it."""

    def __init__(self, kernel: Any) -> None:
        self._kernel = kernel

    def __getitem__(self, grid: object) -> Callable[..., None]:
        """The launcher in the place of ``kernel[grid]``; the grid does not matter."""

        def compile_it(*args: Any, **constants: Any) -> None:
            self._kernel.warmup(*args, grid=(1,), **constants)

        return compile_it


def compiles_only() -> bool:
    """Whether launches of this thread only compile, because they are inside `compile_ahead`."""
    return _AHEAD.get()


def compile_ahead(calls: Iterable[Callable[[], object]], workers: int) -> None:
    """Compile all Triton kernels of this package that `calls` would launch, with all configurations of tuned kernels.

    The results of the calls are not computed. A kernel that cannot be compiled is left out, because the real call raises the error.

    Args:
        calls: functions that launch kernels through `kernels.library.launchable`, on CUDA tensors.
        workers: number of kernels that are compiled at the same time.
    """
    from triton import AsyncCompileMode

    token = _AHEAD.set(True)
    try:
        with ThreadPoolExecutor(max(1, workers)) as pool, AsyncCompileMode(pool, ignore_errors=True):
            for call in calls:
                try:
                    call()
                except Exception:  # noqa: BLE001  (an error of Triton's compiler or PyTorch: the real call raises it)
                    continue
    finally:
        _AHEAD.reset(token)
