"""The standard output of a command: it holds the command's answer, and no output of libraries."""

from __future__ import annotations

import contextlib
import ctypes
import os
import sys
from collections.abc import Iterator
from typing import Any, TextIO

from engines.process.terminal import say


@contextlib.contextmanager
def standard_output_is_ours() -> Iterator[None]:
    """Send output of libraries to standard error while the context is open, so that standard output holds the answer alone.

    Libraries of C++ and Rust write to file descriptor 1 past Python (tokenizers 0.21 does when a vocabulary leaves an id out), and
    worker processes inherit it. Where standard error is closed, their output is lost.
    """
    ours = sys.stdout
    with contextlib.ExitStack() as stack:
        others = sys.stderr
        if others is None:
            others = stack.enter_context(open(os.devnull, "w", encoding="utf-8"))
        stack.enter_context(contextlib.redirect_stdout(others))
        try:
            original = os.dup(1)
        except OSError:  # standard output is closed, as by `>&-`: it is closed again at the end
            stack.callback(os.close, 1)
        else:
            stack.callback(os.close, original)
            _flush(ours)  # text printed before belongs to this command
            stack.callback(os.dup2, original, 1)
            stack.callback(_flush, ours)  # text that libraries have buffered until now does not
        os.dup2(_descriptor(others), 1)
        yield


def print_answer(text: str) -> str | None:
    """Print the command's answer; returns the error's text, such as "No space left on device", or None."""
    try:
        say(text)
    except OSError as error:
        # Python flushes again when it ends, and would print an error.
        with open(os.devnull, "w", encoding="utf-8") as nothing:
            os.dup2(nothing.fileno(), 1)
        return error.strerror
    return None


def _descriptor(stream: TextIO) -> int:
    """The file descriptor of `stream`; for a stream without one, standard error's."""
    try:
        return stream.fileno()
    except OSError:
        return 2


def _flush(stream: TextIO | None) -> None:
    """Write out the buffers of Python's stream and of the C library, if that is possible."""
    with contextlib.suppress(OSError, ValueError):  # the other end is closed, or the stream is
        if stream is not None:
            stream.flush()
    library: Any = ctypes.CDLL(None)
    library.fflush(None)
