"""The search for layers to keep in high precision: none if the embeddings are good enough, else the fewest most harmful."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from engines.manifest import TowerParity
from engines.verification.embeddings import compare_embeddings
from exporter.quantization.layers import QuantizedLayer
from exporter.quantization.sites import Site
from exporter.towers.modules import TowerModule

RANKED_WITH = 4  # the number of samples on which each layer alone is tried


@dataclass(frozen=True)
class Search:
    """The outcome of a search.

    Attributes:
        kept: the mean cosine of the embeddings when only this site is quantized, by the name of a site that stays in high
            precision; empty if all sites can be quantized.
        parity: the parity of the tower with the other sites quantized, on the samples of the search.
        tried: the number of combinations that were run.
    """

    kept: dict[str, float]
    parity: TowerParity
    tried: int


def search(
    tower: TowerModule,
    sites: Sequence[Site],
    batches: Sequence[torch.Tensor],
    exact: np.ndarray,
    good: Callable[[TowerParity], bool],
) -> Search:
    """Set every site of a quantized tower to quantized or exact.

    Args:
        tower: a tower with a `QuantizedLayer` at every site; the sites that stay in high precision have `exact` set afterwards.
        sites: the tower's sites.
        batches: inputs of the tower.
        exact: the tower's embeddings of these inputs before it was quantized, (N, D) float32.
        good: whether embeddings are close enough.

    Returns:
        The fewest sites, taken in the order of their harm, with which `good` holds when they are exact; if `good` holds only
        without any quantized site, all sites.
    """
    layers = {site.name: site.layer for site in sites}
    tried = 0

    def attempt(names: Sequence[str]) -> TowerParity:
        nonlocal tried
        tried += 1
        set_exact(layers, names)
        return compare_embeddings(exact, embed(tower, batches))

    parity = attempt([])
    if good(parity):
        return Search({}, parity, tried)
    middle_batch = len(batches) // 2
    before = sum(len(batch) for batch in batches[:middle_batch])
    batch = batches[middle_batch][:RANKED_WITH]
    harm = _rank(tower, layers, batch, exact[before : before + len(batch)])
    ranked = sorted(harm, key=lambda name: harm[name])
    # The number is doubled until the embeddings are good, then searched between the last two numbers.
    low, high = 0, 1
    while high < len(ranked) and not good(parity := attempt(ranked[:high])):
        low, high = high, min(2 * high, len(ranked))
    while high - low > 1:
        middle = (low + high) // 2
        if good(attempt(ranked[:middle])):
            high = middle
        else:
            low = middle
    parity = attempt(ranked[:high])
    return Search({name: harm[name] for name in ranked[:high]}, parity, tried)


def embed(tower: TowerModule, batches: Sequence[torch.Tensor]) -> np.ndarray:
    """Compute the embeddings of all batches, (N, D) float32."""
    with torch.inference_mode():
        return torch.cat([tower(batch) for batch in batches]).numpy()


def set_exact(layers: dict[str, torch.nn.Module], names: Sequence[str]) -> None:
    """Set the named layers to exact, and all others to quantized."""
    for name, layer in layers.items():
        assert isinstance(layer, QuantizedLayer)
        layer.exact = name in names


def _rank(
    tower: TowerModule, layers: dict[str, torch.nn.Module], batch: torch.Tensor, exact: np.ndarray
) -> dict[str, float]:
    """Measure the mean cosine of the embeddings when each layer alone is quantized."""
    cosines = {}
    for name in layers:
        set_exact(layers, [other for other in layers if other != name])
        cosines[name] = compare_embeddings(exact, embed(tower, [batch])).mean_cosine
    return cosines
