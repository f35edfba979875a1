"""A program that exports the weights with another library's own exporter: ``python -I peer_exports.py LIBRARY SOURCE OUT``.

It runs with the interpreter of the library's environment, so it imports nothing but the standard library and that library.
"""

from __future__ import annotations

import functools
import shutil
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any


def export_optimum(source: str, out: str) -> None:
    """Each tower by itself with Optimum's export.

    Its export of a whole CLIP computes both towers in every call; the configurations of single towers are Optimum's own.

    Args:
        source: the folder that transformers loads.
        out: the new folder, with ``image`` and ``text`` in it.
    """
    from optimum.exporters.onnx import export
    from optimum.exporters.onnx.model_configs import CLIPTextWithProjectionOnnxConfig, CLIPVisionModelOnnxConfig
    from transformers import CLIPTextModelWithProjection, CLIPVisionModelWithProjection

    class Image(CLIPVisionModelOnnxConfig):  # type: ignore[misc]
        @property
        def outputs(self) -> dict[str, dict[int, str]]:
            return {"image_embeds": {0: "batch_size"}}

    class Text(CLIPTextWithProjectionOnnxConfig):  # type: ignore[misc]
        @property
        def outputs(self) -> dict[str, dict[int, str]]:
            return {"text_embeds": {0: "batch_size"}}

    classes = {"image": (CLIPVisionModelWithProjection, Image), "text": (CLIPTextModelWithProjection, Text)}
    for tower, (model_class, config_class) in classes.items():
        model = model_class.from_pretrained(source).eval()
        folder = Path(out) / tower
        folder.mkdir(parents=True)
        export(model, config_class(model.config, task="feature-extraction"), folder / "model.onnx")
        model.config.save_pretrained(folder)
    for file in Path(source).iterdir():
        if file.suffix in (".json", ".txt"):
            shutil.copy(file, out)


def export_modern_onnx_clip(source: str, out: str, model: str, packages: str) -> None:
    """Both towers with modern-onnx-clip's exporter, through PyTorch's older ONNX exporter.

    It passes ``dynamic_axes`` to ``torch.onnx.export``, for which it was written before PyTorch 2.9 changed the default; with the
    newer exporter its graphs take one image or text at a time.

    Args:
        source: a file with open_clip's state dict.
        out: the new folder.
        model: the architecture.
        packages: the folder with the library, because this runs where PyTorch and open_clip are installed.
    """
    sys.path.append(packages)
    import open_clip.tokenizer
    import torch
    from onnx_clip.exporter import Exporter

    torch.onnx.export = functools.partial(torch.onnx.export, dynamo=False)
    Exporter(model, source, out).export()
    shutil.copy(open_clip.tokenizer.default_bpe(), Path(out) / "bpe_simple_vocab_16e6.txt.gz")


EXPORTS: dict[str, Callable[..., Any]] = {
    "optimum": export_optimum,
    "modern-onnx-clip": export_modern_onnx_clip,
}


def main(arguments: Sequence[str]) -> None:
    """Export.

    Args:
        arguments: the library and the arguments of its function here.
    """
    EXPORTS[arguments[0]](*arguments[1:])


if __name__ == "__main__":
    main(sys.argv[1:])
