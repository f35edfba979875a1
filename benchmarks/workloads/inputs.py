"""Inputs that are the same for every contender: written once by the run, read by each contender's process.

Each case has several sets of inputs, and calls take them in turn, because a cache could serve equal ones.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from benchmarks.workloads.subject import Subject

SETS = 3
_SHORT, _LONG = 8, 25  # ids in the captions that people write, end tokens included


@dataclass(frozen=True)
class Case:
    """One point of a sweep.

    Attributes:
        tower: ``image`` or ``text``.
        batch: rows in a call.
        shape: the shape of a row, as rows of results name it.
        kind: the content of `path`: ``pixels`` uint8 (SETS, N, H, W, 3), ``ids`` int32 (SETS, N, L), ``files`` a list of files.
        path: the file of the inputs; .npy, or .json for files.
        rows_per_call: number of rows that a call embeds: the batch, or all files.
    """

    tower: Literal["image", "text"]
    batch: int
    shape: str
    kind: Literal["pixels", "ids", "files"]
    path: str
    rows_per_call: int

    def load(self) -> Any:
        """The inputs: an array with `SETS` in front, or the list of files."""
        if self.kind == "files":
            return json.loads(Path(self.path).read_text(encoding="utf-8"))
        return np.load(self.path)


def image_case(folder: Path, subject: Subject, batch: int) -> Case:
    """Random pixels: the arithmetic does not depend on them, but zeros would take less power."""
    path = folder / f"pixels-{batch}.npy"
    pixels = np.random.default_rng(batch).integers(0, 256, (SETS, batch, *subject.size, 3), dtype=np.uint8)
    np.save(path, pixels)
    return Case("image", batch, subject.image_shape, "pixels", str(path), batch)


def text_case(folder: Path, subject: Subject, batch: int, full: bool) -> Case:
    """Captions of 8 to 25 ids, as people write them, or rows that are full to the last id."""
    ids = full_ids(subject, SETS * batch) if full else caption_ids(subject, SETS * batch)
    path = folder / f"ids-{batch}-{'full' if full else 'real'}.npy"
    np.save(path, ids.reshape(SETS, batch, -1))
    shape = f"{subject.context_length} tokens" if full else "real captions"
    return Case("text", batch, shape, "ids", str(path), batch)


def files_case(folder: Path, batch: int, count: int, pictures: Path | None = None) -> Case:
    """`count` JPEG files of 640 pixels on the longer side, made of photographs, or files of a folder: decoding is part of the work.

    Raises:
        ValueError: the folder has no picture.
    """
    if pictures is not None:
        from engines.inputs.image_formats import SUFFIXES

        # HEIC is not among them, because eager reads the files with open_clip's transform, which does not register it.
        files = sorted(p for p in pictures.rglob("*") if p.suffix.lower() in SUFFIXES)[:count]
        if not files:
            raise ValueError(f"there is no picture in {pictures} (looked for {', '.join(sorted(SUFFIXES))})")
    else:
        from exporter.reference.parity_data import load_parity_data

        place = folder / "pictures"
        place.mkdir(exist_ok=True)
        files = []
        for i, image in enumerate(load_parity_data(images=count, captions=1).images):
            scale = 640 / max(image.size)
            resized = image.resize((round(image.width * scale), round(image.height * scale)))
            files.append(place / f"{i:04}.jpg")
            resized.save(files[-1], quality=90)
    path = folder / "files.json"
    path.write_text(json.dumps([str(file) for file in files]), encoding="utf-8")
    return Case("image", batch, "files", "files", str(path), len(files))


def caption_ids(subject: Subject, count: int) -> np.ndarray[Any, np.dtype[np.int32]]:
    """(count, context length) ids of captions that have 8 to 25 of them."""
    from exporter.reference.parity_data import prompt_captions

    ids = _tokenize(subject, prompt_captions(1024))
    lengths = _lengths(ids)
    usual = ids[(lengths >= min(_SHORT, subject.context_length)) & (lengths <= _LONG)]
    return np.resize(usual, (count, usual.shape[1])).astype(np.int32)


def full_ids(subject: Subject, count: int) -> np.ndarray[Any, np.dtype[np.int32]]:
    """(count, context length) ids of texts that are too long: every one of them counts."""
    from exporter.reference.parity_data import prompt_captions

    captions = prompt_captions(256)
    rng = np.random.default_rng(0)
    texts = [" ".join(captions[i] for i in rng.integers(0, len(captions), 24)) for _ in range(min(count, 64))]
    ids = _tokenize(subject, texts)
    return np.resize(ids, (count, ids.shape[1])).astype(np.int32)


def _lengths(ids: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """The number of ids before the padding, which is the id in the last column of a short text."""
    pad = ids[:, -1:]
    same = ids == pad
    return np.where(same.all(axis=1), 1, ids.shape[1] - same[:, ::-1].argmin(axis=1))


def _tokenize(subject: Subject, texts: Sequence[str]) -> np.ndarray[Any, Any]:
    """(N, L) ids by the bundle's tokenizer, or by open_clip's."""
    if subject.bundle is not None:
        from engines.files.bundle_paths import resolve_path
        from engines.inputs.tokenizer import TextTokenizer
        from engines.manifest import read_manifest

        folder = Path(subject.bundle)
        config = read_manifest(folder).tokenizer
        assert config is not None
        return np.asarray(TextTokenizer(resolve_path(folder, config.file), config)(list(texts)))
    import open_clip

    return np.asarray(open_clip.get_tokenizer(subject.source)(list(texts)))


def calibration_folder(work: Path, count: int) -> Path:
    """Write a folder of `count` natural pictures, at most 512 pixels wide and high, into `work`; returns its path."""
    from exporter.reference.parity_data import load_parity_data

    folder = work / "calibration"
    folder.mkdir()
    for i, picture in enumerate(load_parity_data(None, images=count, captions=1, seed=2).images):
        picture.thumbnail((512, 512))
        picture.save(folder / f"{i:03}.png")
    return folder
