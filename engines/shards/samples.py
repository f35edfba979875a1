"""Samples: the rows of an input shard before they are embedded."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from engines.manifest import TowerName

# Bytes of the largest picture inside a tar or a parquet file; a larger one is an error of its row, because memory would hold it.
MOST_BYTES = 256 << 20
_MOST_KEYS = 200_000


def clean_text(text: str) -> str:
    """A text that can be written as UTF-8: halves of surrogate pairs, as JSON may hold them, become question marks."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-8", "replace").decode()
    return text


@dataclass(slots=True)
class Sample:
    """One row.

    Attributes:
        key: name of the row in its shard.
        url: where the picture came from, or the file's path; None if the shard does not say.
        caption: the text that belongs to the picture; None if there is none.
        image: an encoded picture, or the path of one; None if there is none.
        problem: the reason why the row cannot be read.
        earlier: for each tower the embedding (D,) float32 of an earlier run, which is then not made again; None if there is none.
    """

    key: str
    url: str | None = None
    caption: str | None = None
    image: bytes | str | None = None
    problem: str | None = None
    earlier: Mapping[TowerName, npt.NDArray[np.float32]] | None = None


@dataclass(frozen=True)
class Columns:
    """Names of a parquet file's columns; None is the first usual name that the file has.

    Attributes:
        image: pictures as bytes, as paths, or as a struct with ``bytes`` and ``path`` (that of Hugging Face's datasets).
        caption: captions.
        url: addresses of the pictures.
        key: names of the rows.
    """

    image: str | None = None
    caption: str | None = None
    url: str | None = None
    key: str | None = None


@dataclass
class ReaderNotes:
    """What a reader noticed about a shard as a whole, complete when all samples were read.

    Attributes:
        cut: the sentence about an input that ends too early; None if it does not.
        duplicate_keys: number of rows whose key an earlier row of the shard has.
        further_pictures: number of pictures that were left out, because another one is that of their sample.
        keys: hashes of the keys until now.
    """

    cut: str | None = None
    duplicate_keys: int = 0
    further_pictures: int = 0
    keys: set[int] = field(default_factory=set)

    def count_key(self, key: str) -> None:
        """Note a row's key. Later keys than the first 200,000 of a shard are not compared, because memory must not grow."""
        if len(self.keys) >= _MOST_KEYS:
            return
        code = hash(key)
        if code in self.keys:
            self.duplicate_keys += 1
        self.keys.add(code)
