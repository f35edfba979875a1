"""The work in each tower of an architecture, counted from open_clip's own model without computing anything.

The model is built on torch's meta device, where tensors have shapes and no values; torch's FlopCounterMode counts matrix products
and convolutions (a multiplication and an addition are two).
"""

from __future__ import annotations

import logging
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.workloads.offline_text_towers import needs_hub, offline_architecture
from exporter.planning.model import tower_parameters

_HALF_BYTES = 2


@dataclass(frozen=True)
class TowerWork:
    """Work of one tower.

    Attributes:
        flops: floating-point operations for one image, or one text of full length.
        parameters: number of the tower's parameters.
        looked_up: number of parameters in token embeddings, of which a text reads a few rows.
        activation_elements: elements that its linear layers and convolutions read and write for one image or text, each tensor
            once; operations that are fused into them (norms, activations, attention) move no more, so this is a lower bound.
        tokens: number of a text's tokens; None for images.
    """

    flops: int
    parameters: int
    looked_up: int
    activation_elements: int
    tokens: int | None

    @property
    def weight_bytes(self) -> int:
        """Bytes of float16 weights."""
        return self.parameters * _HALF_BYTES

    @property
    def read_bytes(self) -> int:
        """Bytes of float16 weights that every batch has to read."""
        return (self.parameters - self.looked_up) * _HALF_BYTES

    @property
    def activation_bytes(self) -> int:
        """Bytes of float16 activations."""
        return self.activation_elements * _HALF_BYTES


class _Traffic(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Adds up the elements that linear layers and convolutions read and write, weights left out."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.elements = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        aten = torch.ops.aten
        read = {aten.mm: 0, aten.addmm: 1, aten.convolution: 0}.get(func.overloadpacket)
        if read is not None:
            self.elements += args[read].numel() + result.numel()
        return result


def count_work(architecture: str) -> dict[str, TowerWork]:
    """The work in both towers of an architecture of open_clip's list.

    The configurations of Hugging Face's text towers are built from transformers' classes, because that needs no model hub.
    """
    import open_clip

    with tempfile.TemporaryDirectory(prefix="flops-") as folder:
        if needs_hub(architecture):
            offline_architecture(architecture, Path(folder), name=architecture)
        logging.disable(logging.WARNING)  # open_clip warns that no weights were loaded
        try:
            with torch.device("meta"):
                model: Any = open_clip.create_model(architecture, device="meta", pretrained_hf=False).to("meta").eval()
        finally:
            logging.disable(logging.NOTSET)
    size = model.visual.image_size
    height, width = size if isinstance(size, (tuple, list)) else (size, size)
    # With gradients, because without them PyTorch takes a path through attention that its counter does not see.
    image = _count(lambda: model.encode_image(torch.empty(1, 3, height, width, device="meta")))
    config: Any = open_clip.get_model_config(architecture)
    context = int(
        config["text_cfg"].get("context_length", 77)
    )  # not Hugging Face's 514: open_clip's tokenizer gives 77
    device = "meta"
    if "hf_model_name" in config["text_cfg"]:  # transformers' models look at the values of their masks
        device = "cpu"
        model.text.to_empty(device=device)
        for buffer in model.text.buffers():
            buffer.zero_()
    text = _count(lambda: model.encode_text(torch.zeros(1, context, dtype=torch.long, device=device)))
    parameters = {name: sum(p.numel() for p in part) for name, part in tower_parameters(model).items()}
    return {
        "image": TowerWork(image[0], parameters["image"], 0, image[1], None),
        "text": TowerWork(text[0], parameters["text"], _embedding(model), text[1], context),
    }


def _count(run: Any) -> tuple[int, int]:
    counter, traffic = FlopCounterMode(display=False), _Traffic()
    with counter, traffic:
        run()
    return int(counter.get_total_flops()), traffic.elements


def _embedding(model: Any) -> int:
    """The number of parameters of the largest embedding table: the tokens'."""
    tables = [m.weight.numel() for m in model.modules() if isinstance(m, torch.nn.Embedding)]
    return max(tables, default=0)
