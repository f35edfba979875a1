"""Rows of what a run has sampled."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks.estimates import Estimate, estimate, rates, speedup
from benchmarks.rows import FIGURES, Row, Status
from benchmarks.work import ceiling_tflops, flops_of

if TYPE_CHECKING:
    from benchmarks.contenders import Contender
    from benchmarks.inputs import Case
    from benchmarks.subject import Subject
    from benchmarks.worker import Measured, Memory, OpenedInfo, Prepared


@dataclass
class Samples:
    """What the rounds of one contender and case gave.

    Attributes:
        seconds: of a call, for each round.
        latencies: of every call timed for itself, over all rounds.
        joules: of a call, for each round in which the counter moved.
        figures: of the contender's own, for each round.
    """

    seconds: list[float] = field(default_factory=list)
    latencies: list[float] = field(default_factory=list)
    joules: list[float] = field(default_factory=list)
    figures: list[dict[str, float]] = field(default_factory=list)

    def add(self, measured: Measured, joules: float | None) -> None:
        """Take in a round."""
        self.seconds.append(float(np.median(measured.seconds)))
        if joules is not None:
            self.joules.append(joules / measured.calls)
        self.figures.append(measured.figures)


def case_rows(
    subject: Subject,
    case: Case,
    samples: Mapping[Contender, Samples],
    info: Mapping[Contender, OpenedInfo],
    baseline: Contender,
    results: Path,
) -> list[Row]:
    """All rows of a case.

    Args:
        subject: the model.
        case: its inputs.
        samples: of every contender that went through all rounds.
        info: what each says of itself.
        baseline: that speedups are over.
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
        rate = rates(sample.seconds, case.rows_per_call)
        estimates = {"per_second": rate}
        if contender != baseline and baseline in samples:
            estimates["speedup"] = speedup(sample.seconds, samples[baseline].seconds)
        if flops:
            estimates["tflops"] = rate.map(flops / 1e12)
            ceiling = ceiling_tflops(results, contender.precision)
            if ceiling:
                estimates["fraction_of_ceiling"] = rate.map(flops / 1e12 / ceiling)
        if sample.joules:
            estimates["joules_per_item"] = estimate(sample.joules).map(1 / case.rows_per_call)
        for name in sample.figures[0] if sample.figures else ():
            estimates[name] = estimate([figures[name] for figures in sample.figures])
        found += [row_of(figure, value, **common) for figure, value in estimates.items()]
        if sample.latencies:
            found += _latency_rows(sample.latencies, **(common | {"what": "latency"}))
    return found


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
        status=status,
        **columns,
    )


def failure_row(subject: Subject, contender: Contender, case: Case, status: Status, note: str) -> Row:
    """A case that could not be measured, and why."""
    return Row(figure="per_second", status=status, note=note, unit="1/s", **_place(subject, contender, case))


def start_rows(
    subject: Subject, contender: Contender, tower: str, info: OpenedInfo, first: Prepared, memory: Memory
) -> list[Row]:
    """What it takes to load a tower, to the first embedding, and the memory at the end of all its cases."""
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
    """What the harness costs per timed call: calls of nothing."""
    value = estimate([1e6 * measured.wall_seconds / measured.calls for measured in rounds])
    note = f"{rounds[0].calls} calls of nothing in a round"
    return row_of("overhead", value, what="overhead", model=subject.name, engine="null", note=note)


def _latency_rows(seconds: Sequence[float], **common: Any) -> list[Row]:
    values = np.percentile(np.asarray(seconds) * 1e3, (50, 90, 99))
    return [
        Row(figure=name, value=float(value), unit="ms", repeats=len(seconds), **common)
        for name, value in zip(("p50", "p90", "p99"), values, strict=True)
    ]


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
