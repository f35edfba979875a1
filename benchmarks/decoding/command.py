"""JPEG files to pixels, with Pillow and with the C++ library, at full and at reduced scale: ``python -m benchmarks decode``.

Each way reads, decodes and resizes the same files through `engines.inputs.decode.Decoder`, in turns, with one thread and with one
for each core; files are in the page cache. Pixels are compared first: those of the two libraries must be equal to the bit. Reduced
scale (``fast_decode``) changes pixels, so the cosines of its embeddings with those of full scale are measured, too.
"""

from __future__ import annotations

import argparse
import io
import math
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps

from benchmarks.harness.case_rows import row_of
from benchmarks.harness.timing import rotated
from benchmarks.records import rows as rowfiles
from benchmarks.records.estimates import estimate, rates, speedup
from benchmarks.records.figures import FIGURES
from benchmarks.records.machine import stamp, this_machine, usable_cores, versions
from benchmarks.records.results import RESULTS
from benchmarks.records.rows import Row
from benchmarks.workloads.subject import Subject, subject_of_bundle
from engines.errors import EngineError
from engines.inputs.decode import Decoder, readable
from engines.inputs.preprocess import preprocess_private
from engines.manifest import read_manifest

PICTURE = (1600, 1200)  # width and height; 2 megapixels
QUALITY = 90
_BATCH = 32
_WAYS = {
    "pillow": ("pillow", False),
    "native": ("native", False),
    "pillow fast": ("pillow", True),
    "native fast": ("native", True),
}
_PROCESSES = "pillow processes"
# The rate for which decoding is predicted: that of a ViT-L-14 engine on an H200, in images per second; not measured here.
_ENGINE_RATE, _CORES = 3000, 16
_TIMES = (1, 2, 4)


class _SorryError(Exception):
    """Something that the user can mend; the message is one sentence."""


@dataclass
class _Way:
    """One way to decode, with one number of threads."""

    run: Callable[[], npt.NDArray[np.uint8]]
    close: Callable[[], None]
    seconds: list[float]


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print, and merge the rows; exit code 1 where nothing could be measured."""
    args = _parser().parse_args(argv)
    machine = this_machine()
    try:
        with tempfile.TemporaryDirectory(prefix="decode-") as name:
            bundle = args.bundle or _export(args.model, Path(name) / "bundle")
            files = make_files(Path(name), args.files)
            found = _measure(bundle, files, args.rounds)
    except (_SorryError, EngineError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    rows = stamp(found, machine)
    for row in rows:
        print(f"{row.engine:<17} {row.shape:<32} {row.figure:<12} {row.value:>9.6g} {row.unit:<3} {row.status}")
    _print_predictions(rows)
    rowfiles.merge(args.results or RESULTS / machine.slug, rows)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks decode", description=__doc__.splitlines()[0])
    model = parser.add_mutually_exclusive_group()
    model.add_argument(
        "--model", default="ViT-B-32", help="demo, or an architecture, with random weights (default ViT-B-32)"
    )
    model.add_argument("--bundle", type=Path, help="measure with this bundle, and export none")
    parser.add_argument("--files", type=int, default=64, help="JPEG files of 1600 x 1200 pixels (default 64)")
    parser.add_argument("--rounds", type=int, default=7, help="rounds, in which all ways take turns (default 7)")
    parser.add_argument("--results", type=Path, help="folder for the rows (default benchmarks/results/<machine>)")
    return parser


def make_files(folder: Path, count: int) -> list[Path]:
    """JPEG files of 1600 x 1200 pixels, quality 90, 4:2:0, made of photographs; each photograph is used as often as the others."""
    photographs = _photographs()
    files = [folder / f"{index:04}.jpg" for index in range(count)]
    for index, file in enumerate(files):
        file.write_bytes(_encoded(photographs[index % len(photographs)], PICTURE))
    return files


def _photographs() -> Sequence[Image.Image]:
    from exporter.errors import ExportError
    from exporter.reference.parity_data import load_photographs

    try:
        return load_photographs()[0]
    except ExportError as error:
        raise _SorryError(str(error)) from error


def _encoded(photograph: Image.Image, size: tuple[int, int]) -> bytes:
    file = io.BytesIO()
    picture = ImageOps.fit(photograph, size, Image.Resampling.BICUBIC)
    picture.save(file, "JPEG", quality=QUALITY, subsampling="4:2:0")
    return file.getvalue()


def _export(model: str, out: Path) -> Path:
    command = [sys.executable, "-m", "exporter", model, "--out", str(out), "--towers", "image"]
    command += [] if model == "demo" else ["--pretrained", "none"]
    if subprocess.run(command, check=False, stdout=subprocess.DEVNULL).returncode:
        raise _SorryError(f"{model} could not be exported")
    return out


def _measure(bundle: Path, files: Sequence[Path], rounds: int) -> list[Row]:
    subject, names = subject_of_bundle(bundle), [str(file) for file in files]
    found = [*_cosine_rows(subject, bundle, names), *_scale_rows(subject, bundle)]
    for threads in dict.fromkeys((1, usable_cores())):
        ways = {name: _way(bundle, names, threads, *choice) for name, choice in _WAYS.items()}
        if threads > 1:
            ways[_PROCESSES] = _processes(bundle, names, threads)
        try:
            _check_equal({name: way.run() for name, way in ways.items()})
            for turn in range(rounds):
                print(f"{threads} threads, round {turn + 1} of {rounds}", file=sys.stderr, flush=True)
                for name in rotated(list(ways), turn):
                    start = time.perf_counter()
                    ways[name].run()
                    ways[name].seconds.append(time.perf_counter() - start)
        finally:
            for way in ways.values():
                way.close()
        for name, way in ways.items():
            columns = _columns(subject, name, files) | {
                "shape": _shape(threads),
                "threads": threads,
            }
            found.append(row_of("per_second", rates(way.seconds, len(files)), **columns))
            if name != "pillow":
                ratio = speedup(way.seconds, ways["pillow"].seconds)
                found.append(row_of("speedup", ratio, **columns | {"note": "over Pillow, round by round"}))
    return found


def _way(bundle: Path, names: Sequence[str], threads: int, library: str, fast: bool) -> _Way:
    decoder = Decoder(read_manifest(bundle).preprocess, threads, None, bundle, library, fast)
    return _Way(
        lambda: np.concatenate([readable(batch) for _, batch in decoder.batches(names, _BATCH)]), decoder.close, []
    )


def _processes(bundle: Path, names: Sequence[str], count: int) -> _Way:
    pool = ProcessPoolExecutor(count, get_context("spawn"), _start_process, (str(bundle),))
    return _Way(lambda: np.stack(list(pool.map(_decode_in_process, names, chunksize=4))), pool.shutdown, [])


_decoder: Decoder | None = None  # of a process of the pool


def _start_process(bundle: str) -> None:
    global _decoder
    _decoder = Decoder(read_manifest(Path(bundle)).preprocess, 1, decoder="pillow")


def _decode_in_process(name: str) -> npt.NDArray[np.uint8]:
    assert _decoder is not None
    return readable([_decoder.preprocess(name)])[0]


def _check_equal(pixels: dict[str, npt.NDArray[np.uint8]]) -> None:
    for name, other in {"native": "pillow", "native fast": "pillow fast", _PROCESSES: "pillow"}.items():
        if name in pixels and not np.array_equal(pixels[name], pixels[other]):
            raise _SorryError(f"the pixels of {name} differ from those of {other}: report it as a bug")


def _cosine_rows(subject: Subject, bundle: Path, names: Sequence[str]) -> list[Row]:
    """Cosines of the embeddings at reduced scale with those at full scale."""
    import engines

    embeds = []
    for fast in (False, True):
        with engines.load(bundle, towers=["image"], decoder="native", fast_decode=fast) as clip:
            embeds.append(clip.encode_image(names))
    cosines = np.sum(embeds[0].astype(np.float64) * embeds[1], axis=1)
    columns = _columns(subject, "native fast", names) | {"shape": f"{_picture()}, at reduced scale"}
    mean, least = estimate([float(cosines.mean())]), estimate([float(cosines.min())])
    return [row_of("mean_cosine", mean, **columns), row_of("min_cosine", least, **columns)]


def _scale_rows(subject: Subject, bundle: Path) -> list[Row]:
    """Cosines by the scale of decoding: files of 8 times the resized picture's sides are decoded at 1, 2 and 4 times these."""
    import engines

    side = min(subject.size)
    size = 8 * round(side * 4 / 3) + 5, 8 * side + 3  # no multiples of 8, so that the decoded sizes are rounded
    contents = [_encoded(photograph, size) for photograph in _photographs()]
    found = []
    with engines.load(bundle, towers=["image"], decoder="pillow") as clip:
        config = clip.manifest.preprocess
        full = clip.encode_image(contents)
        for times in _TIMES:
            embeds = clip.encode_image(
                np.stack([preprocess_private(content, config, None, times) for content in contents])
            )
            cosines = np.sum(full.astype(np.float64) * embeds, axis=1)
            columns = _columns(subject, "pillow fast", contents) | {
                "shape": f"JPEG {size[0]}x{size[1]}, at 1/{8 // times}"
            }
            values = {"mean_cosine": float(cosines.mean()), "min_cosine": float(cosines.min())}
            found += [row_of(figure, estimate([value]), **columns) for figure, value in values.items()]
    return found


def _columns(subject: Subject, name: str, files: Sequence[object]) -> dict[str, Any]:
    return {
        "what": "decode",
        "model": subject.name,
        "tower": "image",
        "engine": name,
        "precision": subject.precision,
        "batch": _BATCH,
        "weights": "random" if subject.pretrained == "none" else subject.pretrained or subject.source,
        "versions": versions(("pillow", "numpy")),
        "note": f"{len(files)} JPEG files, quality {QUALITY}, 4:2:0, to {subject.image_shape}",
    }


def _shape(threads: int) -> str:
    return f"{_picture()}, {threads} thread{'s' if threads > 1 else ''}"


def _picture() -> str:
    return f"JPEG {PICTURE[0]}x{PICTURE[1]}"


def _print_predictions(rows: Sequence[Row]) -> None:
    """For each way, what more cores would decode at the measured rate of one thread; printed, and no row."""
    print(f"predicted from one thread's rate (an engine that embeds {_ENGINE_RATE:,} images a second is assumed):")
    for row in rows:
        if row.figure == "per_second" and row.threads == 1 and row.value:
            cores = math.ceil(_ENGINE_RATE / row.value)
            rate = _CORES * row.value
            print(
                f"  {row.engine:<17} {_CORES} cores: {rate:,.0f} {FIGURES['per_second'].unit} predicted; {cores} cores keep up"
            )


if __name__ == "__main__":
    sys.exit(main())
