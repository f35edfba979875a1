"""Text files of users: one item a line, in UTF-8 with or without a byte order mark, or in the UTF-16 of Windows' tools."""

from __future__ import annotations

import codecs
import io
from collections.abc import Iterator
from pathlib import Path

from engines.errors import InputError

# UTF-32's little-endian mark stands before UTF-16's, because it begins with the bytes of the latter.
_MARKS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
_MARK = "\ufeff"


def read_lines(path: Path, what: str = "") -> list[str]:
    """The lines of a text file, blank ones too, without their ends (``\\n``, ``\\r\\n`` or ``\\r``) and without byte order marks.

    Args:
        path: path of the file.
        what: the file in messages, such as ``the list``.

    Raises:
        InputError: the file cannot be read, or is not text in UTF-8, or in UTF-16 or UTF-32 with a byte order mark.
    """
    return list(iterate_lines(path, what))


def iterate_lines(path: Path, what: str = "") -> Iterator[str]:
    """The lines of `read_lines` one after the other, for files of any length. Errors are raised where they are met."""
    name = f"{what} {path}".strip()
    count = 0
    try:
        with path.open("rb") as opened:
            file = opened if opened.seekable() else io.BytesIO(opened.read())  # a pipe
            mark, encoding = _encoding(file.read(4))
            file.seek(len(mark))
            # With `newline=None` the ends "\r\n" and "\r" are read as "\n".
            for line in io.TextIOWrapper(file, encoding, newline=None):
                if "\0" in line:
                    raise _zero_byte(name, count + 1)
                count += 1
                # Files that were joined with `cat` or `type` have marks in the middle. One at the very end is no line.
                text = line.removesuffix("\n").lstrip(_MARK)
                if text or line.endswith("\n"):
                    yield text
    except UnicodeDecodeError as error:
        before = error.object[: error.start].decode(encoding, "replace").replace("\r\n", "\n").replace("\r", "\n")
        raise _no_text(name, encoding, count + before.count("\n") + 1, error) from error
    except (OSError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"cannot read {name}: {getattr(error, 'strerror', None) or error}") from error


def decode_text(data: bytes, name: str) -> str:
    """The text of a file's content, in the encoding of its byte order mark, or in UTF-8 where it has no mark.

    Args:
        data: the whole content.
        name: the file in messages.

    Raises:
        InputError: the content is no text in that encoding.
    """
    mark, encoding = _encoding(data)
    body = data[len(mark) :]
    try:
        text = body.decode(encoding)
    except UnicodeDecodeError as error:
        line = body[: error.start].decode(encoding, "replace").count("\n") + 1
        raise _no_text(name, encoding, line, error) from error
    if "\0" in text:
        raise _zero_byte(name, text[: text.index(chr(0))].count("\n") + 1)
    return text


def split_lines(text: str) -> list[str]:
    """The lines of a text as editors count them: only ``\\n``, ``\\r\\n`` and ``\\r`` end one, and none follows the last end."""
    lines = text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
    if not lines[-1].strip(_MARK):
        lines.pop()
    # Files that were joined with `cat` or `type` have marks in the middle.
    return [line.lstrip(_MARK) for line in lines]


def _encoding(data: bytes) -> tuple[bytes, str]:
    """The byte order mark at the start of some bytes, and the encoding that it names; UTF-8 without one."""
    return next(((mark, encoding) for mark, encoding in _MARKS if data.startswith(mark)), (b"", "utf-8"))


def _no_text(name: str, encoding: str, line: int, error: UnicodeDecodeError) -> InputError:
    return InputError(
        f"cannot read {name} as {encoding[:6].rstrip('-').upper()} text (line {line}: {error.reason}): save it as UTF-8"
    )


def _zero_byte(name: str, line: int) -> InputError:
    return InputError(
        f"cannot read {name} as text: line {line} has a zero byte, as binary files have, and UTF-16 without a byte order mark; "
        "save it as UTF-8"
    )
