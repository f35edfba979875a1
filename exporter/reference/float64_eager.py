"""Eager PyTorch in float64, and the distance of its own float32 from it, for rows outside the float32 gate's limits.

A model can be rough: on some inputs any two float32 evaluations differ by more than the limits allow, because somewhere inside a
small difference of large numbers decides. One evaluation is not enough to measure an input's roughness, because its error is
random. So eager's distance from float64 is the largest of several evaluations, all but the first with weights whose last bits are
disturbed by the variance of one rounding; a float32 evaluation in another order or with folded weights can be as far away.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from engines.manifest import Preprocess, TowerName
from engines.verification.rough_inputs import distances
from exporter.errors import ExportError
from exporter.memory import release_memory
from exporter.reference.eager import Reference, open_clip_transform
from exporter.reference.parity_data import ParityData
from exporter.source.loading import Source

EVALUATIONS = 8  # the number of evaluations with disturbed weights, besides eager's own
# One in so many last bits is flipped, because an error that is uniform within half a unit of the last place has variance 1/12, and
# a flip with probability 1/12 has the same.
_FLIP_ONE_IN = 12
_CHUNK = 1 << 20
_BATCH = 8


class NotMeasurableError(Exception):
    """The model cannot be evaluated in float64; the message is the reason."""


@dataclass(frozen=True)
class Measured:
    """The measurement of one input of a tower.

    Attributes:
        exact: the embedding in float64, (D,), L2-normalized.
        eager: the largest Euclidean distance of a float32 evaluation from it.
    """

    exact: npt.NDArray[np.float64]
    eager: float


@dataclass
class Float64Eager:
    """The measurement of the gate's inputs in float64; it loads the model again, because the export consumed it.

    Attributes:
        load: a function that loads the exported model in float32.
        weights: the `Source.info.weights` of the exported model.
        data: the pictures of the gate.
        references: the inputs and eager's embeddings of each tower.
        measured: the measurements of each tower, by the input's index.
    """

    load: Callable[[], Source]
    weights: str
    data: ParityData
    references: dict[TowerName, Reference]
    measured: dict[TowerName, dict[int, Measured]] = field(default_factory=dict)
    _source: Source | None = None

    @contextlib.contextmanager
    def loaded(self) -> Iterator[None]:
        """Keep the model in memory between measurements inside the context."""
        try:
            yield
        finally:
            self._source = None
            release_memory()

    def measure(self, tower: TowerName, indices: Sequence[int]) -> None:
        """Measure the inputs that are not measured yet; this takes twice the memory of the tower's weights.

        Raises:
            NotMeasurableError: part of the model computes in less than float64 whatever its weights' dtype, or is not finite in it.
            ExportError: the checkpoint changed since the export began.
        """
        known = self.measured.setdefault(tower, {})
        unmeasured = [index for index in indices if index not in known]
        if not unmeasured:
            return
        if self._source is None:
            self._source = self.load()
            if self._source.info.weights != self.weights:
                raise ExportError("the checkpoint changed while it was exported: export it again")
        eager_embeds = self.references[tower].embeds[unmeasured]
        model: Any = self._source.model
        inputs, exact_inputs = self._inputs(tower, unmeasured, self._source.preprocess)
        with _only(model, tower) as (part, encode):
            evaluated = [eager_embeds]
            for seed in range(EVALUATIONS):
                with disturbed(part, seed):
                    evaluated.append(_embed(encode, inputs))
            part.double()
            try:
                with _Float64Only() as operations:
                    exact = _embed(encode, exact_inputs)
            finally:
                part.float()  # exactly the former weights, because every float32 number is a float64 number
        if operations.others:
            raise NotMeasurableError(
                f"{', '.join(sorted(operations.others))} of this model computes in less than float64"
            )
        if not np.isfinite(exact).all():
            raise NotMeasurableError("this model gives NaN or infinity in float64")
        farthest = np.max([distances(exact, embeds) for embeds in evaluated], axis=0)
        for index, row, distance in zip(unmeasured, exact, farthest, strict=True):
            known[index] = Measured(row, float(distance))

    def exact(self, tower: TowerName, indices: Sequence[int]) -> npt.NDArray[np.float64]:
        """The embeddings (K, D) of measured inputs in float64."""
        return np.stack([self.measured[tower][index].exact for index in indices])

    def eager(self, tower: TowerName, indices: Sequence[int]) -> npt.NDArray[np.float64]:
        """Eager's distances from float64 on measured inputs, (K,)."""
        return np.array([self.measured[tower][index].eager for index in indices])

    def _inputs(
        self, tower: TowerName, indices: Sequence[int], config: Preprocess
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Make eager's inputs in float32, and the same inputs in float64; for pictures, their bytes are normalized in float64."""
        if tower == "text":
            ids = torch.from_numpy(self.references[tower].inputs[list(indices)].astype(np.int64))
            return ids, ids
        transform = open_clip_transform(config)
        pixels = torch.stack([transform(self.data.images[index]) for index in indices])
        mean, std = (torch.tensor(v, dtype=torch.float64).reshape(3, 1, 1) for v in (config.mean, config.std))
        # The transform made its floats from bytes, which rounding recovers.
        whole = ((pixels.double() * std + mean) * 255.0).round()
        return pixels, (whole / 255.0 - mean) / std


@contextlib.contextmanager
def disturbed(module: nn.Module, seed: int) -> Iterator[None]:
    """Flip one in twelve of the parameters' last bits inside the context; afterwards the parameters are bitwise the former ones."""
    _flip(module, seed)
    try:
        yield
    finally:
        _flip(module, seed)


def _flip(module: nn.Module, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    for parameter in module.parameters():
        if parameter.dtype != torch.float32 or not parameter.numel():
            continue
        bits = parameter.detach().view(torch.int32) if parameter.ndim else parameter.detach().view(torch.int32)[None]
        for part in torch.split(bits, max(1, _CHUNK // max(1, bits[0].numel()))):
            drawn = torch.empty(part.shape, dtype=torch.uint8).random_(0, _FLIP_ONE_IN, generator=generator)
            part.bitwise_xor_((drawn == 0).to(torch.int32))


@contextlib.contextmanager
def _only(model: Any, tower: TowerName) -> Iterator[tuple[nn.Module, Callable[[torch.Tensor], torch.Tensor]]]:
    """Yield one tower's part of the model, and the function that embeds with it; the other tower is not touched."""
    if tower == "image":
        yield model.visual, lambda batch: model.encode_image(batch, normalize=True)
        return
    visual, model.visual = model.visual, None
    try:
        yield model, lambda batch: model.encode_text(batch, normalize=True)
    finally:
        model.visual = visual


def _embed(encode: Callable[[torch.Tensor], torch.Tensor], inputs: torch.Tensor) -> npt.NDArray[np.floating]:
    with torch.inference_mode():
        return torch.cat([encode(batch) for batch in torch.split(inputs, _BATCH)]).numpy()


class _Float64Only(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """A mode that records every operation whose result is of another floating-point type than float64."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.others: set[str] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for value in out if isinstance(out, (tuple, list)) else (out,):
            if isinstance(value, torch.Tensor) and value.is_floating_point() and value.dtype != torch.float64:
                self.others.add(str(func))
        return out
