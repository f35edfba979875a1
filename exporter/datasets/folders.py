"""Readers of labelled folders: one folder for each class, or pictures with captions.

Class folders are named after their class, or are ImageNet's thousand WordNet ids, or are named in ``classnames.txt``.

Captions are in ``captions.txt``, ``captions.tsv`` or ``captions.csv`` (one of them), one on each line after the picture's path
relative to the folder; a picture may have several lines. Path and caption are separated by a tab, or, if the first line names the
columns (``image,caption`` in Flickr8k, ``filepath<TAB>title`` in open_clip's training files), by the separator of these names.
``photo.jpg#0``, Flickr30k's form, means ``photo.jpg``. Without such a file each picture's captions are the lines of the text file
of the same name.
"""

from __future__ import annotations

import csv
import os
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from engines.errors import InputError
from engines.inputs.image_files import describe_left_out, find_images, kind_of
from engines.inputs.image_formats import is_image_name
from exporter.datasets.data import (
    CLASSES_NAME,
    DEFAULT_TEMPLATES,
    TEMPLATES_NAME,
    Dataset,
    Sample,
    read_classes,
    read_lines,
    require_classes,
    spread,
    templates_beside,
)

_CAPTION_FILES = ("captions.txt", "captions.tsv", "captions.csv")
_PICTURE_COLUMNS = ("image", "file", "filename", "file_name", "filepath", "path")
_CAPTION_COLUMNS = ("caption", "title", "text", "comment")
_WORDNET_ID = re.compile(r"n\d{8}")


def open_folder(folder: Path, templates: tuple[str, ...] | None, limit: int | None) -> Dataset:
    """Open the dataset of a folder; see `exporter.datasets.open_dataset`.

    Raises:
        InputError: the folder has no labels or no pictures, or they do not match.
    """
    listed = [folder / name for name in _CAPTION_FILES if (folder / name).is_file()]
    if len(listed) > 1:
        raise InputError(f"{folder} has both {listed[0].name} and {listed[1].name}: keep the one with the captions")
    if listed:
        return _with_captions(folder, _listed_captions(listed[0]), f"lines of {listed[0].name}", limit)
    subfolders = sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
    visible = _visible(folder)
    pictures = [path for path in visible if is_image_name(path.name)]
    if pictures:
        captions = {path: _beside(path) for path in pictures}
        if not any(captions.values()):
            raise InputError(
                f"{folder} has pictures but no labels: put them into a folder for each class, or write their captions into "
                f"{_CAPTION_FILES[0]} (path, tab, caption) or a .txt file beside each picture"
            )
        used = {
            *pictures,
            *(path.with_suffix(".txt") for path in pictures),
            folder / CLASSES_NAME,
            folder / TEMPLATES_NAME,
        }
        others = Counter(kind_of(path.name) for path in visible if path not in used)
        return _with_captions(folder, captions, ".txt files beside the pictures", limit, others)
    if subfolders:
        return _with_classes(folder, subfolders, templates, limit)
    raise InputError(f"{folder} has neither pictures nor folders of pictures nor .tar files in it")


def _with_classes(
    folder: Path, subfolders: list[Path], templates: tuple[str, ...] | None, limit: int | None
) -> Dataset:
    names, prompts = folder / CLASSES_NAME, DEFAULT_TEMPLATES
    if names.is_file():
        classes = read_classes(names)
        if len(classes) != len(subfolders):
            raise InputError(
                f"{names} names {len(classes)} classes, but there are {len(subfolders)} folders: it needs a line for each, in "
                "the folders' order"
            )
    elif all(_WORDNET_ID.fullmatch(path.name) for path in subfolders):
        classes, prompts = _imagenet(folder, len(subfolders))
    else:
        classes = tuple(path.name.replace("_", " ") for path in subfolders)
    require_classes(classes, str(folder))
    labelled: list[tuple[Path, int]] = []
    left_out = Counter[str]()
    for label, subfolder in enumerate(subfolders):
        try:
            images = find_images(subfolder)
        except InputError as error:
            raise InputError(f"class folder {error}: put pictures into it, or remove it") from error
        labelled += [(path, label) for path in images.files]
        left_out.update(images.left_out)
    chosen = [labelled[i] for i in spread(len(labelled), limit)]

    def samples() -> Iterator[Sample]:
        for path, label in chosen:
            yield Sample(str(path.relative_to(folder)), path, label)

    return Dataset(
        folder.resolve().name,
        samples,
        classes,
        templates or templates_beside(folder) or prompts,
        count=len(chosen),
        notes=_notes(left_out),
    )


def _imagenet(folder: Path, count: int) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return open_clip's names and prompts of ImageNet's 1000 classes, which it lists in the order of the WordNet ids.

    Raises:
        InputError: `count` is not 1000, so the folders cannot be matched with the names.
    """
    from open_clip.zero_shot_metadata import IMAGENET_CLASSNAMES, OPENAI_IMAGENET_TEMPLATES

    if count != len(IMAGENET_CLASSNAMES):
        raise InputError(
            f"the folders in {folder} are WordNet ids, but not ImageNet's {len(IMAGENET_CLASSNAMES)}: write the names of their "
            f"classes into {CLASSES_NAME}, in the folders' order"
        )
    return tuple(IMAGENET_CLASSNAMES), tuple(str(template("{}")) for template in OPENAI_IMAGENET_TEMPLATES)


def _notes(left_out: Counter[str]) -> tuple[str, ...]:
    return (f"labelled images {describe_left_out(left_out)}",) if left_out else ()


def _with_captions(
    folder: Path,
    captions: dict[Path, list[str]],
    where: str,
    limit: int | None,
    left_out: Counter[str] | None = None,
) -> Dataset:
    captioned = {path: texts for path, texts in captions.items() if texts}
    absent = [path for path in captioned if not path.is_file()]
    usable = [path for path in captioned if path.is_file()]
    if not usable:
        problem = f"{absent[0].name} and all others are not there" if absent else "every caption is empty"
        raise InputError(f"the {where} in {folder} give no picture a caption: {problem}")
    notes = [*_notes(left_out or Counter())]
    if len(captioned) < len(captions):
        notes.append(f"pictures left out because they have no caption: {len(captions) - len(captioned)}")
    if absent:
        notes.append(f"pictures left out because they are not there: {len(absent)} ({absent[0].name})")
    chosen = [usable[i] for i in spread(len(usable), limit)]
    if len(chosen) < 2:
        raise InputError(f"{folder} has only one picture with a caption: retrieval needs two or more")

    def samples() -> Iterator[Sample]:
        for path in chosen:
            yield Sample(os.path.relpath(path, folder), path, captions=tuple(captioned[path]))

    return Dataset(folder.resolve().name, samples, has_captions=True, count=len(chosen), notes=tuple(notes))


def _listed_captions(file: Path) -> dict[Path, list[str]]:
    """Read each picture's captions from a file that lists them; a picture with empty captions has none."""
    lines = read_lines(file, strip=False)
    if not lines:
        raise InputError(f"{file} has no caption in it: write path, tab, caption on each line")
    separator = "\t" if "\t" in lines[0] else ","
    header = [cell.strip().lower() for cell in next(csv.reader(lines[:1], delimiter=separator))]
    picture = next((i for i, name in enumerate(header) if name in _PICTURE_COLUMNS), None)
    caption = next((i for i, name in enumerate(header) if name in _CAPTION_COLUMNS), None)
    captions_of: dict[Path, list[str]] = {}
    if picture is not None and caption is not None:
        rows = enumerate(csv.reader(lines[1:], delimiter=separator), 2)
    elif separator == "\t":
        # Without a header the file is not CSV, so quotation marks are part of the caption.
        rows, picture, caption = enumerate((line.split("\t", 1) for line in lines), 1), 0, 1
    else:
        raise InputError(
            f"{file} separates pictures from captions neither by tabs nor by commas under a first line such as image,caption"
        )
    for number, cells in rows:
        if not any(cell.strip() for cell in cells):
            continue
        if len(cells) <= max(picture, caption):
            raise InputError(f"line {number} of {file} has no caption: {separator.join(cells)[:80]!r}")
        texts = captions_of.setdefault(_listed_path(file, cells[picture]), [])
        if cells[caption].strip():
            texts.append(cells[caption].strip())
    return captions_of


def _listed_path(file: Path, name: str) -> Path:
    path = file.parent / name.strip()
    return path if path.is_file() else file.parent / re.sub(r"#\d+$", "", name.strip())


def _beside(picture: Path) -> list[str]:
    path = picture.with_suffix(".txt")
    return [line for line in read_lines(path) if line] if path.is_file() else []


def _visible(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.is_file() and not path.name.startswith("."))
