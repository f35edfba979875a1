"""Processes of all contenders: first whether their embeddings are the same, then seconds of calls in turns."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.cpp_library.side import Side, SideError
from benchmarks.harness.timing import rotated
from benchmarks.peers.contenders import REFERENCE, TOWERS, Contender
from benchmarks.peers.environments import interpreter
from benchmarks.peers.inputs import Batch, Inputs

TOLERANCE = 1e-4  # of float32 embeddings of unit length
LEAST_COSINE = 0.98  # of quantized ones
_LEAST_SECONDS, _MOST_CALLS = 0.15, 10  # of a turn: shorter calls are made several times
_WORKER = Path(__file__).resolve().with_name("worker.py")


@dataclass(frozen=True)
class Agreement:
    """A contender's embeddings against those of our ONNX Runtime engine in float32, all of unit length.

    Attributes:
        max_abs_error, min_cosine: with the same pixels: pictures that have the model's size.
        own_cosine: the smallest with the contender's own decoding and resizing; of captions the smallest of all.
    """

    max_abs_error: float
    min_cosine: float
    own_cosine: float


@dataclass
class Measured:
    """All that is known after a run.

    Attributes:
        versions: contender → distributions that computed.
        agreement: (contender, tower) → how equal its embeddings are.
        seconds: (contender, tower, batch) → mean seconds of a call, for each round.
        failures: (contender, tower) → why nothing was measured.
    """

    versions: dict[Contender, str] = field(default_factory=dict)
    agreement: dict[tuple[Contender, str], Agreement] = field(default_factory=dict)
    seconds: dict[tuple[Contender, str, int], list[float]] = field(default_factory=dict)
    failures: dict[tuple[Contender, str], str] = field(default_factory=dict)


def worker_command(contender: Contender, folder: Path, threads: int) -> list[str]:
    """The command of a contender's process.

    Args:
        contender: whose environment is there.
        folder: the model's folder, in which each contender has its own.
        threads: number of threads, and of cores, that it may use.
    """
    place = str(folder / contender.folder)
    return [str(interpreter(contender.environment)), "-I", str(_WORKER), contender.kind, place, str(threads)]


def measure(
    commands: Mapping[Contender, list[str]],
    inputs: Inputs,
    folder: Path,
    rounds: int,
    say: Callable[[str], None] = lambda words: None,
) -> Measured:
    """Open all contenders, compare their embeddings, and time them in turns: one call at a time, all others asleep.

    Args:
        commands: contender → command of its process, `REFERENCE` among them.
        inputs: the items.
        folder: for embeddings.
        rounds: number of rounds over all cases.
        say: takes a line on the progress.

    Raises:
        SideError: the reference itself cannot run.
    """
    measured = Measured()
    with _opened(commands, measured, say) as sides:
        _compare(sides, inputs, folder, measured, say)
        calls: dict[tuple[Contender, str, int], int] = {}
        for number in range(rounds + 1):  # the first warms every case up and tells how long a call takes
            for batch in inputs.batches:
                for contender in rotated(list(sides), number):
                    if (contender, batch.tower) not in measured.failures:
                        _turn(sides[contender], contender, batch, number, calls, measured)
            say(f"round {number} of {rounds}" if number else "all are warm")
    return measured


@contextmanager
def _opened(
    commands: Mapping[Contender, list[str]], measured: Measured, say: Callable[[str], None]
) -> Iterator[dict[Contender, Side]]:
    sides: dict[Contender, Side] = {}
    with ExitStack() as stack:
        for contender, command in commands.items():
            say(f"opening {contender.label}")
            try:
                side = stack.enter_context(Side(command))
                measured.versions[contender] = side.engines["versions"]
            except SideError as error:
                if contender is REFERENCE:
                    raise
                measured.failures |= {(contender, tower): str(error)[:300] for tower in TOWERS}
                continue
            measured.failures |= {(contender, tower): reason for tower, reason in contender.lacks.items()}
            sides[contender] = side
        yield sides


def _turn(
    side: Side,
    contender: Contender,
    batch: Batch,
    number: int,
    calls: dict[tuple[Contender, str, int], int],
    measured: Measured,
) -> None:
    """One contender's calls of one round; the round 0 does not count."""
    key = (contender, batch.tower, batch.size)
    for file in batch.files if number == 0 else [batch.files[number % len(batch.files)]]:
        try:
            seconds = ask(side, batch.tower, file, calls.get(key, 1))["seconds"]
        except SideError as error:
            measured.failures[contender, batch.tower] = str(error)
            return
        finally:
            side.rest()
    if number == 0:
        calls[key] = max(1, min(_MOST_CALLS, math.ceil(_LEAST_SECONDS / seconds[-1])))
    else:
        measured.seconds.setdefault(key, []).append(statistics.fmean(seconds))


def ask(side: Side, tower: str, file: Path, calls: int = 1, save: Path | None = None) -> dict[str, Any]:
    """Calls of a worker, as `benchmarks.peers.worker.main` describes them.

    Raises:
        SideError: the library raised an error, or the process ended.
    """
    order = {"tower": tower, "items": str(file), "calls": calls, "save": str(save) if save else None}
    answer = side.run(json.dumps(order))
    if "error" in answer:
        raise SideError(answer["error"])
    return answer


def _compare(
    sides: Mapping[Contender, Side], inputs: Inputs, folder: Path, measured: Measured, say: Callable[[str], None]
) -> None:
    """Fill in `Measured.agreement`; a contender that gives other embeddings is not timed."""
    for tower in TOWERS:
        largest = max((batch for batch in inputs.batches if batch.tower == tower), key=lambda batch: batch.size)
        files = [inputs.exact[tower].files[0], largest.files[0]]
        ours: list[np.ndarray[Any, Any]] = []
        for contender, side in sides.items():
            if (contender, tower) in measured.failures:
                continue
            try:
                theirs = [_embeds(side, tower, file, folder / "embeds.bin") for file in files]
            except SideError as error:
                if contender is REFERENCE:
                    raise
                measured.failures[contender, tower] = str(error)
                continue
            finally:
                side.rest()
            ours = theirs if contender is REFERENCE else ours
            found = agreement(ours, theirs)
            measured.agreement[contender, tower] = found
            problem = disagreement(contender, found)
            if problem is not None:
                measured.failures[contender, tower] = problem
            say(f"{contender.label} {tower}: max error {found.max_abs_error:.1e}, cosine {found.min_cosine:.6f}")


def agreement(ours: Sequence[np.ndarray[Any, Any]], theirs: Sequence[np.ndarray[Any, Any]]) -> Agreement:
    """Compare embeddings of unit length.

    Args:
        ours, theirs: (N, D) of the exact items, and (M, D) of the timed ones.
    """
    if any(a.shape != b.shape for a, b in zip(ours, theirs, strict=True)):
        return Agreement(math.inf, -1.0, -1.0)
    cosines = [float((a * b).sum(axis=1).min()) for a, b in zip(ours, theirs, strict=True)]
    return Agreement(float(np.abs(ours[0] - theirs[0]).max()), cosines[0], cosines[1])


def disagreement(contender: Contender, found: Agreement) -> str | None:
    """Why a contender's embeddings are not those of the same model; None if they are."""
    if contender.precision == "fp32" and not found.max_abs_error <= TOLERANCE:
        return f"its embeddings differ from ours by {found.max_abs_error:.1e}; at most {TOLERANCE:.0e} is allowed"
    if not found.min_cosine >= LEAST_COSINE:
        return f"its embeddings have a cosine of {found.min_cosine:.4f} to ours; at least {LEAST_COSINE} is needed"
    return None


def _embeds(side: Side, tower: str, file: Path, out: Path) -> np.ndarray[Any, Any]:
    shape = ask(side, tower, file, save=out)["shape"]
    embeds = np.fromfile(out, np.float32).reshape(shape).astype(np.float64)
    return embeds / np.linalg.norm(embeds, axis=1, keepdims=True)
