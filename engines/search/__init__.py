"""Search in a folder of embeddings that ``python -m engines embed BUNDLE SOURCES --out OUT`` has written.

`Index.load(out)` keeps the embeddings in memory and answers many queries.
"""

from __future__ import annotations

from engines.search.index import Hit, Index

__all__ = ["Hit", "Index"]
