"""The model card of a layout: how to load it, and what its loaders' own resize and cleaning change."""

from __future__ import annotations

from collections.abc import Mapping

from engines.manifest import Manifest
from exporter.layouts.differences import Differences
from exporter.layouts.refusals import SUFFIXES


def layout_card(manifest: Manifest, differences: Mapping[str, Differences]) -> str:
    """Write the card as Markdown, with the hub's front matter.

    Args:
        manifest: the manifest of the bundle whose precision comes first.
        differences: what was measured, by precision.
    """
    model = manifest.model
    license_name = model.license or "unknown"
    first = SUFFIXES[next(iter(differences))]
    rows = [
        f"| {precision} | `model{SUFFIXES[precision]}.onnx`, `text_model{SUFFIXES[precision]}.onnx`, "
        f"`vision_model{SUFFIXES[precision]}.onnx` | {found.same_input:.1e} |"
        for precision, found in differences.items()
    ]
    default = (
        ""
        if not first
        else (
            "There is no file without a suffix, because no fp32 bundle was laid out: the loaders need the file's name or `dtype`.\n"
        )
    )
    optimum = f', subfolder="onnx", file_name="model{first}.onnx"' if first else ""
    dtype = {"": "fp32", "_fp16": "fp16", "_quantized": "q8"}[first]
    return f"""---
library_name: transformers.js
pipeline_tag: zero-shot-image-classification
tags: [clip, open_clip, onnx]
---

# {model.name}

ONNX files of an OpenCLIP model, made by openclip-engines (tag {model.tag or "–"}, weights
{model.weights[:12]}). Licence of the weights:
{license_name}{f" ({model.license_source})" if model.license_source else ""}.

| precision | files in `onnx/` | largest difference from the bundle on equal pixels and ids |
| --- | --- | --- |
{chr(10).join(rows)}

{default}
```python
from optimum.onnxruntime import ORTModelForZeroShotImageClassification
model = ORTModelForZeroShotImageClassification.from_pretrained("FOLDER"{optimum})
```

```js
import {{ pipeline }} from '@huggingface/transformers';
const classify = await pipeline('zero-shot-image-classification', 'FOLDER', {{ dtype: '{dtype}' }});
```

## What differs from open_clip

{_differences(next(iter(differences.values())))}
"""


def _differences(found: Differences) -> str:
    if found.processor is None or found.pictures is None or found.captions is None or found.hard_captions is None:
        return (
            "The pictures are resized and the captions are cleaned by the loader, not as open_clip does it. What that changes was "
            "not measured, because transformers was not installed where this folder was made."
        )
    return f"""The loader resizes pictures and cleans captions in its own way. Cosines between its embeddings and open_clip's:

| input | lowest cosine | mean cosine |
| --- | --- | --- |
| pictures, every third one enlarged | {found.pictures[0]:.6f} | {found.pictures[1]:.6f} |
| captions | {found.captions[0]:.6f} | {found.captions[1]:.6f} |
| captions with HTML entities, mojibake, full-width letters | {found.hard_captions[0]:.6f} | {found.hard_captions[1]:.6f} |

Measured with {found.processor} and its CLIPTokenizer, on {found.source}. transformers.js resizes in another way again, which
was not measured here: pass it pictures of the model's size, or compare on your own."""
