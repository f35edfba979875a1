"""Text that is safe to print: names of files may hold control characters, and a stream may lack some characters."""

from __future__ import annotations

import re
import sys
import unicodedata
from typing import TextIO

# Control characters, and characters that some terminals or editors treat as a line break; characters that change the direction of
# the text after them; invisible marks; halves of surrogate pairs, which stand for the bytes of a file name that is not UTF-8.
_UNSAFE = re.compile(
    "[\x00-\x1f\x7f-\x9f\xad\u061c\u180e\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ud800-\udfff\ufeff\ufff9-\ufffb"
    "\U000e0000-\U000e007f]"
)
_SHORT = {"\n": r"\n", "\r": r"\r", "\t": r"\t"}
_PLAIN = {"≥": ">=", "≤": "<=", "…": "...", "–": "-", "−": "-", "×": "x"}
_NO_WIDTH = ("Mn", "Me", "Cf")  # Unicode categories of characters without width
_JOINER = "\u200d"  # joins emoji into one symbol


def visible(text: str) -> str:
    r"""The text with every control character, line break, invisible mark and change of direction as an escape such as ``\x1b``.

    A byte of a file name that is not UTF-8 becomes ``\xff``. Any other character stays.
    """
    return _UNSAFE.sub(_escape, text)


def fit(text: str, encoding: str) -> str:
    r"""The text with characters that `encoding` lacks replaced: ``≥`` by ``>=``, others by escapes such as ``\u4e2d``."""
    if _has(text, encoding):
        return text
    return "".join(
        c if _has(c, encoding) else _PLAIN.get(c) or c.encode("ascii", "backslashreplace").decode() for c in text
    )


def columns(text: str) -> int:
    """The number of terminal columns of a text: Chinese, Japanese, Korean characters and emoji take two, marks on letters none."""
    if text.isascii():
        return len(text)
    width, joined = 0, False
    for character in text:
        if not joined and not unicodedata.combining(character) and unicodedata.category(character) not in _NO_WIDTH:
            width += 2 if unicodedata.east_asian_width(character) in "WF" else 1
        joined = character == _JOINER
    return width


def encoding_of(stream: TextIO | None) -> str:
    """A stream's encoding; UTF-8 where the stream has no such attribute."""
    return getattr(stream, "encoding", None) or "utf-8"


def say(text: str, file: TextIO | None = None) -> None:
    """Print a text of one or more lines, so that no control character in it takes effect except for the line breaks.

    Args:
        text: the lines; names of files in them must have passed through `visible` where a line break in a name would matter.
        file: the stream; None is standard output.
    """
    stream = sys.stdout if file is None else file
    lines = (fit(visible(line), encoding_of(stream)) for line in text.split("\n"))
    print("\n".join(lines), file=stream, flush=True)


def _has(text: str, encoding: str) -> bool:
    try:
        text.encode(encoding)
    except UnicodeEncodeError:
        return False
    return True


def _escape(match: re.Match[str]) -> str:
    character = match.group()
    code = ord(character)
    if character in _SHORT:
        return _SHORT[character]
    if 0xDC80 <= code <= 0xDCFF:  # os.fsdecode represents an undecodable byte by this character
        return f"\\x{code - 0xDC00:02x}"
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
