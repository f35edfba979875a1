"""How rows name an engine that is called from another language than Python: ``onnxruntime C++``."""

from __future__ import annotations


def engine_label(engine: str, language: str) -> str:
    """The name in the column `engine`: Python's is the kind alone."""
    return engine if language == "Python" else f"{engine} {language}"


def split_label(label: str) -> tuple[str, str]:
    """(kind of engine, language) of a name in the column `engine`."""
    kind, _, language = label.partition(" ")
    return kind, language or "Python"
