"""Seconds and bytes of both languages, in turns: warm calls in passes of fresh processes, and starts of fresh processes."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field

from benchmarks.cpp_library.side import Order, Side, SideError
from benchmarks.harness.timing import rotated

_LEAST_SECONDS = 0.4  # of a round: shorter calls are made several times
_MOST_CALLS = 40
_SAME = 1e-3  # relative: further apart, the sums of both languages' embeddings are not of the same embeddings


@dataclass
class Calls:
    """Rounds of one order in one language.

    Attributes:
        seconds: of one call, the mean over those of each round.
        passes: the number of each round's pass.
        items: embedded in a call.
    """

    seconds: list[float] = field(default_factory=list)
    passes: list[int] = field(default_factory=list)
    items: int = 0


@dataclass(frozen=True)
class Start:
    """One start of a fresh process.

    Attributes:
        first_text, first_image: seconds from the start of the process to the embedding of a text, and then of an image.
        resident, peak: bytes in memory after both.
    """

    first_text: float
    first_image: float
    resident: int
    peak: int


def measure_starts(
    commands: Mapping[str, list[str]], text: Order, image: Order, starts: int
) -> tuple[dict[str, list[Start]], dict[str, str]]:
    """Starts of each language, in turns, after one that does not count; and the descriptions of the towers' engines.

    Args:
        commands: language → command, as of `benchmarks.cpp_library.side.commands`.
        text, image: orders of one item.
        starts: number that count.

    Raises:
        SideError: a side cannot run here; the message begins with its language.
    """
    found: dict[str, list[Start]] = {language: [] for language in commands}
    engines: dict[str, str] = {}
    for turn in range(starts + 1):
        for language in rotated(list(commands), turn):
            try:
                with Side(commands[language]) as side:
                    side.run(text)
                    first_text = time.perf_counter() - side.started
                    side.run(image)
                    first_image = time.perf_counter() - side.started
                    memory = side.memory()
                    engines[language] = side.engines["image"]
            except SideError as error:
                raise SideError(f"{language}: {error}") from None
            if turn:
                found[language].append(Start(first_text, first_image, memory["resident"], memory["peak"]))
    return found, engines


def measure_pass(
    commands: Mapping[str, list[str]],
    orders: Sequence[Order],
    number: int,
    rounds: int,
    calls: dict[tuple[Order, str], Calls],
) -> None:
    """Add one pass, with processes of its own, to `calls`.

    Args:
        commands: language → command.
        orders: what is measured.
        number: the pass's number.
        rounds: of each order; the language that begins alternates.
        calls: (order, language) → the rounds so far.

    Raises:
        SideError: a side failed, or the languages' embeddings differ.
    """
    with ExitStack() as stack:
        sides = {language: stack.enter_context(Side(command)) for language, command in commands.items()}
        for order in orders:
            _rounds(sides, order, number, rounds, calls)


def _rounds(
    sides: Mapping[str, Side], order: Order, number: int, rounds: int, calls: dict[tuple[Order, str], Calls]
) -> None:
    repeats, sums = 1, {}
    for language, side in sides.items():  # the first call of a process is not warm; the second tells how long one takes
        warm = side.run(order)
        if warm["seconds"] < _LEAST_SECONDS:
            warm = side.run(order)
        side.rest()
        sums[language] = warm["sum"]
        repeats = max(repeats, min(_MOST_CALLS, math.ceil(_LEAST_SECONDS / warm["seconds"])))
        calls.setdefault((order, language), Calls()).items = warm["items"]
    if max(sums.values()) - min(sums.values()) > _SAME * max(sums.values()):
        raise SideError(f"the embeddings of {order.what} differ between the languages: sums are {sums}")
    for turn in range(rounds):
        for language in rotated(list(sides), turn + number):
            taken = [sides[language].run(order)["seconds"] for _ in range(repeats)]
            sides[language].rest()
            found = calls[order, language]
            found.seconds.append(sum(taken) / repeats)
            found.passes.append(number)
