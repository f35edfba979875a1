"""The recipe that quantizes a tower: smoothing, ranges by measured error, and a search for layers to keep in high precision.

In linear layers and dense convolutions (`exporter.quantization.sites`), weights are rounded symmetrically channel by channel, and
inputs symmetrically with one scale for a layer; the residual stream, norms and attention stay as they are. The recipe works on the
torch module before it is traced, as every precision does, so that one set of scales serves the float32 graph for CPUs and the
float16 graph for GPUs, and the measured module is the exported module.

No library is used, for these reasons. ONNX Runtime's quantizer and Intel's neural-compressor work on the finished graph: every
intermediate tensor of the calibration data becomes an output, so memory grows with the images, one method chooses all ranges, and
ONNX Runtime has no smoothing. NVIDIA's Model Optimizer (0.47) calibrates modules well, but its modules do not pass
``torch.onnx.export(dynamo=True)``, and its ranges, too, come from one method for all layers. torchao quantizes for PyTorch's own
kernels. None of them uses the embeddings to search for the layers to leave out, or promises scales that are exact in both float32
and float16.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import nn

from engines.manifest import TowerParity
from exporter.errors import ExportError
from exporter.quantization.choosing import choose_limit
from exporter.quantization.layers import QuantizedLayer, quantized
from exporter.quantization.sensitivity import search
from exporter.quantization.sites import Site, find_sites, other_products
from exporter.quantization.smoothing import choose_strength, find_folds, fold
from exporter.quantization.statistics import Record, observe
from exporter.towers.modules import TowerModule

SMOOTHING_SAMPLES = 64
_SEARCH_FLOPS = 5e12  # FLOPs of one try, about half a minute on two cores
_LEAST_SEARCHED = 8

Batches = Callable[[int | None], Iterator[torch.Tensor]]


@dataclass(frozen=True)
class SiteScales:
    """The scales of one quantized layer."""

    limit: float  # the limit of the input's magnitude
    chosen_by: str  # the method that chose the limit: "max", "percentile 99.99", "mse", "entropy"
    smoothing: float | None  # the strength of smoothing; None: the layer is not smoothed


@dataclass(frozen=True)
class Quantized:
    """A tower's quantization.

    Attributes:
        dtype: int8 or float8_e4m3fn.
        sites: the sites in the order of the data; their layers are `QuantizedLayer`, or the original where it was kept.
        scales: the scales by the name of a quantized site.
        kept: the reasons why sites stay in high precision, by the site's name.
        share: the quantized share of the FLOPs of all linear layers and convolutions, 0 to 1.
        samples: the number of calibration samples.
        parity: the parity of the quantized tower with the float32 tower, on calibration samples.
        searched: the number of combinations that the search tried.
    """

    dtype: torch.dtype
    sites: tuple[Site, ...]
    scales: dict[str, SiteScales]
    kept: dict[str, str]
    share: float
    samples: int
    parity: TowerParity
    searched: int

    @property
    def layers(self) -> Iterator[QuantizedLayer]:
        """The quantized layers."""
        for site in self.sites:
            if isinstance(site.layer, QuantizedLayer):
                yield site.layer

    def settle(self) -> None:
        """Release the original weights; to be called before the tower is converted."""
        for layer in self.layers:
            layer.settle()


def quantize_tower(
    tower: TowerModule,
    batches: Batches,
    dtype: torch.dtype,
    good: Callable[[TowerParity], bool],
    seed: int = 0,
    smooth: bool = True,
    only_max: bool = False,
) -> Quantized:
    """Quantize a float32 tower in place.

    Args:
        tower: a tower of `exporter.towers.modules`.
        batches: ``batches(n)`` gives the first n calibration samples as inputs of the tower, ``batches(None)`` all; it is read as a
            stream, twice.
        dtype: int8 or float8_e4m3fn.
        good: whether the quantized tower's embeddings are close enough to the float32 tower's.
        seed: the seed of the choice of rows on which layers are measured.
        smooth: whether to fold outlier channels into weights.
        only_max: whether to use the largest seen magnitude as every range. With ``smooth=False`` this is plain quantization.

    Raises:
        ExportError: the tower has no layer that can be quantized, or calibration data gives a layer no range.
    """
    sites = find_sites(tower)
    if not sites:
        raise ExportError(
            "this tower is of no known family, so that it is unknown which of its layers can be quantized: export it with --fp16"
        )
    flops = _product_flops(tower, sites, next(batches(2)))
    first = list(batches(SMOOTHING_SAMPLES))
    records, embeds = observe(tower, sites, first, seed, with_histogram=False)
    _check_finite(records)
    strengths = _smooth(tower, sites, records, dtype) if smooth else {}
    records, _ = observe(tower, sites, batches(None), seed, with_histogram=True)
    _check_finite(records)
    scales = {}
    for site in sites:
        record = records[site.name]
        try:
            how, limit = choose_limit(site.layer, record, dtype)
        except ValueError as error:
            raise ExportError(
                f"calibration gives {site.name} no range ({error}): use pictures and captions like those to be embedded"
            ) from error
        if only_max:
            assert record.histogram is not None
            how, limit = "max", record.histogram.largest
        scales[site.name] = SiteScales(limit, how, strengths.get(site.name))
    samples = records[sites[0].name].samples
    del records
    for site in sites:
        site.put(quantized(site.layer, dtype, scales[site.name].limit))
    part = _searched(first, sum(flops.values()))
    exact = torch.cat([embeds[i] for i in part]).numpy()
    outcome = search(tower, sites, [first[i] for i in part], exact, good)
    for site in sites:
        layer = site.layer
        assert isinstance(layer, QuantizedLayer)
        if site.name in outcome.kept:
            site.put(layer.original)
            del scales[site.name]
    total = sum(flops.values())
    return Quantized(
        dtype=dtype,
        sites=tuple(sites),
        scales=scales,
        kept={
            name: f"quantized alone it leaves a mean cosine of {cosine:.5f}" for name, cosine in outcome.kept.items()
        },
        share=sum(flops[name] for name in scales) / total,
        samples=samples,
        parity=outcome.parity,
        searched=outcome.tried,
    )


def _searched(batches: list[torch.Tensor], flops: float) -> list[int]:
    """Choose the indices of the batches to search with: evenly spaced, as many as the budget allows."""
    samples = max(_LEAST_SEARCHED, _SEARCH_FLOPS / max(flops, 1.0))
    mean = sum(len(batch) for batch in batches) / len(batches)
    count = min(len(batches), max(1, round(samples / mean)))
    return [i * len(batches) // count for i in range(count)]


def _smooth(tower: TowerModule, sites: list[Site], records: dict[str, Record], dtype: torch.dtype) -> dict[str, float]:
    """Fold every possible smoothing into weights; returns the strength by the name of the site."""
    name_of = {id(site.layer): site.name for site in sites}
    strengths: dict[str, float] = {}
    for where in find_folds(tower):
        names = [name_of[id(layer)] for layer in where.consumers if id(layer) in name_of]
        if len(names) != len(where.consumers):
            continue  # smoothing does not help a consumer that stays in high precision
        of_consumers = [records[name] for name in names]
        largest = torch.stack([record.largest for record in of_consumers if record.largest is not None]).amax(dim=0)
        rows = torch.cat((of_consumers[-1].even_rows, of_consumers[-1].extreme_rows))
        strength, factors = choose_strength(largest, rows, where.consumers, dtype)
        fold(where, factors)
        strengths |= dict.fromkeys(names, strength)
    return strengths


def _check_finite(records: dict[str, Record]) -> None:
    for name, record in records.items():
        if record.largest is None or not bool(torch.isfinite(record.largest).all()):
            raise ExportError(
                f"the float32 tower itself makes {name} infinite or not a number on the calibration data, before anything is "
                "quantized: the checkpoint's weights or what they make of these inputs overflow; check the checkpoint, or "
                "calibrate with other data"
            )


def _product_flops(tower: TowerModule, sites: list[Site], batch: torch.Tensor) -> dict[str, float]:
    """Count the FLOPs of a sample in every linear layer and convolution, by name, while a batch runs."""
    counted: dict[str, float] = {}
    named = [(site.name, site.layer) for site in sites] + list(other_products(tower, sites))
    hooks = []
    for name, layer in named:
        hooks.append(layer.register_forward_hook(_counter(counted, name, len(batch))))
    try:
        with torch.inference_mode():
            tower(batch)
    finally:
        for hook in hooks:
            hook.remove()
    return counted


def _counter(counted: dict[str, float], name: str, samples: int) -> Callable[..., None]:
    def hook(layer: nn.Module, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
        weight = layer.weight
        assert isinstance(weight, torch.Tensor)
        per_output = weight.numel() / weight.shape[0]
        counted[name] = counted.get(name, 0.0) + 2.0 * output.numel() * per_output / samples

    return hook
