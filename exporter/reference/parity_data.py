"""Natural pictures and captions for the parity gate, calibration and probing; never from the network.

Without a folder the pictures are random crops of the photographs in the scikit-image and scikit-learn wheels, and the captions
are open_clip's own prompts. Noise in their place would hide errors, because its embeddings by a network are all alike.
"""

from __future__ import annotations

import importlib.util
import math
import os
import struct
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from engines.errors import InputError
from engines.files.text_files import read_lines
from engines.inputs.image_files import FoundImages, describe_left_out, find_images
from engines.inputs.image_formats import open_image
from engines.process.optional import installed_version
from exporter.errors import ExportError

CAPTIONS_NAME = "captions.txt"
MAX_SIDE = 1024  # pixels; without the limit a folder of camera pictures would take gigabytes when decoded

_SKIMAGE_PHOTOGRAPHS = (
    "astronaut.png",
    "brick.png",
    "camera.png",
    "chelsea.png",
    "coffee.png",
    "coins.png",
    "grass.png",
    "gravel.png",
    "hubble_deep_field.jpg",
    "ihc.png",
    "moon.png",
    "motorcycle_left.png",
    "page.png",
    "retina.jpg",
    "rocket.jpg",
)
_SKLEARN_PHOTOGRAPHS = ("china.jpg", "flower.jpg")
_MIN_PHOTOGRAPHS = 8
_MIN_CROP_SIDE = 64
# One caption in this many is a class name alone, two sentences, or a text far beyond 77 tokens.
_NAME_EVERY, _PAIR_EVERY, _LONG_EVERY = 16, 12, 64
_LONG_SENTENCES = 14
# The errors that Pillow's decoders raise on damaged files.
_UNREADABLE = (
    OSError,
    ValueError,
    SyntaxError,
    EOFError,
    KeyError,
    IndexError,
    TypeError,
    OverflowError,
    ZeroDivisionError,
    MemoryError,
    struct.error,
    Image.DecompressionBombError,
)


@dataclass(frozen=True)
class ParityData:
    """Inputs on which an exported engine is compared with eager PyTorch."""

    images: tuple[Image.Image, ...]  # RGB, decoded, of varied sizes
    captions: tuple[str, ...]
    source: str  # one line on their origin, with the number of skipped files
    skipped: tuple[str, ...] = ()  # files of the folder that could not be read, relative to it
    notes: tuple[str, ...] = ()  # sentences about files that were left out


def check_parity_data(folder: str | os.PathLike[str] | None, images: int, captions: int) -> None:
    """Check the arguments of `load_parity_data`, without reading a picture.

    Raises:
        ExportError: a count is below 1, the folder does not exist or has no image file, or without a folder scikit-image's and
            scikit-learn's photographs are not there.
    """
    for name, count in (("images", images), ("captions", captions)):
        if count < 1:
            raise ExportError(f"{count} parity {name} asked for: at least 1 is needed")
    if folder is not None:
        root = Path(folder)
        if not root.is_dir():
            raise ExportError(f"parity data {root} is {'a file, not a folder' if root.exists() else 'not there'}")
        _images_of(root)
    else:
        _find_photographs()


def load_parity_data(
    folder: str | os.PathLike[str] | None = None, images: int = 64, captions: int = 128, seed: int = 0
) -> ParityData:
    """Load pictures and captions; the same arguments and files give the same data.

    Args:
        folder: a folder of image files at any depth, optionally with a ``captions.txt`` (UTF-8, one caption on each line) at the
            top; None for crops of photographs that come with scikit-image and scikit-learn.
        images: the number of pictures; a folder with fewer gives all of them, a folder with more gives a random choice.
        captions: the number of captions; a ``captions.txt`` with fewer gives all of them, one with more gives a random choice.
        seed: the seed of crops and choices.

    Returns:
        The data. Pictures of a folder are shrunk to at most 1024 pixels on their longer side.

    Raises:
        ExportError: a count is below 1, the folder does not exist or has no readable image, its ``captions.txt`` is unreadable or
            empty, or, without a folder, the two packages have too few photographs or are not installed.
    """
    check_parity_data(folder, images, captions)
    if folder is None:
        pictures, source = _crop_photographs(images, np.random.default_rng([seed, 0]))
        return ParityData(pictures, prompt_captions(captions, seed), f"{source}; open_clip's prompt templates")
    root = Path(folder)
    pictures, skipped, notes = _read_folder(root, images, np.random.default_rng([seed, 0]))
    text, text_source = _read_captions(root, captions, seed)
    source = f"{len(pictures)} images of {root.resolve().name}"
    if skipped:
        source += f" ({len(skipped)} unreadable skipped)"
    return ParityData(pictures, text, f"{source}; {text_source}", skipped, notes)


def prompt_captions(count: int, seed: int = 0) -> tuple[str, ...]:
    """Make `count` distinct captions from open_clip's ImageNet class names and prompt templates.

    Most are one prompt of 5 to 20 tokens; some are a bare class name or two sentences, and every 64th is longer than 77
    tokens, as user text is.
    """
    from open_clip.zero_shot_metadata import IMAGENET_CLASSNAMES, OPENAI_IMAGENET_TEMPLATES

    rng = np.random.default_rng([seed, 1])

    def name() -> str:
        return str(IMAGENET_CLASSNAMES[int(rng.integers(len(IMAGENET_CLASSNAMES)))])

    def sentence() -> str:
        return str(OPENAI_IMAGENET_TEMPLATES[int(rng.integers(len(OPENAI_IMAGENET_TEMPLATES)))](name()))

    captions: dict[str, None] = {}
    while len(captions) < count:
        index = len(captions) + 1
        if index % _LONG_EVERY == 0:
            caption = " ".join(sentence() for _ in range(_LONG_SENTENCES))
        elif index % _NAME_EVERY == 0:
            caption = name()
        elif index % _PAIR_EVERY == 0:
            caption = f"{sentence()} {sentence()}"
        else:
            caption = sentence()
        if caption in captions:  # names and single prompts are limited in number, texts of several sentences are not
            caption = f"{caption} {sentence()}"
        captions[caption] = None
    return tuple(captions)


def load_photographs() -> tuple[tuple[Image.Image, ...], str]:
    """Load the whole photographs in the wheels, in RGB; returns them and their origin in words.

    Raises:
        ExportError: there are too few; the message names the packages.
    """
    files, packages = _find_photographs()
    return tuple(_read_image(file) for file in files), f"{len(files)} photographs in {' and '.join(packages)}"


def _crop_photographs(count: int, rng: np.random.Generator) -> tuple[tuple[Image.Image, ...], str]:
    """Make `count` random crops, with each photograph used equally often; returns them and their origin in words."""
    files, packages = _find_photographs()
    order = [int(i) for _ in range(-(-count // len(files))) for i in rng.permutation(len(files))][:count]
    photographs = {index: _read_image(files[index]) for index in set(order)}
    crops = tuple(_random_crop(photographs[index], rng) for index in order)
    return crops, f"{count} crops of {len(photographs)} photographs in {' and '.join(packages)}"


def _find_photographs() -> tuple[list[Path], list[str]]:
    """Find the photographs on disk, and the names and versions of their packages, which are not imported.

    Raises:
        ExportError: there are too few; the message names the packages.
    """
    files: list[Path] = []
    packages: list[str] = []
    for module, distribution, inner, names in (
        ("skimage", "scikit-image", ("data",), _SKIMAGE_PHOTOGRAPHS),
        ("sklearn", "scikit-learn", ("datasets", "images"), _SKLEARN_PHOTOGRAPHS),
    ):
        spec = importlib.util.find_spec(module)
        if spec is None or spec.origin is None:
            continue
        folder = Path(spec.origin).parent.joinpath(*inner)
        present = [folder / name for name in names if (folder / name).is_file()]
        if present:
            files += present
            packages.append(" ".join(filter(None, (distribution, installed_version(distribution)))))
    if len(files) < _MIN_PHOTOGRAPHS:
        installed = " and ".join(packages) if packages else "neither scikit-image nor scikit-learn"
        raise ExportError(
            f"only {len(files)} photographs found ({installed} installed), {_MIN_PHOTOGRAPHS} are needed: "
            "pip install scikit-image scikit-learn, or pass --parity-data DIR"
        )
    return files, packages


def _random_crop(photograph: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Make a crop of 5 to 100 % of the area, with sides between 1:2.2 and 2.2:1, mirrored with probability one half."""
    width, height = photograph.size
    area = width * height * float(rng.uniform(0.05, 1.0))
    aspect = math.exp(float(rng.uniform(-math.log(2.2), math.log(2.2))))
    crop_width = min(width, max(_MIN_CROP_SIDE, round(math.sqrt(area * aspect))))
    crop_height = min(height, max(_MIN_CROP_SIDE, round(math.sqrt(area / aspect))))
    left = int(rng.integers(width - crop_width + 1))
    top = int(rng.integers(height - crop_height + 1))
    crop = photograph.crop((left, top, left + crop_width, top + crop_height))
    return crop.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if rng.random() < 0.5 else crop


def _read_image(file: Path, max_side: int | None = None) -> Image.Image:
    with open_image(file) as image:
        if max_side is not None:
            image.draft("RGB", (max_side, max_side))  # a JPEG decodes at a fraction of its size, not below max_side
        picture: Image.Image = image.convert("RGB")
    if max_side is not None:
        picture.thumbnail((max_side, max_side), Image.Resampling.BICUBIC)  # never enlarges
    return picture


def _images_of(root: Path) -> FoundImages:
    try:
        return find_images(root, own_files=(CAPTIONS_NAME,))
    except InputError as error:
        raise ExportError(f"parity data: {error}") from error


def _read_folder(
    root: Path, count: int, rng: np.random.Generator
) -> tuple[tuple[Image.Image, ...], tuple[str, ...], tuple[str, ...]]:
    """Read up to `count` pictures of `root`; returns them, the tried files that cannot be read, and notes on other files."""
    listing = _images_of(root)
    files = listing.files
    pictures: list[tuple[int, Image.Image]] = []
    skipped: list[str] = []
    for index in (int(i) for i in rng.permutation(len(files))):
        if len(pictures) == count:
            break
        try:
            pictures.append((index, _read_image(files[index], MAX_SIDE)))
        except _UNREADABLE:
            skipped.append(files[index].relative_to(root).as_posix())
    if not pictures:
        raise ExportError(f"none of the {len(files)} image files in {root} can be read, {sorted(skipped)[0]} for one")
    notes = (f"parity data: {describe_left_out(listing.left_out)}",) if listing.left_out else ()
    return tuple(picture for _, picture in sorted(pictures, key=lambda pair: pair[0])), tuple(sorted(skipped)), notes


def _read_captions(root: Path, count: int, seed: int) -> tuple[tuple[str, ...], str]:
    file = root / CAPTIONS_NAME
    return read_captions(file if file.exists() else None, count, seed)


def read_captions(file: Path | None, count: int, seed: int) -> tuple[tuple[str, ...], str]:
    """Read up to `count` distinct captions of a text file, one on each line; None: open_clip's prompts.

    Returns:
        The captions, and one line on their origin.

    Raises:
        ExportError: the file cannot be read, or holds no caption.
    """
    if file is None:
        return prompt_captions(count, seed), "open_clip's prompt templates"
    try:
        lines = [line.strip() for line in read_lines(file, "the captions")]
    except InputError as error:
        raise ExportError(str(error)) from error
    captions = list(dict.fromkeys(line for line in lines if line))
    if not captions:
        raise ExportError(f"{file} has no caption in it: write one a line, or remove it")
    if len(captions) > count:
        chosen = np.random.default_rng([seed, 1]).choice(len(captions), count, replace=False)
        captions = [captions[index] for index in sorted(chosen)]
    return tuple(captions), f"{len(captions)} captions of {file.name}"
