"""The option ``--dry-run`` of the command line: the plan as text, or as JSON."""

from __future__ import annotations

import contextlib
import math
import textwrap
from typing import Any

import msgspec

from engines.files.json_text import json_text
from engines.process.terminal import columns, say, visible
from exporter.options.export_options import Options
from exporter.planning.costs import EnginePlan, TowerPlan
from exporter.planning.measured import CORES, PICTURES
from exporter.planning.plan import DiskPlan, Plan, make_plan
from exporter.standard_output import standard_output_is_ours

# Steps whose names need more words for people.
_STEPS = {
    "load": "load the model",
    "data": "the gate's pictures",
    "evaluate": "accuracy of the task",
    "reference": "eager embeddings",
    "rule": "length of texts",
    "probe": "which units need float32",
    "export": "graphs",
    "program": "programs",
}
_WIDTH, _NAMES = 120, 9  # columns of the text, and of the names before it


def dry_run(options: Options, as_json: bool = False) -> int:
    """Print the plan of an export; returns the exit code, 1 if the export would fail or lack an engine that is named.

    Args:
        options: the options of the export.
        as_json: whether to print one JSON object in place of the text.
    """
    with standard_output_is_ours():
        plan = make_plan(options)
    with contextlib.suppress(BrokenPipeError):
        say(json_text(_rounded(msgspec.to_builtins(plan))) if as_json else format_plan(plan))
    return 1 if plan.problems else 0


def _rounded(value: Any, name: str = "") -> Any:
    """The plan's values with whole bytes, and seconds with one digit."""
    if isinstance(value, dict):
        return {key: _rounded(item, key) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_rounded(item, name) for item in value]
    if isinstance(value, float):
        return round(value) if name.endswith("bytes") else round(value, 1)
    return value


def format_plan(plan: Plan) -> str:
    """Format the plan for the terminal: one aligned block, and a last line that says whether the export can run."""
    model = plan.model if plan.architecture in (plan.model, None) else f"{plan.model}, {plan.architecture}"
    tag = "" if plan.tag is None else f", tag {plan.tag}"
    license_ = "" if plan.license is None else f", licence {plan.license}"
    rows = [
        ("model", f"{model}{tag}{license_}"),
        ("weights", _weights(plan)),
        ("precision", plan.precision),
        *((tower.name, _tower(tower, plan)) for tower in plan.towers),
        *(("engine", words) for words in _engines(plan)),
        *(("left out", f"{kind}: {why}") for kind, why in plan.left_out.items()),
        ("steps", ", ".join(_STEPS.get(step, step) for step in plan.steps)),
        ("bundle", f"{plan.bundle}, {_bytes(plan.bundle_bytes)}"),
        ("memory", _memory(plan)),
        *(("disk", _disk(disk, plan)) for disk in plan.disks),
        ("time", _time(plan)),
        *(("note", note) for note in plan.notes),
    ]
    rows += [("problem", problem) for problem in plan.problems]
    verdict = "the export can run"
    if plan.problems:
        verdict = "see the problems above"
    elif plan.bundle_bytes is None or plan.peak_bytes is None:
        verdict = "whether memory and disk suffice is not known without a download"
    elif plan.downloads:
        verdict = f"the export can run if it can download {', '.join(plan.downloads)}"
    end = textwrap.fill(visible(f"nothing was downloaded or written; {verdict}"), _WIDTH, break_on_hyphens=False)
    return f"{_rows(rows)}\n\n{end}"


def _rows(rows: list[tuple[str, str]]) -> str:
    lines, before = [], ""
    for name, text in rows:
        shown = "" if name == before else name
        before = name
        parts = textwrap.wrap(visible(text), _WIDTH - _NAMES - 2, break_on_hyphens=False, break_long_words=False)
        lines.append(f"{shown}{' ' * (_NAMES - columns(shown))}  {parts[0]}")
        lines += [f"{' ' * _NAMES}  {part}" for part in parts[1:]]
    return "\n".join(lines)


def _weights(plan: Plan) -> str:
    return f"{plan.weights}, about {_bytes(plan.download_bytes)} to download" if plan.download_bytes else plan.weights


def _tower(tower: TowerPlan, plan: Plan) -> str:
    size = f", {plan.image_size[0]} x {plan.image_size[1]} pixels" if tower.name == "image" else ""
    if tower.parameters is None:
        return f"its size is not known without a download{size}"
    return f"{tower.parameters / 1e6:.1f} M parameters{size}, graph {_bytes(tower.file_bytes)} ({tower.basis})"


def _engines(plan: Plan) -> list[str]:
    """A line for each kind and target."""
    groups: dict[tuple[str, str], list[EnginePlan]] = {}
    for engine in plan.engines:
        groups.setdefault((engine.kind, engine.target), []).append(engine)
    built = {kind for kind, _ in groups}
    lines = [f"{kind}: runs the graphs, nothing is built" for kind in plan.kinds if kind not in built]
    for (kind, target), engines in groups.items():
        sizes = ", ".join(f"{engine.tower} {_bytes(engine.file_bytes)}" for engine in engines)
        known = [engine.seconds for engine in engines if engine.seconds is not None]
        time = f"built in {sum(known):.0f} s" if known else "time of the compiler not known"
        lines.append(f"{kind} {target}: {sizes}, {time} ({engines[0].basis})")
    return lines


def _memory(plan: Plan) -> str:
    available = _bytes(plan.available_bytes) if plan.available_bytes else "not known"
    if plan.peak_bytes is None:
        return f"peak not known without a download; available: {available}"
    return f"{_bytes(plan.peak_bytes)} at its peak ({plan.peak_basis}), of {available} available"


def _disk(disk: DiskPlan, plan: Plan) -> str:
    need = "need not known" if plan.bundle_bytes is None else _bytes(disk.need_bytes)
    return f"{need}, of {_bytes(disk.free_bytes)} free in {disk.folder}"


def _time(plan: Plan) -> str:
    if plan.seconds is None:
        sized = all(tower.seconds is not None for tower in plan.towers)
        return "not known (see the notes)" if sized else "not known without a download"
    minutes = math.ceil(plan.seconds / 60)
    words = "under a minute" if minutes <= 1 else f"about {minutes} minutes"
    basis = (
        f"measured with {PICTURES} pictures, the gate's others estimated"
        if plan.seconds_basis == "measured"
        else "estimate"
    )
    more = "; the compiler comes on top" if any(engine.seconds is None for engine in plan.engines) else ""
    download = "; without the download" if plan.download_bytes else ""
    return f"{words} on {CORES} cores ({basis}){more}{download}"


def _bytes(count: float | None) -> str:
    if count is None:
        return "size not known"
    return (
        f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.1f} MB" if count < 1e7 else f"{count / 1e6:.0f} MB"
    )
