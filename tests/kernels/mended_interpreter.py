"""Triton's interpreter where it does not compute as a GPU does, and where it is slow without a need."""

from __future__ import annotations

from typing import Any

import torch


def mend_interpreter() -> None:
    """Put three things right: a cast from float32 to bfloat16 cuts off, `tl.dot` of bfloat16 multiplies bit patterns, and
    Triton 3.6 cannot count to a value of the kernel's with NumPy 2.4.

    A call of one jitted function by another one is made faster, see `_patch_once_a_launch`.

    To be called where Triton interprets; a second call changes nothing.
    """
    import triton.language as tl
    from triton.runtime import interpreter
    from triton.runtime.interpreter import InterpreterBuilder, TensorHandle

    if hasattr(InterpreterBuilder, "plain_cast"):
        return
    plain_patch = interpreter._patch_lang_tensor

    def patch(tensor: Any, scope: Any) -> None:
        plain_patch(tensor, scope)
        scope.set_attr(tensor, "__index__", lambda self: self.handle.data.item())

    interpreter._patch_lang_tensor = patch
    InterpreterBuilder.plain_cast, plain_dot = InterpreterBuilder.cast_impl, InterpreterBuilder.create_dot

    def cast(self: Any, source: Any, target: Any) -> Any:
        if source.dtype.scalar == tl.float32 and target.scalar == tl.bfloat16:
            rounded = torch.tensor(source.data).bfloat16().view(torch.uint16).numpy()
            return TensorHandle(rounded, target.scalar)
        return self.plain_cast(source, target)

    def dot(self: Any, a: Any, b: Any, *rest: Any) -> Any:
        a, b = (self.plain_cast(x, tl.float32) if x.dtype.scalar == tl.bfloat16 else x for x in (a, b))
        return plain_dot(self, a, b, *rest)

    InterpreterBuilder.cast_impl, InterpreterBuilder.create_dot = cast, dot
    _patch_once_a_launch(interpreter)


def _patch_once_a_launch(interpreter: Any) -> None:
    """Triton replaces the functions of its language when a kernel is launched, and again whenever a jitted function calls another
    one, which took a quarter of the time: here for the first function that sees a module of the language, in each launch.
    """
    patch, launch = interpreter._patch_lang, interpreter.GridExecutor.__call__
    modules = {id(module) for module in (interpreter.tl, interpreter.tl.core)}
    patched: set[int] = set()

    def patch_once(function: Any) -> Any:
        seen = modules & {id(value) for value in function.__globals__.values()}
        if seen and seen <= patched:
            return None  # a called function's scope is not used
        patched.update(seen)
        return patch(function)

    def launch_anew(self: Any, *args: Any, **kwargs: Any) -> None:
        patched.clear()
        launch(self, *args, **kwargs)

    interpreter._patch_lang, interpreter.GridExecutor.__call__ = patch_once, launch_anew
