"""Rows of a run's samples."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from benchmarks.records.estimates import Estimate, estimate, rates, speedup
from benchmarks.records.figures import FIGURES
from benchmarks.records.flops_and_ceilings import ceiling_tflops, flops_of
from benchmarks.records.rows import Row, Status

if TYPE_CHECKING:
    from benchmarks.contenders import Contender
    from benchmarks.harness.samples import Key, Rounds, Samples
    from benchmarks.harness.worker import Measured, Memory, OpenedInfo, Prepared
    from benchmarks.workloads.inputs import Case
    from benchmarks.workloads.subject import Subject

_T = TypeVar("_T")


def case_rows(
    subject: Subject,
    case: Case,
    samples: Mapping[Contender, Samples],
    info: Mapping[Contender, OpenedInfo],
    results: Path,
) -> list[Row]:
    """All rows of a case.

    Args:
        subject: the model.
        case: its inputs.
        samples: the samples of every contender that went through all rounds, of all passes so far.
        info: each contender's description of itself.
        results: the machine's folder, where its ceilings are.
    """
    found: list[Row] = []
    flops = flops_of(subject.name, case.tower) if case.shape != "real captions" and case.kind != "files" else None
    for contender, sample in samples.items():
        own = info[contender]
        common: dict[str, Any] = {
            **_place(subject, contender, case),
            "note": own.note,
            "weights": own.weights,
            "versions": own.versions,
            "threads": own.threads,
        }
        seconds, passes = _flat(sample, lambda rounds: rounds.seconds)
        baseline, _ = _flat(sample, lambda rounds: rounds.baseline)
        rate = rates(seconds, case.rows_per_call, passes)
        estimates = {"per_second": rate}
        if len(baseline) == len(seconds):
            estimates["speedup"] = speedup(seconds, baseline, passes)
        if flops:
            estimates["tflops"] = rate.map(flops / 1e12)
            ceiling = ceiling_tflops(results, contender.precision)
            if ceiling:
                estimates["fraction_of_ceiling"] = rate.map(flops / 1e12 / ceiling)
        joules, those = _flat(sample, lambda rounds: rounds.joules)
        if joules:
            estimates["joules_per_item"] = estimate(joules, those).map(1 / case.rows_per_call)
        figures, passes = _flat(sample, lambda rounds: rounds.figures)
        for name in figures[0] if figures else ():
            estimates[name] = estimate([each[name] for each in figures], passes)
        found += [row_of(figure, value, **common) for figure, value in estimates.items()]
        found += _latency_rows([r.latencies for r in sample.values() if r.latencies], **(common | {"what": "latency"}))
    return found


def _flat(sample: Samples, what: Callable[[Rounds], Sequence[_T]]) -> tuple[list[_T], list[int]]:
    """One kind of values of every round, and the number of each value's pass."""
    pairs = [(value, number) for number, rounds in sorted(sample.items()) for value in what(rounds)]
    return [value for value, _ in pairs], [number for _, number in pairs]


def row_of(figure: str, value: Estimate, **columns: Any) -> Row:
    """One row, marked where the machine was too noisy."""
    status: Status = "noisy" if value.noisy and figure != "decode_share" else "ok"
    return Row(
        figure=figure,
        value=value.value,
        low=value.low,
        high=value.high,
        unit=FIGURES[figure].unit,
        repeats=value.repeats,
        by_pass=value.by_pass,
        status=status,
        **columns,
    )


def failure_row(subject: Subject, contender: Contender, case: Case, status: Status, note: str) -> Row:
    """The row of a case that could not be measured, with the reason."""
    return Row(figure="per_second", status=status, note=note, unit="1/s", **_place(subject, contender, case))


def start_rows(
    subject: Subject, contender: Contender, tower: str, info: OpenedInfo, first: Prepared, memory: Memory
) -> list[Row]:
    """Rows of the time to load a tower and to the first embedding, and of the memory at the end of all its cases."""
    values = {
        "load": info.load_seconds,
        "first_call": first.first_call_seconds,
        "peak_host_memory": memory.host / 1e6,
        "peak_device_memory": memory.device / 1e6,
    }
    return [
        Row(
            what="start",
            model=subject.name,
            tower=tower,
            engine=contender.engine,
            precision=contender.precision,
            figure=figure,
            value=value,
            unit=FIGURES[figure].unit,
            repeats=1,
            note=info.note,
            weights=info.weights,
            versions=info.versions,
            threads=info.threads,
        )
        for figure, value in values.items()
        if value > 0
    ]


def overhead_row(subject: Subject, rounds: Sequence[Measured]) -> Row:
    """The row of the harness's own cost per timed call, measured with calls that do nothing."""
    value = estimate([1e6 * measured.wall_seconds / measured.calls for measured in rounds])
    note = f"{rounds[0].calls} calls of nothing in a round"
    return row_of("overhead", value, what="overhead", model=subject.name, engine="null", note=note)


def _latency_rows(passes: Sequence[Sequence[float]], **common: Any) -> list[Row]:
    """Rows of percentiles over all calls, with the percentile of each pass."""
    found: list[Row] = []
    for name, share in (("p50", 50), ("p90", 90), ("p99", 99)) if passes else ():
        value = float(np.percentile(np.concatenate(passes) * 1e3, share))
        each = [float(np.percentile(np.asarray(seconds) * 1e3, share)) for seconds in passes]
        repeats = sum(map(len, passes))
        found.append(Row(figure=name, value=value, unit="ms", repeats=repeats, by_pass=tuple(each), **common))
    return found


def key_of(subject: Subject, contender: Contender, case: Case) -> Key:
    """`Row.case` of the rows of a contender's case."""
    return failure_row(subject, contender, case, "missing", "").case


def _place(subject: Subject, contender: Contender, case: Case) -> dict[str, Any]:
    return {
        "what": "end_to_end" if case.kind == "files" else "throughput",
        "model": subject.name,
        "tower": case.tower,
        "engine": contender.engine,
        "precision": contender.precision,
        "batch": case.batch,
        "shape": case.shape,
    }
