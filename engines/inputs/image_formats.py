"""Which files are pictures: suffixes that folders are searched for, and the format that Pillow reads only with another package.

HEIC, as phones write it, needs pillow-heif. It is imported when the first such file is met, be it by its suffix or by its content,
because the import costs time and most machines have no such file.
"""

from __future__ import annotations

import functools
import io
import os
import struct
from typing import IO

from PIL import Image, UnidentifiedImageError

from engines.process.optional import broken, import_or_reason

# Pictures as people keep them. Pillow registers more (`Image.registered_extensions`): videos, documents that start Ghostscript,
# data of weather models, textures of games. Those are named as left out, and a file that the user names is always tried.
SUFFIXES = frozenset(
    (
        *(".jpg", ".jpeg", ".jpe", ".jfif", ".mpo"),
        *(".png", ".apng"),
        *(".webp", ".gif", ".avif"),
        *(".tif", ".tiff", ".bmp", ".dib"),
        *(".ppm", ".pgm", ".pbm", ".pnm"),
        *(".jp2", ".j2k", ".j2c", ".jpc", ".jpf", ".jpx"),
        *(".tga", ".psd", ".qoi", ".pcx", ".ico"),
    )
)
HEIF_SUFFIXES = frozenset((".heic", ".heif", ".hif"))
HEIF_REMEDY = "pip install pillow-heif"

# What a plugin raises about a file of another format, as `PIL.Image.open` understands it.
_NOT_THIS_FORMAT = (SyntaxError, IndexError, TypeError, struct.error)
_HEIF_BRANDS = (b"heic", b"heix", b"hevc", b"hevx", b"heim", b"heis", b"hevm", b"hevs", b"mif1", b"msf1")


@functools.cache
def heif_problem() -> str | None:
    """Why HEIC cannot be read here; None where it can, because pillow-heif is there and registered with Pillow now.

    Two threads that come at once register the same thing twice, which changes nothing; so there is no lock that a fork could copy
    while it is held.
    """
    name = "HEIC needs pillow-heif, which"
    library = import_or_reason("pillow_heif", name, HEIF_REMEDY)
    if isinstance(library, str):
        return library
    try:
        library.register_heif_opener()
    except (KeyboardInterrupt, GeneratorExit):
        raise
    except BaseException as error:  # noqa: BLE001 - a binary package can fail in any way, and JPEG works without it
        return broken(name, error, HEIF_REMEDY)
    return None


def is_image_name(name: str) -> bool:
    """Whether a file's suffix, in upper or lower case, is that of a picture that can be read here."""
    suffix = os.path.splitext(name)[1].lower()
    return suffix in SUFFIXES or (suffix in HEIF_SUFFIXES and heif_problem() is None)


def open_image(file: str | os.PathLike[str] | IO[bytes]) -> Image.Image:
    """``Image.open``, for HEIC too where pillow-heif is installed. What it raises is what Pillow raises."""
    try:
        return Image.open(file)
    except UnidentifiedImageError:
        if not _is_heif(file) or heif_problem() is not None:
            raise
    return Image.open(file)


def open_unlimited(file: IO[bytes], filename: str) -> Image.Image:
    """As ``PIL.Image.open``, for HEIC too where pillow-heif is installed, and without Pillow's limit of pixels and its warning.

    Those hold for the whole process and cannot be set for one caller; the caller of this function compares the image's size
    instead. A few of Pillow's plugins check the limit by themselves.

    Args:
        file: opened in binary mode, at its start.
        filename: its name, which some formats map into memory by; empty where it has none.

    Raises:
        UnidentifiedImageError: no plugin knows the format.
        Exception: whatever a plugin raises about a damaged header.
    """
    try:
        return _identified(file, filename)
    except UnidentifiedImageError:
        if not _is_heif(file) or heif_problem() is not None:
            raise
    file.seek(0)
    return _identified(file, filename)


def _identified(file: IO[bytes], filename: str) -> Image.Image:
    prefix = file.read(16)
    tried: set[str] = set()
    for load_plugins in (Image.preinit, Image.init):  # the common formats, then all
        load_plugins()
        for name in [name for name in Image.ID if name not in tried]:
            tried.add(name)
            factory, accepts = Image.OPEN[name]
            try:
                accepted = accepts is None or accepts(prefix)
                if not accepted or isinstance(accepted, str):  # a str says why not
                    continue
                file.seek(0)
                return factory(file, filename)
            except _NOT_THIS_FORMAT:
                continue
    raise UnidentifiedImageError(f"cannot identify image file {filename!r}")


def advice(file: str | os.PathLike[str] | IO[bytes]) -> str:
    """What to do about a file that is not empty and that Pillow does not know."""
    problem = heif_problem() if _is_heif(file) else None
    return problem or "not an image that Pillow can read; convert it to JPEG, PNG or WebP"


def _is_heif(file: str | os.PathLike[str] | IO[bytes]) -> bool:
    """Whether a file begins as HEIC does: the length of a box, ``ftyp`` and a brand."""
    if isinstance(file, (str, os.PathLike)):
        if not os.path.isfile(file):  # a pipe that was read is empty, or waits for ever
            return False
        with open(file, "rb") as opened:
            head = opened.read(12)
    else:
        file.seek(0, io.SEEK_SET)
        head = file.read(12)
    return head[4:8] == b"ftyp" and head[8:12] in _HEIF_BRANDS
