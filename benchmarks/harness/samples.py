"""The samples of a run, pass by pass, on disk: after an interruption the run goes on with the pass that is missing."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from benchmarks.harness.worker import Measured

Key = tuple[str, ...]


@dataclass
class Rounds:
    """The samples of one contender and case in one pass.

    Attributes:
        seconds: seconds of a call, for each round.
        latencies: seconds of every call timed for itself, over all rounds.
        joules: energy of a call, for each round in which the counter moved.
        figures: the contender's own figures, for each round.
        baseline: the baseline's seconds in the same rounds; empty if there are none.
    """

    seconds: list[float] = field(default_factory=list)
    latencies: list[float] = field(default_factory=list)
    joules: list[float] = field(default_factory=list)
    figures: list[dict[str, float]] = field(default_factory=list)
    baseline: list[float] = field(default_factory=list)

    def add(self, measured: Measured, joules: float | None) -> None:
        """Add a round."""
        self.seconds.append(float(np.median(measured.seconds)))
        if joules is not None:
            self.joules.append(joules / measured.calls)
        self.figures.append(measured.figures)


Samples = dict[int, Rounds]  # number of the pass → its rounds


class SampleStore:
    """The samples of an unfinished run: in memory, and line by line in a file."""

    def __init__(self, path: Path) -> None:
        """A store without samples; the file is not touched."""
        self._path, self._found = path, dict[Key, Samples]()

    def load(self) -> None:
        """Read the samples of the file; a line that was cut off is left out."""
        if not self._path.exists():
            return
        for line in self._path.read_text(encoding="utf-8").splitlines():
            try:
                record = json.loads(line)
                key = tuple(record.pop("case"))
                number = record.pop("pass")
                if number is None:
                    self._found.pop(key, None)
                else:
                    self._found.setdefault(key, {})[int(number)] = Rounds(**record)
            except (ValueError, KeyError, TypeError, AttributeError):
                continue

    def of(self, key: Key) -> Samples:
        """The passes of a contender's case so far (`Row.case`)."""
        return self._found.get(key, {})

    def add(self, key: Key, number: int, rounds: Rounds) -> None:
        """One pass is done."""
        self._found.setdefault(key, {})[number] = rounds
        self._write({"case": key, "pass": number} | dataclasses.asdict(rounds))

    def drop(self, key: Key) -> None:
        """Remove the samples of a contender that failed at the case."""
        if self._found.pop(key, None) is not None:
            self._write({"case": key, "pass": None})

    def remove(self) -> None:
        """Remove all samples and the file."""
        self._found.clear()
        self._path.unlink(missing_ok=True)

    def _write(self, record: dict[str, object]) -> None:
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")
