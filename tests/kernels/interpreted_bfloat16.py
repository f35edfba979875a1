"""bfloat16 in Triton's interpreter as a GPU computes it."""

from __future__ import annotations

from typing import Any

import torch


def mend_bfloat16() -> None:
    """Two things that the interpreter gets wrong: a cast from float32 cuts off, `tl.dot` multiplies bit patterns.

    To be called where Triton interprets; a second call changes nothing.
    """
    import triton.language as tl
    from triton.runtime.interpreter import InterpreterBuilder, TensorHandle

    if hasattr(InterpreterBuilder, "plain_cast"):
        return
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
