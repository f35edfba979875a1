"""The gate on the task: zero-shot accuracy and retrieval of eager float32 and of the engines, on the same labelled pictures.

An engine may lose as much of a task's accuracy as its precision allows (`exporter.precision.precisions`). The judged figures are
top-1 and recall@1, as shares of the same pictures; a loss of one picture always passes. Confidence intervals show the uncertainty
that comes from the dataset's size.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import engines
from engines.errors import EngineError, InputError
from engines.manifest import Accuracy, Engine, Interval, Preprocess
from engines.runtimes.choice import why_not
from exporter.datasets import Batch, Dataset, demo_dataset, open_dataset
from exporter.errors import ExportError, ParityGateError
from exporter.gate.encoders import EagerEncoders, EngineEncoders
from exporter.gate.metrics import Estimate
from exporter.gate.refusal import remedy
from exporter.gate.tasks import Outcome, accuracies, measure
from exporter.precision.precisions import Precision
from exporter.reference.eager import open_clip_transform
from exporter.source.loading import Source

_CHANGE = "_change"


@dataclass(frozen=True)
class Evaluation:
    """A dataset, and eager's outcome on it."""

    dataset: Dataset
    eager: Outcome


def open_evaluation(path: Path | None, has_own: bool, towers: Sequence[str]) -> Dataset | None:
    """Open the dataset on which the task is measured; None where it is not measured.

    Args:
        path: a folder with a folder for each class, a folder with captions, or a webdataset; None: the user named none.
        has_own: whether to measure on the bundled demo model's held-out renders if the user named nothing.
        towers: the exported towers.

    Raises:
        ExportError: a dataset was named and cannot be used.
    """
    if len(towers) < 2:
        if path is not None:
            raise ExportError("--evaluate needs both towers: classes and captions are texts; leave --towers out")
        return None
    if path is None:
        return demo_dataset() if has_own else None
    try:
        return open_dataset(path)
    except InputError as error:
        raise ExportError(f"--evaluate: {error}") from error


def evaluate_eager(source: Source, dataset: Dataset) -> Evaluation:
    """Measure the eager model, before its towers are taken out of it.

    Raises:
        ExportError: the weights are random; no picture can be read.
    """
    if source.info.weights == "random":
        raise ExportError("--evaluate: the weights are random, and the accuracy of noise says nothing; leave it out")
    encoders = EagerEncoders(source.model, open_clip_transform(source.preprocess), source.tokenizer, "cpu")
    return Evaluation(dataset, _measure(encoders, dataset, source.preprocess))


def evaluate_engines(
    folder: Path, built: Sequence[Engine], precision: Precision, preprocess: Preprocess, evaluation: Evaluation
) -> tuple[Accuracy, ...]:
    """Measure every kind of engine that can run here.

    Args:
        folder: a bundle that can be loaded.
        built: the bundle's engines.
        precision: the precision, which has the limit of the loss.
        preprocess: the bundle's preprocessing.
        evaluation: eager's evaluation.

    Raises:
        ExportError: an engine failed.
    """
    judged = []
    for kind in dict.fromkeys(engine.kind for engine in built):
        of_kind = [engine for engine in built if engine.kind == kind]
        towers = {engine.tower for engine in of_kind if why_not(engine, precision.name) is None}
        if len(towers) < 2:
            continue
        try:
            with engines.load(folder, engine=kind) as clip:
                outcome = _measure(EngineEncoders(clip), evaluation.dataset, preprocess)
                ran = " + ".join(dict.fromkeys(clip.engines.values()))
        except EngineError as error:
            raise ExportError(f"{kind} passed the gate and failed on the task's pictures: {error}") from error
        judged.append(_judge(kind, ran, evaluation, outcome, precision))
    return tuple(judged)


def _measure(encoders: EagerEncoders | EngineEncoders, dataset: Dataset, config: Preprocess) -> Outcome:
    def follow(batches: Iterable[Batch], count: int | None) -> Iterator[Batch]:
        return iter(batches)

    try:
        return measure(encoders, dataset, config, follow)
    except InputError as error:
        raise ExportError(f"--evaluate: {error}") from error


def _judge(kind: str, ran: str, evaluation: Evaluation, outcome: Outcome, precision: Precision) -> Accuracy:
    eager = _flat(accuracies(evaluation.eager))
    figures = _flat(accuracies(outcome, evaluation.eager))
    changes = {name.removesuffix(_CHANGE): value for name, value in figures.items() if name.endswith(_CHANGE)}
    allowed = precision.accuracy_loss
    passed = all(-value.value <= max(allowed, 1.0 / value.samples) + 1e-12 for value in changes.values())
    ranks = outcome.class_ranks if outcome.class_ranks is not None else outcome.caption_ranks
    return Accuracy(
        engine=kind,
        verified_with=ran,
        dataset=evaluation.dataset.name,
        samples=0 if ranks is None else len(ranks),
        classes=outcome.classes,
        eager={name: _interval(value) for name, value in eager.items()},
        figures={name: _interval(value) for name, value in figures.items() if not name.endswith(_CHANGE)},
        change={name: _interval(value) for name, value in changes.items()},
        limit=allowed,
        passed=passed,
    )


def _flat(found: dict[str, dict[str, Estimate]]) -> dict[str, Estimate]:
    return {name: value for figures in found.values() for name, value in figures.items()}


def _interval(value: Estimate) -> Interval:
    return Interval(value=value.value, low=value.low, high=value.high)


def refusal(rows: Sequence[Accuracy], precision: str) -> ParityGateError:
    """Make the error for a task that lost too much accuracy."""
    row = next(row for row in rows if not row.passed)
    name = min(row.change, key=lambda name: row.change[name].value)
    lost = row.change[name]
    return ParityGateError(
        f"the {precision} engine {row.engine} loses {-100 * lost.value:.2f} points of {name.replace('_', ' ')} on {row.dataset} "
        f"(eager {row.eager[name].value:.2%}, engine {row.figures[name].value:.2%}; at most {100 * row.limit:g} points; the 95 % "
        f"interval of the change is {100 * lost.low:+.2f} to {100 * lost.high:+.2f}); nothing was written: "
        f"{remedy(precision)}, or pass --allow-accuracy-loss"
    )


def _reading_order(name: str) -> tuple[bool, str, int]:
    """Return a figure's sort key: zero-shot first, and @10 after @5."""
    what, _, number = name.rpartition("_")
    return not name.startswith("top"), what, int(number.removeprefix("top"))


def lines(rows: Sequence[Accuracy]) -> list[str]:
    """Format the accuracy of eager and engines as lines for the user."""
    texts = []
    for row in rows:
        of = f"{row.samples} pictures" + (f", {row.classes} classes" if row.classes else "")
        texts.append(f"  {row.engine:<12} {row.dataset} ({of}; at most {100 * row.limit:g} points may be lost)")
        for name in sorted(row.figures, key=_reading_order):
            value = row.figures[name]
            text = f"  {'':<12}   {name.replace('_', ' '):<24} eager {row.eager[name].value:7.2%}  engine {value.value:7.2%}"
            if name in row.change:
                change = row.change[name]
                text += (
                    f"  {100 * change.value:+.2f} points (95 %: {100 * change.low:+.2f} to {100 * change.high:+.2f})"
                )
            texts.append(text)
        if not row.passed:
            texts.append(f"  {'':<12}   FAILED the gate; kept because of --allow-accuracy-loss")
    return texts
