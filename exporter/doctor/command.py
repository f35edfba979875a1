"""The command ``python -m exporter doctor``."""

from __future__ import annotations

import contextlib
from pathlib import Path

import msgspec

from engines.files.json_text import json_text
from engines.process.terminal import say
from exporter.doctor.report import format_report, make_report


def doctor(output: Path | None = None, as_json: bool = False) -> int:
    """Print the report about this machine; returns the exit code, 1 if the default export lacks something.

    Args:
        output: the folder to which a bundle would be written; None is the working directory.
        as_json: whether to print one JSON object in place of the text.
    """
    report = make_report(output)
    with contextlib.suppress(BrokenPipeError):
        say(json_text(msgspec.to_builtins(report)) if as_json else format_report(report))
    return 0 if report.ready else 1
