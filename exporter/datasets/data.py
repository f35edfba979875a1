"""The types of a labelled dataset, whatever its source, and the readers of its class names and prompts."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from PIL import Image

from engines.errors import InputError
from engines.files import text_files

Picture: TypeAlias = "Path | bytes | Image.Image"

CLASSES_NAME = "classnames.txt"
TEMPLATES_NAME = "zeroshot_classification_templates.txt"
DEFAULT_TEMPLATES: tuple[str, ...] = ("a photo of a {}.",)


@dataclass(frozen=True)
class Sample:
    """One picture with its label and captions."""

    name: str  # the file, or the key in the archive, for messages
    picture: Picture  # a file, an encoded file's bytes, or a decoded picture
    label: int | None = None
    captions: tuple[str, ...] = ()


@dataclass(frozen=True)
class Dataset:
    """Pictures with labels, captions or both.

    Attributes:
        name: the folder's or archive's name.
        samples: a function that starts over at every call, with the same samples in the same order.
        classes: the names of the classes, which labels index; None: there are no labels.
        templates: the prompts, with ``{}`` in the place of the class.
        has_captions: whether samples have captions.
        count: the number of samples, where that is known without reading them; else None.
        notes: sentences about files that were left out.
    """

    name: str
    samples: Callable[[], Iterator[Sample]]
    classes: tuple[str, ...] | None = None
    templates: tuple[str, ...] = DEFAULT_TEMPLATES
    has_captions: bool = False
    count: int | None = None
    notes: tuple[str, ...] = ()

    @property
    def tasks(self) -> tuple[str, ...]:
        """The tasks ``zero_shot``, ``retrieval`` or both, as rows of results name them."""
        return (("zero_shot",) if self.classes is not None else ()) + (("retrieval",) if self.has_captions else ())


def parse_templates(lines: Sequence[str], where: str) -> tuple[str, ...]:
    """Parse prompts with ``{}`` in the place of the class, from lines with ``{}`` or, as in clip-benchmark's files, ``{c}``.

    Raises:
        InputError: a line has neither, or has several, or there is no line.
    """
    templates = tuple(line.strip().replace("{c}", "{}") for line in lines if line.strip())
    if not templates:
        raise InputError(f"{where} has no prompt in it: write one a line, with {{c}} in the place of the class")
    for template in templates:
        if template.count("{}") != 1:
            raise InputError(f"the prompt {template!r} of {where} must have {{c}} once, in the place of the class")
    return templates


def read_lines(path: Path, strip: bool = True) -> list[str]:
    """Read the lines of a text file, without blank ones at its end; `strip` removes the white space around each line.

    Raises:
        InputError: the file is not text (see `engines.files.text_files`), or cannot be read.
    """
    lines = text_files.read_lines(path)
    while lines and not lines[-1].strip():
        lines.pop()
    return [line.strip() for line in lines] if strip else lines


def read_classes(path: Path) -> tuple[str, ...]:
    """Read the class names of a file, one on each line; label 0 is the first.

    Raises:
        InputError: the file cannot be read, a line is blank, or there are fewer than two names.
    """
    classes = tuple(read_lines(path))
    if "" in classes:
        raise InputError(f"line {classes.index('') + 1} of {path} is blank: every line is the name of a class")
    require_classes(classes, str(path))
    return classes


def require_classes(classes: Sequence[str], where: str) -> None:
    """Raise an `InputError` if there are fewer than two classes."""
    if len(classes) < 2:
        number = f"only one class ({classes[0]})" if classes else "no class"
        raise InputError(f"{where} has {number}: zero-shot classification needs two or more")


def templates_beside(folder: Path) -> tuple[str, ...] | None:
    """Read the prompts of a dataset's folder; None: the folder has no such file."""
    path = folder / TEMPLATES_NAME
    return parse_templates(read_lines(path), str(path)) if path.is_file() else None


def spread(count: int, limit: int | None) -> list[int]:
    """Choose `limit` of `count` indices, evenly spaced, so that samples in order of their classes stay balanced; None: all."""
    if limit is None or limit >= count:
        return list(range(count))
    return [i * count // limit for i in range(limit)]
