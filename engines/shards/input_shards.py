"""What the user named becomes input shards: tars and parquet files are shards as they are; folders and lists are cut into shards.

Shards are made one after the other: memory holds the names of tars and parquet files, and of folders and lists only one shard at a
time.
"""

from __future__ import annotations

import hashlib
import itertools
import os
import stat
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Literal

from engines.errors import InputError
from engines.files.file_kinds import mode_of
from engines.files.storage import is_remote, version_of
from engines.files.text_files import iterate_lines
from engines.inputs.image_files import iterate_images
from engines.shards.local_paths import local_path
from engines.shards.named_twice import place_of, refuse_named_twice
from engines.shards.patterns import fixed_folder, sorted_out
from engines.shards.read_parquet import MissingColumnError, check_columns
from engines.shards.samples import Columns

Kind = Literal["tar", "parquet", "files", "lines"]

_CHECKED_FILES = 3


@dataclass(frozen=True)
class InputShard:
    """One shard of inputs, which becomes one shard of embeddings.

    Attributes:
        name: name of the output without its suffix, such as ``00000`` or ``sub/00000``; no two shards of a job have the same.
        kind: how it is read.
        source: path or URL of the tar or parquet file; of the folder or list that the shard is cut from.
        first: index of its first item in a folder or list.
        items: its files or lines; empty for tars and parquet files.
    """

    name: str
    kind: Kind
    source: str
    first: int = 0
    items: tuple[str, ...] = ()

    def identity(self) -> str:
        """A hash of what the shard holds. It is another one after its input was changed, but not after tars and parquet files
        were moved elsewhere; files of folders and lists are known by their paths as they were named, which are their rows' keys.

        Raises:
            InputError: the input is not there.
        """
        digest = hashlib.sha256(f"{self.name}\0{self.kind}\0{self.first}\0".encode("utf-8", "surrogateescape"))
        if self.kind in ("tar", "parquet"):
            digest.update(version_of(self.source).encode())
        for item in self.items:
            data = item.encode("utf-8", "surrogatepass")
            digest.update(b"%d:" % len(data) + data)
            if self.kind == "files":
                digest.update(_state(local_path(item)[0] or item))
        return digest.hexdigest()


@dataclass
class Sources:
    """All inputs of a job.

    Args:
        paths: patterns of tars and parquet files, folders and files of images.
        listing: a text file with one image file a line; instead of `paths`.
        texts: a text file with one text a line; instead of `paths`.
        rows: number of items in a shard that is cut from a folder or a list.
    """

    paths: tuple[str, ...] = ()
    listing: Path | None = None
    texts: Path | None = None
    rows: int = 10_000
    left_out: Counter[str] = field(default_factory=Counter)
    cut_shards: int = field(default=0, init=False)  # number of shards that are cut from folders or lists, after `count`

    def __post_init__(self) -> None:
        for file in (self.listing, self.texts):
            mode = None if file is None else mode_of(file, str(file), InputError)
            if mode is not None and not stat.S_ISREG(mode):
                raise InputError(
                    f"{file} is not a regular file, and it is read more than once: save its lines to a file"
                )
        self._counted, self._beside = 0, Counter[str]()
        self._packed, self._pictures = sorted_out(self.paths, self._beside)
        refuse_named_twice([source for _, source in self._packed], self._pictures)
        try:
            self._folder = self._pictures[0] if len(self._pictures) == 1 else os.path.commonpath(self._pictures)
        except ValueError:  # there is none, or some are relative to the working directory and others are not
            self._folder = ""
        # The name of the shards that are cut from folders or lists, before ``-00000000``. Programs do not see files that begin with
        # a dot or an underscore.
        self.cut_name = PurePosixPath(self.texts or self.listing or self._folder).stem.lstrip("._") or "images"
        # The layout `npy` writes a/b and a_b to the same name.
        flat = [name.replace("/", "_") for name, _ in self._packed]
        twice = next((name for name, count in Counter(flat).items() if count > 1), None)
        if twice is not None:
            first, second = [source for name, (_, source) in zip(flat, self._packed, strict=True) if name == twice][:2]
            raise InputError(
                f"{first} and {second} would both be written to {twice}: pass one pattern that matches both (the part of the path "
                "after the pattern's fixed folder is the name), or make two jobs"
            )

    def count(self) -> int:
        """The number of shards; folders and lists are read once for it, at the first call.

        Raises:
            InputError: there is none.
        """
        if self._counted:
            return self._counted
        self.cut_shards = -(-sum(1 for _ in self._items()) // self.rows)
        if not self.cut_shards and not self._packed:
            raise InputError(f"{self.texts} has no line" if self.texts else f"the list {self.listing} names no file")
        for name, source in self._packed:
            number = name.removeprefix(f"{self.cut_name}-")
            if number != name and len(number) == 8 and number.isdecimal() and int(number) < self.cut_shards:
                raise InputError(
                    f"{source} and a part of {self._folder} would both be written to {name}: make two jobs, each with its --out"
                )
        self._counted = len(self._packed) + self.cut_shards
        return self._counted

    def check_output(self, out: str) -> None:
        """Refuse an output folder in which a job would replace inputs, or in which the next job would take outputs for inputs.

        Raises:
            InputError: it is a folder among the inputs, that of a parquet file among them, or one that a pattern with ``**``
                searches.
        """
        if not out:
            raise InputError("--out is empty: pass a folder")
        own = {os.path.dirname(source) for _, source in self._packed if source.lower().endswith(".parquet")}
        own |= {path for path in {*self.paths, *self._pictures} if not is_remote(path) and os.path.isdir(path)}
        place = place_of(out)
        searched = [fixed_folder(path) for path in self.paths if "**" in path and own]
        if place in {place_of(folder) for folder in own} or any(
            place.startswith(f"{place_of(folder)}/") for folder in searched
        ):
            raise InputError(
                f"--out {out} is a folder of the inputs, which the job might replace, or outputs be taken for inputs next time: "
                "pass another folder"
            )

    def check_columns(self, columns: Columns, towers: tuple[str, ...]) -> None:
        """Refuse names of columns that none of the first parquet files has, before a job is begun under them.

        Raises:
            InputError: all of the first few files that can be read lack a column; without files, nothing is checked.
        """
        missing: InputError | None = None
        for source in [source for _, source in self._packed if source.lower().endswith(".parquet")][:_CHECKED_FILES]:
            try:
                check_columns(source, columns, towers)
            except MissingColumnError as error:
                missing = missing or error
            except InputError:  # the job itself reports a shard that cannot be read
                continue
            else:
                return
        if missing is not None:
            raise missing

    def shards(self, part: tuple[int, int] = (0, 1)) -> Iterator[InputShard]:
        """The shards number i, i + n, i + 2 n, … in their order.

        Args:
            part: (i, n): which of n jobs this one is, from 0.
        """
        return itertools.islice(self._all(), part[0], None, part[1])

    def _all(self) -> Iterator[InputShard]:
        self.left_out.clear()
        self.left_out.update(self._beside)
        for name, source in self._packed:
            yield InputShard(name, "parquet" if source.lower().endswith(".parquet") else "tar", source)
        kind: Kind = "lines" if self.texts is not None else "files"
        source = str(self.texts or self.listing or self._folder)
        items = self._items(self.left_out)
        first = 0
        while chunk := tuple(itertools.islice(items, self.rows)):
            self.cut_shards = max(self.cut_shards, first // self.rows + 1)  # a folder may grow after it was counted
            yield InputShard(f"{self.cut_name}-{first // self.rows:08d}", kind, source, first, chunk)
            first += len(chunk)

    def _items(self, left_out: Counter[str] | None = None) -> Iterator[str]:
        if self.texts is not None:
            return iterate_lines(self.texts, "the texts of")
        if self.listing is not None:
            return (line for line in iterate_lines(self.listing, "the list") if line.strip())
        counted = Counter[str]() if left_out is None else left_out
        return (str(file) for path in self._pictures for file in iterate_images(Path(path), counted))


def _state(file: str) -> bytes:
    """Size and time of the last change of a file; of one that cannot be read, that it cannot."""
    try:
        state = os.stat(file)
    except (OSError, ValueError):
        return b"?"
    return b"%d %d" % (state.st_size, state.st_mtime_ns)
