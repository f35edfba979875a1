"""Rows of one machine → the content of its plots, as plain numbers. A plot without rows does not exist."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from benchmarks.records.precisions import OPERAND_BYTES
from benchmarks.records.rows import Row
from benchmarks.reporting import styles

RESOLUTION = 1e-6  # of a cosine in a row


@dataclass(frozen=True)
class Point:
    """One measurement with the ends of its error bars; an end that is the value itself has no bar."""

    x: float
    y: float
    x_low: float
    x_high: float
    y_low: float
    y_high: float


@dataclass(frozen=True)
class Series:
    """Points of one engine in one precision, joined in order where `joined`."""

    engine: str
    precision: str
    points: Sequence[Point]
    joined: bool = True


@dataclass(frozen=True)
class Guide:
    """A line behind the points, straight in logarithmic axes: y = level * x ** slope.

    Attributes:
        label: a short text at its end.
        precision: the precision whose dashes it has; empty: a plain thin line.
        until: x of its end; None: the edge.
    """

    label: str
    level: float
    slope: float
    precision: str = ""
    until: float | None = None


@dataclass(frozen=True)
class Panel:
    """One plot.

    Attributes:
        title: model, tower and shape.
        x: label of the x axis, with unit.
        y: label of the y axis, with unit.
        series: the points.
        guides: lines behind the points.
        x_ticks: the only ticks (batches); empty: round numbers.
        y_log: whether the y axis is logarithmic; else it is linear.
        y_percent: whether the values are shares of 1.
        y_floor: values below are drawn at it, and its tick has a ≤; 0: none.
    """

    title: str
    x: str
    y: str
    series: Sequence[Series]
    guides: Sequence[Guide] = ()
    x_ticks: Sequence[float] = ()
    y_log: bool = True
    y_percent: bool = False
    y_floor: float = 0.0


@dataclass(frozen=True)
class Work:
    """Operations and bytes of float16 activations of one image, or one text of full length; bytes of weights for each batch."""

    flops: float
    activation_bytes: float
    weight_bytes: float


@dataclass(frozen=True)
class Plot:
    """Panels of one kind: `name` is the file's, `caption` explains how to read them."""

    name: str
    title: str
    caption: str
    panels: Sequence[Panel]


def plots(rows: Sequence[Row], work: Mapping[tuple[str, str], Work]) -> list[Plot]:
    """All plots that have rows.

    Args:
        rows: one machine's rows.
        work: (model, tower) → work, for the roofline; a tower that is not there is left out of it.
    """
    candidates = [
        Plot(
            "throughput",
            "Throughput by batch",
            "Higher is better. Bars: from the slowest to the fastest pass.",
            throughput_panels(rows),
        ),
        Plot(
            "latency",
            "Latency and throughput",
            "Lower and further right is better. Each diagonal is one batch; bars at batch 1 end at the 99th percentile.",
            latency_panels(rows),
        ),
        Plot(
            "accuracy",
            "Accuracy and speed",
            "Speed at each engine's fastest batch. Bars: 95 % confidence intervals, and all passes.",
            accuracy_panels(rows),
        ),
        Plot(
            "roofline",
            "Roofline",
            "Ceilings are this machine's own measured matrix products and copy. Bytes are counted: weights read once per batch, "
            "activations moved once. Points above the slope are work that a cache holds.",
            roofline_panels(rows, work),
        ),
        Plot(
            "cpp",
            "C++ and Python",
            "The same bundle called from both languages by several threads at once. Higher is better. Bars: all passes.",
            cpp_panels(rows),
        ),
    ]
    return [plot for plot in candidates if plot.panels]


def throughput_panels(rows: Iterable[Row]) -> list[Panel]:
    """Items per second over the batch, one panel for each model, tower and shape."""
    panels = []
    for (model, tower, shape), group in _groups(_rates(rows)):
        series = _series(group, lambda r: _point(r.batch, r.batch, r.batch, *_interval(r)))
        ticks = sorted({float(row.batch) for row in group})
        panels.append(Panel(_title(model, tower, shape), "batch", f"{_items(tower)} per second", series, x_ticks=ticks))
    return panels


def latency_panels(rows: Sequence[Row]) -> list[Panel]:
    """Milliseconds per call over items per second; at batch 1 the measured median and 99th percentile where there are such rows."""
    tails = {
        (row.figure, row.model, row.tower, row.shape, row.engine, row.precision): row.value
        for row in rows
        if row.what == "latency" and row.value is not None
    }

    def point(row: Row) -> Point:
        rate, low, high = _interval(row)
        milliseconds = 1000 * row.batch / rate
        name = (row.model, row.tower, row.shape, row.engine, row.precision)
        median = tails.get(("p50", *name)) if row.batch == 1 else None
        if median:
            return _point(rate, low, high, median, median, tails.get(("p99", *name)) or median)
        return _point(rate, low, high, milliseconds, milliseconds, milliseconds)

    panels = []
    for (model, tower, shape), group in _groups(_rates(rows)):
        batches = sorted({row.batch for row in group})
        guides = [Guide(f"batch {batch}", 1000.0 * batch, -1) for batch in batches]
        x = f"{_items(tower)} per second"
        panels.append(Panel(_title(model, tower, shape), x, "milliseconds per call", _series(group, point), guides))
    return panels


def accuracy_panels(rows: Sequence[Row]) -> list[Panel]:
    """Zero-shot accuracy, and the distance from eager fp32, over the fastest throughput."""
    fastest: dict[tuple[str, str, str, str], Row] = {}
    for row in _rates(rows):
        if row.shape != "real captions":
            key = (row.model, row.tower, row.engine, row.precision)
            best = fastest.get(key)
            if best is None or (row.value or 0) > (best.value or 0):
                fastest[key] = row

    def speed(row: Row, tower: str) -> Row | None:
        return fastest.get((row.model, tower, row.engine, row.precision))

    panels = []
    top1 = [row for row in rows if row.what == "zero_shot" and row.figure == "top1" and row.value is not None]
    for model, data in sorted({(row.model, row.shape) for row in top1}):
        timed_rows = [row for row in top1 if (row.model, row.shape) == (model, data) and speed(row, "image")]
        series = _series(timed_rows, lambda r: _point(*_interval(speed(r, "image")), *_interval(r)), joined=False)
        if series:
            title = _title(model, "zero-shot", data)
            panels.append(Panel(title, "images per second", "top-1, %", series, y_log=False, y_percent=True))
    cosines = [row for row in rows if row.what == "parity" and row.figure == "mean_cosine" and row.value is not None]
    for (model, tower, data), group in _groups(cosines):
        timed_rows = [row for row in group if speed(row, tower)]

        def distance(row: Row) -> Point:
            error = max(1 - (row.value or 0), RESOLUTION)
            return _point(*_interval(speed(row, row.tower)), error, error, error)

        series = _series(timed_rows, distance, joined=False)
        if any(point.y > RESOLUTION for one in series for point in one.points):  # else there is nothing to see
            x, y = f"{_items(tower)} per second", "1 − mean cosine to eager fp32"
            panels.append(Panel(_title(model, tower, data), x, y, series, y_floor=RESOLUTION))
    return panels


def roofline_panels(rows: Sequence[Row], work: Mapping[tuple[str, str], Work]) -> list[Panel]:
    """Achieved TFLOP/s over the operations per byte moved, under the machine's measured ceilings."""
    peaks = {row.precision: row.value for row in rows if row.what == "ceiling" and row.figure == "tflops" and row.value}
    copies = [row.value for row in rows if row.what == "ceiling" and row.figure == "gbytes_per_second" and row.value]
    if not peaks or not copies:
        return []
    terabytes = max(copies) / 1000
    panels = []
    for (model, tower, shape), group in _groups(_rates(rows)):
        amount = work.get((model, tower))
        group = [row for row in group if row.precision in peaks and row.precision in OPERAND_BYTES]
        if amount is None or shape == "real captions" or not group:
            continue

        def point(row: Row, amount: Work = amount) -> Point:
            scale = OPERAND_BYTES[row.precision] / 2
            moved = scale * (amount.weight_bytes + row.batch * amount.activation_bytes)
            intensity = row.batch * amount.flops / moved
            rate, low, high = (value * amount.flops / 1e12 for value in _interval(row))
            return _point(intensity, intensity, intensity, rate, low, high)

        guides = [Guide(f"copy {1000 * terabytes:,.0f} GB/s", terabytes, 1, until=max(peaks.values()) / terabytes)]
        for precision in sorted({row.precision for row in group}, key=lambda name: styles.order("", name)):
            guides.append(Guide(f"{precision} {peaks[precision]:.3g} TFLOP/s", peaks[precision], 0, precision))
        x, y = "operations per byte, FLOP/B", "TFLOP/s"
        panels.append(Panel(_title(model, tower, shape), x, y, _series(group, point), guides))
    return panels


def cpp_panels(rows: Iterable[Row]) -> list[Panel]:
    """Items per second over the number of threads that call, one panel for each model and tower."""
    rated = [row for row in rows if row.what == "cpp" and row.figure == "per_second" and row.value]
    panels = []
    for model, tower in sorted({(row.model, row.tower) for row in rated}):
        group = [row for row in rated if (row.model, row.tower) == (model, tower)]
        callers = {row.key: float(row.shape.split(", ")[1].split(" ")[0]) for row in group}
        series = _series(group, lambda r, c=callers: _point(c[r.key], c[r.key], c[r.key], *_interval(r)))  # type: ignore[misc]
        panels.append(
            Panel(
                _title(model, tower, ""),
                "calling threads",
                f"{_items(tower)} per second",
                series,
                x_ticks=sorted({*callers.values()}),
            )
        )
    return panels


def _rates(rows: Iterable[Row]) -> list[Row]:
    return [r for r in rows if r.what == "throughput" and r.figure == "per_second" and r.value and r.batch > 0]


def _groups(rows: Sequence[Row]) -> list[tuple[tuple[str, str, str], list[Row]]]:
    names = sorted({(row.model, row.tower, row.shape) for row in rows})
    return [(name, [row for row in rows if (row.model, row.tower, row.shape) == name]) for name in names]


def _series(rows: Sequence[Row], point: Callable[[Row], Point], joined: bool = True) -> list[Series]:
    """One series for each engine and precision, in the order of all tables."""
    pairs = sorted({(row.engine, row.precision) for row in rows}, key=lambda pair: styles.order(*pair))
    series = []
    for engine, precision in pairs:
        engine_rows = sorted((r for r in rows if (r.engine, r.precision) == (engine, precision)), key=lambda r: r.batch)
        series.append(Series(engine, precision, [point(row) for row in engine_rows], joined))
    return series


def _interval(row: Row | None) -> tuple[float, float, float]:
    """Value, low and high; low and high are the value where there is no interval."""
    assert row is not None
    assert row.value is not None
    return row.value, row.value if row.low is None else row.low, row.value if row.high is None else row.high


def _point(x: float, x_low: float, x_high: float, y: float, y_low: float, y_high: float) -> Point:
    return Point(x, y, x_low, x_high, y_low, y_high)


def _items(tower: str) -> str:
    return f"{tower}s" if tower else "items"


def _title(model: str, tower: str, shape: str) -> str:
    return ", ".join(part for part in (model, tower, shape) if part)
