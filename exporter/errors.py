"""Exceptions of the exporter; the command line turns each into one line on stderr and an exit code."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal


class ExportError(Exception):
    """A problem that the user can mend: a name, a path, a missing library, a full disk. Exit code 1."""

    exit_code = 1


class DownloadError(ExportError):
    """Data are not in the local cache, and cannot be downloaded. Exit code 1."""


class ParityGateError(ExportError):
    """The embeddings of an exported engine differ from eager PyTorch's by more than the precision's limits. Exit code 3."""

    exit_code = 3


@dataclass(frozen=True)
class LeftOut:
    """An engine that a bundle lacks although it was to be built.

    Attributes:
        kind: the engine's kind, such as ``aotinductor``.
        why: one sentence with the cause and, where there is one, the remedy.
        tower: the engine's tower; None: the engines of every tower are missing.
        device: the engine's device, such as ``sm80`` or ``cpu``; None: any device.
        named: whether the user named this kind; other kinds are choices of ``auto``.
    """

    kind: str
    why: str
    tower: Literal["image", "text"] | None = None
    device: str | None = None
    named: bool = True

    def __str__(self) -> str:
        """The engine in words, such as ``aotinductor cpu of the text tower``."""
        kind = f"{self.kind} {self.device}" if self.device else self.kind
        return f"{kind} of the {self.tower} tower" if self.tower else kind


class IncompleteBundleError(ExportError):
    """The bundle was written, but without an engine that the user named. Exit code 1.

    Attributes:
        path: the bundle's folder; it can be loaded for the towers that have an engine.
        left_out: the missing engines, with the reasons.
    """

    def __init__(self, path: Path, left_out: Sequence[LeftOut]) -> None:
        self.path, self.left_out = path, tuple(left_out)
        without = ", ".join(map(str, self.left_out))
        why = " ".join(dict.fromkeys(f"({item.why})" for item in self.left_out))
        super().__init__(f"{path} was written without {without} {why}")
