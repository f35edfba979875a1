"""``python -m engines embed``: a folder of images, a list of files, or a file of texts to an array of embeddings."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

import engines
from engines.bundle_files import file_sha256
from engines.cli_common import add_engine_arguments
from engines.embed_job import EmbedItems, EmbedJob, JobResult
from engines.errors import ImageError, InputError
from engines.image_files import find_images, read_list
from engines.manifest import MANIFEST_NAME, TowerName

_BATCH = 32
_SHOWN = 20


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of the command."""
    parser.add_argument("images", nargs="*", metavar="PATH", help="image files or folders")
    parser.add_argument("--list", metavar="FILE", help="a text file with one image file a line")
    parser.add_argument("--texts", metavar="FILE", help="embed the lines of a text file instead of images")
    parser.add_argument("--out", required=True, metavar="FILE", help="x.npy (and x.items.txt) or x.parquet")
    add_engine_arguments(parser)
    parser.add_argument("--json", action="store_true", help="print one JSON object at the end")


def run(args: argparse.Namespace) -> int:
    """Embed; resumes a job that was interrupted."""
    items = _items(args)
    sha = file_sha256(Path(args.bundle) / MANIFEST_NAME) if (Path(args.bundle) / MANIFEST_NAME).is_file() else ""
    tower: TowerName = "text" if args.texts else "image"
    with engines.load(args.bundle, engine=args.engine, device=args.device, towers=(tower,)) as clip:
        job = EmbedJob(items, Path(args.out), identity=f"{sha} {tower} {clip.engines[tower]}")
        try:
            _run_job(job, _texts(clip) if args.texts else _images(clip), args.texts is not None)
            result = job.finish()
        except KeyboardInterrupt:
            print("\ninterrupted: run the same command again, it goes on where it stopped", file=sys.stderr)
            return 130
    _tell(result, len(items), args.json)
    return 0


def _items(args: argparse.Namespace) -> list[str]:
    sources = [bool(args.images), args.list is not None, args.texts is not None]
    if sum(sources) != 1:
        raise InputError("pass image files or folders, or --list FILE, or --texts FILE (one of the three)")
    if args.texts is not None:
        try:
            texts = Path(args.texts).read_text(encoding="utf-8").split("\n")
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"cannot read the texts of {args.texts}: {error}") from error
        texts = texts[:-1] if texts and not texts[-1] else texts
        if not texts:
            raise InputError(f"{args.texts} has no line")
        return texts
    if args.list is not None:
        return [str(path) for path in read_list(Path(args.list))]
    return [str(path) for item in args.images for path in find_images(Path(item))]


def _run_job(job: EmbedJob, embed: EmbedItems, are_texts: bool) -> None:
    from tqdm import tqdm

    done = job.open()
    if done:
        print(f"going on: {done} of {len(job.items)} are done already", file=sys.stderr)
    unit = " texts" if are_texts else " images"
    with tqdm(total=len(job.items), initial=done, unit=unit, disable=not sys.stderr.isatty()) as bar:
        job.run(embed, lambda count: bar.update(count) and None)


def _images(clip: Any) -> EmbedItems:
    """Embeds files; those that cannot be read are skipped. Decoding runs in the embedder's threads, ahead of the engine."""

    def embed(files: Sequence[str]) -> tuple[list[int], npt.NDArray[np.float32] | None, dict[int, str]]:
        kept: list[int] = []
        parts: list[npt.NDArray[np.float32]] = []
        skipped: dict[int, str] = {}
        for start, batch in clip.preprocess_ahead(files, _BATCH):
            pixels = []
            for offset, item in enumerate(batch):
                if isinstance(item, ImageError):
                    skipped[start + offset] = str(item)
                else:
                    kept.append(start + offset)
                    pixels.append(item)
            if pixels:
                parts.append(clip.encode_image(np.stack(pixels)))
        return kept, np.concatenate(parts) if parts else None, skipped

    return embed


def _texts(clip: Any) -> EmbedItems:
    def embed(texts: Sequence[str]) -> tuple[list[int], npt.NDArray[np.float32] | None, dict[int, str]]:
        return list(range(len(texts))), clip.encode_text(list(texts)), {}

    return embed


def _tell(result: JobResult, total: int, as_json: bool) -> None:
    if as_json:
        skipped = [{"item": item, "message": message} for item, message in result.skipped]
        print(json.dumps({"rows": result.rows, "files": [str(f) for f in result.files], "skipped": skipped}, indent=2))
        return
    print(f"{result.rows} of {total} embedded: {', '.join(str(file) for file in result.files)}")
    if result.skipped:
        print(f"{len(result.skipped)} could not be read:")
        for _, message in result.skipped[:_SHOWN]:
            print(f"  {message}")
        if len(result.skipped) > _SHOWN:
            print(f"  … and {len(result.skipped) - _SHOWN} more, see the .skipped.txt file")
