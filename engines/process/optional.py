"""Imports of libraries that may be missing, or be installed and broken: the module, or the reason why it cannot be used.

A broken library raises anything when it is imported: OSError for a shared library that is missing, RuntimeError for a home folder
that cannot be found, AttributeError for a part of another version. None of that is an error of the caller, who may have named
quite another library; it is a reason why this library cannot be used.
"""

from __future__ import annotations

import importlib
import sys
import traceback
from importlib.metadata import version
from types import ModuleType
from typing import Any, Literal

_MOST_LETTERS = 300  # limit for another library's words in a sentence of this project

# Module to the words of its import's error. Python removes a module that failed from `sys.modules`, but leaves the submodules that
# it had imported until then: a second import finds those, and fails in another way or returns a module that lacks parts. So the
# first reason holds until the process ends.
_FAILED: dict[str, str] = {}


def import_or_reason(module: str, name: str, install: str, uninstall: str | None = None) -> ModuleType | str:
    """Import a module, or return the reason why it cannot be imported.

    KeyboardInterrupt and GeneratorExit pass through. All other exceptions are caught, because the import of a library must not end
    the program, neither by SystemExit nor by the PanicException of libraries in Rust, which are no subclasses of Exception.

    Args:
        module: name of the module, such as ``cuda.bindings.driver``.
        name: name of the library, as it begins a sentence.
        install: the command that installs it.
        uninstall: the command that removes every distribution that owns the module; None where only one distribution does.

    Returns:
        The module; or a sentence without its full stop, which distinguishes a library that is not installed from a broken one, and
        names the remedy.
    """
    failed = _FAILED.get(module)
    if failed is None or sys.modules.get(module) is not None:
        try:
            imported = importlib.import_module(module)
        except ModuleNotFoundError as error:
            if error.name is not None and f"{module}.".startswith(f"{error.name}."):
                return f"{name} is not installed: {install}"
            failed = _FAILED.setdefault(module, error_words(error))
        except (KeyboardInterrupt, GeneratorExit):
            raise
        except BaseException as error:  # noqa: BLE001 - whatever a library raises
            failed = _FAILED.setdefault(module, error_words(error))
        else:
            if not _is_leftover(imported):
                return imported
            places = ", ".join(imported.__path__)
            again = f"{uninstall or 'remove that folder'}, then {install}"
            return f"{name} is not installed, and an uninstallation left a folder without its code ({places}): {again}"
    return f"{name} is installed and cannot be imported ({failed}): {_mend(install, uninstall)}"


def broken(name: str, error: BaseException, install: str, uninstall: str | None = None) -> str:
    """The sentence about a library that can be imported but then fails, or lacks a part.

    Args:
        name: name of the library, as it begins a sentence.
        error: the library's exception.
        install: the command that installs it.
        uninstall: see `import_or_reason`.
    """
    return f"{name} is installed and does not work ({error_words(error)}): {_mend(install, uninstall)}"


def _mend(install: str, uninstall: str | None) -> str:
    anew = install if uninstall is None else f"{uninstall}, then {install}"
    return f"mend that or install it anew ({anew}), and start Python again"


def error_words(error: BaseException) -> str:
    """Class and message of another library's error, on one line: ``RuntimeError: Could not determine home directory.``"""
    words = " ".join("".join(traceback.format_exception_only(error)).split())
    return words if len(words) <= _MOST_LETTERS else words[: _MOST_LETTERS - 1] + "…"


def error_line(error: BaseException, index: Literal[0, -1] = 0) -> str:
    """The first line of an error's message, or with -1 the last, where some libraries put the reason; without any, its class."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines or [type(error).__name__])[index][:_MOST_LETTERS]


def installed_version(*distributions: str) -> str | None:
    """The version of the first installed one of these distributions; None if none is installed, or if metadata is damaged."""
    for distribution in distributions:
        try:
            # The result is not a string where the metadata has no version; a metadata folder that an uninstallation left empty
            # raises an error of any class.
            number: Any = version(distribution)
        except Exception:  # noqa: BLE001 - see above
            continue
        if isinstance(number, str):
            return number
    return None


def loaded_class(module: str, name: str) -> type[Any] | None:
    """A class of a library that the program has imported already; None where it is not imported, or is broken."""
    attribute = getattr(sys.modules.get(module), name, None)
    return attribute if isinstance(attribute, type) else None


def _is_leftover(module: ModuleType) -> bool:
    """Whether a module is a namespace package, a folder without ``__init__.py``, which none of the imported libraries is."""
    return getattr(module, "__file__", None) is None and hasattr(module, "__path__")
