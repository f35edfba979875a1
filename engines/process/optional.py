"""Libraries that may be missing, or be installed and broken: what their import gives, or the reason why there is none.

A broken library raises anything when it is imported: OSError for a shared library that is missing, RuntimeError for a home folder
that cannot be found, AttributeError for a part of another version. None of that is an error of the caller, who may have asked for
another library altogether; it is a reason why this one cannot be used.
"""

from __future__ import annotations

import importlib
import sys
import traceback
from importlib.metadata import version
from types import ModuleType
from typing import Any, Literal

_MOST_LETTERS = 300  # of another library's words in one of our sentences

# Module to what its import raised. Python takes a module that failed out of `sys.modules`, and leaves the submodules that it had
# imported until then: a second import finds those, and fails in another way or gives a module that lacks parts. So the first
# reason holds until the process ends.
_FAILED: dict[str, str] = {}


def import_or_reason(module: str, name: str, install: str, uninstall: str | None = None) -> ModuleType | str:
    """Import a module, or say why it cannot be imported.

    KeyboardInterrupt and GeneratorExit pass through. Everything else does not: a library must not end the program because it is
    imported, be it by SystemExit, or by the PanicException of libraries in Rust, which is no Exception either.

    Args:
        module: to import, such as ``cuda.bindings.driver``.
        name: of the library, as it begins a sentence.
        install: the command that installs it.
        uninstall: the command that removes every distribution that owns the module; None where one does.

    Returns:
        The module; or a sentence without its full stop, which tells a library that is not installed from one that is installed and
        broken, and names the remedy.
    """
    failed = _FAILED.get(module)
    if failed is None or sys.modules.get(module) is not None:
        try:
            found = importlib.import_module(module)
        except ModuleNotFoundError as error:
            if error.name is not None and f"{module}.".startswith(f"{error.name}."):
                return f"{name} is not installed: {install}"
            failed = _FAILED.setdefault(module, error_words(error))
        except (KeyboardInterrupt, GeneratorExit):
            raise
        except BaseException as error:  # noqa: BLE001 - whatever a library raises
            failed = _FAILED.setdefault(module, error_words(error))
        else:
            if not _is_leftover(found):
                return found
            places = ", ".join(found.__path__)
            again = f"{uninstall or 'remove that folder'}, then {install}"
            return f"{name} is not installed, and an uninstallation left a folder without its code ({places}): {again}"
    return f"{name} is installed and cannot be imported ({failed}): {_mend(install, uninstall)}"


def broken(name: str, error: BaseException, install: str, uninstall: str | None = None) -> str:
    """The sentence on a library that can be imported and then fails, or lacks a part.

    Args:
        name: of the library, as it begins a sentence.
        error: what it raised.
        install: the command that installs it.
        uninstall: as of `import_or_reason`.
    """
    return f"{name} is installed and does not work ({error_words(error)}): {_mend(install, uninstall)}"


def _mend(install: str, uninstall: str | None) -> str:
    anew = install if uninstall is None else f"{uninstall}, then {install}"
    return f"mend that or install it anew ({anew}), and start Python again"


def error_words(error: BaseException) -> str:
    """Class and message of an error of another library, on one line: ``RuntimeError: Could not determine home directory.``"""
    words = " ".join("".join(traceback.format_exception_only(error)).split())
    return words if len(words) <= _MOST_LETTERS else words[: _MOST_LETTERS - 1] + "…"


def error_line(error: BaseException, index: Literal[0, -1] = 0) -> str:
    """The first line of an error's message, or with -1 the last, where some libraries put the reason; without any, its class."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines or [type(error).__name__])[index][:_MOST_LETTERS]


def installed_version(*distributions: str) -> str | None:
    """The version of the first of these distributions that is installed; None if none is, or if its metadata is damaged."""
    for distribution in distributions:
        try:
            # Not a string where the metadata has no version; of a metadata folder that an uninstallation left empty, an error of
            # any class.
            found: Any = version(distribution)
        except Exception:  # noqa: BLE001 - see above
            continue
        if isinstance(found, str):
            return found
    return None


def loaded_class(module: str, name: str) -> type[Any] | None:
    """A class of a library that the program has imported already; None where it has not, or where the library is broken."""
    found = getattr(sys.modules.get(module), name, None)
    return found if isinstance(found, type) else None


def _is_leftover(module: ModuleType) -> bool:
    """Whether it is a namespace package: a folder without ``__init__.py``. No library that is asked for here is one."""
    return getattr(module, "__file__", None) is None and hasattr(module, "__path__")
