"""One engine as a job for a process of its own: `worker` does it, `run_job` starts it and turns failures into sentences.

A process of its own, because a builder may abort on a graph it does not know, because its memory then goes back to the system
and can be told apart from the exporter's, and because Polygraphy chooses between the two libraries once, when it is imported.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import msgspec

from engines.manifest import Build
from exporter.errors import ExportError

WORKER = "exporter.tensorrt.worker"
_ERROR_LINE = re.compile(r"^\s*(?:\[E\]|\[!\]|Internal Error:|In node|\[[^\]]*\] \[TRT\] \[[EF]\])\s*(.*)$")
_LONGEST = 400


class BuildJob(msgspec.Struct, frozen=True, kw_only=True):
    """What the worker reads.

    Attributes:
        kind: ``tensorrt`` or ``tensorrt-rtx``.
        graph: the ONNX file.
        plan: the engine file to write.
        inspector: JSON of the engine inspector to write, where the engine can be loaded on this machine.
        target: ``sm80``, or None for the GPU of this machine.
        input: name of the network's input.
        shapes: of each profile: smallest, usual and largest shape of the input.
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
    """What the worker writes."""

    version: str  # of the library
    build: Build
    inspected: bool
    notes: tuple[str, ...] = ()


def run_job(job: BuildJob) -> BuildResult:
    """Build one engine.

    Raises:
        ExportError: the builder refused the graph, ran out of memory or died; the message holds its own words.
    """
    with tempfile.TemporaryDirectory(prefix="openclip-engines-build-") as folder:
        result = Path(folder) / "result.json"
        command = [sys.executable, "-m", WORKER, str(result)]
        environment = os.environ | {"POLYGRAPHY_USE_TENSORRT_RTX": "1" if job.kind == "tensorrt-rtx" else "0"}
        # The worker imports this package from where it is now, whatever the working directory is.
        root = str(Path(__file__).parents[2])
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH", "")]))
        with subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=environment
        ) as process:
            try:
                output, _ = process.communicate(msgspec.json.encode(job))
            except BaseException:  # Ctrl-C: the build must not go on alone
                process.kill()
                raise
        if process.returncode == 0 and result.is_file():
            return msgspec.json.decode(result.read_bytes(), type=BuildResult)
    raise ExportError(_failure(job, process.returncode, output.decode(errors="replace")))


def _failure(job: BuildJob, code: int, output: str) -> str:
    what = f"{job.kind} cannot build {Path(job.graph).name}" + (f" for {job.target}" if job.target else "")
    if code in (-9, 137):
        return f"{what}: the system killed the builder, most likely for want of memory; free some, or export one tower at a time"
    said = []
    for line in output.splitlines():
        match = _ERROR_LINE.match(line)
        if match and match.group(1).strip() and match.group(1) not in said:
            said.append(match.group(1).strip())
    words = "; ".join(said) if said else (output.strip().splitlines() or ["it said nothing"])[-1].strip()
    if len(words) > _LONGEST:
        words = words[: _LONGEST - 2] + " …"
    died = f" (it died with signal {-code})" if code < 0 else ""
    return f"{what}{died}: {words}"
