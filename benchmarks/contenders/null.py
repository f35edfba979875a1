"""A contender that computes nothing: it shows the harness's own cost per timed call."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.contenders import Call, Contender

if TYPE_CHECKING:
    from benchmarks.workloads.inputs import Case
    from benchmarks.workloads.subject import Subject


def why_not(subject: Subject, contender: Contender, device: str) -> str | None:
    """No reason: it can always run."""
    return None


def open_tower(subject: Subject, contender: Contender, tower: str, device: str, folder: Path) -> NullTower:
    """A tower that does nothing."""
    return NullTower()


class NullTower:
    """Calls that return at once."""

    versions, weights, note, threads, on_stream = "", "", "", 0, False

    def prepare(self, case: Case) -> Call:
        """No inputs are read."""
        return lambda i: None

    def figures(self) -> dict[str, float]:
        """No figures."""
        return {}
