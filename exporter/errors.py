"""Exceptions of the exporter; the command line turns each into one line on stderr and an exit code."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal


class ExportError(Exception):
    """Something the user can mend: a name, a path, a missing library, a full disk. Exit code 1."""

    exit_code = 1


class ParityGateError(ExportError):
    """The exported engine does not give eager PyTorch's embeddings within the precision's limits. Exit code 3."""

    exit_code = 3


@dataclass(frozen=True)
class LeftOut:
    """An engine that a bundle lacks although it was to be built.

    Attributes:
        kind: of the engine, such as ``aotinductor``.
        why: one sentence with the cause and, where there is one, the remedy.
        tower: whose engine it is; None: that of every tower.
        device: that it was for, such as ``sm80`` or ``cpu``; None: any.
        named: the user asked for this kind by its name; ``auto`` may have chosen others.
    """

    kind: str
    why: str
    tower: Literal["image", "text"] | None = None
    device: str | None = None
    named: bool = True

    def __str__(self) -> str:
        """``aotinductor cpu of the text tower``."""
        kind = f"{self.kind} {self.device}" if self.device else self.kind
        return f"{kind} of the {self.tower} tower" if self.tower else kind


class IncompleteBundleError(ExportError):
    """The bundle was written, but without an engine that was asked for by its name. Exit code 1.

    Attributes:
        path: the bundle's folder; it can be loaded for the towers that have an engine.
        left_out: what it lacks, and why.
    """

    def __init__(self, path: Path, left_out: Sequence[LeftOut]) -> None:
        self.path, self.left_out = path, tuple(left_out)
        without = ", ".join(map(str, self.left_out))
        why = " ".join(dict.fromkeys(f"({item.why})" for item in self.left_out))
        super().__init__(f"{path} was written without {without} {why}")
