"""Standard output of a command: its answer, and nothing that a library prints."""

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
    """Meanwhile whatever a library prints goes to standard error, so that standard output holds this command's answer alone.

    Libraries of C++ and Rust write to file descriptor 1 without asking Python (tokenizers 0.21 does when a vocabulary leaves an
    id out), and worker processes inherit it. Where standard error is closed, what they print is lost.
    """
    ours = sys.stdout
    with contextlib.ExitStack() as stack:
        others = sys.stderr
        if others is None:
            others = stack.enter_context(open(os.devnull, "w", encoding="utf-8"))
        stack.enter_context(contextlib.redirect_stdout(others))
        try:
            kept = os.dup(1)
        except OSError:  # it is closed, as by `>&-`: and is again in the end
            stack.callback(os.close, 1)
        else:
            stack.callback(os.close, kept)
            _flush(ours)  # what was printed before is ours
            stack.callback(os.dup2, kept, 1)
            stack.callback(_flush, ours)  # what a library has buffered until now is not ours
        os.dup2(_descriptor(others), 1)
        yield


def print_answer(text: str) -> str | None:
    """Print the command's answer; what went wrong, such as "No space left on device", or None."""
    try:
        say(text)
    except OSError as error:
        # Python tries again when it ends, and would complain.
        with open(os.devnull, "w", encoding="utf-8") as nothing:
            os.dup2(nothing.fileno(), 1)
        return error.strerror
    return None


def _descriptor(stream: TextIO) -> int:
    """The file descriptor behind `stream`; that of standard error for a stream that has none."""
    try:
        return stream.fileno()
    except OSError:
        return 2


def _flush(stream: TextIO | None) -> None:
    """Write out what Python's stream and C's have kept, if they can."""
    with contextlib.suppress(OSError, ValueError):  # the other end is closed, or the stream is
        if stream is not None:
            stream.flush()
    library: Any = ctypes.CDLL(None)
    library.fflush(None)
