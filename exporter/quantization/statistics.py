"""Statistics of calibration data, gathered while it streams through a tower: a few numbers and rows for each layer."""

from __future__ import annotations

import contextlib
import zlib
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import nn

from exporter.quantization.layers import operand
from exporter.quantization.ranges import Histogram
from exporter.quantization.sites import Site

KEPT_ROWS = 192  # the number of kept rows of each layer's input, chosen evenly from all
EXTREME_ROWS = 64  # the number of kept rows with the largest magnitudes, rare tokens that a few networks depend on
_HISTOGRAM_SHARE = (
    4_000_000  # the number of counted values of a batch; of a larger batch every second, third … row is counted
)


class Record:
    """The statistics of one layer's inputs.

    Attributes:
        largest: the largest magnitude of each channel, (K,).
        histogram: the histogram of magnitudes; None where only smoothing needs the statistics.
        samples: the number of samples (images, texts).
    """

    def __init__(self, seed: int, with_histogram: bool) -> None:
        self.largest: torch.Tensor | None = None
        self.histogram = Histogram() if with_histogram else None
        self.samples = 0
        self._generator = torch.Generator().manual_seed(seed)
        self._even: tuple[torch.Tensor, torch.Tensor] | None = None  # keys, rows
        self._extreme: tuple[torch.Tensor, torch.Tensor] | None = None

    def add(self, rows: torch.Tensor, samples: int) -> None:
        """Add rows (R, K) to the statistics."""
        magnitude = rows.abs()
        most = magnitude.amax(dim=0)
        self.largest = most if self.largest is None else torch.maximum(self.largest, most)
        self.samples += samples
        keys = torch.rand(len(rows), generator=self._generator)
        self._even = _top(self._even, keys, rows, KEPT_ROWS)
        self._extreme = _top(self._extreme, magnitude.amax(dim=1), rows, EXTREME_ROWS)
        if self.histogram is not None:
            step = max(1, rows.numel() // _HISTOGRAM_SHARE)
            self.histogram.add(rows[::step] if step > 1 else rows)
            self.histogram.largest = max(self.histogram.largest, float(most.max()))

    @property
    def even_rows(self) -> torch.Tensor:
        """The rows that were chosen evenly, (R, K)."""
        assert self._even is not None
        return self._even[1]

    @property
    def extreme_rows(self) -> torch.Tensor:
        """The rows with the largest magnitudes, (R, K)."""
        assert self._extreme is not None
        return self._extreme[1]


def _top(
    kept: tuple[torch.Tensor, torch.Tensor] | None, keys: torch.Tensor, rows: torch.Tensor, count: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the `count` rows with the largest keys among the kept rows and the new ones."""
    order = torch.sort(keys, descending=True, stable=True).indices[:count]
    keys, rows = keys[order], rows[order]
    if kept is not None:
        keys, rows = torch.cat((kept[0], keys)), torch.cat((kept[1], rows))
        order = torch.sort(keys, descending=True, stable=True).indices[:count]
        keys, rows = keys[order], rows[order]
    return keys, rows.clone()


def observe(
    tower: nn.Module, sites: Sequence[Site], batches: Iterable[torch.Tensor], seed: int, with_histogram: bool
) -> tuple[dict[str, Record], list[torch.Tensor]]:
    """Run batches through a float32 tower, and record the inputs of its sites.

    Args:
        tower: the tower; its layers at the sites are not quantized yet.
        sites: the sites whose inputs are recorded.
        batches: inputs of the tower; they are read once and not kept.
        seed: the seed of the choice of rows.
        with_histogram: whether to record histograms, too.

    Returns:
        Records by the sites' names, and the tower's embeddings batch by batch.
    """
    records = {site.name: Record(seed * 1_000_003 + zlib.crc32(site.name.encode()), with_histogram) for site in sites}
    embeds = []
    samples = [0]
    with torch.inference_mode(), _recording(sites, records, samples):
        for batch in batches:
            samples[0] = len(batch)
            embeds.append(tower(batch))
    return records, embeds


@contextlib.contextmanager
def _recording(sites: Sequence[Site], records: dict[str, Record], samples: list[int]) -> Iterator[None]:
    def hook_of(site: Site) -> Any:
        record = records[site.name]

        def hook(module: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
            record.add(operand(module, inputs[0]).to(torch.float32), samples[0])

        return hook

    hooks = [site.layer.register_forward_pre_hook(hook_of(site)) for site in sites]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
