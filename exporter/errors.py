"""Exceptions of the exporter; the command line turns each into one line on stderr and an exit code."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from exporter.built import LeftOut


class ExportError(Exception):
    """Something the user can mend: a name, a path, a missing library, a full disk. Exit code 1."""

    exit_code = 1


class ParityGateError(ExportError):
    """The exported engine does not give eager PyTorch's embeddings within the precision's limits. Exit code 3."""

    exit_code = 3


class IncompleteBundleError(ExportError):
    """The bundle was written, but without an engine that was asked for by its name. Exit code 1.

    Attributes:
        path: the bundle's folder; it can be loaded for the towers that have an engine.
        left_out: what it lacks, and why (`exporter.built.LeftOut`).
    """

    def __init__(self, path: Path, left_out: Sequence[LeftOut]) -> None:
        self.path, self.left_out = path, tuple(left_out)
        without = ", ".join(map(str, self.left_out))
        why = " ".join(dict.fromkeys(f"({item.why})" for item in self.left_out))
        super().__init__(f"{path} was written without {without} {why}")
