"""What every layout of an output folder offers, and the rows that go into it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Literal, Protocol

import numpy as np
import numpy.typing as npt

from engines.errors import EngineError
from engines.files.output_folder import Folder
from engines.manifest import TowerName

LayoutName = Literal["parquet", "npy"]
DType = Literal["float16", "float32"]

# Key of the record in the metadata of a parquet file's footer.
RECORD_KEY = b"openclip_engines"


@dataclass
class Rows:
    """Finished rows.

    Attributes:
        keys, urls, captions: see `engines.shards.samples.Sample`.
        problems: for each row the reason why it has no embedding; None where all is well.
        embeds: tower to (rows, D) float32; rows that have none are zero.
        present: tower to (rows,) bool: which rows have an embedding.
    """

    keys: list[str]
    urls: list[str | None]
    captions: list[str | None]
    problems: list[str | None]
    embeds: Mapping[TowerName, npt.NDArray[np.float32]]
    present: Mapping[TowerName, npt.NDArray[np.bool_]]


@dataclass(frozen=True)
class ShardRecord:
    """What a finished shard says about itself, in the footer of its parquet file.

    Attributes:
        identity: hash of the job and of the shard's input.
        input: path or URL of the input.
        kind: how the input was read, see `engines.shards.input_shards.InputShard`.
        rows: number of input rows, each of which is in the output once.
        errors: number of those with an error.
        cut: the sentence about an input that ended too early.
        duplicate_keys: number of rows whose key an earlier row has.
        engines: description of the engine of each tower.
        missing: for each tower the number of rows of which it made no embedding.
        missing_all: number of rows of which no tower made an embedding.
        further_pictures: number of the input's pictures that were left out, because another one is that of their row.
    """

    identity: str
    input: str
    kind: str
    rows: int
    errors: int
    cut: str | None
    duplicate_keys: int
    engines: Mapping[str, str]
    missing: Mapping[str, int] = field(default_factory=dict)
    missing_all: int = 0
    further_pictures: int = 0

    def metadata(self) -> dict[bytes, bytes]:
        """The record as metadata of a parquet file."""
        return {RECORD_KEY: json.dumps(asdict(self)).encode()}


class Damaged(EngineError):
    """An output file is not whole."""


class NotOfAJob(EngineError):
    """A file has the name of an output, and no job wrote it: it is never replaced."""


def record_from(metadata: Mapping[bytes, bytes] | None) -> ShardRecord:
    """The record in a parquet file's metadata.

    Raises:
        Damaged: there is none, or it is of another form.
    """
    try:
        data: Any = json.loads((metadata or {})[RECORD_KEY])
        known = {item.name for item in fields(ShardRecord)}
        return ShardRecord(**{name: value for name, value in data.items() if name in known})
    except (KeyError, ValueError, TypeError, AttributeError) as error:
        raise Damaged("it has no record of the job that wrote it") from error


class ShardWriter(Protocol):
    """An output shard that is being written under temporary names.

    Attributes:
        several_files: whether the shard has several files, which another job could replace one by one.
    """

    several_files: bool

    def add(self, rows: Rows) -> None:
        """Write rows."""

    def publish(self, record: ShardRecord) -> None:
        """Complete the files and give them their final names."""

    def withdraw(self) -> None:
        """Remove the files with their final names, after `publish`."""

    def abandon(self) -> None:
        """Remove what was written; nothing after `publish`."""


class EarlierRows(Protocol):
    """The rows of a finished shard, in the order in which its input has them."""

    def take(self, key: str) -> Mapping[TowerName, npt.NDArray[np.float32]] | None:
        """The embeddings of the next row, for each tower (D,) float32.

        Args:
            key: the key of the input's next row.

        Returns:
            None if the row has no embedding, or the rows do not belong to the input's rows.
        """


class Layout(Protocol):
    """A way to lay out shards in the output folder."""

    name: LayoutName

    def done_name(self, shard: str) -> str:
        """The name of the file that is published last: a shard is done if it is there."""

    def names(self, shard: str) -> tuple[str, ...]:
        """The names of the files of which a finished shard has at least one."""

    def read_record(self, folder: Folder, shard: str) -> ShardRecord:
        """The record of a finished shard.

        Raises:
            NotThereError: it is not there.
            InputError: it cannot be read now.
            Damaged: one of its files is missing, cut, or of another form.
            NotOfAJob: one of its parquet files was written by another program.
        """

    def read_rows(self, folder: Folder, shard: str) -> EarlierRows:
        """The rows of a finished shard."""

    def remove(self, folder: Folder, shard: str) -> None:
        """Remove a shard's files."""

    def write(self, folder: Folder, shard: str) -> ShardWriter:
        """Begin a shard."""
