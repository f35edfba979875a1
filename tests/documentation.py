"""The pages of the documentation, taken apart: code blocks, commands, Python, links and anchors."""

from __future__ import annotations

import re
import shlex
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
# Pages whose commands and Python are run, and all pages whose links are followed.
DOCS = sorted((ROOT / "docs").glob("*.md"))
PAGES = [ROOT / "README.md", *DOCS, ROOT / "engines" / "cpp" / "README.md"]
LINKING = [*PAGES, ROOT / "CONTRIBUTING.md", ROOT / "engines" / "FORMAT.md", ROOT / "benchmarks" / "GPU.md"]

_LIST_ITEM = re.compile(r"\s*([-*]|\d+\.)\s")
_LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
_INLINE = re.compile(r"`([^`]+)`")
# A visible note, in a comment of the block or behind the command, that it cannot run without a GPU.
_NEEDS_GPU = re.compile(r"#.*\bneeds (a|an NVIDIA) GPU\b")


@dataclass(frozen=True)
class Block:
    """A code block.

    Attributes:
        page: its page, relative to the root.
        line: number of its first line.
        language: of a fenced block; ``sh`` of one that is only indented.
        text: without the indentation.
    """

    page: str
    line: int
    language: str
    text: str

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"


@dataclass(frozen=True)
class Command:
    """One command of a block.

    Attributes:
        place: page and line of the block.
        text: the command, with single spaces and without its comment.
        needs_gpu: the page marks it so.
    """

    place: str
    text: str
    needs_gpu: bool

    @property
    def words(self) -> list[str]:
        return shlex.split(self.text)


def name_of(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def blocks(page: Path) -> list[Block]:
    """The code blocks of a page: fenced ones, and those that are indented by four spaces below an empty line."""
    found: list[Block] = []
    lines = page.read_text(encoding="utf-8").splitlines()
    number, in_list = 0, False
    while number < len(lines):
        line = lines[number]
        start = number
        if line.startswith("```"):
            number += 1
            while not lines[number].startswith("```"):
                number += 1
            found.append(Block(name_of(page), start + 1, line[3:].strip(), "\n".join(lines[start + 1 : number])))
        elif line.startswith("    ") and not in_list and (not start or not lines[start - 1].strip()):
            while number + 1 < len(lines) and (lines[number + 1].startswith("    ") or not lines[number + 1].strip()):
                number += 1
            code = "\n".join(text[4:] for text in lines[start : number + 1]).rstrip()
            found.append(Block(name_of(page), start + 1, "sh", code))
        elif line.strip() and not line.startswith(" "):
            in_list = bool(_LIST_ITEM.match(line))
        number += 1
    return found


def commands(page: Path) -> Iterator[Command]:
    """Every command of a page's blocks of shell lines."""
    for block in blocks(page):
        if block.language != "sh":
            continue
        whole = bool(_NEEDS_GPU.match(block.text))
        for line in block.text.replace("\\\n", " ").splitlines():
            words = shlex.split(line, comments=True)
            if words:
                text = " ".join(re.sub(r"(^|\s)#\s.*$", "", line).split())
                yield Command(str(block), text, whole or bool(_NEEDS_GPU.search(line)))


def snippets(page: Path) -> list[Block]:
    return [block for block in blocks(page) if block.language == "python"]


def needs_gpu(block: Block) -> bool:
    return bool(_NEEDS_GPU.match(block.text))


def names_hub(text: str) -> bool:
    """Whether a command or a piece of Python names a bundle on the Hugging Face hub, or pushes one there: see docs/hub.md."""
    return bool(re.search(r"\bhf:\w|--push\b|\bexporter\.publishing\b", text))


def prose(page: Path) -> list[str]:
    """The lines outside fenced blocks."""
    found, fenced = [], False
    for line in page.read_text(encoding="utf-8").splitlines():
        if line.startswith("```"):
            fenced = not fenced
        elif not fenced:
            found.append(line)
    return found


def links(page: Path) -> list[str]:
    """Targets of the links and pictures that lead to a place in this repository."""
    targets = [target for line in prose(page) for target in _LINK.findall(_INLINE.sub("", line))]
    # Links whose text is code: the code was taken out, the brackets stay.
    return [target for target in targets if not re.match(r"[a-z]+:", target)]


def inline_code(page: Path) -> list[str]:
    return [code for line in prose(page) for code in _INLINE.findall(line)]


def anchors(page: Path) -> set[str]:
    """The anchors that GitHub gives the headings of a page."""
    found: set[str] = set()
    seen: Counter[str] = Counter()
    for line in prose(page):
        heading = re.match(r"#{1,6}\s+(.*)", line)
        if heading and not line.startswith("    "):
            text = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading[1])
            slug = re.sub(r"[^\w\- ]", "", text.strip().lower()).replace(" ", "-")
            found.add(f"{slug}-{seen[slug]}" if seen[slug] else slug)
            seen[slug] += 1
    return found
