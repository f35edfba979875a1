"""The plan of a run: a model, contenders, cases, and how many rounds in how many passes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from benchmarks.contenders import Contender
from benchmarks.workloads.inputs import Case
from benchmarks.workloads.subject import Subject

_MOST_ROUNDS = 20  # in a pass
_WARM_UP_SECONDS, _WARM_UP_ROUNDS = 5.0, 100  # whichever is less


class UserError(Exception):
    """Something the user can mend: one sentence, exit code 1."""


@dataclass(frozen=True)
class Plan:
    """The measurements of one model.

    Attributes:
        subject: the model.
        contenders: the contenders, the baseline first.
        cases: a function that writes the inputs into a folder and returns the cases.
        device: ``cpu`` or ``cuda``.
        rounds: least number of rounds of each case, over all passes.
        round_seconds: seconds that a contender's calls fill in a round. The shorter, the less the machine changes within a round.
        case_seconds: a case whose rounds are shorter gets as many as fill this time in a pass, all contenders together.
        only: whether a contender takes part in a case; the baseline takes part in all.
        load_together: load all contenders at the same time, faster where there are many cores; the time of loading is not kept.
        passes: number of passes over all cases, each with fresh processes; the rounds are divided over them.
    """

    subject: Subject
    contenders: tuple[Contender, ...]
    cases: Callable[[Path], list[Case]]
    device: str
    rounds: int = 9
    round_seconds: float = 0.05
    case_seconds: float = 0.0
    only: Callable[[Contender, Case], bool] = lambda contender, case: True
    load_together: bool = False
    passes: int = 3

    def __post_init__(self) -> None:
        object.__setattr__(self, "passes", max(1, min(self.passes, self.rounds)))

    @property
    def warm_up_seconds(self) -> float:
        """How long a contender whose times do not become stable is warmed up for a case."""
        return min(_WARM_UP_SECONDS, _WARM_UP_ROUNDS * self.round_seconds)

    def place(self, contender: Contender) -> tuple[Contender, str, str | None]:
        """A contender, the device and, for a bundle's engine, the bundle: a peer that can run one model can run the next."""
        return contender, self.device, self.subject.bundle if contender.of_bundle else None

    def rounds_of(self, number: int, seconds: float) -> int:
        """Rounds of a case in a pass.

        Args:
            number: the pass; the first is 0.
            seconds: the time of one round.
        """
        least = self.rounds // self.passes + (number < self.rounds % self.passes)
        return max(least, min(_MOST_ROUNDS, int(self.case_seconds / max(seconds, 1e-7))))
