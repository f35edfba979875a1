"""The command ``python -m engines embed``: images or texts to one file of embeddings, or to a folder of shards."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

import engines
from engines.commands.common import add_engine_arguments, add_max_pixels, load_options, tell_left_out
from engines.commands.embed_job import EmbedItems, EmbedJob, JobResult
from engines.commands.embed_shards import add_shard_arguments, check_one_file, run_shards, writes_shards
from engines.errors import BundleError, ImageError, InputError
from engines.files.checksums import file_sha256
from engines.files.json_text import json_text
from engines.files.text_files import read_lines
from engines.inputs.image_files import find_all_images, read_list
from engines.manifest import MANIFEST_NAME, TowerName
from engines.process.terminal import say, visible

_BATCH = 32
_SHOWN = 20


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments to its parser."""
    parser.add_argument("images", nargs="*", metavar="PATH", help="image files, folders, tars, parquet files")
    parser.add_argument("--list", metavar="FILE", help="a text file with one image file a line")
    parser.add_argument("--texts", metavar="FILE", help="embed the lines of a text file instead of images")
    parser.add_argument(
        "--out", required=True, metavar="OUT", help="x.npy (and x.items.txt), x.parquet, or a folder of shards"
    )
    add_engine_arguments(parser)
    add_max_pixels(parser)
    parser.add_argument("--json", action="store_true", help="print one JSON object at the end; of shards, one a line")
    parser.add_argument(
        "--workers", type=int, metavar="N", help="threads that decode images (default: one for each core)"
    )
    parser.add_argument(
        "--decoder", choices=("auto", "pillow", "native"), help="native: the C++ library (default: if found)"
    )
    add_shard_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Embed the inputs; an interrupted job continues."""
    if writes_shards(args):
        return run_shards(args)
    check_one_file(args)
    options = load_options(args)
    items, left_out = _items(args)
    tower: TowerName = "text" if args.texts is not None else "image"
    with engines.load(args.bundle, engine=args.engine, device=args.device, towers=(tower,), **options) as clip:
        identity = f"{_manifest_sha256(Path(args.bundle))} {tower} {clip.engines[tower]} {args.max_pixels}"
        job = EmbedJob(items, Path(args.out), identity, are_files=tower == "image")
        tell_left_out(left_out)
        try:
            _run_job(job, _texts(clip) if tower == "text" else _images(clip), "texts" if tower == "text" else "images")
            result = job.finish()
        except KeyboardInterrupt:
            say("\ninterrupted: run the same command again, it goes on where it stopped", sys.stderr)
            return 130
    _tell(result, len(items), left_out, args.json)
    return 0


def _manifest_sha256(bundle: Path) -> str:
    try:
        return file_sha256(bundle / MANIFEST_NAME)
    except OSError as error:  # the manifest was removed or closed after `engines.load` had read it
        raise BundleError(f"cannot read {bundle / MANIFEST_NAME}: {error.strerror or error}") from error


def _items(args: argparse.Namespace) -> tuple[list[str], Mapping[str, int]]:
    """File names or texts, and the number of other files in the folders by suffix."""
    sources = [bool(args.images), args.list is not None, args.texts is not None]
    if sum(sources) != 1:
        raise InputError("pass image files or folders, or --list FILE, or --texts FILE (one of the three)")
    if args.texts is not None:
        if args.max_pixels is not None:
            raise InputError("--max-pixels is for images: leave it out with --texts")
        texts = read_lines(Path(args.texts), "the texts of")
        if not texts:
            raise InputError(f"{args.texts} has no line")
        return texts, {}
    if args.list is not None:
        return [str(path) for path in read_list(Path(args.list))], {}
    images = find_all_images(Path(item) for item in args.images)
    return [str(path) for path in images.files], images.left_out


def _run_job(job: EmbedJob, embed: EmbedItems, unit: str) -> None:
    from tqdm import tqdm

    resumed = job.open()
    if resumed.done or resumed.again:
        again = f"; {resumed.again} changed since or could not be read, and are tried again" if resumed.again else ""
        say(f"going on: {resumed.done} of {len(job.items)} are done already{again}", sys.stderr)
    with tqdm(total=len(job.items), initial=resumed.done, unit=f" {unit}", disable=not sys.stderr.isatty()) as bar:
        job.run(embed, lambda count: bar.update(count) and None)


def _images(clip: Any) -> EmbedItems:
    """A function that embeds files and skips unreadable ones. Decoding runs in the embedder's threads, ahead of the engine."""

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


def _tell(result: JobResult, total: int, left_out: Mapping[str, int], as_json: bool) -> None:
    if as_json:
        skipped = [{"item": item, "message": message} for item, message in result.skipped]
        files = [str(file) for file in result.files]
        print(json_text({"rows": result.rows, "files": files, "skipped": skipped, "left_out": dict(left_out)}))
        return
    say(visible(f"{result.rows} of {total} embedded: {', '.join(str(file) for file in result.files)}"))
    if result.skipped:
        say(f"{len(result.skipped)} could not be read:")
        for _, message in result.skipped[:_SHOWN]:
            say(f"  {visible(message)}")
        if len(result.skipped) > _SHOWN:
            say(f"  … and {len(result.skipped) - _SHOWN} more, see the .skipped.txt file")
