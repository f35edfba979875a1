"""Embeddings of rows, where one row that makes the engine fail does not take the others with it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from engines.embedder import Embedder
from engines.errors import EngineError

Embedding = npt.NDArray[np.float32]


class RowEncoder:
    """Encodes images and texts; a row for which the engine fails gets the reason in the place of its embedding.

    An engine that fails for all rows of a batch may be broken, or these rows may be. So a row for which it has worked before, or a
    neutral one where there is none yet, is encoded: if that fails, too, the engine is broken, and its error is raised.

    Args:
        clip: the loaded bundle.
    """

    def __init__(self, clip: Embedder) -> None:
        self._clip = clip
        self._good: dict[str, Any] = {}  # a row of each tower for which the engine worked

    def images(self, pixels: Sequence[npt.NDArray[np.uint8]]) -> list[Embedding | str]:
        """Embeddings (D,) of pixels (H, W, 3) uint8, or reasons.

        Raises:
            EngineError: the engine is broken.
        """
        return self._encode("image", pixels, lambda rows: self._clip.encode_image(np.stack(rows)))

    def texts(self, texts: Sequence[str]) -> list[Embedding | str]:
        """Embeddings (D,) of texts, or reasons.

        Raises:
            EngineError: the engine is broken.
        """
        return self._encode("text", texts, lambda rows: self._clip.encode_text(list(rows)))

    def _encode(
        self, tower: str, rows: Sequence[Any], encode: Callable[[Sequence[Any]], Embedding]
    ) -> list[Embedding | str]:
        try:
            found: list[Embedding | str] = list(encode(rows))
        except EngineError as error:
            found = [self._alone(row, encode) for row in rows]
            if all(isinstance(item, str) for item in found):
                self._check_engine(self._good.get(tower, _neutral(rows[0])), encode, error)
        good = next((i for i, item in enumerate(found) if not isinstance(item, str)), None)
        if tower not in self._good and good is not None:
            self._good[tower] = rows[good]
        return found

    @staticmethod
    def _alone(row: Any, encode: Callable[[Sequence[Any]], Embedding]) -> Embedding | str:
        try:
            embedding: Embedding = encode([row])[0]
        except EngineError as error:
            return str(error)
        return embedding

    def _check_engine(self, row: Any, encode: Callable[[Sequence[Any]], Embedding], error: EngineError) -> None:
        if isinstance(self._alone(row, encode), str):
            raise error


def _neutral(row: Any) -> Any:
    """A row of the same kind with which every engine that works copes: gray pixels, or a short text."""
    return np.full_like(row, 128) if isinstance(row, np.ndarray) else "a picture"
