"""Every figure that a row can have, described once: unit, heading, form, and which direction is better.

Tables, comparisons and the terminal read this table and have no list of figures of their own.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

Form = Literal["number", "ratio", "percent", "share", "change", "cosine", "error"]


@dataclass(frozen=True)
class Figure:
    """The meaning of a figure.

    Attributes:
        unit: the unit of value, low and high, as tables show it.
        better: ``higher`` or ``lower``; None where neither is (a description, not an achievement).
        relative: measured against something else in the same run, so that it can be compared between runs on a noisy machine.
        label: the heading of its column, with its unit; empty: the name and the unit.
        short: the heading on a terminal; empty: the label.
        form: the kind of value: a number; a ratio (``×``); a part of 1 in percent; a share, which is a part of 1 with a 95 %
            confidence interval; a change, which is the difference of two shares on the same samples; a cosine, which is 1 where all
            is exact; an error, which is 0 there.
        task: the kind of measurement (`benchmarks.records.rows.Row.what`) of an accuracy; empty: no accuracy on a task.
    """

    unit: str = ""
    better: Literal["higher", "lower"] | None = None
    relative: bool = False
    label: str = ""
    short: str = ""
    form: Form = "number"
    task: Literal["zero_shot", "retrieval", ""] = ""

    @property
    def is_share(self) -> bool:
        """Whether the value is a share, or the difference of two, whose low and high are ends of a confidence interval."""
        return self.form in ("share", "change")

    @property
    def exact(self) -> float | None:
        """The value where nothing differs from eager; None: a figure that is no distance from eager."""
        return {"cosine": 1.0, "error": 0.0}.get(self.form)


def _recalls(query: str, answer: str) -> Iterator[tuple[str, Figure]]:
    """Recall at 1, 5 and 10 in one direction, and how the first differs from eager's on the same samples."""
    for count in (1, 5, 10):
        label, short = f"{query} → {answer} R@{count}", f"{query}→{answer} @{count}"
        name = f"{query}_to_{answer}_recall_{count}"
        yield name, Figure("", "higher", True, label, short, "share", "retrieval")
        if count == 10:
            label, short = f"{query} → {answer} R@1 − eager's", f"{query}→{answer} @1 - eager's"
            yield (
                f"{query}_to_{answer}_recall_1_change",
                Figure("", "higher", True, label, short, "change", "retrieval"),
            )


FIGURES: dict[str, Figure] = {
    # what = throughput, end_to_end
    "per_second": Figure("1/s", "higher", label="per second"),
    # Over eager float32, round by round.
    "speedup": Figure("x", "higher", relative=True, form="ratio"),
    "tflops": Figure("TFLOP/s", "higher", label="TFLOP/s"),
    "gbytes_per_second": Figure("GB/s", "higher", label="GB/s"),
    # Of the machine's own measured matrix product in that precision.
    "fraction_of_ceiling": Figure("", "higher", label="of the ceiling", form="percent"),
    "joules_per_item": Figure("J", "lower", label="J per item"),
    # Of the wall time in which the engine waits for pixels.
    "decode_share": Figure("", label="waiting for pixels", form="percent"),
    # what = kernel, gemm, package
    "time": Figure("us", "lower"),
    # Of a part of the result, against float64.
    "relative_error": Figure("", "lower"),
    # Of a package's compiler.
    "build_seconds": Figure("s", "lower"),
    # what = fact; 1 where the note says it in words
    "fact": Figure(""),
    # what = tests
    "passed": Figure("tests", "higher"),
    "failed": Figure("tests", "lower"),
    "skipped": Figure("tests"),
    # what = latency, one item at a time
    "p50": Figure("ms", "lower"),
    "p90": Figure("ms", "lower"),
    "p99": Figure("ms", "lower"),
    # what = start
    "load": Figure("s", "lower"),
    "first_call": Figure("s", "lower"),
    "host_memory": Figure("MB", "lower"),
    "peak_host_memory": Figure("MB", "lower"),
    "peak_device_memory": Figure("MB", "lower"),
    # what = export
    "export_seconds": Figure("s", "lower", label="export, both towers, gate included, s"),
    "export_memory": Figure("x", "lower", relative=True, label="its peak memory / fp32 weights"),
    "quantize_seconds": Figure("s", "lower", label="quantizing, s"),
    # Of the products' FLOPs.
    "quantized_share": Figure("", "higher", relative=True, label="products quantized", form="percent"),
    "import_engines": Figure("s", "lower", label="import, s"),
    # From the process's start to the first embedding.
    "first_text": Figure("s", "lower", label="import, load, first text, s"),
    "first_image": Figure("s", "lower", label="…and first image, s"),
    # what = overhead
    "overhead": Figure("us", "lower", label="overhead, µs"),
    # what = bulk: a job's time over that of its parts.
    "time_over": Figure("x", "lower", relative=True, label="time over its parts", form="ratio"),
    # what = parity
    "min_cosine": Figure("", "higher", relative=True, form="cosine"),
    "mean_cosine": Figure("", "higher", relative=True, form="cosine"),
    "p1_cosine": Figure("", "higher", relative=True, short="1 % below", form="cosine"),
    "max_abs_error": Figure("", "lower", relative=True, label="max abs error", short="max error", form="error"),
    "top1_agreement": Figure(
        "", "higher", relative=True, label="top-1 agreement", short="top-1 as eager", form="share"
    ),
    # what = zero_shot
    "top1": Figure("", "higher", relative=True, label="top-1", form="share", task="zero_shot"),
    "top5": Figure("", "higher", relative=True, label="top-5", form="share", task="zero_shot"),
    "top1_change": Figure(
        "", "higher", True, label="top-1 − eager's", short="top-1 - eager's", form="change", task="zero_shot"
    ),
    # what = retrieval
    **dict(_recalls("image", "text")),
    **dict(_recalls("text", "image")),
}


def label(name: str) -> str:
    """The heading of a figure's column, with its unit."""
    figure = FIGURES[name]
    return figure.label or name.replace("_", " ") + (f", {figure.unit}" if figure.unit not in ("", "x") else "")


def short_label(name: str) -> str:
    """The heading of a figure on a terminal."""
    return FIGURES[name].short or label(name)
