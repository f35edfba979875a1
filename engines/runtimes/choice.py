"""The choice among the engines of a bundle, and the loading of the chosen engine.

The module that `engines.engine_kinds` names as a kind's runtime (`engines.runtimes.protocol.RuntimeModule`) is imported only when
an engine of that kind is considered. Its `why_not` imports the engine's library, and any exception of that import is a reason
(`engines.process.optional`). So only the necessary engines are considered: those of the kind that the caller named, or with
``auto`` one after the other until one can run.
"""

from __future__ import annotations

import importlib
import logging
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from engines.bundle_files import engine_problem
from engines.engine_kinds import KINDS
from engines.errors import EngineError, EngineUnavailableError, InputError
from engines.manifest import Engine, Manifest, Tower, TowerName
from engines.process.forks import PerProcess, skip_exit_handlers_in_children
from engines.runtimes.protocol import RuntimeModule, TowerRuntime

_LOG = logging.getLogger("engines")
DEVICES = ("auto", "cpu", "cuda")


@dataclass(frozen=True)
class Candidate:
    """An engine of the bundle and whether it can run here."""

    engine: Engine
    why_not: str | None  # the reason why it cannot run here; None: it can


def candidates(
    bundle: Path | None, manifest: Manifest, tower: TowerName, device: str = "auto", kind: str | None = None
) -> list[Candidate]:
    """All engines of a tower, best first; only those of `kind`, if it is given. Their libraries are imported.

    Without a bundle's folder, because only the manifest is here, the engines' files are not looked at.
    """
    return list(best_first(bundle, manifest, tower, device, kind))


def best_first(
    bundle: Path | None, manifest: Manifest, tower: TowerName, device: str = "auto", kind: str | None = None
) -> Iterator[Candidate]:
    """The engines of `candidates` one by one: an engine's library is imported when the iteration reaches the engine."""
    for engine in _ranked(manifest, tower):
        if kind is None or engine.kind == kind:
            problem = engine_problem(bundle, manifest, engine) if bundle is not None else None
            yield Candidate(engine, problem or why_not(engine, manifest.precision, device))


def _ranked(manifest: Manifest, tower: TowerName) -> list[Engine]:
    rank = {kind: i for i, kind in enumerate(KINDS)}
    engines = [engine for engine in manifest.engines if engine.tower == tower]
    # Engines for a GPU come first, then engines for any device, because those may run on the CPU, and then engines for the CPU.
    order = {None: 1, "cpu": 2}
    return sorted(engines, key=lambda engine: (order.get(engine.target.device, 0), rank.get(engine.kind, len(rank))))


def choose_engine(
    bundle: Path, manifest: Manifest, tower: TowerName, engine: str = "auto", device: str = "auto"
) -> Engine:
    """The engine that serves a tower.

    Args:
        bundle: the bundle's folder.
        manifest: the bundle's manifest.
        tower: the tower's name.
        engine: a kind, or ``auto`` for the best engine that can run here.
        device: ``auto``, ``cpu`` or ``cuda``.

    Raises:
        EngineUnavailableError: no engine can run here; the message has the reason for each.
    """
    if device not in DEVICES:
        raise EngineUnavailableError(f"device {device!r} is none of {', '.join(DEVICES)}")
    check_kind(manifest, tower, engine)
    refused = []
    for item in best_first(bundle, manifest, tower, device, None if engine == "auto" else engine):
        if item.why_not is None:
            return item.engine
        refused.append(f"{label(item.engine)}: {item.why_not}")
    reasons = "; ".join(refused)
    raise EngineUnavailableError(f"no engine of the bundle can run its {tower} tower here ({reasons})")


def check_kind(manifest: Manifest, tower: TowerName, engine: str) -> None:
    """Check that a bundle has an engine of a kind for a tower, whether it can run here or not.

    Args:
        manifest: the bundle's manifest.
        tower: the tower's name.
        engine: a kind, or ``auto`` for any.

    Raises:
        EngineUnavailableError: it has none.
    """
    kinds = list(dict.fromkeys(item.kind for item in _ranked(manifest, tower)))
    if not kinds:
        raise EngineUnavailableError(
            f"the bundle has no engine for its {tower} tower, for none could be built: load another tower with towers=, or export "
            "the bundle again"
        )
    if engine not in ("auto", *kinds):
        raise EngineUnavailableError(
            f"the bundle has no engine {engine!r} for its {tower} tower: it has {', '.join(kinds)}"
        )


def report_choice(bundle: Path, manifest: Manifest, chosen: Engine, device: str, chosen_here: bool) -> None:
    """Log which engine serves a tower; a warning with reasons where the engine was chosen here and better ones cannot run."""
    passed_over = []
    for item in best_first(bundle, manifest, chosen.tower, device) if chosen_here else ():
        if item.engine == chosen:
            break
        # Engines of the same kind were built for other GPUs, and the caller may have excluded the CPU or the GPUs.
        if item.engine.kind != chosen.kind and _may_be_on(item.engine, device):
            passed_over.append(f"{label(item.engine)}: {item.why_not}")
    words = f"the {chosen.tower} tower of {bundle} runs on {label(chosen)}"
    if passed_over:
        _LOG.warning("%s; not on %s", words, "; ".join(passed_over))
    else:
        _LOG.info("%s", words)


def _may_be_on(engine: Engine, device: str) -> bool:
    """Whether an engine was built for a device that the caller allows."""
    if device == "auto" or engine.target.device is None:
        return True
    return (engine.target.device == "cpu") == (device == "cpu")


def label(engine: Engine) -> str:
    """An engine's label in a sentence: ``tensorrt sm80``."""
    return f"{engine.kind} {engine.target.device}" if engine.target.device else engine.kind


def open_tower(
    bundle: Path, engine: Engine, tower: Tower, precision: str, device: str = "auto", /, **options: Any
) -> TowerRuntime:
    """Load one engine.

    Args:
        bundle: the bundle's folder.
        engine: an engine that `choose_engine` returned.
        tower: the tower's signature.
        precision: the bundle's precision.
        device: ``auto``, ``cpu`` or ``cuda``.
        options: options of the engine's runtime; see its ``open_tower``.

    Raises:
        InputError: the runtime has no such option.
        EngineError: the engine cannot be loaded.
    """
    module = _module(engine.kind)
    known = list(module.Options.__annotations__)
    unknown = [name for name in options if name not in known]
    if unknown:
        raise InputError(f"engine {engine.kind} has no option {unknown[0]!r}: it takes {', '.join(known)}")
    return module.open_tower(bundle, engine, tower, precision, device, **options)


def open_for_forks(
    bundle: Path, engine: Engine, tower: Tower, precision: str, device: str = "auto", /, **options: Any
) -> PerProcess[TowerRuntime]:
    """A tower of `open_tower` for this process; a forked child opens the engine again at its first use there.

    In the child, an engine that was on a GPU in the parent raises an `EngineError`, because CUDA does not work after a fork.
    """

    folder = Path(os.path.abspath(bundle))  # a child may work in another folder

    def make() -> TowerRuntime:
        return open_tower(folder, engine, tower, precision, device, **options)

    def make_in_child() -> TowerRuntime:
        if on_gpu:
            raise EngineError(
                f"the bundle was loaded on a GPU before this process was forked, and CUDA does not survive a fork: load {bundle} "
                "in the child process, or start processes with 'spawn'"
            )
        return make()

    skip_exit_handlers_in_children()
    held = PerProcess(make, make_in_child)
    on_gpu = held.get().on_gpu
    return held


def why_not(engine: Engine, precision: str, device: str = "auto") -> str | None:
    """The reason why an engine of that precision cannot run here; None if it can."""
    if engine.kind not in KINDS:
        return f"this release does not know the engine kind {engine.kind!r}; upgrade openclip-engines"
    return _module(engine.kind).why_not(engine, precision, device)


def _module(kind: str) -> RuntimeModule:
    return cast(RuntimeModule, importlib.import_module(KINDS[kind].runtime))
