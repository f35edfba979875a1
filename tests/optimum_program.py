"""Optimum on a layout: ``python optimum_program.py FOLDER FILE INPUTS OUTPUTS LEVEL``, in the environment of `consumers`."""

from __future__ import annotations

import sys

import numpy as np
import onnxruntime as ort
from optimum.onnxruntime import ORTModelForZeroShotImageClassification
from PIL import Image
from transformers import AutoImageProcessor, AutoTokenizer, pipeline


def main(folder: str, file: str, inputs: str, outputs: str, level: str) -> None:
    """Run the model on pixels and ids, the tokenizer on captions, and the pipeline on a picture."""
    given = np.load(inputs)
    options = ort.SessionOptions()
    options.graph_optimization_level = getattr(ort.GraphOptimizationLevel, level)
    named = {} if file == "model.onnx" else {"file_name": file}
    model = ORTModelForZeroShotImageClassification.from_pretrained(folder, session_options=options, **named)
    tokenizer, processor = AutoTokenizer.from_pretrained(folder), AutoImageProcessor.from_pretrained(folder)
    assert type(tokenizer).__name__ == "CLIPTokenizerFast"
    out = model(input_ids=given["ids"], pixel_values=given["pixels"])
    captions = list(given["captions"])
    ids = tokenizer(captions, padding=True, truncation=True, return_tensors="np")["input_ids"]
    classify = pipeline("zero-shot-image-classification", model=model, tokenizer=tokenizer, image_processor=processor)
    image = Image.fromarray(given["picture"])
    scores = classify(image, candidate_labels=list(given["labels"]), hypothesis_template="{}")
    np.savez(
        outputs,
        image=out.image_embeds,
        text=out.text_embeds,
        logits=out.logits_per_image,
        ids=ids,
        labels=[row["label"] for row in scores],
        scores=[row["score"] for row in scores],
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
