"""Standard output of a command: its answer, and nothing that a library prints."""

from __future__ import annotations

import contextlib
import ctypes
import os
import sys
from collections.abc import Iterator


@contextlib.contextmanager
def standard_output_is_ours() -> Iterator[None]:
    """Meanwhile whatever a library prints goes to standard error, so that standard output holds this command's answer alone.

    Libraries of C++ and Rust write to file descriptor 1 without asking Python (tokenizers 0.21 does when a vocabulary leaves an
    id out), and worker processes inherit it.
    """
    with contextlib.redirect_stdout(sys.stderr):
        try:
            kept = os.dup(1)
        except OSError:  # it is closed, as by `>&-`
            yield
            return
        try:
            os.dup2(2, 1)
            yield
        finally:
            ctypes.CDLL(None).fflush(None)  # what C keeps for a pipe or file would come out at the end
            os.dup2(kept, 1)
            os.close(kept)
