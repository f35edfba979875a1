"""The job of building one engine in a separate process: `worker` runs it, `run_job` starts it and words its failures."""

from __future__ import annotations

import re
from pathlib import Path

import msgspec

from engines.manifest import Build
from exporter.child_process import ChildFailedError, run_child
from exporter.errors import ExportError

WORKER = "exporter.tensorrt.worker"
_ERROR_LINE = re.compile(r"^\s*(?:\[E\]|\[!\]|Internal Error:|In node|\[[^\]]*\] \[TRT\] \[[EF]\])\s*(.*)$")
_LONGEST = 400


class BuildJob(msgspec.Struct, frozen=True, kw_only=True):
    """The job that the worker reads.

    Attributes:
        kind: ``tensorrt`` or ``tensorrt-rtx``.
        graph: the path of the ONNX file.
        plan: the path of the engine file to write.
        inspector: the path of the engine inspector's JSON to write, where the engine can be loaded on this machine.
        target: the GPU architecture, such as ``sm80``; None for the GPU of this machine.
        input: the name of the network's input.
        shapes: the smallest, usual and largest shape of the input, for each profile.
    """

    kind: str
    graph: str
    plan: str
    inspector: str
    target: str | None
    input: str
    shapes: tuple[tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]], ...]
    workspace: int | None = None
    optimization_level: int | None = None
    timing_cache: str | None = None
    version_compatible: bool = False
    hardware_compatible: str | None = None
    strip_weights: bool = False


class BuildResult(msgspec.Struct, frozen=True, kw_only=True):
    """The result that the worker writes."""

    version: str  # the version of the library
    build: Build
    inspected: bool
    notes: tuple[str, ...] = ()


def run_job(job: BuildJob) -> BuildResult:
    """Build one engine.

    Raises:
        ExportError: the builder refused the graph, ran out of memory or died; the message quotes the builder.
    """
    # Polygraphy chooses between the two libraries once, when it is imported.
    environment = {"POLYGRAPHY_USE_TENSORRT_RTX": "1" if job.kind == "tensorrt-rtx" else "0"}
    try:
        return run_child(WORKER, job, BuildResult, environment)
    except ChildFailedError as error:
        raise ExportError(_failure(job, error)) from error


def _failure(job: BuildJob, error: ChildFailedError) -> str:
    what = f"{job.kind} cannot build {Path(job.graph).name}" + (f" for {job.target}" if job.target else "")
    if error.killed:
        return f"{what}: the system killed the builder, most likely for want of memory; free some, or export one tower at a time"
    reports = []
    for line in error.output.splitlines():
        match = _ERROR_LINE.match(line)
        if match and match.group(1).strip() and match.group(1) not in reports:
            reports.append(match.group(1).strip())
    words = "; ".join(reports) if reports else error.last_line
    if len(words) > _LONGEST:
        words = words[: _LONGEST - 2] + " …"
    return f"{what}{error.died}: {words}"
