"""The steps of the parity benchmark: eager once, then engine after engine, rows kept after each."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from tqdm import tqdm

import engines
from benchmarks.accuracy.eager import Eager
from benchmarks.accuracy.inputs import Inputs, compare, embed_inputs
from benchmarks.accuracy.rows import accuracy_rows, empty_accuracy_rows, empty_parity_rows, parity_rows
from benchmarks.records.machine import Machine, stamp, versions
from benchmarks.records.rows import Row, merge
from engines.manifest import Manifest
from exporter.datasets import Batch, Dataset, Skipped
from exporter.gate.encoders import EngineEncoders
from exporter.gate.metrics import Estimate
from exporter.gate.tasks import accuracies, measure

if TYPE_CHECKING:
    from benchmarks.accuracy.clip_benchmark import Job

_EAGER_VERSIONS = ("torch", "open_clip_torch", "pillow")


@dataclass
class Run:
    """One run of the command: the data that all its steps share, and the rows so far."""

    bundle: Path
    manifest: Manifest
    device: str
    machine: Machine
    results: Path
    rows: list[Row] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def add(self, rows: Sequence[Row], computed_with: str) -> None:
        """Keep rows in memory and on disk."""
        done = stamp(rows, self.machine, versions=computed_with)
        self.rows += done
        merge(self.results, done)

    def note_skipped(self, skipped: Skipped) -> None:
        """Add a note with the number of pictures that were left out."""
        if skipped.count:
            self.note(f"pictures left out because they cannot be read: {skipped.count} ({skipped.first})")

    def note(self, text: str) -> None:
        """Add a sentence for the reader, unless it is there."""
        if text not in self.notes:
            self.notes.append(text)


class Measurement:
    """Eager's embeddings and ranks, and those of engines from the same inputs.

    Args:
        run: the run that keeps the rows.
        eager: the reference.
        inputs: pictures and captions whose embeddings are compared.
        dataset: pictures on which accuracy is measured; None: it is not.
        job: measure accuracy by clip-benchmark on that dataset; None: by this project.
    """

    def __init__(self, run: Run, eager: Eager, inputs: Inputs, dataset: Dataset | None, job: Job | None) -> None:
        self._run, self._eager, self._inputs, self._dataset, self._job = run, eager, inputs, dataset, job
        self._reference = embed_inputs(eager, inputs, run.manifest, _progress("eager, embeddings"))
        run.note_skipped(self._reference.skipped)
        self._outcome = None
        if dataset is not None and job is None:
            self._outcome = measure(eager, dataset, run.manifest.preprocess, _progress("eager, accuracy"))
            run.note_skipped(self._outcome.skipped)
            self._add_accuracy("eager", accuracies(self._outcome), versions(_EAGER_VERSIONS), "")
        elif job is not None:
            from benchmarks.accuracy.clip_benchmark import evaluate

            figures = evaluate(job, eager.model, eager.transform, eager.tokenizer, eager.device)
            self._add_accuracy("eager, clip-benchmark", figures, versions(_EAGER_VERSIONS), job.measured_by)

    def measure_engine(self, kind: str, device: str) -> bool:
        """Measure one kind of engine; return whether it succeeded. An engine that fails has rows with the reason."""
        run, dataset = self._run, self._dataset
        try:
            with engines.load(run.bundle, engine=kind, device=device) as clip:
                computed_with = " + ".join(dict.fromkeys(clip.engines.values()))
                self._compare_embeddings(kind, EngineEncoders(clip), computed_with)
                self._compare_accuracy(kind, clip, computed_with)
        except Exception as error:  # noqa: BLE001 - whatever an engine's library raises, the other engines are measured
            reason = " ".join(f"{type(error).__name__}: {error}".split())[:300]
            run.note(f"{kind} failed: {reason}")
            if not any(row.what == "parity" and row.engine == kind for row in run.rows):
                run.add(empty_parity_rows(kind, run.manifest, self._inputs.name, "failed", reason), "")
            if dataset is not None:
                tasks = dataset.tasks if self._job is None else (self._job.task,)
                name = kind if self._job is None else f"{kind}, clip-benchmark"
                run.add(empty_accuracy_rows(tasks, name, run.manifest, dataset.name, "failed", reason), "")
            return False
        return True

    def _compare_embeddings(self, kind: str, encoders: EngineEncoders, computed_with: str) -> None:
        run = self._run
        embeddings = embed_inputs(encoders, self._inputs, run.manifest, _progress(f"{kind}, embeddings"))
        agreement = compare(self._reference, embeddings, run.manifest)
        run.add(parity_rows(agreement, kind, run.manifest, self._inputs.name, self._inputs.source), computed_with)

    def _compare_accuracy(self, kind: str, clip: engines.Embedder, computed_with: str) -> None:
        config, dataset, job = self._run.manifest.preprocess, self._dataset, self._job
        if job is not None:
            from benchmarks.accuracy.clip_benchmark import EngineModule, evaluate

            module = EngineModule(clip)
            figures = evaluate(job, module, module.transform, module.tokenize, "cpu")
            self._add_accuracy(f"{kind}, clip-benchmark", figures, computed_with, job.measured_by)
        elif dataset is not None:
            outcome = measure(EngineEncoders(clip), dataset, config, _progress(f"{kind}, accuracy"))
            self._add_accuracy(kind, accuracies(outcome, self._outcome), computed_with, "")

    def _add_accuracy(
        self, engine: str, figures: dict[str, dict[str, Estimate]], computed_with: str, note: str
    ) -> None:
        assert self._dataset is not None
        classes = f"{len(self._dataset.classes)} classes" if self._dataset.classes is not None else ""
        note = "; ".join(part for part in (note, classes) if part)
        self._run.add(accuracy_rows(figures, engine, self._run.manifest, self._dataset.name, note), computed_with)


def _progress(name: str) -> Callable[[Iterable[Batch], int | None], Iterator[Batch]]:
    """A bar of pictures on a terminal, nothing in a pipe."""

    def follow(batches: Iterable[Batch], count: int | None) -> Iterator[Batch]:
        with tqdm(total=count, desc=name, unit=" pictures", disable=None, leave=False) as bar:
            for batch in batches:
                yield batch
                bar.update(len(batch.samples))

    return follow
