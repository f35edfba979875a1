"""What every export needs: said in a sentence where it is missing or broken."""

from __future__ import annotations

import sys
from importlib.util import find_spec

from engines.optional import error_words
from exporter.errors import ExportError

_MODULES = ("torch", "open_clip", "onnx", "onnxscript", "onnx_ir")
_INSTALL = "pip install 'openclip-engines[export]'"


def check_requirements() -> None:
    """Say what is missing before anything imports it with a traceback.

    Raises:
        ExportError: a library is not installed. That those which are can be imported is not tried: it takes seconds.
    """
    missing = [name for name in _MODULES if find_spec(name) is None]
    if missing:
        raise ExportError(f"exporting needs {', '.join(missing)}: {_INSTALL}")


def broken_requirement(error: BaseException) -> ExportError | None:
    """What to say of an error that came up while one of the libraries was being imported; None of any other error.

    The innermost library is named whose own file is on the way to the error: open_clip, where it imports a PyTorch that works and
    another library that does not.
    """
    broken = None
    trace = error.__traceback__
    while trace is not None:
        scope = trace.tb_frame.f_globals
        # The body of a library's __init__.py, in a module that Python has taken out again because it failed.
        if trace.tb_frame.f_code.co_name == "<module>" and scope.get("__name__") in _MODULES:
            name = scope["__name__"]
            if name not in sys.modules:
                broken = name
        trace = trace.tb_next
    if broken is None:
        return None
    return ExportError(
        f"exporting needs {broken}, which is installed and cannot be imported ({error_words(error)}): mend that or install it anew "
        f"({_INSTALL})"
    )
