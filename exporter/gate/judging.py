"""The parity gate of one engine: it is compared with eager float32 PyTorch, on images and captions.

Eager runs open_clip's own transform and model; the engine runs this project's preprocessing and runtime, the same code that
serves. The comparison thus includes every step from a picture to its embedding.
"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from engines.manifest import Engine, Limits, Parity, Preprocess, Tower, TowerName, TowerParity
from engines.verification.embeddings import compare_embeddings, top1_agreement, within
from exporter.graphs.widen_graph import widen_graph
from exporter.precision.precisions import Precision
from exporter.reference.eager import Reference, tower_batches


class EngineRun(NamedTuple):
    """An engine's run on a reference's inputs.

    Attributes:
        embeds: (N, D) float32, L2-normalized.
        description: the runtime, such as ``onnxruntime 1.32.0 CPUExecutionProvider``.
        on_gpu: whether the runtime computed on a GPU.
    """

    embeds: np.ndarray
    description: str
    on_gpu: bool


def runnable(engine: Engine, precision: Precision) -> bool:
    """Whether an engine of `precision` can run on this host; bfloat16 graphs can, with their types widened."""
    from engines.runtimes.choice import why_not

    return engine.kind == "onnxruntime" or why_not(engine, precision.name) is None


def run_engine(
    bundle: Path,
    engine: Engine,
    tower: Tower,
    reference: Reference,
    config: Preprocess,
    precision: Precision,
    **options: Any,
) -> EngineRun:
    """Run an engine on a reference's inputs.

    `options` are those of the engine's runtime. A bfloat16 graph without kernels here runs with its types widened to float32, which
    the description records.
    """
    from engines.runtimes.choice import open_tower, why_not

    normalized = engine.tower == "image" and tower.input.dtype == "float32"
    with contextlib.ExitStack() as stack:
        note, ran = "", precision.name
        if why_not(engine, precision.name) is not None and precision.name == "bf16":
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix=".widened-", dir=bundle)))
            widen_graph(bundle / engine.file, folder / engine.file)
            bundle, note, ran = folder, ", bfloat16 widened to float32", "fp32"
        runtime = stack.enter_context(contextlib.closing(open_tower(bundle, engine, tower, ran, **options)))
        batches = tower_batches(reference, config if normalized else None)
        embeds = np.concatenate([runtime.run(batch.numpy()) for batch in batches])
        return EngineRun(embeds, runtime.description + note, runtime.on_gpu)


def simulation_row(towers: Mapping[str, TowerParity], precision: Precision) -> Parity:
    """Make the gate's row of the rounding simulation's figures, without top-1, because it ran on only some of the samples."""
    limits = precision.limits
    return Parity(
        engine="simulation",
        verified_with=f"torch {torch.__version__} CPU, every layer rounded to {str(precision.dtype).removeprefix('torch.')}",
        towers={**towers},
        top1_agreement=None,
        limits=limits,
        passed=all(within(parity, limits) for parity in towers.values()),
    )


def judge(
    engine: str,
    verified_with: str,
    references: dict[TowerName, Reference],
    embeds: dict[TowerName, np.ndarray],
    limits: Limits,
) -> Parity:
    """Judge an engine over all exported towers; returns the gate's row.

    Args:
        engine: the engine's kind, as in the manifest.
        verified_with: the runtime that computed `embeds`.
        references: the reference of each tower.
        embeds: the embeddings of each tower for its reference's inputs, (N, D) float32.
        limits: the precision's limits.
    """
    towers: dict[str, TowerParity] = {
        name: compare_embeddings(reference.embeds, embeds[name]) for name, reference in references.items()
    }
    agreement = None
    if "image" in references and "text" in references:
        image, text = references["image"].embeds, references["text"].embeds
        agreement = top1_agreement(image, text, embeds["image"], embeds["text"], limits.tie_margin)
    passed = all(within(parity, limits) for parity in towers.values())
    if agreement is not None:
        passed = passed and agreement >= limits.top1_agreement
    return Parity(
        engine=engine,
        verified_with=verified_with,
        towers=towers,
        top1_agreement=agreement,
        limits=limits,
        passed=passed,
    )
