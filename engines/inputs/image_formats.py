"""Formats of pictures: the suffixes of picture files in folders, and HEIC, which Pillow reads only with another package.

HEIC, a format of phones, needs pillow-heif. It is imported at the first such file, recognized by its suffix or by its content,
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

# Suffixes of usual picture files. Pillow registers more (`Image.registered_extensions`): videos, documents that start Ghostscript,
# data of weather models, textures of games. Those are counted as left out, and a file that the user names is always tried.
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

# Exceptions of a plugin for a file of another format; `PIL.Image.open` catches the same ones.
_NOT_THIS_FORMAT = (SyntaxError, IndexError, TypeError, struct.error)
_HEIF_BRANDS = (b"heic", b"heix", b"hevc", b"hevx", b"heim", b"heis", b"hevm", b"hevs", b"mif1", b"msf1")


@functools.cache
def heif_problem() -> str | None:
    """The reason why HEIC cannot be read here; None where it can, because pillow-heif is installed and now registered with Pillow.

    Two threads that call this at once register the same opener twice, which changes nothing; so no lock is needed, which a fork
    could copy while it is held.
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
    """Whether a file's suffix, in upper or lower case, belongs to a picture format that can be read here."""
    suffix = os.path.splitext(name)[1].lower()
    return suffix in SUFFIXES or (suffix in HEIF_SUFFIXES and heif_problem() is None)


def open_image(file: str | os.PathLike[str] | IO[bytes]) -> Image.Image:
    """Open an image as ``Image.open`` does, HEIC too where pillow-heif is installed; it raises Pillow's own errors."""
    try:
        return Image.open(file)
    except UnidentifiedImageError:
        if not _is_heif(file) or heif_problem() is not None:
            raise
    return Image.open(file)


def open_unlimited(file: IO[bytes], filename: str) -> Image.Image:
    """Open an image as ``PIL.Image.open`` does, HEIC too with pillow-heif, but without Pillow's limit of pixels and its warning.

    Pillow's limit holds for the whole process and cannot be set for one caller, so the caller of this function compares the
    image's size instead. A few of Pillow's plugins check the limit by themselves.

    Args:
        file: a file opened in binary mode, at its start.
        filename: the file's name, because some formats map the file into memory by its name; empty where it has none.

    Raises:
        UnidentifiedImageError: no plugin supports the format.
        Exception: any error of a plugin for a damaged header.
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
                if not accepted or isinstance(accepted, str):  # a str is the reason for a refusal
                    continue
                file.seek(0)
                return factory(file, filename)
            except _NOT_THIS_FORMAT:
                continue
    raise UnidentifiedImageError(f"cannot identify image file {filename!r}")


def advice(file: str | os.PathLike[str] | IO[bytes]) -> str:
    """The remedy for a file that is not empty and whose format Pillow does not recognize."""
    problem = heif_problem() if _is_heif(file) else None
    return problem or "not an image that Pillow can read; convert it to JPEG, PNG or WebP"


def _is_heif(file: str | os.PathLike[str] | IO[bytes]) -> bool:
    """Whether a file has the beginning of HEIC: the length of a box, ``ftyp`` and a brand."""
    if isinstance(file, (str, os.PathLike)):
        if not os.path.isfile(file):  # reading a pipe again gives nothing, or waits for ever
            return False
        with open(file, "rb") as opened:
            head = opened.read(12)
    else:
        file.seek(0, io.SEEK_SET)
        head = file.read(12)
    return head[4:8] == b"ftyp" and head[8:12] in _HEIF_BRANDS
