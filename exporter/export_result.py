"""The result of an export: the bundle that was written, its report, and what it lacks."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engines.manifest import Manifest
from exporter.errors import IncompleteBundleError, LeftOut


@dataclass
class ExportResult:
    """The bundle and the report that was written into it.

    Attributes:
        path: the bundle's folder.
        manifest: the bundle's manifest.
        report: the content of ``report.json``.
        missed: the requested engines that could not be built; empty for a complete bundle.
        layout: the folder for other libraries; None where none was asked for.
    """

    path: Path
    manifest: Manifest
    report: dict[str, Any]
    missed: tuple[LeftOut, ...] = ()
    layout: Path | None = None

    def check_complete(self) -> None:
        """Raise `IncompleteBundleError`, which names the bundle and the missing engines, if any engine is missing."""
        if self.missed:
            raise IncompleteBundleError(self.path, self.missed)
