"""Write ``src/text/tables.cpp``: what ftfy, ``html`` and ``str`` of this Python do to single characters, as constant arrays.

Usage: ``python engines/cpp/tools/make_tables.py [--check]``. Token ids depend on these tables, so the file names the releases that
it was made from.
"""

from __future__ import annotations

import argparse
import html
import re
import sys
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from html.entities import html5
from pathlib import Path
from re import _constants as op  # type: ignore[attr-defined]
from re import _parser as parser  # type: ignore[attr-defined]
from typing import Any

import ftfy
import ftfy.bad_codecs  # registers the sloppy encodings
from ftfy import badness, chardata

TABLES = Path(__file__).parent.parent / "src" / "text" / "tables.cpp"
_END = 0x110000
_ALL = "".join(map(chr, range(_END)))
_HANGUL = range(0xAC00, 0xD7A4)
_JAMO = {*range(0x1161, 0x1176), *range(0x11A8, 0x11C3)}  # vowels and last consonants
_PAGE_BITS = 6  # of both lower levels of the table of properties; unicode.hpp has the same number

Sequences = list[list[frozenset[int] | None]]  # alternatives of classes; None is the beginning of the text

# The order of tables.hpp's enum Property.
_PROPERTIES = (
    "space",
    "cased",
    "case_ignorable",
    "digit",
    "control",
    "continuation_strict",
    "continuation",
    "first_of_2",
    "first_of_3",
    "first_of_4",
    "lowered",
    "translated",
    "decomposed",
    "composition",
    "encodable",
)


def sequences(pattern: re.Pattern[Any]) -> Sequences:
    """Expand a regular expression without loops into its alternatives, in the order in which they are tried."""
    flags = pattern.flags & ~re.UNICODE if isinstance(pattern.pattern, bytes) else pattern.flags
    return _expand(parser.parse(pattern.pattern, flags))


def _expand(parts: Iterable[tuple[Any, Any]]) -> Sequences:
    result: Sequences = [[]]
    for code, value in parts:
        if code is op.MAX_REPEAT and value[:2] == (0, 1):
            options = [*_expand(value[2]), []]
        elif code is op.SUBPATTERN:
            options = _expand(value[3])
        elif code is op.BRANCH:
            options = [option for branch in value[1] for option in _expand(branch)]
        elif code is op.AT and value is op.AT_BEGINNING:
            options = [[None]]
        else:
            options = [[_characters(code, value)]]
        result = [start + option for start in result for option in options]
    return result


def _characters(code: Any, value: Any) -> frozenset[int]:
    if code is op.LITERAL:
        return frozenset([value])
    if code is op.ANY:
        return frozenset(range(_END)) - {ord("\n")}
    if code is not op.IN:
        raise ValueError(f"make_tables.py cannot express {code} {value}")
    members: set[int] = set()
    for kind, item in value:
        if kind is op.LITERAL:
            members.add(item)
        elif kind is op.RANGE:
            members.update(range(item[0], item[1] + 1))
        elif kind is op.CATEGORY:
            members |= _matching({op.CATEGORY_SPACE: r"\s", op.CATEGORY_WORD: r"\w"}[item])
        elif kind is not op.NEGATE:
            raise ValueError(f"make_tables.py cannot express {kind} {item}")
    return frozenset(range(_END)) - members if value[0][0] is op.NEGATE else frozenset(members)


def _matching(character_class: str) -> set[int]:
    return set(map(ord, re.findall(character_class, _ALL)))


class Automaton:
    """Search for one of several sequences of character classes: one step of a table a character.

    Attributes:
        groups: for each code point the number of its group; the members of a group are in the same classes.
        steps: rows of next states, one row a state and one column a group; state 0 is the start, the last state (without a row)
            says that a sequence was found.
    """

    def __init__(self, alternatives: Sequences) -> None:
        classes = list(dict.fromkeys(c for a in alternatives for c in a if c is not None))
        masks = [0] * _END
        for number, members in enumerate(classes):
            for character in members:
                masks[character] |= 1 << number
        numbers = {c: number for number, c in enumerate(classes)}
        patterns = [(a[0] is None, [numbers[c] for c in a if c is not None]) for a in alternatives]
        kinds = list(dict.fromkeys(masks))
        rows = _reduced(_subsets(patterns, kinds))
        columns = list(zip(*rows, strict=True))
        distinct = list(dict.fromkeys(columns))
        group_of = {mask: distinct.index(column) for mask, column in zip(kinds, columns, strict=True)}
        self.groups = [group_of[mask] for mask in masks]
        self.steps = [list(row) for row in zip(*distinct, strict=True)]


def _subsets(patterns: Sequence[tuple[bool, list[int]]], kinds: Sequence[int]) -> list[list[int]]:
    """Rows of the deterministic automaton; -1 is the state that has found a sequence."""
    free = {(n, 0) for n, (anchored, _) in enumerate(patterns) if not anchored}
    start = frozenset(free | {(n, 0) for n in range(len(patterns))})
    states, rows = {start: 0}, []
    queue = [start]
    for state in queue:
        row = []
        for mask in kinds:
            moved = {(n, at + 1) for n, at in state if mask >> patterns[n][1][at] & 1}
            if any(at == len(patterns[n][1]) for n, at in moved):
                row.append(-1)
                continue
            following = frozenset(moved | free)
            if following not in states:
                states[following] = len(states)
                queue.append(following)
            row.append(states[following])
        rows.append(row)
    return rows


def _reduced(rows: list[list[int]]) -> list[list[int]]:
    """The same automaton with equal states merged; the found state gets the last number."""
    merged = [0] * len(rows)
    while True:
        keys = [(merged[n], *(-1 if to < 0 else merged[to] for to in row)) for n, row in enumerate(rows)]
        order = {key: number for number, key in enumerate(dict.fromkeys(keys))}
        following = [order[key] for key in keys]
        if following == merged:
            break
        merged = following
    count = max(merged) + 1
    return [[count if to < 0 else merged[to] for to in rows[merged.index(n)]] for n in range(count)]


def encodings() -> dict[int, list[int | None]]:
    """Code point to its byte in each of ftfy's single-byte encodings, for all that are not the same ASCII byte in each."""
    table: dict[int, list[int | None]] = {}
    for column, name in enumerate(chardata.CHARMAP_ENCODINGS):
        possible = chardata.ENCODING_REGEXES[name]
        for byte in (0x1A, *range(0x80, 0x100)):
            character = bytes([byte]).decode(name)
            if possible.match(character) and character.encode(name) == bytes([byte]):
                table.setdefault(ord(character), [None] * len(chardata.CHARMAP_ENCODINGS))[column] = byte
        same = [c for c in range(0x80) if c != 0x1A]
        if bytes(same).decode(name) != "".join(map(chr, same)):
            raise ValueError(f"{name} differs from ASCII")
        encoded = _matching(possible.pattern.removeprefix("^").removesuffix("*$")) - set(same)
        if encoded != {c for c, columns in table.items() if columns[column] is not None}:
            raise ValueError(f"{name}: ftfy's regular expression and the encoding differ")
    return table


def lowered() -> dict[int, str]:
    """Lower case; the capital sigma is left out, because its lower case depends on what stands around it."""
    return {c: chr(c).lower() for c in range(_END) if chr(c).lower() != chr(c) and c != 0x3A3}


def translated() -> dict[int, str]:
    """ftfy's replacements of ligatures, and then of full-width and half-width characters."""
    widths = {c: text if isinstance(text, str) else chr(text) for c, text in chardata.WIDTH_MAP.items()}
    table = {c: text.translate(widths) for c, text in chardata.LIGATURES.items()}
    return widths | table


def decompositions() -> dict[int, str]:
    """Full canonical decompositions, without those of Hangul syllables, which are computed."""
    found = {c: unicodedata.normalize("NFD", chr(c)) for c in range(_END) if c not in _HANGUL}
    return {c: text for c, text in found.items() if text != chr(c)}


def compositions(decomposed: Iterable[int]) -> dict[tuple[int, int], int]:
    """Pairs of characters that NFC joins, without those of Hangul."""
    pairs = {}
    for character in decomposed:
        parts = [int(part, 16) for part in unicodedata.decomposition(chr(character)).split()]
        if len(parts) == 2 and unicodedata.normalize("NFC", "".join(map(chr, parts))) == chr(character):
            pairs[parts[0], parts[1]] = character
    return pairs


def sigma_context() -> tuple[set[int], set[int]]:
    """Characters that `str.lower` takes for cased, and those that it passes over, when it looks at what precedes a sigma."""
    after_letter = {c for c in range(_END) if ("A" + chr(c) + "Σ").lower()[-1] == "ς"}
    after_digit = {c for c in range(_END) if ("1" + chr(c) + "Σ").lower()[-1] == "ς"}
    return after_digit, after_letter - after_digit


def entities() -> tuple[dict[str, str], dict[str, str]]:
    """Names of HTML entities without the ampersand: the standard's, and those in capitals that ftfy adds."""
    capitals = {name[1:]: text for name, text in chardata.HTML_ENTITIES.items() if html5.get(name[1:]) != text}
    missing = {name for name in html5 if name.endswith(";") and "&" + name not in chardata.HTML_ENTITIES}
    if missing or any(name in html5 for name in capitals):
        raise ValueError("ftfy's entities are not the standard's and more")
    return dict(html5), capitals


class Writer:
    """C++ source of constant arrays; `texts` collects the strings that tables refer to."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.texts: list[int] = []
        self._offsets: dict[str, int] = {}

    def array(self, declaration: str, values: Iterable[object]) -> None:
        """An array, filled up to lines of 120 characters."""
        self.lines += [f"const {declaration} = {{", *_wrapped(f"{value}," for value in values), "};", ""]

    def text(self, text: str) -> str:
        """The fields of a Text: where it stands in the pool, and its length."""
        if text not in self._offsets:
            self._offsets[text] = len(self.texts)
            self.texts += map(ord, text)
        return f"{{{self._offsets[text]},{len(text)}}}"

    def counted(self, name: str, kind: str, values: Iterable[object]) -> None:
        """An array with its length, as a span."""
        items = list(values)
        self.array(f"{kind} {name}Data[]", items)
        self.lines[-1:] = [f"const std::span<const {kind}> {name}{{{name}Data}};", ""]

    def mapping(self, name: str, table: Mapping[int, str]) -> None:
        """Sorted code points and the texts that replace them."""
        self.counted(name, "Mapping", (f"{{{c},{self.text(table[c])}}}" for c in sorted(table)))

    def names(self, name: str, table: Mapping[str, str]) -> None:
        """Sorted names with their texts; the characters of all names stand in one array."""
        ordered, pool = sorted(table), "".join(sorted(table))
        self.lines.append(f"const char {name}Names[] =")
        self.lines += [f'    "{pool[at : at + 110]}"' for at in range(0, len(pool), 110)]
        self.lines[-1] += ";"
        rows, offset = [], 0
        for entry in ordered:
            rows.append(f"{{{offset},{len(entry)},{self.text(table[entry])}}}")
            offset += len(entry)
        self.counted(name, "Entity", rows)

    def bytes_pattern(self, name: str, pattern: re.Pattern[bytes]) -> None:
        """Alternatives of at most six classes of bytes; class 0 stands for the end."""
        alternatives = sequences(pattern)
        classes = list(dict.fromkeys(c for a in alternatives for c in a if c is not None))
        bits = [[sum(1 << k for k in range(32) if 32 * word + k in c) for word in range(8)] for c in classes]
        self.counted(f"{name}Classes", "ByteClass", ("{{" + ",".join(map(str, row)) + "}}" for row in [[0] * 8, *bits]))
        rows = [[classes.index(c) + 1 for c in a if c is not None] for a in alternatives]
        self.counted(f"{name}Sequences", "ByteSequence", ("{{" + ",".join(map(str, row)) + "}}" for row in rows))


def _wrapped(words: Iterable[str]) -> list[str]:
    lines = [""]
    for word in words:
        if len(lines[-1]) + len(word) > 120:
            lines.append("")
        lines[-1] += word
    return lines


def _pages(values: Sequence[int], size: int) -> tuple[list[int], list[int]]:
    """The numbers of the pages that `values` consist of, and those pages without duplicates."""
    cut = [tuple(values[at : at + size]) for at in range(0, len(values), size)]
    numbers = {page: number for number, page in enumerate(dict.fromkeys(cut))}
    return [numbers[page] for page in cut], [value for page in numbers for value in page]


def _write_properties(writer: Writer, members: Mapping[str, set[int]], groups: Sequence[int]) -> None:
    if tuple(members) != _PROPERTIES:
        raise ValueError("the properties are not in the order of tables.hpp")
    flags = [0] * _END
    for bit, having in enumerate(members.values()):
        for character in having:
            flags[character] |= 1 << bit
    keys = list(zip(flags, groups, map(unicodedata.combining, _ALL), strict=True))
    records = {record: number for number, record in enumerate(dict.fromkeys(keys))}
    numbers = [records[key] for key in keys]
    size = 1 << _PAGE_BITS
    middle, pages = _pages(numbers, size)
    top, middle_pages = _pages(middle, size)
    writer.array("Record kRecords[]", ("{" + ",".join(map(str, record)) + "}" for record in records))
    writer.array("std::uint16_t kTopPages[]", top)
    writer.array("std::uint16_t kMiddlePages[]", middle_pages)
    writer.array("std::uint16_t kPages[]", pages)


def _classes() -> dict[str, set[int]]:
    cased, ignorable = sigma_context()
    clues = {name: _matching(f"[{members}]") for name, members in chardata.UTF8_CLUES.items()}
    return {
        "space": {c for c in range(_END) if chr(c).isspace()},
        "cased": cased,
        "case_ignorable": ignorable,
        "digit": _matching(r"\d"),
        "control": set(chardata.CONTROL_CHARS),
        **{
            name: clues[f"utf8_{name}"]
            for name in ("continuation_strict", "continuation", "first_of_2", "first_of_3", "first_of_4")
        },
    }


def generated() -> str:
    """The whole file."""
    writer = Writer()
    lower, translation, decomposed, encoded = lowered(), translated(), decompositions(), encodings()
    pairs = compositions(decomposed)
    seconds = {second for _, second in pairs} | _JAMO
    unstable = {
        c for c in range(_END) if unicodedata.combining(chr(c)) or unicodedata.normalize("NFC", chr(c)) != chr(c)
    }
    members = _classes() | {
        "lowered": set(lower),
        "translated": set(translation),
        "decomposed": set(decomposed),
        "composition": unstable | seconds,
        "encodable": set(encoded),
    }
    found = Automaton(sequences(badness.BADNESS_RE))
    _write_properties(writer, members, found.groups)
    width = len(found.steps[0])
    writer.array("std::uint8_t kBadnessSteps[]", (step for row in found.steps for step in row))
    writer.lines += [
        f"const std::size_t kBadnessGroups = {width};",
        f"const std::uint8_t kBadnessFound = {len(found.steps)};",
        "",
    ]
    if len(found.steps) > 255 or width > 255:
        raise ValueError("the automaton has too many states for bytes")
    writer.mapping("kLowered", lower)
    writer.mapping("kTranslated", translation)
    writer.mapping("kDecomposed", decomposed)
    writer.counted("kCompositions", "Composition", (f"{{{a},{b},{c}}}" for (a, b), c in sorted(pairs.items())))
    columns = ((c, sum(1 << k for k, b in enumerate(row) if b is not None), row) for c, row in sorted(encoded.items()))
    writer.counted(
        "kEncoded", "Encoded", (f"{{{c},{mask},{{{','.join(str(b or 0) for b in row)}}}}}" for c, mask, row in columns)
    )
    c1 = bytes(range(0x80, 0xA0))
    writer.array("char32_t kSloppyC1[32]", map(ord, c1.decode("sloppy-windows-1252")))
    writer.array("char32_t kStrictC1[32]", map(ord, c1.decode("windows-1252", "replace")))
    writer.bytes_pattern("kAltered", chardata.ALTERED_UTF8_RE)
    writer.bytes_pattern("kLossy", chardata.LOSSY_UTF8_RE)
    standard, capitals = entities()
    writer.names("kEntities", standard)
    writer.names("kCapitalEntities", capitals)
    references = html._invalid_charrefs  # type: ignore[attr-defined]
    writer.counted(
        "kReplacedReferences", "Reference", (f"{{{c},{ord(text)}}}" for c, text in sorted(references.items()))
    )
    dropped = html._invalid_codepoints  # type: ignore[attr-defined]
    writer.counted("kDroppedReferences", "char32_t", sorted(dropped))
    writer.array("char32_t kTexts[]", writer.texts)
    return "\n".join([*_head(), *writer.lines, "}  // namespace oce::core::tables", ""])


def _head() -> list[str]:
    names = ", ".join(f'"{name}"' for name in chardata.CHARMAP_ENCODINGS)
    return [
        "// Data of the text cleaning, written by engines/cpp/tools/make_tables.py; edit that instead. NOTICE names the sources.",
        f"// ftfy {ftfy.__version__}, Unicode {unicodedata.unidata_version}",
        "// clang-format off",
        '#include "text/tables.hpp"',
        "",
        "namespace oce::core::tables {",
        "",
        f"// Columns of kEncoded: {names}",
        "",
    ]


def recorded_versions(path: Path = TABLES) -> tuple[str, str]:
    """The releases of ftfy and of the Unicode data that the committed file was made from."""
    found = re.search(r"^// ftfy (\S+), Unicode (\S+)$", path.read_text(encoding="utf-8"), re.MULTILINE)
    if found is None:
        raise ValueError(f"{path}: names no releases")
    return found[1], found[2]


def main(arguments: Sequence[str] | None = None) -> int:
    """Write or check the file; returns the exit status."""
    options = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    options.add_argument("--check", action="store_true", help="write nothing; exit 1 where the file is out of date")
    check = options.parse_args(arguments).check
    text = generated()
    if not check:
        TABLES.write_text(text, encoding="utf-8")
        return 0
    if not TABLES.is_file() or TABLES.read_text(encoding="utf-8") != text:
        print(
            f"{TABLES}: not what ftfy {ftfy.__version__} and Unicode {unicodedata.unidata_version} give; "
            "run engines/cpp/tools/make_tables.py",
            file=sys.stderr,
        )
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
