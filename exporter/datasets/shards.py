"""Readers of webdataset archives, as streams.

A sample is the run of files in a ``.tar`` whose names agree up to the first dot: ``0001.jpg`` (or another image suffix),
``0001.cls`` with the label as a number, ``0001.txt`` with one caption on each line. Local archives are read with the standard
library's tarfile in its streaming mode, with the list of past headers emptied, so memory does not grow with the archive. The
package ``webdataset`` with its pipelines, caches and URLs is not needed for local files.
"""

from __future__ import annotations

import itertools
import re
import tarfile
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath

from engines.errors import InputError
from engines.files.text_files import decode_text, split_lines
from engines.inputs.image_formats import HEIF_SUFFIXES, SUFFIXES
from exporter.datasets.data import (
    CLASSES_NAME,
    DEFAULT_TEMPLATES,
    Dataset,
    Sample,
    read_classes,
    read_lines,
    templates_beside,
)

# If a sample has several pictures, the one with the first of these suffixes is taken. HEIC is always among them, because a sample
# that cannot be read is counted.
_USUAL = ("jpg", "jpeg", "png", "webp")
_OTHERS = tuple(sorted(suffix[1:] for suffix in SUFFIXES | HEIF_SUFFIXES if suffix[1:] not in _USUAL))
_PICTURES = _USUAL + _OTHERS
_TYPE_NAME, _COUNT_NAME = "dataset_type.txt", "nshards.txt"


def find_shards(path: Path, split: str) -> list[Path]:
    """Find the archives of a path, in the order of their numbers: the file itself, the folder's, or those of its folder `split`.

    Raises:
        InputError: the number of archives is not that of ``nshards.txt``.
    """
    if path.is_file():
        return [path]
    for folder in (path, path / split):
        archives = sorted(folder.glob("*.tar"), key=_by_number) if folder.is_dir() else []
        if not archives:
            continue
        counts = folder / _COUNT_NAME
        if counts.is_file():
            stated = " ".join(read_lines(counts))
            if stated != str(len(archives)):
                raise InputError(
                    f"{counts} says {stated!r} shards, but there are {len(archives)}: copy the dataset again"
                )
        return archives
    return []


def open_shards(path: Path, shards: Sequence[Path], templates: tuple[str, ...] | None, limit: int | None) -> Dataset:
    """Open the dataset of archives; see `exporter.datasets.open_dataset`.

    Args:
        path: the path that the user named; the class names are in it, beside it or in the folder above the archives.
        shards: the archives that `find_shards` found.
        templates: prompts in place of the dataset's own.
        limit: the largest number of samples to read; None: all.

    Raises:
        InputError: the first sample has neither a label nor a caption, or there are no class names for the labels.
    """
    places = dict.fromkeys((shards[0].parent, shards[0].parent.parent))
    kind = next((read_lines(place / _TYPE_NAME) for place in places if (place / _TYPE_NAME).is_file()), [])
    if kind == ["multilabel"]:
        raise InputError(f"{path} has several labels for each picture: only one label or captions can be measured")
    names = next((place / CLASSES_NAME for place in places if (place / CLASSES_NAME).is_file()), None)
    first = next(_samples(shards), None)
    if first is None:
        raise InputError(
            f"{shards[0]} has no sample in it: pictures (.{', .'.join(_USUAL)} or others) with .cls or .txt"
        )
    if first.label is None and not first.captions:
        raise InputError(f"{first.name} has no label: beside its picture there is neither a .cls nor a .txt with text")
    if first.label is not None and names is None and not first.captions:
        raise InputError(
            f"{path} has labels but no names for them: put {CLASSES_NAME} beside the archives, a name a line"
        )
    classes = read_classes(names) if names is not None and first.label is not None else None
    captioned = bool(first.captions)

    def samples() -> Iterator[Sample]:
        for sample in itertools.islice(_samples(shards), limit):
            if classes is not None:
                _check_label(sample, classes)
            yield sample

    own_templates = next((prompts for place in places if (prompts := templates_beside(place)) is not None), None)
    name = path.stem if path.is_file() else path.resolve().name
    return Dataset(name, samples, classes, templates or own_templates or DEFAULT_TEMPLATES, captioned)


def shard_pictures(shards: Sequence[Path]) -> Iterator[bytes]:
    """Read the encoded pictures of archives one after the other, with or without labels, one from each sample.

    Raises:
        InputError: an archive is damaged.
    """
    for shard in shards:
        for _, group in itertools.groupby(_members(shard), lambda member: member[0]):
            picture = _picture({suffix: data for _, suffix, data in group})
            if picture is not None:
                yield picture


def _picture(parts: dict[str, bytes]) -> bytes | None:
    return next((parts[suffix] for suffix in _PICTURES if suffix in parts), None)


def _check_label(sample: Sample, classes: Sequence[str]) -> None:
    if sample.label is None:
        raise InputError(f"{sample.name} has no label, unlike the samples before it")
    if not 0 <= sample.label < len(classes):
        raise InputError(
            f"label {sample.label} of {sample.name} is out of range: {CLASSES_NAME} has {len(classes)} names, 0 to "
            f"{len(classes) - 1}"
        )


def _samples(shards: Sequence[Path]) -> Iterator[Sample]:
    for shard in shards:
        for key, group in itertools.groupby(_members(shard), lambda member: member[0]):
            parts = {suffix: data for _, suffix, data in group}
            picture = _picture(parts)
            if picture is not None:
                name = f"{shard.name}:{key}"
                yield Sample(name, picture, _label(parts.get("cls"), name), _captions(parts.get("txt"), name))


def _members(shard: Path) -> Iterator[tuple[str, str, bytes]]:
    """Read key, suffix and content of every picture, label and caption file, one at a time."""
    try:
        with tarfile.open(shard, "r|*") as archive:
            for member in archive:
                archive.members = []  # type: ignore[attr-defined]  # because tarfile keeps every header that it has read
                name = PurePosixPath(member.name)
                stem, _, suffix = name.name.partition(".")
                if not member.isfile() or not stem or suffix.lower() not in (*_PICTURES, "cls", "txt"):
                    continue
                file = archive.extractfile(member)
                assert file is not None
                yield str(name.with_name(stem)), suffix.lower(), file.read()
    except (tarfile.TarError, EOFError, OSError) as error:
        raise InputError(f"{shard} cannot be read to its end ({error}): copy the archive again") from error


def _label(data: bytes | None, name: str) -> int | None:
    if data is None:
        return None
    try:
        return int(decode_text(data, name))
    except ValueError:  # an InputError is one
        raise InputError(f"the label of {name} is {data[:40]!r}: it must be a number") from None


def _captions(data: bytes | None, name: str) -> tuple[str, ...]:
    lines = split_lines(decode_text(data or b"", f"the caption of {name}"))
    return tuple(line.strip() for line in lines if line.strip())


def _by_number(path: Path) -> tuple[int, str]:
    numbers = re.findall(r"\d+", path.stem)
    return int(numbers[-1]) if numbers else 0, path.name
