"""Tokenizer files that are read once a process: most bundles of tests have the same one, which takes 0.15 s."""

from __future__ import annotations

import functools
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any


def read_tokenizers_once() -> None:
    """Replace the library in `engines.inputs.tokenizer`, where that is imported; it never changes a tokenizer that it has read."""
    module = sys.modules.get("engines.inputs.tokenizer")
    if module is not None and not isinstance(module.tokenizers, SimpleNamespace):
        module.tokenizers = SimpleNamespace(  # type: ignore[attr-defined]
            Tokenizer=SimpleNamespace(from_file=functools.partial(_from_file, module.tokenizers.Tokenizer))
        )


def _from_file(tokenizer: Any, path: str) -> Any:
    try:
        return _from_content(tokenizer, Path(path).read_bytes())
    except Exception:  # noqa: BLE001  (the library's own error, of the function that is called everywhere else)
        return tokenizer.from_file(path)


@functools.lru_cache(maxsize=4)
def _from_content(tokenizer: Any, content: bytes) -> Any:
    return tokenizer.from_buffer(content)
