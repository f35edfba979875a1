"""The report: all facts gathered, what the default export lacks, and the text for the terminal."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from engines.engine_kinds import AUTO_WITH_GPU, AUTO_WITHOUT_GPU, KINDS
from engines.process.terminal import columns, visible
from exporter.doctor.checks import Failed, run_checks
from exporter.doctor.cpp_library import CppFacts
from exporter.doctor.engine_checks import EngineFacts
from exporter.doctor.hub import UNREACHABLE, HubFacts
from exporter.doctor.libraries import LIBRARIES, LibraryFacts, facts_of_unusable, known_version
from exporter.doctor.machine import Disk, Machine, machine_facts

_HUB_SECONDS = 8.0
_WIDTH, _NAMES = 120, 15  # columns of the text, and of the names before it


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """The answer of ``python -m exporter doctor``.

    Attributes:
        ready: whether the default export can run here.
        missing: what it lacks, each a sentence with the remedy; empty if `ready`.
        default_engine: the engine of an export that names none.
        machine: the machine.
        hub: the Hugging Face hub.
        cpp: building in C++.
        libraries: libraries in the order of `exporter.doctor.libraries.LIBRARIES`.
        engines: kinds in the order of `engines.engine_kinds.KINDS`.
    """

    ready: bool
    missing: tuple[str, ...]
    default_engine: str
    machine: Machine
    hub: HubFacts
    cpp: CppFacts
    libraries: tuple[LibraryFacts, ...]
    engines: tuple[EngineFacts, ...]


def make_report(output: Path | None = None) -> Report:
    """Check this machine; libraries are imported in processes of their own, for a few seconds.

    Args:
        output: the folder to which a bundle would be written; None is the working directory.
    """
    libraries = {name: f"library:{name}" for name in LIBRARIES}
    kinds = {kind: f"engine:{kind}" for kind in KINDS}
    # The engines' checks come after the libraries in the same process, which has then imported them.
    answers = run_checks(([*libraries.values(), *kinds.values(), "data:"], ["cpp:"], ["hub:"]), {"hub:": _HUB_SECONDS})
    found = tuple(_library(name, answers[check]) for name, check in libraries.items())
    engines = tuple(_engine(kind, answers[check]) for kind, check in kinds.items())
    machine = machine_facts(output)
    default, missing = _missing(machine, found, {item.kind: item for item in engines}, answers["data:"])
    return Report(
        ready=not missing,
        missing=missing,
        default_engine=default,
        machine=machine,
        hub=_hub(answers["hub:"]),
        cpp=_cpp(answers["cpp:"]),
        libraries=found,
        engines=engines,
    )


def _library(name: str, answer: Any) -> LibraryFacts:
    if isinstance(answer, Failed):
        library = LIBRARIES[name]
        problem = f"{name} {answer} when it is imported: install it anew ({library.install})"
        return facts_of_unusable(name, problem, known_version(library))
    return msgspec.convert(answer, LibraryFacts)


def _engine(kind: str, answer: Any) -> EngineFacts:
    if isinstance(answer, Failed):
        reason = f"its check {answer}: a library above is broken, install it anew ({KINDS[kind].install_command})"
        return EngineFacts(kind=kind, why_not_built=reason, why_not_run=reason)
    return msgspec.convert(answer, EngineFacts)


def _hub(answer: Any) -> HubFacts:
    if isinstance(answer, Failed):
        return HubFacts(endpoint="", reachable=False, token=False, problem=UNREACHABLE)
    return msgspec.convert(answer, HubFacts)


def _cpp(answer: Any) -> CppFacts:
    if isinstance(answer, Failed):
        reason = f"its check {answer}"
        return CppFacts(compiler=None, compiler_problem=reason, cmake=None, library_problem=reason)
    return msgspec.convert(answer, CppFacts)


def _missing(
    machine: Machine, libraries: Sequence[LibraryFacts], engines: dict[str, EngineFacts], data: Any
) -> tuple[str, tuple[str, ...]]:
    """The kind of an export that names none, and what it lacks here."""
    absent: dict[str, list[str]] = {}  # the command that installs libraries to their names
    lacks = []
    for item in libraries:
        if item.required and item.problem is not None:
            name, separator, install = item.problem.partition(" is not installed: ")
            if separator:
                absent.setdefault(install, []).append(name)
            else:
                lacks.append(item.problem)
    lacks += [f"not installed: {', '.join(names)}: {install}" for install, names in absent.items()]
    gpu_kind = engines[AUTO_WITH_GPU]
    default = AUTO_WITH_GPU if machine.gpu is not None and gpu_kind.why_not_built is None else AUTO_WITHOUT_GPU
    # ONNX Runtime in any case: the gate runs the graph in it where an engine cannot run.
    runtime = next(item for item in libraries if item.name == "onnxruntime")
    if runtime.problem is not None:
        lacks.append(runtime.problem)
    elif not lacks and engines[default].why_not_built is not None:
        lacks.append(f"engine {default}: {engines[default].why_not_built}")
    if isinstance(data, str) and not isinstance(data, Failed) and not lacks:
        lacks.append(data)
    if not machine.output.writable:
        lacks.append(f"{machine.output.folder} cannot be written: pass --out DIR to the export")
    return default, tuple(lacks)


# ---- the text


def format_report(report: Report) -> str:
    """Format the report for the terminal: a block of aligned lines for each subject."""
    machine, hub, cpp = report.machine, report.hub, report.cpp
    ready = f"ready: the default export ({report.default_engine}) can run here"
    broken = {item.problem: item.name for item in report.libraries if item.problem and item.version is not None}
    blocks = [
        ("machine", _machine_rows(machine)),
        ("hub", _hub_rows(hub)),
        ("libraries", [(item.name, _library_words(item)) for item in report.libraries]),
        ("C++", _cpp_rows(cpp)),
        ("engines", [(item.kind, words) for item in report.engines for words in _engine_words(item, broken)]),
    ]
    if report.missing:
        blocks.append(("the default export cannot run here", [("missing", sentence) for sentence in report.missing]))
    text = "\n\n".join(_block(title, rows) for title, rows in blocks)
    return text if report.missing else f"{text}\n\n{ready}"


def _block(title: str, rows: Sequence[tuple[str, str]]) -> str:
    """A title, and rows of a name and a text; a name that repeats is left out, and a long text goes on below its beginning."""
    width = max(_NAMES, *(columns(name) for name, _ in rows))
    lines, last = [title], ""
    for name, text in rows:
        shown = "" if name == last else visible(name)
        last = name
        parts = textwrap.wrap(
            visible(text), max(40, _WIDTH - width - 4), break_on_hyphens=False, break_long_words=False
        ) or [""]
        lines.append(f"  {shown}{' ' * (width - columns(shown))}  {parts[0]}".rstrip())
        lines += [f"  {' ' * width}  {part}" for part in parts[1:]]
    return "\n".join(lines)


def gigabytes(count: float) -> str:
    """Bytes in words: ``23.4 GB``, and below a gigabyte ``176 MB``."""
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.0f} MB"


def _machine_rows(machine: Machine) -> list[tuple[str, str]]:
    gpu = machine.gpu
    use = [f"{use}: {' '.join(names)}" for use, names in machine.instructions.items() if names]
    cores = (
        f"{machine.cores} cores"
        if machine.cores == machine.all_cores
        else f"{machine.cores} of {machine.all_cores} cores"
    )
    memory = f"{gigabytes(machine.memory_bytes)}, {gigabytes(machine.available_bytes)} available"
    return [
        ("system", machine.system),
        (
            "GPU",
            f"none: {machine.no_gpu}"
            if gpu is None
            else f"{gpu.name}, {gpu.target}, driver {gpu.driver or 'of unknown version'} for CUDA {gpu.driver_cuda}",
        ),
        ("CPU", f"{machine.cpu}, {cores}"),
        ("instructions", "; ".join(use) or "none that the engines' libraries would use"),
        ("memory", memory if machine.memory_bytes else "not known"),
        ("output", _disk(machine.output)),
        ("temporary", _disk(machine.temporary)),
    ]


def _disk(disk: Disk) -> str:
    return f"{disk.folder}, {gigabytes(disk.free_bytes)} free{'' if disk.writable else ', cannot be written'}"


def _hub_rows(hub: HubFacts) -> list[tuple[str, str]]:
    token = "set" if hub.token else "none: private and gated repositories need one, in HF_TOKEN"
    return [("address", hub.endpoint or "not known"), ("network", hub.problem or "the hub answers"), ("token", token)]


def _library_words(item: LibraryFacts) -> str:
    if item.problem is not None:
        problem = re.sub(r"^\S+ is (?=not installed: |installed and )", "", item.problem)
        return problem if item.version is None else f"{item.version}, {problem}"
    return f"{item.version}{', ' if item.detail else ''}{item.detail}"


def _cpp_rows(cpp: CppFacts) -> list[tuple[str, str]]:
    return [
        ("compiler", cpp.compiler_problem or str(cpp.compiler)),
        ("cmake", cpp.cmake or "not there: apt-get install cmake"),
        ("C++ library", f"cannot be built: {cpp.library_problem}" if cpp.library_problem else "builds here: make cpp"),
    ]


def _engine_words(item: EngineFacts, broken: dict[str, str]) -> list[str]:
    """The lines about a kind; `broken` has the sentences about libraries that the report has already, with their names."""
    library = broken.get(item.why_not_built or "")
    why_not_built = item.why_not_built if library is None else f"{library} is broken, see the libraries above"
    targets = f" for {', '.join(item.targets)}" if item.targets else ""
    builds = f"builds here{targets}" if item.why_not_built is None else f"does not build here: {why_not_built}"
    devices = " and ".join({"cpu": "the CPU", "cuda": "the GPU"}[device] for device in item.runs)
    runs = f"runs here on {devices}" if item.runs else f"does not run here: {item.why_not_run}"
    words = [f"{builds}; {runs}"] if item.why_not_built is None and item.runs else [builds, runs]
    return words if item.why_not_on_gpu is None else [*words, f"not on the GPU: {item.why_not_on_gpu}"]
