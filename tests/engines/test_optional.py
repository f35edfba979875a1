"""engines.process.optional: one sentence for whatever an import raises, and the same one the second time."""

from __future__ import annotations

import asyncio
import builtins
import sys
from collections.abc import Iterator
from importlib.machinery import ModuleSpec
from itertools import count
from pathlib import Path
from types import ModuleType

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engines.process import optional
from engines.process.optional import broken, error_words, import_or_reason, installed_version, loaded_class

ERRORS = [
    kind
    for kind in vars(builtins).values()
    if isinstance(kind, type)
    and issubclass(kind, (Exception, SystemExit))
    and not issubclass(kind, (UnicodeError, ModuleNotFoundError))
    and kind.__name__ != "ExceptionGroup"
]
NUMBERS = count()


class Raising:
    """A finder of modules whose import raises."""

    def __init__(self, name: str, error: BaseException) -> None:
        self.name, self.error = name, error

    def find_spec(self, name: str, path: object = None, target: object = None) -> ModuleSpec | None:
        return ModuleSpec(name, self) if name == self.name else None  # type: ignore[arg-type]

    def create_module(self, spec: ModuleSpec) -> None:
        return None

    def exec_module(self, module: ModuleType) -> None:
        raise self.error


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder that modules are imported from."""
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(optional, "_FAILED", {})
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        del sys.modules[name]


@given(kind=st.sampled_from(ERRORS), message=st.text(max_size=2000))
def test_any_exception_of_an_import_is_a_reason(kind: type[BaseException], message: str) -> None:
    name = f"made_up_library_{next(NUMBERS)}"
    finder = Raising(name, kind(message))
    sys.meta_path.insert(0, finder)  # type: ignore[arg-type]
    try:
        said = import_or_reason(name, "Library", "pip install it")
        assert isinstance(said, str)
        assert said.startswith(f"Library is installed and cannot be imported ({kind.__name__}")
        assert said.endswith("): mend that or install it anew (pip install it), and start Python again")
        assert len(said) < 450
        assert len(said.splitlines()) == 1
        finder.error = ValueError("another one")
        assert import_or_reason(name, "Library", "pip install it") == said
    finally:
        sys.meta_path.remove(finder)  # type: ignore[arg-type]


class PanicException(BaseException):
    """What libraries in Rust raise (PyO3's has this name); no Exception, so that nobody catches it by chance."""


@pytest.mark.parametrize("kind", [PanicException, SystemExit, asyncio.CancelledError])
def test_what_is_no_exception_is_a_reason_too(kind: type[BaseException]) -> None:
    name = f"made_up_library_{next(NUMBERS)}"
    finder = Raising(name, kind("a panic"))
    sys.meta_path.insert(0, finder)  # type: ignore[arg-type]
    try:
        said = import_or_reason(name, "Library", "pip install it")
        assert str(said).startswith("Library is installed and cannot be imported (")
        assert f"{kind.__name__}: a panic)" in str(said)
    finally:
        sys.meta_path.remove(finder)  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", [KeyboardInterrupt, GeneratorExit])
def test_what_is_none_passes_through(kind: type[BaseException]) -> None:
    finder = Raising("made_up_and_interrupted", kind())
    sys.meta_path.insert(0, finder)  # type: ignore[arg-type]
    try:
        for _ in range(2):
            with pytest.raises(kind):
                import_or_reason("made_up_and_interrupted", "Library", "pip install it")
    finally:
        sys.meta_path.remove(finder)  # type: ignore[arg-type]


def test_the_first_reason_is_the_reason(site: Path) -> None:
    """A second import of this one raises AttributeError, for its submodule is imported already, and so is not bound again."""
    (site / "halved").mkdir()
    (site / "halved" / "part.py").touch()
    code = "import halved.part\nhalved.part.__name__\nraise RuntimeError('the reason')\n"
    (site / "halved" / "__init__.py").write_text(code, encoding="utf-8")
    said = import_or_reason("halved", "Halved", "x")
    assert "(RuntimeError: the reason)" in str(said)
    assert "halved.part" in sys.modules
    with pytest.raises(AttributeError):
        __import__("halved")
    assert import_or_reason("halved", "Halved", "x") == said


def test_what_the_program_itself_imports_later_counts(site: Path) -> None:
    (site / "late.py").write_text("raise OSError('no')", encoding="utf-8")
    assert isinstance(import_or_reason("late", "Late", "x"), str)
    sys.modules["late"] = later = ModuleType("late")
    assert import_or_reason("late", "Late", "x") is later


def test_missing_is_not_broken(site: Path) -> None:
    (site / "here").mkdir()
    (site / "here" / "__init__.py").write_text("import nowhere_to_be_found", encoding="utf-8")
    assert (
        import_or_reason("nowhere", "Nowhere", "pip install nowhere") == "Nowhere is not installed: pip install nowhere"
    )
    assert import_or_reason("nowhere.at.all", "Nowhere", "x") == "Nowhere is not installed: x"
    said = str(import_or_reason("here", "Here", "x"))
    assert said.startswith(
        "Here is installed and cannot be imported (ModuleNotFoundError: No module named 'nowhere_to_be_found')"
    )
    (site / "nowhere.py").touch()  # installed meanwhile
    sys.path_importer_cache.clear()
    assert isinstance(import_or_reason("nowhere", "Nowhere", "x"), ModuleType)


def test_a_folder_without_code(site: Path) -> None:
    (site / "left" / "data").mkdir(parents=True)
    for uninstall, remedy in ((None, "remove that folder, then x"), ("pip uninstall a b", "pip uninstall a b, then x")):
        said = import_or_reason("left", "Left", "x", uninstall)
        assert (
            said
            == f"Left is not installed, and an uninstallation left a folder without its code ({site / 'left'}): {remedy}"
        )


def test_words() -> None:
    assert error_words(RuntimeError("a\n  b")) == "RuntimeError: a b"
    assert len(error_words(RuntimeError("x" * 999))) == 300
    said = broken("A", OSError("no"), "x", "y")
    assert (
        said
        == "A is installed and does not work (OSError: no): mend that or install it anew (y, then x), and start Python again"
    )


def test_versions_whose_metadata_is_damaged(site: Path) -> None:
    (site / "empty_one-1.0.dist-info").mkdir()
    (site / "nameless-1.0.dist-info").mkdir()
    (site / "nameless-1.0.dist-info" / "METADATA").write_text("Name: nameless\n", encoding="utf-8")
    (site / "good-2.5.dist-info").mkdir()
    (site / "good-2.5.dist-info" / "METADATA").write_text("Name: good\nVersion: 2.5\n", encoding="utf-8")
    assert installed_version("empty-one") is None
    assert installed_version("nameless") is None
    assert installed_version("not-there-at-all", "empty-one", "nameless", "good") == "2.5"


def test_loaded_classes(monkeypatch: pytest.MonkeyPatch) -> None:
    module = ModuleType("some_arrays")
    monkeypatch.setitem(sys.modules, "some_arrays", module)
    assert loaded_class("some_arrays", "Tensor") is None
    assert loaded_class("not_imported", "Tensor") is None
    module.Tensor = int  # type: ignore[attr-defined]
    assert loaded_class("some_arrays", "Tensor") is int
