"""How rows name an engine of this project that is compared with a peer: ``onnxruntime over optimum``."""

from __future__ import annotations

_OVER = " over "


def ratio_label(engine: str, peer: str) -> str:
    """The name in the column `engine` of a ratio's row."""
    return f"{engine}{_OVER}{peer}"


def split_ratio_label(label: str) -> tuple[str, str]:
    """(engine, peer) of a name in the column `engine`; the peer is empty where the row is no ratio's."""
    engine, _, peer = label.partition(_OVER)
    return engine, peer
