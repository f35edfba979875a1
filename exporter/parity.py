"""The parity gate: the exported engine against eager float32 PyTorch, on images and captions.

Eager runs open_clip's own transform and model; the engine runs this project's preprocessing and runtime, the very code that
serves. What is compared is thus everything between a picture and its embedding.
"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from engines.manifest import Engine, Limits, Parity, Preprocess, Tower, TowerName, TowerParity
from engines.preprocess import normalize_pixels, preprocess_image
from engines.verify import compare_embeddings, top1_agreement, within
from exporter.parity_data import ParityData
from exporter.precision import Precision
from exporter.source import Source
from exporter.widen_graph import widen_graph

# Eager's share of an export's time is bounded by its arithmetic: about a minute on two cores.
FLOP_BUDGET = 6e12
_LEAST_SAMPLES = 4
_BATCH = 8


@dataclass(frozen=True)
class Reference:
    """Inputs of one tower and eager float32's embeddings for them.

    Attributes:
        inputs: uint8 (N, H, W, 3) pixels or int32 (N, L) ids.
        embeds: (N, D) float32, L2-normalized.
    """

    inputs: np.ndarray
    embeds: np.ndarray

    def head(self, count: int) -> Reference:
        """The first `count` rows."""
        return Reference(self.inputs[:count], self.embeds[:count])


def open_clip_transform(config: Preprocess) -> Any:
    """open_clip's inference transform of a checkpoint's preprocessing: a Pillow image to float32 (3, H, W)."""
    from open_clip.transform import PreprocessCfg, image_transform_v2

    return image_transform_v2(
        PreprocessCfg(
            size=config.size,
            mode="RGB",
            mean=config.mean,
            std=config.std,
            interpolation=config.interpolation,
            resize_mode=config.resize_mode,
            fill_color=config.fill_color,
        ),
        is_train=False,
    )


def image_reference(source: Source, data: ParityData) -> Reference:
    """Eager's image embeddings for as many of the images as the budget allows, at least a few."""
    transform = open_clip_transform(source.preprocess)
    model: Any = source.model
    dtype = next(model.parameters()).dtype

    def eager(images: list[Any]) -> torch.Tensor:
        batch = torch.stack([transform(image) for image in images]).to(dtype)
        embeds: torch.Tensor = model.encode_image(batch, normalize=True)
        return embeds

    count = _affordable(eager, list(data.images[:1]), len(data.images))
    images = list(data.images[:count])
    pixels = np.stack([preprocess_image(image, source.preprocess) for image in images])
    return Reference(pixels, _in_batches(eager, images))


def text_reference(source: Source, data: ParityData) -> Reference:
    """Eager's text embeddings for as many of the captions as the budget allows, at least a few."""
    if source.tokenizer is None:
        raise ValueError("the source was loaded without its tokenizer")
    model: Any = source.model
    ids = source.tokenizer(list(data.captions)).to(torch.int64)

    def eager(rows: list[torch.Tensor]) -> torch.Tensor:
        embeds: torch.Tensor = model.encode_text(torch.stack(rows), normalize=True)
        return embeds

    count = _affordable(eager, [ids[0]], len(ids))
    return Reference(ids[:count].numpy().astype(np.int32), _in_batches(eager, list(ids[:count])))


def _affordable(eager: Callable[[list[Any]], torch.Tensor], sample: list[Any], available: int) -> int:
    """How many samples fit the budget, from the operations that one takes."""
    from torch.utils.flop_counter import FlopCounterMode

    counter = FlopCounterMode(display=False)
    with torch.no_grad(), counter:
        eager(sample)
    fitting = int(FLOP_BUDGET / max(counter.get_total_flops(), 1))
    return min(available, max(fitting, _LEAST_SAMPLES))


def _in_batches(eager: Callable[[list[Any]], torch.Tensor], samples: list[Any]) -> np.ndarray:
    with torch.inference_mode():
        parts = [eager(samples[i : i + _BATCH]).float() for i in range(0, len(samples), _BATCH)]
    return torch.cat(parts).numpy()


def tower_batches(reference: Reference, config: Preprocess | None, batch: int = _BATCH) -> Iterator[torch.Tensor]:
    """A reference's inputs as a torch tower takes them: as they are, or normalized float32 if `config` is given."""
    for i in range(0, len(reference.inputs), batch):
        rows = reference.inputs[i : i + batch]
        yield torch.from_numpy(normalize_pixels(rows, config) if config is not None else rows)


def runnable(engine: Engine, precision: Precision) -> bool:
    """Whether an engine of that precision can be run on this host; bfloat16 graphs can be, with their types widened."""
    from engines.runtime import why_not

    return engine.kind == "onnxruntime" or why_not(engine, precision.name) is None


def run_engine(
    bundle: Path,
    engine: Engine,
    tower: Tower,
    reference: Reference,
    config: Preprocess,
    precision: Precision,
    **options: Any,
) -> tuple[np.ndarray, str]:
    """The engine's embeddings of a reference's inputs, and what ran ("onnxruntime 1.32.0 CPUExecutionProvider").

    `options` are those of the engine's runtime.

    A bfloat16 graph that no kernel here can run is run with its types widened to float32, and the description says so.
    """
    from engines.runtime import open_tower, why_not

    normalized = engine.tower == "image" and tower.input.dtype == "float32"
    with contextlib.ExitStack() as stack:
        note, ran = "", precision.name
        if why_not(engine, precision.name) is not None and precision.name == "bf16":
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix=".widened-", dir=bundle)))
            widen_graph(bundle / engine.file, folder / engine.file)
            bundle, note, ran = folder, ", bfloat16 widened to float32", "fp32"
        runtime = stack.enter_context(contextlib.closing(open_tower(bundle, engine, tower, ran, **options)))
        batches = tower_batches(reference, config if normalized else None)
        return np.concatenate([runtime.run(batch.numpy()) for batch in batches]), runtime.description + note


def simulation_row(towers: Mapping[str, TowerParity], precision: Precision) -> Parity:
    """The rounding simulation's figures as a row of the gate; it has no top-1, for it saw only some of the samples."""
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
    """The gate's verdict over all exported towers.

    Args:
        engine: kind of the engine, as the manifest names it.
        verified_with: what computed `embeds`.
        references: of each tower.
        embeds: (N, D) float32 of each tower, for its reference's inputs.
        limits: of the precision.
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
