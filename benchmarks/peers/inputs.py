"""Pictures and captions that every contender embeds: files of photographs, and captions of 5 to 25 words."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.workloads.inputs import SETS, files_case

_SHORTEST, _LONGEST = 5, 25  # words of a caption
_CHECKED = 8
SHAPES = {"image": "files", "text": "real captions"}


@dataclass(frozen=True)
class Batch:
    """One case: calls take its sets in turn, because a cache could serve equal ones.

    Attributes:
        tower: ``image`` or ``text``.
        size: number of items in a call.
        files: for each set, a JSON list of the items: pictures' paths, or captions.
    """

    tower: str
    size: int
    files: tuple[Path, ...]


@dataclass(frozen=True)
class Inputs:
    """All items.

    Attributes:
        batches: the cases that are timed.
        exact: tower → items that nothing but the model changes: pictures that have its size, and captions.
    """

    batches: tuple[Batch, ...]
    exact: dict[str, Batch]


def captions(count: int) -> list[str]:
    """Distinct prompts of 5 to 25 words, as open_clip's zero-shot evaluation and users' queries have.

    Raises:
        ValueError: there are not as many.
    """
    from exporter.reference.parity_data import prompt_captions

    usual = [text for text in prompt_captions(4 * count) if _SHORTEST <= len(text.split()) <= _LONGEST]
    if len(usual) < count:
        raise ValueError(f"only {len(usual)} of {count} captions have {_SHORTEST} to {_LONGEST} words")
    return usual[:count]


def write_inputs(folder: Path, size: tuple[int, int], batches: Sequence[int]) -> Inputs:
    """Write pictures and lists.

    Args:
        folder: an empty folder.
        size: (height, width) of the model's images in pixels.
        batches: numbers of items in a call.
    """
    most = SETS * max(batches)
    items = {"image": files_case(folder, max(batches), most).load(), "text": captions(most)}
    timed = []
    for tower, every in items.items():
        for batch in batches:
            sets = [every[i * batch : (i + 1) * batch] for i in range(SETS)]
            timed.append(Batch(tower, batch, tuple(_write(folder, tower, batch, i, x) for i, x in enumerate(sets))))
    exact = {"image": _resized(folder, items["image"][:_CHECKED], size), "text": items["text"][:_CHECKED]}
    lists = {tower: Batch(tower, len(x), (_write(folder, tower, 0, 0, x),)) for tower, x in exact.items()}
    return Inputs(tuple(timed), lists)


def _resized(folder: Path, files: Sequence[str], size: tuple[int, int]) -> list[str]:
    from PIL import Image

    resized = []
    for number, file in enumerate(files):
        resized.append(str(folder / f"exact-{number}.png"))
        with Image.open(file) as picture:
            picture.convert("RGB").resize((size[1], size[0])).save(resized[-1])
    return resized


def _write(folder: Path, tower: str, batch: int, number: int, items: Sequence[str]) -> Path:
    path = folder / f"{tower}-{batch}-{number}.json"
    path.write_text(json.dumps(list(items)), encoding="utf-8")
    return path
