"""The optional library that reads and writes parquet files."""

from __future__ import annotations

from typing import Any

from engines.errors import InputError
from engines.process.optional import import_or_reason


def import_parquet(what: str) -> tuple[Any, Any]:
    """The modules ``pyarrow`` and ``pyarrow.parquet``.

    Args:
        what: what needs them, as it begins a sentence, such as ``writing .parquet``.

    Raises:
        InputError: pyarrow is missing or broken.
    """
    libraries = []
    for module in ("pyarrow", "pyarrow.parquet"):
        library = import_or_reason(module, "pyarrow", "pip install 'openclip-engines[parquet]'")
        if isinstance(library, str):
            raise InputError(f"{what} needs pyarrow: {library}")
        libraries.append(library)
    return libraries[0], libraries[1]
