"""What a labelled dataset is, whatever it is read from."""

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
    """One picture and what is known about it."""

    name: str  # for messages: the file, or the key in the archive
    picture: Picture  # a file, an encoded file's bytes, or a decoded picture
    label: int | None = None
    captions: tuple[str, ...] = ()


@dataclass(frozen=True)
class Dataset:
    """Pictures with labels, captions or both.

    Attributes:
        name: of the folder or archive.
        samples: starts over at every call; the same samples in the same order.
        classes: their names, which labels index; None: there are no labels.
        templates: prompts with ``{}`` in the place of the class.
        has_captions: whether samples have captions.
        count: how many samples there are, where that is known without reading them.
        notes: sentences about what was left out.
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
        """``zero_shot``, ``retrieval`` or both, as rows of results name them."""
        return (("zero_shot",) if self.classes is not None else ()) + (("retrieval",) if self.has_captions else ())


def parse_templates(lines: Sequence[str], where: str) -> tuple[str, ...]:
    """Prompts with ``{}`` in the place of the class, from lines that say ``{}`` or, as clip-benchmark's files do, ``{c}``.

    Raises:
        InputError: a line has neither, or there is no line.
    """
    templates = tuple(line.strip().replace("{c}", "{}") for line in lines if line.strip())
    if not templates:
        raise InputError(f"{where} has no prompt in it: write one a line, with {{c}} in the place of the class")
    for template in templates:
        if template.count("{}") != 1:
            raise InputError(f"the prompt {template!r} of {where} must have {{c}} once, in the place of the class")
    return templates


def read_lines(path: Path, strip: bool = True) -> list[str]:
    """The lines of a text file, without blank ones at its end; with the white space around them where it means something.

    Raises:
        InputError: it is not text (see `engines.files.text_files`), or cannot be read.
    """
    lines = text_files.read_lines(path)
    while lines and not lines[-1].strip():
        lines.pop()
    return [line.strip() for line in lines] if strip else lines


def read_classes(path: Path) -> tuple[str, ...]:
    """The class names of a file, one a line; label 0 is the first.

    Raises:
        InputError: it cannot be read, a line is blank, or there are fewer than two.
    """
    classes = tuple(read_lines(path))
    if "" in classes:
        raise InputError(f"line {classes.index('') + 1} of {path} is blank: every line is the name of a class")
    require_classes(classes, str(path))
    return classes


def require_classes(classes: Sequence[str], where: str) -> None:
    """Raise InputError if there is nothing to tell apart."""
    if len(classes) < 2:
        found = f"only one class ({classes[0]})" if classes else "no class"
        raise InputError(f"{where} has {found}: zero-shot classification needs two or more")


def templates_beside(folder: Path) -> tuple[str, ...] | None:
    """The prompts of a dataset's folder; None: it has no such file."""
    path = folder / TEMPLATES_NAME
    return parse_templates(read_lines(path), str(path)) if path.is_file() else None


def spread(count: int, limit: int | None) -> list[int]:
    """`limit` of `count` indices, evenly spaced, so that samples in order of their classes stay balanced; all, without a limit."""
    if limit is None or limit >= count:
        return list(range(count))
    return [i * count // limit for i in range(limit)]
