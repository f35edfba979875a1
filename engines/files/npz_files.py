"""Archives of arrays (``.npz``) that may be damaged: every exception while reading them becomes one error with a remedy."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from numpy.lib.npyio import NpzFile

from engines.errors import EngineError


@contextmanager
def opened_npz(path: Path, kind: type[EngineError], what: str, remedy: str) -> Iterator[NpzFile]:
    """Open an archive. An array is read when the block takes it, so a damaged file raises inside the block.

    Args:
        path: path of the file.
        kind: class of the error.
        what: the problem of the file in the message, such as ``is damaged``.
        remedy: the end of the error's sentence.

    Raises:
        EngineError: (an instance of `kind`) the block raised any exception. All are caught because zipfile, zlib and NumPy document
            no set of classes: a changed byte gives NotImplementedError, RuntimeError, zlib.error, tokenize.TokenError, MemoryError
            or others.
    """
    try:
        archive = np.load(path, allow_pickle=False)
        if not isinstance(archive, NpzFile):  # a single array, because the file begins as such a file does
            raise ValueError("it is no archive of arrays")
        with archive as arrays:
            yield arrays
    except Exception as error:  # see above
        reason = " ".join(str(error).split()) or type(error).__name__
        raise kind(f"{path} {what} ({reason}): {remedy}") from error
