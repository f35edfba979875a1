"""The stages of an export: shown on a terminal while they run, kept as figures for the report."""

from __future__ import annotations

import contextlib
import signal
import time
from collections.abc import Iterator
from types import FrameType
from typing import Any, Literal, TextIO

from engines.process.terminal import say
from exporter.memory import peak_memory

# In the order of an export: `evaluate` comes twice, and `rule` is how many ids of a row a text tower needs.
Step = Literal[
    "load",
    "data",
    "evaluate",
    "calibration",
    "reference",
    "rule",
    "quantize",
    "probe",
    "export",
    "program",
    "build",
    "gate",
    "checksums",
    "layout",
]


class Stages:
    """Timer of named stages; on a terminal a stage's line appears when it starts and is completed when it ends."""

    def __init__(self, stream: TextIO | None = None) -> None:
        """Start without stages; `stream` gets notes always, and progress if it is a terminal. None: nothing is printed."""
        self.stream = stream
        self.progress = stream is not None and stream.isatty()
        self.rows: list[dict[str, Any]] = []
        self.notes: list[str] = []
        self._interrupted = False

    def note(self, text: str) -> None:
        """Record a sentence for the user, and print it to the stream whether or not it is a terminal."""
        self.notes.append(text)
        if self.stream is not None:
            say(text, self.stream)

    def tell(self, *sources: object) -> None:
        """Record the notes of sources (a model, a dataset, …), which their attribute ``notes`` holds; None has no notes."""
        for source in sources:
            for text in getattr(source, "notes", ()):
                self.note(text)

    @contextlib.contextmanager
    def interruptible(self) -> Iterator[None]:
        """Make Ctrl-C end the export even if a library discards the exception, as finalizers do: the next stage raises it again.

        It is for the main thread. A handler other than Python's own is left in place.
        """
        if signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
            yield
            return

        def interrupt(number: int, frame: FrameType | None) -> None:
            self._interrupted = True
            raise KeyboardInterrupt

        signal.signal(signal.SIGINT, interrupt)
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, signal.default_int_handler)

    @contextlib.contextmanager
    def stage(self, name: str, step: Step, tower: str | None = None) -> Iterator[dict[str, Any]]:
        """Time what happens inside; figures put into the yielded dict go to the report.

        Args:
            name: the stage for people, on the terminal and in the report.
            step: the stage for programs that read the report: names may change, steps do not.
            tower: ``image`` or ``text``; None: a stage of the whole bundle.
        """
        if self._interrupted:
            raise KeyboardInterrupt
        figures: dict[str, Any] = {}
        start = time.perf_counter()
        if self.progress:
            print(f"  {name} …", end="", file=self.stream, flush=True)
        try:
            yield figures
        except BaseException:
            if self.progress:
                print(file=self.stream)
            raise
        seconds = time.perf_counter() - start
        if self.progress:
            print(f"\r  {name:<34} {seconds:7.1f} s", file=self.stream, flush=True)
        row: dict[str, Any] = {"stage": name, "step": step}
        row |= {} if tower is None else {"tower": tower}
        row |= {"seconds": round(seconds, 3), "peak_memory_bytes": peak_memory()}
        self.rows.append(row | figures)
