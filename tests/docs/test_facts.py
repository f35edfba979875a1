"""What the pages say, against the code: flags, precisions, engines, options, methods, rooms."""

from __future__ import annotations

import argparse
import importlib
import inspect
import re
from pathlib import Path

import pytest
from architecture import ROOMS
from documentation import DOCS, PAGES, ROOT, blocks, inline_code, name_of

import engines
import exporter
from benchmarks.__main__ import COMMANDS
from engines.embedder import Embedder
from engines.engine_kinds import KINDS
from engines.precisions import PRECISIONS

# Flags of other programs in the pages.
FOREIGN = {
    *("--no-as-needed", "--no-index", "--find-links", "--wheel-dir", "--preload", "--opt_out"),
    *("--build", "--install", "--prefix"),  # CMake
    *("--trt", "--onnxrt", "--strongly-typed", "--val-range", "--atol", "--input-shapes", "--loadEngine", "--shapes"),
}


class _MadeError(BaseException):
    """Ends a program that has made its parser."""


def flags(module: str, monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """The long flags of a program, its commands' included."""
    found: set[str] = set()

    def collect(parser: argparse.ArgumentParser, *_: object) -> None:
        for action in parser._actions:
            found.update(name for name in action.option_strings if name.startswith("--"))
            for command in action.choices.values() if isinstance(action, argparse._SubParsersAction) else ():
                found.update(name for item in command._actions for name in item.option_strings if name.startswith("--"))
        raise _MadeError

    with monkeypatch.context() as patch:
        patch.setattr(argparse.ArgumentParser, "parse_args", collect)
        with pytest.raises(_MadeError):
            importlib.import_module(module).main([])
    return found


def mentioned(page: Path) -> set[str]:
    texts = [*inline_code(page), *(block.text for block in blocks(page) if block.language == "sh")]
    return {flag for text in texts for flag in re.findall(r"(?<![\w-])--[A-Za-z][\w-]*", text)}


def table(page: Path, title: str) -> list[list[str]]:
    """The cells of the first table of a page whose header begins with `title`."""
    lines = iter(page.read_text(encoding="utf-8").splitlines())
    for line in lines:
        if line.startswith(f"| {title} |"):
            next(lines)
            rows = []
            for row in lines:
                if not row.startswith("|"):
                    return rows
                rows.append([cell.strip() for cell in row.strip("|").split(" | ")])
    raise AssertionError(f"{name_of(page)} has no table that begins with {title!r}")


def test_flags(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each flag in a page is one of a program's, and each flag of the product's commands is in a page."""
    product = flags("exporter.__main__", monkeypatch) | flags("engines.__main__", monkeypatch)
    product |= flags("exporter.convert_checkpoint", monkeypatch) | flags("exporter.publishing.__main__", monkeypatch)
    others = {flag for module, _ in COMMANDS.values() for flag in flags(module, monkeypatch)}
    others |= flags("exporter.demo.train", monkeypatch)
    for program in (ROOT / "engines/cpp/tools").glob("oce_*.cpp"):  # the help of the C++ programs
        others |= set(re.findall(r"(?<![\w-])--[a-z][\w-]*", program.read_text(encoding="utf-8")))
    everywhere = set()
    for page in PAGES:
        unknown = mentioned(page) - product - others - FOREIGN
        assert not unknown, f"{name_of(page)} has {', '.join(sorted(unknown))}, which no program takes"
        everywhere |= mentioned(page)
    missing = product - everywhere - {"--help"}
    assert not missing, f"no page describes {', '.join(sorted(missing))}"


def test_precisions() -> None:
    rows = table(ROOT / "docs" / "precision.md", "flag")
    assert [row[0] for row in rows] == [f"`--{name}`" for name in PRECISIONS]
    for row, entry in zip(rows, PRECISIONS.values(), strict=True):
        limits = f"{entry.min_cosine:g} / {entry.mean_cosine:g}, {entry.top1_agreement:.0%}".replace("%", " %")
        assert row[2].split(";")[0] == limits, f"docs/precision.md, {entry.name}"
        assert ("task" in row[2]) == (entry.quantized is not None)
        if entry.quantized:
            assert f"task: {100 * entry.accuracy_loss:g} points" in row[2]


def test_engines() -> None:
    """Every kind of engine is in the table of what is verified, in that of extras, and in the help of --engine."""
    verified = table(ROOT / "README.md", "engine")
    assert sorted(row[0] for row in verified) == sorted(f"`{kind}`" for kind in KINDS)
    extras = {(row[0], row[1]) for row in table(ROOT / "docs" / "deployment.md", "engine")}
    assert {(f"`{kind.name}`", f"`{kind.install}`") for kind in KINDS.values()} <= extras
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    assert all(f"\n{extra.strip('`')} = [" in project for _, extra in extras)
    flag = next(row[1] for row in table(ROOT / "docs" / "export.md", "flag") if row[0].startswith("`--engine"))
    assert all(f"`{kind}`" in flag for kind in KINDS)


def test_options_of_engines() -> None:
    """Each option that `engines.load` hands to an engine is in a page."""
    said = " ".join(code for name in ("serve", "tensorrt") for code in inline_code(ROOT / "docs" / f"{name}.md"))
    for kind in KINDS.values():
        for option in importlib.import_module(kind.runtime).Options.__annotations__:
            assert re.search(rf"\b{option}\b", said), f"no page has the option {option} of {kind.name}"


def test_the_python_interface() -> None:
    """Arguments of `load`, methods of `Embedder`, keywords and errors of `export` are in the pages, with the code's own names."""
    serve, export = (" ".join(inline_code(ROOT / "docs" / f"{name}.md")) for name in ("serve", "export"))
    signature = str(inspect.signature(engines.load))
    for name in inspect.signature(engines.load).parameters:
        assert re.search(rf"\b{name}\b", serve), f"docs/serve.md lacks {name} of {signature}"
    methods = [name for name in vars(Embedder) if not name.startswith("_")]
    for name in methods:
        assert f"{name}(" in serve, f"docs/serve.md lacks Embedder.{name}"
    for name in re.findall(r"\b([A-Z]\w*Error)\b", serve):
        assert name == "ValueError" or hasattr(engines.errors, name), f"docs/serve.md: there is no {name}"
    for name in inspect.signature(exporter.export).parameters:
        assert name == "name" or re.search(rf"\b{name}\b", export), f"docs/export.md lacks the keyword {name}"
    for name in re.findall(r"\bexporter\.(\w+)", export):
        assert hasattr(exporter, name) or name == "convert_checkpoint", f"docs/export.md: there is no exporter.{name}"


@pytest.mark.parametrize("package", ["exporter", "engines", "benchmarks"])
def test_rooms(package: str) -> None:
    """The table of each package lists its rooms: the folders, and no others."""
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    section = text.split(f"\n## {package}\n")[1].split("\n## ")[0]
    first = [line.split(" | ")[0] for line in section.splitlines() if line.startswith("| `")]
    names = [name for cell in first for name in re.findall(r"`([\w./]+)`", cell)]
    rooms = {name for name in ROOMS[package] if (ROOT / package / name).is_dir()}
    assert rooms <= set(names), f"docs/architecture.md lacks {', '.join(sorted(rooms - set(names)))} of {package}"
    gone = [name for name in names if not (ROOT / package / name).exists()]
    assert not gone, f"docs/architecture.md names {package}/{gone[0]}, which is not there"


def test_no_page_speaks_of_what_only_the_authors_see() -> None:
    for page in [ROOT / "README.md", *DOCS]:
        assert "/work/" not in page.read_text(encoding="utf-8"), name_of(page)
