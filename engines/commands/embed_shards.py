"""The part of ``python -m engines embed`` that writes a folder of shards: arguments, the job, its course and its summary."""

from __future__ import annotations

import argparse
import os
import re
import signal
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any, cast

import engines
from engines.bulk.description import JobDescription, agree, check_agrees
from engines.bulk.fast_decode import FastDecodeError, check_fast_decode
from engines.bulk.job import Reporter, Summary, run_job
from engines.bulk.maker import MakeOptions
from engines.commands.common import load_options, tell_left_out
from engines.commands.embed_progress import JsonReporter, TerminalReporter, tell_summary
from engines.embedder import Embedder
from engines.errors import BundleError, EngineUnavailableError, InputError
from engines.files.checksums import file_sha256
from engines.files.output_folder import output_folder
from engines.files.storage import is_remote
from engines.manifest import MANIFEST_NAME, TowerName, read_manifest
from engines.process.terminal import say, visible
from engines.ray.actor import ActorSettings
from engines.ray.cluster import RayOptions, import_ray
from engines.ray.front import run_on_ray
from engines.runtimes.choice import check_kind
from engines.shards.input_shards import Sources
from engines.shards.patterns import TAR_SUFFIXES
from engines.shards.samples import Columns

_ROWS = 10_000
_PART = re.compile(r"(\d+)/(\d+)")
# Options that only a folder of shards has, with their defaults.
_OPTIONS: Mapping[str, Any] = {
    "shard": None,
    "format": None,
    "dtype": None,
    "towers": None,
    "rows_per_shard": None,
    "image_column": None,
    "caption_column": None,
    "url_column": None,
    "key_column": None,
    "fast_decode": False,
    "retry_failed": False,
    "replace_changed": False,
    "ray": None,
    "ray_actors": None,
    "ray_cpus": None,
    "shard_timeout": None,
}


def add_shard_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of jobs that write a folder of shards."""
    group = parser.add_argument_group("a folder of shards (--out DIR or URL)")
    group.add_argument(
        "--shard", metavar="I/N", help="make only the shards I, I + N and so on (from 0), for a job array of N jobs"
    )
    group.add_argument(
        "--format", choices=("parquet", "npy"), help="parquet (default), or npy in the layout of clip-retrieval"
    )
    group.add_argument(
        "--dtype", choices=("float16", "float32"), help="type of the embeddings on disk (default float16)"
    )
    group.add_argument("--towers", metavar="image,text", help="embed pictures, captions, or both (default: image)")
    group.add_argument(
        "--rows-per-shard", type=int, metavar="N", help=f"rows of a shard of a folder or a list (default {_ROWS:,})"
    )
    for use, text in (
        ("image", "pictures (bytes or paths)"),
        ("caption", "captions"),
        ("url", "addresses"),
        ("key", "keys"),
    ):
        group.add_argument(f"--{use}-column", metavar="NAME", help=f"column of parquet files with {text}")
    group.add_argument(
        "--fast-decode", action="store_true", help="decode JPEG files at a reduced scale (not to the bit)"
    )
    group.add_argument(
        "--retry-failed", action="store_true", help="try rows that failed again, in shards that are whole"
    )
    group.add_argument("--replace-changed", action="store_true", help="make shards whose input has changed again")
    group.add_argument(
        "--ray",
        metavar="ADDRESS",
        help="make the shards in actors of a Ray cluster: its address, 'auto' for the one that runs here, or 'local' to start one",
    )
    group.add_argument(
        "--ray-actors",
        type=int,
        metavar="N",
        help="number of actors (default: one a GPU, or one a machine without GPUs)",
    )
    group.add_argument("--ray-cpus", type=int, metavar="N", help="CPUs of an actor (default: its share of its machine)")
    group.add_argument(
        "--shard-timeout",
        type=float,
        metavar="SECONDS",
        help="with --ray: stop the actor of a shard that takes longer, and make the shard again (default: no limit)",
    )


def writes_shards(args: argparse.Namespace) -> bool:
    """Whether the job's output is a folder of shards, and not one file."""
    out = args.out
    return is_remote(out) or out.endswith("/") or Path(out).suffix == "" or Path(out).is_dir()


def check_one_file(args: argparse.Namespace) -> None:
    """Refuse arguments of a folder of shards in a job that writes one file.

    Raises:
        InputError: there is such an argument, or a tar or a parquet file among the inputs.
    """
    given = next((name for name, default in _OPTIONS.items() if getattr(args, name) != default), None)
    if given is not None:
        raise InputError(
            f"--{given.replace('_', '-')} is for a folder of shards: pass --out DIR/ instead of --out {args.out}"
        )
    packed = next((path for path in args.images if path.endswith((*TAR_SUFFIXES, ".parquet"))), None)
    if packed is not None:
        raise InputError(f"{packed} is embedded into a folder of shards: pass --out DIR/ instead of --out {args.out}")


def run_shards(args: argparse.Namespace) -> int:
    """Run the job; returns the exit code."""
    on_ray = _ray_options(args)
    sources = _sources(args)
    part = parse_part(args.shard)
    manifest = read_manifest(Path(args.bundle))
    towers = _towers(args, tuple(manifest.towers))
    for tower in towers:
        check_kind(manifest, tower, args.engine)  # the machines of a cluster would say so later
    if args.fast_decode and "image" not in towers:
        raise InputError("--fast-decode is for pictures: leave it out with --towers text")
    columns = Columns(args.image_column, args.caption_column, args.url_column, args.key_column)
    description = JobDescription(
        bundle=str(Path(args.bundle).absolute()),
        manifest_sha256=_manifest_sha256(Path(args.bundle)),
        model=manifest.model.name,
        towers=towers,
        layout=args.format or "parquet",
        dtype=args.dtype or "float16",
        embed_dim=manifest.model.embed_dim,
        max_pixels=args.max_pixels,
        columns=columns,
        fast_decode=args.fast_decode,
    )
    description.make_layout()  # refuses a missing library before the folder is made
    options = MakeOptions(columns, args.retry_failed, args.replace_changed)
    reporter: Reporter = JsonReporter() if args.json else TerminalReporter()
    sources.check_output(args.out)
    sources.check_columns(columns, towers)
    sources.count()  # refuses inputs without a shard
    folder = output_folder(args.out)
    try:
        with _terminated_as_interrupted():
            if on_ray is None:
                with _load(args, towers) as clip:
                    description = agree(folder, check_fast_decode(clip, sources, folder, description, columns))
                    summary = run_job(clip, sources, part, folder, description, options, reporter)
            else:
                if description.fast_decode:
                    with _load(args, towers) as clip:
                        description = check_fast_decode(clip, sources, folder, description, columns)
                settings = ActorSettings(
                    os.getcwd(),
                    args.bundle,
                    args.engine,
                    args.device,
                    load_options(args),
                    args.out,
                    check_agrees(folder, description),
                    options,
                )
                summary = run_on_ray(on_ray, settings, sources, part, folder, reporter)
    except FastDecodeError as error:
        say(f"error: {visible(str(error))}", sys.stderr)
        return 3
    except KeyboardInterrupt:
        say("\ninterrupted: run the same command again, it goes on where it stopped", sys.stderr)
        return 130
    finally:
        reporter.close()
        folder.tidy()
    return _end(summary, sources, folder.url, args.json)


def _ray_options(args: argparse.Namespace) -> RayOptions | None:
    if args.ray is None:
        given = next(
            (name for name in ("ray_actors", "ray_cpus", "shard_timeout") if getattr(args, name) is not None), None
        )
        if given is not None:
            raise InputError(f"--{given.replace('_', '-')} is for jobs on Ray: pass --ray ADDRESS, too")
        return None
    import_ray()  # refuses a missing Ray before anything else
    return RayOptions(args.ray, args.ray_actors, args.ray_cpus, args.shard_timeout)


def _end(summary: Summary, sources: Sources, url: str, as_json: bool) -> int:
    tell_left_out(sources.left_out)
    tell_summary(summary, sources.left_out, url, as_json)
    return 1 if summary.failed else 0


def parse_part(text: str | None) -> tuple[int, int]:
    """The pair (i, n) of ``--shard i/n``; (0, 1) without it.

    Raises:
        InputError: it has another form, or i is not among 0 … n - 1.
    """
    if text is None:
        return 0, 1
    match = _PART.fullmatch(text.strip())
    if match is None:
        raise InputError(f"--shard {text} must be I/N, such as 0/8")
    part, count = int(match.group(1)), int(match.group(2))
    if part >= count:
        raise InputError(
            f"--shard {text}: parts are counted from 0, so the last one of {count} is {max(count - 1, 0)}/{count}"
        )
    return part, count


def _sources(args: argparse.Namespace) -> Sources:
    given = [bool(args.images), args.list is not None, args.texts is not None]
    if sum(given) != 1:
        raise InputError(
            "pass tars, parquet files, image files or folders, or --list FILE, or --texts FILE (one of the three)"
        )
    if args.texts is not None and args.max_pixels is not None:
        raise InputError("--max-pixels is for images: leave it out with --texts")
    rows = _ROWS if args.rows_per_shard is None else args.rows_per_shard
    if rows < 1:
        raise InputError(f"--rows-per-shard {rows} leaves no row: pass 1 or more")
    listing, texts = (None if value is None else Path(value) for value in (args.list, args.texts))
    return Sources(tuple(args.images), listing, texts, rows)


def _towers(args: argparse.Namespace, have: tuple[str, ...]) -> tuple[TowerName, ...]:
    if args.towers is None:
        return ("text",) if args.texts is not None else ("image",)
    names = [name.strip() for name in args.towers.split(",")]
    unknown = next((name for name in names if name not in ("image", "text")), None)
    if unknown is not None:
        raise InputError(f"--towers {args.towers}: there is no tower {unknown!r}; pass image, text, or image,text")
    if args.texts is not None and "image" in names:
        raise InputError(f"--towers {args.towers}: --texts has no pictures")
    missing = next((name for name in names if name not in have), None)
    if missing is not None:
        raise EngineUnavailableError(f"the bundle has no {missing} tower: export it with --towers image,text")
    return cast("tuple[TowerName, ...]", tuple(name for name in ("image", "text") if name in names))


def _load(args: argparse.Namespace, towers: tuple[TowerName, ...]) -> Embedder:
    options = load_options(args)
    return engines.load(args.bundle, engine=args.engine, device=args.device, towers=towers, **options)


def _manifest_sha256(bundle: Path) -> str:
    try:
        return file_sha256(bundle / MANIFEST_NAME)
    except OSError as error:
        raise BundleError(f"cannot read {bundle / MANIFEST_NAME}: {error.strerror or error}") from error


@contextmanager
def _terminated_as_interrupted() -> Iterator[None]:
    """SIGTERM, which schedulers send before they kill, ends the job like Ctrl-C: leases are given back."""

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():  # only that one may handle signals
        yield
        return
    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
