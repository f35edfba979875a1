"""Loads a layout with Optimum, in an environment of its own: embeddings on given inputs, and the zero-shot pipeline, as JSON.

python optimum_zero_shot.py LAYOUT INPUT.npz OUTPUT.json
"""

import json
import sys

import numpy as np
import torch
from optimum.onnxruntime import ORTModelForZeroShotImageClassification
from PIL import Image
from transformers import AutoImageProcessor, AutoTokenizer, pipeline

folder, inputs, output = sys.argv[1:]
given = np.load(inputs)
options = json.loads(str(given["options"]))
model = ORTModelForZeroShotImageClassification.from_pretrained(folder, local_files_only=True, **options)
ids = torch.from_numpy(given["ids"])
answer = model(input_ids=ids, pixel_values=torch.from_numpy(given["pixels"]), attention_mask=torch.ones_like(ids))
tokenizer, processor = AutoTokenizer.from_pretrained(folder), AutoImageProcessor.from_pretrained(folder)
classify = pipeline("zero-shot-image-classification", model=model, tokenizer=tokenizer, image_processor=processor)
scores = classify(Image.fromarray(given["picture"]), candidate_labels=given["labels"].tolist())
found = {
    "ids": [tokenizer(text)["input_ids"] for text in given["texts"].tolist()],
    "texts": answer.text_embeds.tolist(),
    "images": answer.image_embeds.tolist(),
    "scores": scores,
}
with open(output, "w", encoding="utf-8") as file:
    json.dump(found, file)
