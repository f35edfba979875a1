"""The libraries that every export needs, with messages for libraries that are missing or broken."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Callable, Sequence
from importlib.util import find_spec

from engines.hub.client import unreadable_endpoint
from engines.process.optional import error_words
from engines.process.terminal import say, visible
from exporter.errors import ExportError

REQUIRED = ("torch", "safetensors", "open_clip", "onnx", "onnxscript", "onnx_ir")  # what every export imports
CONVERSION = ("torch", "safetensors")  # the libraries that `exporter.convert_checkpoint` needs
_REFUSED = (errno.EACCES, errno.EPERM, errno.ENAMETOOLONG, errno.ELOOP)
INSTALL = "pip install 'openclip-engines[export]'"


def check_requirements(modules: Sequence[str] = REQUIRED) -> None:
    """Check that libraries are installed, before an import fails with a traceback.

    Raises:
        ExportError: a library is not installed, or cannot be imported because ``HF_ENDPOINT`` is no address. Installed libraries
            are not imported here, because that takes seconds.
    """
    missing = [name for name in modules if find_spec(name) is None]
    if missing:
        raise ExportError(f"{_doing(modules)} needs {', '.join(missing)}: {INSTALL}")
    if "open_clip" in modules and (problem := unreadable_endpoint()) is not None:
        raise ExportError(problem)


def run_command(run: Callable[[], int], modules: Sequence[str] = REQUIRED) -> int:
    """Run a command line; an error that the user can mend becomes one line on standard error.

    With ``OPENCLIP_ENGINES_DEBUG`` in the environment the traceback is printed instead.

    Args:
        run: the command, which returns its exit code.
        modules: the libraries that it imports.

    Returns:
        The exit code.
    """
    try:
        check_requirements(modules)
        return run()
    except ExportError as error:
        if os.environ.get("OPENCLIP_ENGINES_DEBUG"):
            raise
        say(f"error: {visible(str(error))}", sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("interrupted: nothing was written", file=sys.stderr)
        return 130
    except (Exception, SystemExit) as error:
        problem = broken_requirement(error, modules) or _unreachable(error)
        if problem is None or os.environ.get("OPENCLIP_ENGINES_DEBUG"):
            raise
        say(f"error: {visible(str(problem))}", sys.stderr)
        return problem.exit_code


def broken_requirement(error: BaseException, modules: Sequence[str] = REQUIRED) -> ExportError | None:
    """Make the message for an error that was raised while a library was being imported; None for any other error.

    The message names the innermost library whose own file is in the traceback: open_clip, where it imports a PyTorch that works and
    another library that does not.
    """
    broken = None
    trace = error.__traceback__
    while trace is not None:
        scope = trace.tb_frame.f_globals
        # The body of a library's __init__.py, whose module Python removed from sys.modules because it failed.
        if trace.tb_frame.f_code.co_name == "<module>" and scope.get("__name__") in modules:
            name = scope["__name__"]
            if name not in sys.modules:
                broken = name
        trace = trace.tb_next
    if broken is None:
        return None
    return ExportError(
        f"{_doing(modules)} needs {broken}, which is installed and cannot be imported ({error_words(error)}): mend that or install "
        f"it anew ({INSTALL})"
    )


def _unreachable(error: BaseException) -> ExportError | None:
    """Make the message for a path that the system does not allow to be read; None for any other error."""
    if isinstance(error, OSError) and error.errno in _REFUSED and error.filename is not None:
        return ExportError(f"{os.fsdecode(error.filename)} cannot be reached ({error.strerror})")
    return None


def _doing(modules: Sequence[str]) -> str:
    return "converting" if modules == CONVERSION else "exporting"
