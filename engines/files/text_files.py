"""Text files of users: one item a line, in UTF-8 with or without a byte order mark, or in the UTF-16 of Windows' tools."""

from __future__ import annotations

import codecs
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
    name = f"{what} {path}".strip()
    try:
        data = path.read_bytes()
    except (OSError, ValueError) as error:
        raise InputError(f"cannot read {name}: {getattr(error, 'strerror', None) or error}") from error
    return split_lines(decode_text(data, name))


def decode_text(data: bytes, name: str) -> str:
    """The text of a file's content, in the encoding of its byte order mark, or in UTF-8 where it has no mark.

    Args:
        data: the whole content.
        name: the file in messages.

    Raises:
        InputError: the content is no text in that encoding.
    """
    mark, encoding = next(((mark, encoding) for mark, encoding in _MARKS if data.startswith(mark)), (b"", "utf-8"))
    body = data[len(mark) :]
    try:
        text = body.decode(encoding)
    except UnicodeDecodeError as error:
        line = body[: error.start].decode(encoding, "replace").count("\n") + 1
        raise InputError(
            f"cannot read {name} as {encoding[:6].rstrip('-').upper()} text (line {line}: {error.reason}): save it as UTF-8"
        ) from error
    if "\0" in text:
        raise InputError(
            f"cannot read {name} as text: line {text[: text.index(chr(0))].count(chr(10)) + 1} has a zero byte, as binary files "
            "have, and UTF-16 without a byte order mark; save it as UTF-8"
        )
    return text


def split_lines(text: str) -> list[str]:
    """The lines of a text as editors count them: only ``\\n``, ``\\r\\n`` and ``\\r`` end one, and none follows the last end."""
    lines = text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
    if not lines[-1].strip(_MARK):
        lines.pop()
    # Files that were joined with `cat` or `type` have marks in the middle.
    return [line.lstrip(_MARK) for line in lines]
