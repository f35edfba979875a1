"""exporter.source.loading: random weights: repeatable, alive in every branch, and made in place."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch
from made_sources import embed

from exporter.source.loading import load_source
from exporter.weights.architectures import quiet_open_clip
from exporter.weights.random_weights import uninitialized_parameters

pytestmark = pytest.mark.usefixtures("tiny_architectures")


class TestRandomWeights:
    @pytest.mark.parametrize("name", ["test-tiny", "test-resnet", "test-timm", "test-bias"])
    def test_repeatable_finite_and_marked_random(self, name: str) -> None:
        one, two = load_source(name, "none"), load_source(name, "none")
        for a, b in zip(one.model.state_dict().values(), two.model.state_dict().values(), strict=True):
            assert torch.equal(a, b)
        assert all(tensor.isfinite().all() for tensor in embed(one))
        assert (one.info.source, one.info.weights, one.info.tag) == ("random", "random", None)
        assert not one.model.training
        assert not any(parameter.requires_grad for parameter in one.model.parameters())

    @pytest.mark.parametrize("name", ["test-tiny", "test-resnet", "test-timm"])
    def test_every_parameter_of_the_towers_matters(self, name: str) -> None:
        """No dead branch: the gradient of the embeddings reaches every tensor."""
        source = load_source(name, "none")
        model: Any = source.model.requires_grad_(True)
        height, width = source.preprocess.size
        images = torch.linspace(-2, 2, 2 * 3 * height * width).sin().view(2, 3, height, width)
        assert source.tokenizer is not None
        loss = (
            model.encode_image(images).square().sum()
            + model.encode_text(source.tokenizer(["a dog", "cats"])).square().sum()
        )
        loss.backward()
        # The key bias cancels in softmax; it is part of a packed bias elsewhere.
        dead = {n for n, p in model.named_parameters() if p.grad is None or not p.grad.any()}
        assert dead <= {"logit_scale"}

    def test_the_last_norm_of_a_residual_block_is_not_zero(self) -> None:
        model: Any = load_source("test-resnet", "none").model
        assert model.visual.layer1[0].bn3.weight.abs().min() > 0
        assert model.visual.layer1[0].bn3.running_var.std() > 0

    def test_half_precision_holds_the_same_values_rounded(self) -> None:
        full = load_source("test-timm", "none").model.state_dict()
        half = load_source("test-timm", "none", dtype=torch.float16).model.state_dict()
        for name, tensor in full.items():
            if tensor.is_floating_point():
                assert half[name].dtype == torch.float16
                assert torch.equal(half[name], tensor.half())

    @pytest.mark.parametrize(
        "name",
        [
            "RN50",
            "EVA02-B-16",
            "PE-Core-T-16-384",
            *(pytest.param(name, marks=pytest.mark.long) for name in ("convnext_base", "swin_base_patch4_window7_224")),
        ],
    )
    def test_skipping_the_initialisation_leaves_computed_buffers_alone(self, name: str) -> None:
        with quiet_open_clip():
            ordinary = open_clip.create_model(name)
            with uninitialized_parameters():
                quick = open_clip.create_model(name)
        for (path, a), (_, b) in zip(ordinary.named_buffers(), quick.named_buffers(), strict=True):
            assert torch.equal(a, b), path

    @pytest.mark.long
    def test_large_models_build_without_touching_their_memory(self) -> None:
        """ViT-B-32 in half precision peaks below twice its 0.3 gigabytes: its float32 form never exists."""
        code = (
            "import resource, torch\n"
            "from exporter.source.loading import load_source\n"
            "import open_clip, timm, transformers\n"
            "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
            "model = load_source('ViT-B-32', 'none', dtype=torch.float16).model\n"
            "weights = sum(p.numel() * p.element_size() for p in model.parameters())\n"
            "print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024 / weights)\n"
        )
        root = Path(__file__).parents[2]
        done = subprocess.run(
            [sys.executable, "-c", code],
            cwd=root,
            env={**os.environ, "PYTHONPATH": str(root)},
            capture_output=True,
            check=True,
        )
        assert float(done.stdout) < 1.5
