"""Archives of arrays (``.npz``) that may be damaged: whatever that raises becomes one named error."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from numpy.lib.npyio import NpzFile

from engines.errors import EngineError


@contextmanager
def opened_npz(path: Path, kind: type[EngineError], what: str, remedy: str) -> Iterator[NpzFile]:
    """The arrays of a file. They are read when they are asked for, so the block is where damage shows itself.

    Args:
        path: of the file.
        kind: of the error.
        what: is wrong with the file, such as ``is damaged``.
        remedy: the end of the error's sentence.

    Raises:
        EngineError: of class `kind`, in the place of any exception of the block. zipfile, zlib and NumPy document no set of
            classes: a changed byte gives NotImplementedError, RuntimeError, zlib.error, tokenize.TokenError, MemoryError or others.
    """
    try:
        found = np.load(path, allow_pickle=False)
        if not isinstance(found, NpzFile):  # a single array, because the file begins as such a file does
            raise ValueError("it is no archive of arrays")
        with found as arrays:
            yield arrays
    except Exception as error:  # see above
        reason = " ".join(str(error).split()) or type(error).__name__
        raise kind(f"{path} {what} ({reason}): {remedy}") from error
