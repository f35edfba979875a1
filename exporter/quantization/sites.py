"""The sites of a tower, which are the layers to quantize: found by their position, replaced in place.

The quantized layers are the products of the blocks (query, key, value, output, MLP), the patch embedding, and the keys and values
of pooling heads; in convolutional towers the dense convolutions. The residual stream, norms, attention's own two products,
depthwise convolutions, the first convolution over three channels, and work on a single pooled row (of a head, or of a
squeeze-and-excitation module) are not quantized.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from torch import nn

from exporter.quantization.layers import is_patches
from exporter.towers.blocks import QueryPool
from exporter.towers.modules import TowerModule

_ON_POOLED_ROWS = (
    "SEModule",
    "SqueezeExcite",
)  # timm's squeeze-and-excitation: two small layers on the mean over all pixels


@dataclass(frozen=True)
class Site:
    """One place for a quantized layer.

    Attributes:
        name: the layer's name relative to the encoder, such as ``blocks.3.mlp.body.c_fc``.
        unit: the name of the layer's unit.
        parent, attribute: the layer's parent module, and its name there.
    """

    name: str
    unit: str
    parent: nn.Module
    attribute: str

    @property
    def layer(self) -> nn.Module:
        """The present layer of the site."""
        present: nn.Module = self.parent._modules[self.attribute]  # type: ignore[assignment]
        return present

    def put(self, layer: nn.Module) -> None:
        """Replace the site's layer."""
        self.parent._modules[self.attribute] = layer


def find_sites(tower: TowerModule) -> list[Site]:
    """Find the sites of a float32 tower, in the order of the data; empty for towers of no known family."""
    return list(_sites(tower))


def _sites(tower: TowerModule) -> Iterator[Site]:
    head = tower.encoder.head
    pooling = {id(module) for pool in head.modules() if isinstance(pool, QueryPool) for module in (pool.kv,)}
    in_head = {id(module) for module in head.modules()}
    for unit_name, unit in tower.encoder.units():
        for path, parent in unit.named_modules():
            if type(parent).__name__ in _ON_POOLED_ROWS:
                continue
            for attribute, layer in parent.named_children():
                if id(layer) in in_head and id(layer) not in pooling:
                    continue
                if _is_dense(layer):
                    name = ".".join(part for part in (unit_name, path, attribute) if part)
                    yield Site(name, unit_name, parent, attribute)


def _is_dense(layer: nn.Module) -> bool:
    if isinstance(layer, nn.Conv2d):
        return layer.groups == 1 and (is_patches(layer) or layer.in_channels > 4) and layer.padding_mode == "zeros"
    return isinstance(layer, nn.Linear)


def other_products(tower: TowerModule, sites: list[Site]) -> Iterator[tuple[str, nn.Module]]:
    """Yield the other linear layers and convolutions, which stay in high precision, by name, for counting their FLOPs."""
    quantized = {id(site.layer) for site in sites}
    for name, module in tower.encoder.named_modules():
        if isinstance(module, (nn.Linear, nn.Conv2d)) and id(module) not in quantized:
            yield name, module
