"""The stages of an export: shown on a terminal while they run, kept as figures for the report."""

from __future__ import annotations

import contextlib
import signal
import time
from collections.abc import Iterator
from types import FrameType
from typing import Any, TextIO

from engines.process.terminal import say
from exporter.memory import peak_memory


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
    def stage(self, name: str) -> Iterator[dict[str, Any]]:
        """Time the code inside the context; figures put into the yielded dict go to the report."""
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
        row = {"stage": name, "seconds": round(seconds, 3), "peak_memory_bytes": peak_memory()}
        self.rows.append(row | figures)
