"""The course and the summary of a bulk job: a bar on a terminal, or one JSON object a line for schedulers."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from typing import Any, TextIO

from engines.bulk.job import Summary
from engines.bulk.maker import Outcome
from engines.files.json_text import json_text
from engines.process.terminal import say, visible

_JSON_SECONDS = 10.0
_SHOWN = 10
_SHOW_SECONDS = 0.2
_RECENT_SECONDS = 300.0  # the rate is that of the last minutes, because the first ones open engines and fill caches


class _Course:
    """Counts of a job, from which rate and end are estimated."""

    def __init__(self, summary: Summary) -> None:
        self.summary, self.began, self.rows = summary, time.monotonic(), 0
        self._made = 0
        self._marks: list[tuple[float, int]] = [(self.began, 0)]

    def add(self, rows: int) -> None:
        self.rows += rows
        now = time.monotonic()
        if now - self._marks[-1][0] >= 1:
            self._marks.append((now, self.rows))
            while len(self._marks) > 2 and now - self._marks[0][0] > _RECENT_SECONDS:
                self._marks.pop(0)

    @property
    def rate(self) -> float:
        """Rows a second."""
        since, before = self._marks[0]
        return (self.rows - before) / max(time.monotonic() - since, 1e-9)

    @property
    def seconds_left(self) -> float | None:
        """Estimate from the shards that were made; None before the first."""
        summary = self.summary
        left = summary.shards - summary.finished
        if not summary.made or self.rate <= 0:
            return 0.0 if left == 0 else None
        # Rows of unfinished shards that are written already are counted as parts of shards.
        rows_per_shard = summary.rows / summary.made
        return max(left * rows_per_shard - (self.rows - summary.rows), 0.0) / self.rate


class TerminalReporter:
    """A bar of shards on standard error, with the rate and the time that is left; in a pipe it is quiet."""

    def __init__(self) -> None:
        self._bar: Any = None
        self._course: _Course | None = None
        self._waiting = False
        self._shown = 0.0

    def begin(self, summary: Summary) -> None:
        """See `Reporter`."""
        from tqdm import tqdm

        self._course = _Course(summary)
        layout = "{n_fmt}/{total_fmt} shards |{bar}| {desc}"
        self._bar = tqdm(
            total=summary.shards,
            bar_format=layout,
            disable=not sys.stderr.isatty(),
            leave=False,
        )

    def shard(self, outcome: Outcome) -> None:
        """See `Reporter`."""
        if outcome.status == "failed":
            self._line(f"failed: {outcome.shard.name}: {outcome.reason}")
        elif outcome.record is not None and outcome.record.cut is not None and outcome.status == "made":
            self._line(f"cut off: {outcome.record.cut}")
        if self._course is not None and self._bar is not None:
            self._bar.n = self._course.summary.finished
            self._show()

    def rows(self, count: int) -> None:
        """See `Reporter`."""
        if self._course is not None:
            self._course.add(count)
            self._show()

    def wait(self, busy: int) -> None:
        """See `Reporter`."""
        if not self._waiting:
            self._waiting = True
            self._line(f"waiting for {busy} shards that other jobs make")

    def close(self) -> None:
        """See `Reporter`."""
        if self._bar is not None:
            self._bar.close()

    def _show(self) -> None:
        assert self._course is not None
        left = self._course.seconds_left
        end = "" if left is None else f", {duration(left)} left"
        self._bar.set_description_str(f"{self._course.rows:,} rows, {self._course.rate:,.0f}/s{end}", refresh=False)
        if time.monotonic() - self._shown >= _SHOW_SECONDS:
            self._shown = time.monotonic()
            self._bar.refresh()

    def _line(self, text: str) -> None:
        if self._course is None or self._course.summary.shards == 1:  # the summary follows at once
            return
        if self._bar is not None:
            self._bar.clear()
        say(visible(text), sys.stderr)


class JsonReporter:
    """One JSON object a line on standard output: ``begin``, ``shard``, ``progress`` every ten seconds, ``wait``, ``end``.

    What libraries print goes elsewhere while Ray runs (`engines.ray.cluster.cluster`), so this class keeps the stream that it was
    made with.
    """

    def __init__(self) -> None:
        self._stream = sys.stdout
        self._course: _Course | None = None
        self._told = time.monotonic()

    def begin(self, summary: Summary) -> None:
        """See `Reporter`."""
        self._course = _Course(summary)
        self._print({"event": "begin", "shards": summary.shards})

    def shard(self, outcome: Outcome) -> None:
        """See `Reporter`."""
        if outcome.status == "was there":  # a job that goes on would print thousands of lines
            return
        record = outcome.record if outcome.status == "made" else None
        fields: dict[str, Any] = {
            "event": "shard",
            "name": outcome.shard.name,
            "status": outcome.status,
            "reason": outcome.reason,
        }
        if record is not None:
            fields |= {
                "rows": record.rows,
                "errors": record.errors,
                "missing": dict(record.missing),
                "missing_all": record.missing_all,
                "cut": record.cut,
                "seconds": round(outcome.seconds, 3),
            }
        self._print(fields)

    def rows(self, count: int) -> None:
        """See `Reporter`."""
        course = self._course
        if course is None:
            return
        course.add(count)
        if time.monotonic() - self._told >= _JSON_SECONDS:
            self._told = time.monotonic()
            left = course.seconds_left
            self._print(
                {
                    "event": "progress",
                    "shards": course.summary.shards,
                    "finished": course.summary.finished,
                    "rows": course.rows,
                    "rows_per_second": round(course.rate, 1),
                    "seconds_left": None if left is None else round(left),
                }
            )

    def wait(self, busy: int) -> None:
        """See `Reporter`."""
        self._print({"event": "wait", "busy": busy})

    def close(self) -> None:
        """Nothing to close."""

    def _print(self, fields: dict[str, Any]) -> None:
        _print(fields, self._stream)


def tell_summary(summary: Summary, left_out: Mapping[str, int], url: str, as_json: bool) -> None:
    """Print what a job did: lines for people, or the last JSON object."""
    if as_json:
        _print(
            {
                "event": "end",
                "out": url,
                "shards": summary.shards,
                "made": summary.made,
                "there": summary.there,
                "failed": summary.failed,
                "rows": summary.rows,
                "errors": summary.errors,
                "missing": summary.missing,
                "missing_all": summary.missing_all,
                "duplicate_keys": summary.duplicate_keys,
                "further_pictures": summary.further_pictures,
                "seconds": round(summary.seconds, 3),
                "problems": [{"shard": name, "reason": reason} for name, reason in summary.problems],
                "cut": summary.cut,
                "again": [{"shard": name, "reason": reason} for name, reason in summary.again],
                "first_errors": summary.first_errors,
                "left_out": dict(left_out),
            }
        )
        return
    rate = f", {summary.rows / summary.seconds:,.0f} rows/s" if summary.rows and summary.seconds else ""
    there = f", {summary.there:,} were there already" if summary.there else ""
    say(visible(f"{summary.made:,} of {summary.shards:,} shards made in {duration(summary.seconds)}{there}: {url}"))
    if summary.made:
        by = " by both towers" if len(summary.missing) > 1 else ""
        say(f"{summary.rows - summary.errors:,} of {summary.rows:,} rows embedded{by}{rate}")
    if summary.errors:
        _list(
            f"{_failures(summary)}; the reasons are in the column `error` (npy: in errors/):",
            summary.first_errors,
            summary.errors,
        )
    if summary.cut:
        _list("inputs that are cut off:", summary.cut, len(summary.cut))
    if summary.duplicate_keys:
        say(f"{_count(summary.duplicate_keys, 'row')} with the key of an earlier row of the same shard")
    if summary.further_pictures:
        pictures = _count(summary.further_pictures, "picture")
        say(
            f"left out: {pictures} in tars, because a sample is one row: `.jpg` goes before `.0.jpg`, then the first one counts"
        )
    if summary.again:
        lines = [f"{name}: {reason}" for name, reason in summary.again]
        _list("made again:", lines, len(lines))
    if summary.failed:
        lines = [f"{name}: {reason}" for name, reason in summary.problems]
        _list(f"failed: {_count(summary.failed, 'shard')}:", lines, summary.failed)


def _failures(summary: Summary) -> str:
    """The numbers of rows with an error, by what they lack."""
    rows = _count(summary.errors, "row")
    if len(summary.missing) == 1:
        return f"{rows} without an embedding" if summary.missing_all == summary.errors else f"{rows} with an error"
    lacks = [f"no {tower} embedding: {count - summary.missing_all:,}" for tower, count in summary.missing.items()]
    return f"{rows} with an error ({', '.join(lacks)}, neither: {summary.missing_all:,})"


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def duration(seconds: float) -> str:
    """A duration in words of two units: ``8.3 s``, ``12 min 5 s``, ``3 h 12 min``, ``2 d 4 h``."""
    if seconds < 60:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    whole = round(seconds)
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    if whole < 86400:
        return f"{whole // 3600} h {whole % 3600 // 60} min"
    return f"{whole // 86400} d {whole % 86400 // 3600} h"


def _list(title: str, lines: list[str], total: int) -> None:
    say(title)
    for line in lines[:_SHOWN]:
        say(f"  {visible(line)}")
    if total > _SHOWN:
        say(f"  … and {total - _SHOWN:,} more")


def _print(fields: Mapping[str, Any], stream: TextIO | None = None) -> None:
    print(json_text(fields, indent=None), file=stream, flush=True)
