"""Which layers of every family are quantized: products over tokens or pixels, and nothing that works on one pooled row."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from shallow import register

from exporter.quantization.sites import find_sites, other_products
from exporter.source.loading import load_source
from exporter.towers.modules import image_tower, text_tower

# Family → sites of a shallow image tower of two blocks, of its text tower, and the image tower's other products without those of
# depthwise convolutions.
EXPECTED = {
    "ViT-B-16-SigLIP2": (10, 8, {"head.pool.out", "head.mlp.fc1", "head.mlp.fc2"}),
    "PE-Core-T-16-384": (10, 8, {"head.pool.out", "head.mlp.fc1", "head.mlp.fc2", "head.projection.1"}),
    "MobileCLIP-B": (12, 8, {"head.projection.0"}),
    "MobileCLIP2-S0": (18, 8, {"stem.module.0.reparam_conv", "head.pool.fc"}),
    "ViTamin-S": (25, 8, {"stem.patches.0.stem.conv1", "head.projection.2"}),
    "nllb-clip-base": (10, 8, {"head.projection"}),
}


@pytest.mark.parametrize("architecture", EXPECTED)
def test_sites(architecture: str, tmp_path: Path) -> None:
    source = load_source(register(architecture, tmp_path), "none", with_tokenizer=False)
    images, texts, expected = EXPECTED[architecture]
    tower = image_tower(source.model, source.preprocess)
    sites = find_sites(tower)
    others: dict[str, Any] = dict(other_products(tower, sites))
    dense = {name for name, layer in others.items() if getattr(layer, "groups", 1) == 1 and ".se." not in name}
    assert (len(sites), len(find_sites(text_tower(source.model)))) == (images, texts)
    assert dense == expected
    assert not any(".se." in site.name for site in sites)
