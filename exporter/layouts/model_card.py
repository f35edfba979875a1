"""``README.md`` of a layout: how each library loads it, what was measured, and what differs from open_clip."""

from __future__ import annotations

import json
from collections.abc import Sequence

from engines.manifest import Manifest
from exporter.layouts.measurement import LIMIT, Difference, Measurement
from exporter.layouts.support import SUFFIXES

# SPDX's names to the Hub's; all others are "other" there, with the name beside it.
_HUB_LICENCES = {
    "MIT": "mit",
    "Apache-2.0": "apache-2.0",
    "BSD-3-Clause": "bsd-3-clause",
    "CC-BY-NC-4.0": "cc-by-nc-4.0",
}
# Precision to the name that transformers.js has for it.
_DTYPES = {"fp32": "fp32", "fp16": "fp16", "int8": "q8"}


def model_card(manifests: Sequence[Manifest], measurements: Sequence[Measurement], beside: Sequence[str]) -> str:
    """Make the text of the card.

    Args:
        manifests: the bundles' manifests, the one whose tokenizer and image processor were measured first.
        measurements: the bundles' figures, in the same order.
        beside: the names of the graphs whose weights are in a file beside them.
    """
    first = manifests[0]
    precisions = [manifest.precision for manifest in manifests]
    sections = [
        _front_matter(first),
        f"# {first.model.architecture} for Optimum and transformers.js\n\n{_origin(first)}",
        _files(precisions, beside),
        _use(precisions),
        _differences(measurements[0], precisions[0]),
        _proofs(measurements),
    ]
    return "\n\n".join(sections) + "\n"


def advice(precisions: Sequence[str]) -> str | None:
    """A sentence about files that the libraries do not find by themselves; None where ``model.onnx`` is there."""
    if "fp32" in precisions:
        return None
    suffix, dtype = SUFFIXES[precisions[0]], _DTYPES[precisions[0]]
    return (
        "there is no onnx/model.onnx, which Optimum and transformers.js in Node load by default: pass "
        f'file_name="model{suffix}.onnx" to Optimum and dtype: "{dtype}" to transformers.js, or lay out a bundle in fp32, too'
    )


def _front_matter(manifest: Manifest) -> str:
    lines = ["---", "pipeline_tag: zero-shot-image-classification", "tags: [clip, onnx, optimum, transformers.js]"]
    licence = manifest.model.license
    if licence in _HUB_LICENCES:
        lines.append(f"license: {_HUB_LICENCES[licence]}")
    elif licence is not None:
        lines += ["license: other", f"license_name: {json.dumps(licence)}"]
    return "\n".join([*lines, "---"])


def _origin(manifest: Manifest) -> str:
    model = manifest.model
    tag = f", tag `{model.tag}`" if model.tag else ""
    height, width = manifest.preprocess.size
    return (
        f"OpenCLIP's `{model.architecture}`{tag} (weights `{model.weights[:16]}`), exported by openclip-engines. Images of "
        f"{height} x {width} pixels, captions of up to {manifest.tokenizer.context_length if manifest.tokenizer else 0} tokens, "
        f"embeddings of {model.embed_dim} numbers, which are of unit length already.\n\n"
        "`config.json` describes the inputs and outputs of the graphs. The towers are in the ONNX files alone: there are no "
        "weights for `CLIPModel.from_pretrained` of PyTorch."
    )


def _files(precisions: Sequence[str], beside: Sequence[str]) -> str:
    rows = ["## Files", "", "| file in `onnx/` | precision | inputs | outputs |", "| --- | --- | --- | --- |"]
    for precision in precisions:
        suffix = SUFFIXES[precision]
        rows += [
            f"| `model{suffix}.onnx` | {precision} | `pixel_values`, `input_ids` | `logits_per_image`, `logits_per_text`, "
            "`text_embeds`, `image_embeds` |",
            f"| `vision_model{suffix}.onnx` | {precision} | `pixel_values` | `image_embeds` |",
            f"| `text_model{suffix}.onnx` | {precision} | `input_ids` | `text_embeds` |",
        ]
    notes = [] if advice(precisions) is None else [f"Mind: {advice(precisions)}."]
    if len(precisions) < len(SUFFIXES):
        missing = [SUFFIXES[name] or "(none)" for name in SUFFIXES if name not in precisions]
        notes.append(f"Files with the suffix {' and '.join(missing)} are not here.")
    if any(precision != "fp32" for precision in precisions):
        notes.append(
            "`_fp16` and `_quantized` files round `pixel_values` to the whole bytes 0 … 255 from which an image processor makes "
            "them. On CPUs run `_fp16` files with ONNX Runtime's graph optimization level `extended`, as `engines` does: the "
            "default level changes their numbers and can crash."
        )
    if beside:
        notes.append(
            f"The weights of {', '.join(f'`{name}`' for name in beside)} are in `<name>_data` beside the graph."
        )
    return "\n".join(rows) + "".join(f"\n\n{note}" for note in notes)


def _use(precisions: Sequence[str]) -> str:
    first = precisions[0]
    file_name = "" if "fp32" in precisions else f', file_name="model{SUFFIXES[first]}.onnx"'
    dtype = _DTYPES["fp32" if "fp32" in precisions else first]
    return f"""## Use

```python
from optimum.onnxruntime import ORTModelForZeroShotImageClassification
from transformers import AutoImageProcessor, AutoTokenizer, pipeline

folder = "."
model = ORTModelForZeroShotImageClassification.from_pretrained(folder{file_name})
parts = {{"tokenizer": AutoTokenizer.from_pretrained(folder), "image_processor": AutoImageProcessor.from_pretrained(folder)}}
classify = pipeline("zero-shot-image-classification", model=model, **parts)
print(classify("cat.jpg", candidate_labels=["a cat", "a dog"]))
```

```js
import {{ pipeline }} from "@huggingface/transformers";

const classify = await pipeline("zero-shot-image-classification", "FOLDER-OR-REPOSITORY", {{ dtype: "{dtype}" }});
console.log(await classify("cat.jpg", ["a cat", "a dog"]));
```"""


def _differences(measurement: Measurement, precision: str) -> str:
    rows = [
        "## What differs from open_clip",
        "",
        f"Cosines between embeddings by `engines`, which prepares inputs as open_clip does to the bit, and by these files "
        f"({precision}) with other preparation; {measurement.source}.",
        "",
        "| inputs | prepared by | equal | lowest cosine | mean cosine |",
        "| --- | --- | --- | --- | --- |",
        *(_row(item.what, "`tokenizer.json`", item) for item in measurement.texts),
        *(_row("pictures", item.what, item) for item in measurement.pictures),
        "",
        "`tokenizer.json` has transformers' own cleaning: it repairs no wrong decoding and no HTML entity, and knows "
        "`<|startoftext|>` and `<|endoftext|>` instead of open_clip's names of them.",
    ]
    if not measurement.pictures:
        rows.append(f"\nThe image processors of transformers were not measured: {measurement.not_measured}.")
    rows.append(
        "\ntransformers.js was not measured: it resizes by code of its own, in Node by sharp, in browsers by a canvas. Captions "
        "that are too long lose their end token there (seen with 4.3.2); these graphs put it back."
    )
    return "\n".join(rows)


def _row(inputs: str, by: str, item: Difference) -> str:
    return f"| {item.count} {inputs} | {by} | {item.equal} | {item.min_cosine:.6f} | {item.mean_cosine:.6f} |"


def _proofs(measurements: Sequence[Measurement]) -> str:
    rows = [
        "## Equal inputs, equal embeddings",
        "",
        "Largest difference of a number of an embedding between `engines` and `model*.onnx`, on equal pixels and ids "
        f"(limit {LIMIT:.0e}), measured when these files were written:",
        "",
        "| precision | images | captions |",
        "| --- | --- | --- |",
    ]
    for item in measurements:
        rows.append(f"| {item.proof.precision} | {item.proof.image:.1e} | {item.proof.text:.1e} |")
    return "\n".join(rows)
