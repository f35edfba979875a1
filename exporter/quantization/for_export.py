"""The quantization of one tower within an export: its calibration inputs in batches, and the report of the outcome."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt
import torch

from engines.inputs.preprocess import normalize_pixels
from engines.inputs.text_length import needed_lengths, plan_batches
from engines.manifest import Preprocess, Quantization, TextLength, TowerParity
from exporter.precision.precisions import Precision
from exporter.precision.probe import meets
from exporter.quantization.recipe import Batches, Quantized, quantize_tower
from exporter.towers.modules import ImageTower, TowerModule

BATCH = 8


@dataclass(frozen=True)
class QuantizationInputs:
    """Calibration inputs of both towers.

    Attributes:
        pixels: the pictures, (N, H, W, 3) uint8; None: no image tower is quantized.
        pixels_source: one line on the pictures' origin.
        ids: the token ids, (M, L) int32; None: no text tower is quantized.
        ids_source: one line on the captions' origin.
        seed: the seed of every choice.
    """

    pixels: npt.NDArray[np.uint8] | None
    pixels_source: str
    ids: npt.NDArray[np.int32] | None
    ids_source: str
    seed: int = 0


def image_batches(pixels: npt.NDArray[np.uint8], normalize: Preprocess | None) -> Batches:
    """Make an image tower's batches of pixels (N, H, W, 3), which may be mapped from a file."""

    def batches(count: int | None) -> Iterator[torch.Tensor]:
        most = len(pixels) if count is None else min(count, len(pixels))
        for start in range(0, most, BATCH):
            rows = np.array(pixels[start : min(start + BATCH, most)])
            yield torch.from_numpy(normalize_pixels(rows, normalize) if normalize is not None else rows)

    return batches


def text_batches(ids: npt.NDArray[np.int32], length: TextLength, pad_id: int) -> Batches:
    """Make batches of ids (N, L), cut as the runtime cuts them, because padding that is never computed must not set ranges."""

    def batches(count: int | None) -> Iterator[torch.Tensor]:
        rows = ids if count is None else ids[:count]
        lengths = needed_lengths(rows, length, pad_id)
        for indices in plan_batches(lengths, BATCH):
            yield torch.from_numpy(np.ascontiguousarray(rows[indices, : int(lengths[indices].max())]))

    return batches


def quantize_for_export(
    module: TowerModule,
    precision: Precision,
    inputs: QuantizationInputs,
    normalize: Preprocess | None,
    length: TextLength | None,
    pad_id: int,
) -> Quantized:
    """Quantize a tower in place so that it meets the gate's limits with room to spare.

    Args:
        module: the tower in float32.
        precision: int8 or fp8.
        inputs: the inputs for calibration.
        normalize: the preprocessing of an image tower with float32 input; None for others.
        length: the length rule of a text tower; None for an image tower.
        pad_id: the tokenizer's padding id.
    """
    assert precision.quantized is not None
    if isinstance(module, ImageTower):
        assert inputs.pixels is not None
        batches = image_batches(inputs.pixels, normalize)
    else:
        assert inputs.ids is not None
        assert length is not None
        batches = text_batches(inputs.ids, length, pad_id)

    def good(parity: TowerParity) -> bool:
        return meets(parity, precision)

    return quantize_tower(module, batches, precision.quantized, good, inputs.seed)


def describe(found: Quantized, inputs: QuantizationInputs, is_image: bool) -> Quantization:
    """Make the manifest's entry."""
    name: Any = str(found.dtype).removeprefix("torch.")
    source = inputs.pixels_source if is_image else inputs.ids_source
    return Quantization(
        dtype=name,
        layers=len(found.scales),
        share=round(found.share, 5),
        kept=found.kept,
        calibration=source,
        samples=found.samples,
    )


def report(found: Quantized) -> dict[str, Any]:
    """Make the report's entry: every layer's range, and the method that chose it."""
    return {
        "share_of_flops": found.share,
        "samples": found.samples,
        "tried": found.searched,
        "simulated": msgspec.to_builtins(found.parity),
        "kept": found.kept,
        "layers": {
            name: {"limit": scales.limit, "chosen_by": scales.chosen_by, "smoothing": scales.smoothing}
            for name, scales in found.scales.items()
        },
    }
