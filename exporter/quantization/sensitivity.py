"""Which layers stay in high precision: none if the embeddings are good enough, else the fewest that hurt most."""

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

RANKED_WITH = 4  # samples that each layer alone is tried on


@dataclass(frozen=True)
class Search:
    """What was found.

    Attributes:
        kept: name of a site that stays in high precision, to the mean cosine that the embeddings have left when it alone is
            quantized; empty if all can be quantized, or if ranking was not needed.
        parity: of the tower with the others quantized, on the samples that were searched with.
        tried: how many combinations were run.
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
        tower: with a `QuantizedLayer` at every site; the sites that stay in high precision have `exact` set afterwards.
        sites: of the tower.
        batches: inputs.
        exact: (N, D) float32, what the tower gave for them before it was quantized.
        good: whether embeddings are close enough.

    Returns:
        The fewest layers, taken in the order of their harm, with which `good` holds; where it holds with none of them quantized
        only, that is all of them.
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
    # Twice as many until it is good, then between the last two.
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
    """(N, D) float32 embeddings of all batches."""
    with torch.inference_mode():
        return torch.cat([tower(batch) for batch in batches]).numpy()


def set_exact(layers: dict[str, torch.nn.Module], names: Sequence[str]) -> None:
    """Compute the named layers exactly, and all others quantized."""
    for name, layer in layers.items():
        assert isinstance(layer, QuantizedLayer)
        layer.exact = name in names


def _rank(
    tower: TowerModule, layers: dict[str, torch.nn.Module], batch: torch.Tensor, exact: np.ndarray
) -> dict[str, float]:
    """Each layer's mean cosine when it alone is quantized."""
    found = {}
    for name in layers:
        set_exact(layers, [other for other in layers if other != name])
        found[name] = compare_embeddings(exact, embed(tower, [batch])).mean_cosine
    return found
