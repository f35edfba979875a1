"""What another program's own resize and cleaning change, measured: cosines between its embeddings and the bundle's."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from engines.embedder import Embedder
from engines.manifest import Preprocess
from exporter.errors import ExportError
from exporter.reference.parity_data import load_parity_data

_PICTURES, _CAPTIONS = 32, 64
_SAME_GRAPH = {
    "fp32": 1e-5,
    "fp16": 5e-3,
}  # largest difference on equal inputs; rounding in the graph grows it in half precision
_SAME_GRAPH_COSINE = 0.99  # in int8, where another rounding of a pixel moves a whole step
# Captions whose cleaning differs between open_clip (ftfy, HTML entities) and the ports of CLIPTokenizer.
HARD_CAPTIONS = (
    "a caf\u00e9 &amp; a restaurant",
    "sch\u00c3\u00b6n and \u00e2\u20ac\u0153quoted\u00e2\u20ac\x9d",
    "\uff26\uff35\uff2c\uff2c width letters and \ufb01ne ligatures",
    "&lt;b&gt;bold&lt;/b&gt; text",
    "three red   circles\n and a tab\there",
)


@dataclass(frozen=True)
class Differences:
    """Cosines between embeddings of the other program's pixels and ids and those of the bundle.

    Attributes:
        same_input: the largest absolute difference on equal pixels and ids.
        pictures, captions, hard_captions: the lowest and the mean cosine; None where transformers is not installed.
        source: one line on the pictures and captions.
        processor: the class that resized the pictures, with the version of transformers.
    """

    same_input: float
    pictures: tuple[float, float] | None
    captions: tuple[float, float] | None
    hard_captions: tuple[float, float] | None
    source: str
    processor: str | None


def measure(clip: Embedder, folder: Path, suffix: str) -> Differences:
    """Run the layout's graphs in ONNX Runtime, on the bundle's inputs and on those of transformers' processors.

    Args:
        clip: the open bundle, with ONNX Runtime as its engine.
        folder: the layout's folder.
        suffix: the suffix of the precision's files.

    Raises:
        ExportError: on equal inputs the embeddings differ by more than rounding.
    """
    import onnxruntime

    data = load_parity_data(None, images=_PICTURES, captions=_CAPTIONS)
    text, vision = (
        onnxruntime.InferenceSession(str(folder / "onnx" / f"{name}{suffix}.onnx"), providers=["CPUExecutionProvider"])
        for name in ("text_model", "vision_model")
    )
    images, texts = clip.encode_image(list(data.images)), clip.encode_text(list(data.captions))
    pixels = normalized(np.stack([clip.preprocess(image) for image in data.images]), clip.manifest.preprocess)
    ids = clip.tokenize(data.captions).astype(np.int64)
    same = [
        (vision.run(["image_embeds"], {"pixel_values": pixels})[0], images),
        (text.run(["text_embeds"], {"input_ids": ids})[0], texts),
    ]
    largest = max(float(np.abs(found - expected).max()) for found, expected in same)
    lowest = min(_cosines(found, expected)[0] for found, expected in same)
    limit = _SAME_GRAPH.get(clip.manifest.precision)
    if (limit is not None and largest > limit) or lowest < _SAME_GRAPH_COSINE:
        raise ExportError(f"the layout's graphs differ from the bundle's by {largest:.1e} on equal inputs; report it")
    if find_spec("transformers") is None:
        return Differences(largest, None, None, None, data.source, None)
    import transformers

    processor: Any = transformers.CLIPImageProcessor.from_pretrained(folder)
    tokenizer: Any = transformers.CLIPTokenizerFast.from_pretrained(folder)

    def embed_texts(captions: Sequence[str]) -> npt.NDArray[np.float32]:
        rows = tokenizer(list(captions), padding=True, truncation=True, return_tensors="np")["input_ids"]
        found: npt.NDArray[np.float32] = text.run(["text_embeds"], {"input_ids": rows.astype(np.int64)})[0]
        return found

    theirs = processor([image.convert("RGB") for image in _small_and_large(data.images)], return_tensors="np")
    resized = vision.run(["image_embeds"], {"pixel_values": theirs["pixel_values"].astype(np.float32)})[0]
    return Differences(
        largest,
        _cosines(resized, clip.encode_image(_small_and_large(data.images))),
        _cosines(embed_texts(data.captions), texts),
        _cosines(embed_texts(HARD_CAPTIONS), clip.encode_text(list(HARD_CAPTIONS))),
        data.source,
        f"{type(processor).__name__} of transformers {transformers.__version__}",
    )


def normalized(pixels: npt.NDArray[np.uint8], preprocess: Preprocess) -> npt.NDArray[np.float32]:
    """Normalize pixels (N, H, W, 3) to float32 (N, 3, H, W), as a bundle's graph does."""
    mean, std = (np.asarray(values, np.float64) for values in (preprocess.mean, preprocess.std))
    return ((pixels / 255.0 - mean) / std).astype(np.float32).transpose(0, 3, 1, 2)


def _small_and_large(images: Sequence[Image.Image]) -> list[Image.Image]:
    """The pictures, every third at a quarter of its size, because programs differ most where they enlarge."""
    return [
        image.resize((max(image.width // 4, 8), max(image.height // 4, 8))) if i % 3 == 0 else image
        for i, image in enumerate(images)
    ]


def _cosines(found: npt.NDArray[np.float32], expected: npt.NDArray[np.float32]) -> tuple[float, float]:
    each = (found.astype(np.float64) * expected).sum(axis=1)
    return float(each.min()), float(each.mean())
