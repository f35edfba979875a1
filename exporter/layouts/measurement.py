"""The proof that a layout's graphs compute what the bundle does, and the differences of other libraries' pixels and ids.

Both are measured when the layout is written, on crops of photographs and on prompts, so a model card has figures of its own model.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime as ort

import engines
from engines.errors import BundleError
from engines.files.bundle_paths import resolve_path
from engines.files.npz_files import opened_npz
from engines.inputs.preprocess import normalize_pixels
from engines.manifest import Manifest
from engines.onnxruntime.options import session_options
from engines.process.optional import import_or_reason, installed_version
from engines.verification.ids import TEXTS
from exporter.errors import ExportError
from exporter.layouts.clip_tokenizer import read_ids
from exporter.layouts.support import SUFFIXES
from exporter.reference.parity_data import ParityData, load_parity_data

Array = npt.NDArray[Any]
IMAGES, CAPTIONS = 32, 64  # photographs' crops and prompts
# Largest difference of a number of a unit embedding, on equal pixels and ids.
LIMIT = 1e-5


@dataclass(frozen=True)
class Difference:
    """Cosines between the bundle's embeddings and those of other pixels or ids of the same inputs.

    Attributes:
        what: the library, or the kind of captions.
        count: the number of inputs.
        equal: the number of inputs with equal pixels or ids.
        min_cosine: the lowest cosine.
        mean_cosine: the mean of the cosines.
    """

    what: str
    count: int
    equal: int
    min_cosine: float
    mean_cosine: float


@dataclass(frozen=True)
class Proof:
    """Largest differences of numbers of unit embeddings between a bundle and its layout, on equal pixels and ids."""

    precision: str
    image: float
    text: float


@dataclass(frozen=True)
class Measurement:
    """The figures of one bundle.

    Attributes:
        proof: the comparison on equal pixels and ids.
        texts: captions as a tokenizer of transformers reads them.
        pictures: pictures as an image processor of transformers resizes them; empty where none can be imported.
        not_measured: the reason why `pictures` is empty.
        source: the origin of pictures and captions, in words.
    """

    proof: Proof
    texts: tuple[Difference, ...]
    pictures: tuple[Difference, ...]
    not_measured: str
    source: str


def measure(bundle: Path, manifest: Manifest, out: Path) -> Measurement:
    """Compare the graphs, the tokenizer and the image processor in the folder `out` with the bundle.

    Raises:
        ExportError: on equal pixels and ids an embedding differs by more than `LIMIT`.
    """
    data = load_parity_data(None, IMAGES, CAPTIONS)
    suffix = SUFFIXES[manifest.precision]
    with engines.load(bundle, engine="onnxruntime", device="cpu") as clip:
        layout = _Layout(clip, manifest, out / "onnx" / f"model{suffix}.onnx")
        proof = layout.prove(data)
        for tower, file in (("image", "vision_model"), ("text", "text_model")):
            layout.prove_tower(tower, out / "onnx" / f"{file}{suffix}.onnx")
        captions = (("prompts", list(data.captions)), ("hard captions of the bundle", _hard_captions(bundle, manifest)))
        texts = tuple(layout.compare_texts(what, items, out) for what, items in captions if items)
        pictures, reason = _compare_pictures(layout, data, out)
    return Measurement(proof, texts, pictures, reason, data.source)


class _Layout:
    """A bundle and its joined graph, which is run with the options of `engines`."""

    def __init__(self, clip: engines.Embedder, manifest: Manifest, graph: Path) -> None:
        self.clip, self.manifest = clip, manifest
        self.session = self._session(graph)
        assert manifest.tokenizer is not None
        self.tokenizer = manifest.tokenizer
        self.pixels: Array = np.zeros(0)
        self.ids: Array = np.zeros(0)
        self.embeds: dict[str, Array] = {}

    def prove(self, data: ParityData) -> Proof:
        """Run the joined graph on the bundle's pixels and ids, with the padding of transformers."""
        pixels = np.stack([self.clip.preprocess(image) for image in data.images])
        ids = self.clip.tokenize(data.captions)
        self.embeds = {"image": self.clip.encode_image(pixels), "text": self.clip.encode_text(ids)}
        self.pixels, self.ids = normalize_pixels(pixels, self.manifest.preprocess), self.padded(_until_end(ids))
        images, texts = self.run(self.pixels, self.ids)
        return Proof(self.manifest.precision, self._error("image", images), self._error("text", texts))

    def prove_tower(self, tower: str, graph: Path) -> None:
        """Run the graph of one tower on the inputs of `prove`."""
        name, values = ("pixel_values", self.pixels) if tower == "image" else ("input_ids", self.ids)
        self._error(tower, self._session(graph).run([f"{tower}_embeds"], {name: values})[0])

    def compare_texts(self, what: str, texts: list[str], out: Path) -> Difference:
        """Compare captions by the layout's tokenizer with captions by the bundle's."""
        theirs = read_ids(out, texts, self.tokenizer.context_length)
        ours = _until_end(self.clip.tokenize(texts))
        equal = sum(one == other for one, other in zip(ours, theirs, strict=True))
        embeds = self.run(self.pixels[:1], self.padded(theirs))[1]
        return _difference(what, equal, self.clip.encode_text(texts), embeds)

    def compare_pictures(self, what: str, pixels: Array) -> Difference:
        """Compare normalized pixels (N, 3, H, W) of the pictures of `prove` with the bundle's."""
        # Two bytes side by side are 1 / (255 std) apart after normalization.
        steps = np.abs(pixels - self.pixels) * (255 * np.array(self.manifest.preprocess.std).reshape(3, 1, 1))
        equal = int((steps.reshape(len(steps), -1).max(axis=1) < 0.5).sum())
        return _difference(what, equal, self.embeds["image"], self.run(pixels, self.ids[:1])[0])

    def padded(self, rows: Sequence[Sequence[int]]) -> Array:
        """Rows of ids, filled up with the end token to the longest, as transformers pads a CLIP's: int64 (N, L)."""
        longest = max(map(len, rows))
        end = self.tokenizer.end_id
        return np.array([[*row, *[end] * (longest - len(row))] for row in rows], np.int64)

    def run(self, pixels: Array, ids: Array) -> tuple[Array, Array]:
        """Image embeddings and text embeddings by the joined graph."""
        feeds = {"pixel_values": pixels.astype(np.float32), "input_ids": ids}
        images, texts = self.session.run(["image_embeds", "text_embeds"], feeds)
        return images, texts

    def _session(self, graph: Path) -> ort.InferenceSession:
        return ort.InferenceSession(str(graph), session_options(ort, self.manifest.precision, None, on_gpu=False))

    def _error(self, tower: str, embeds: Array) -> float:
        error = float(np.abs(embeds - self.embeds[tower]).max())
        if not error <= LIMIT:  # NaN is refused, too
            raise ExportError(
                f"the {tower} tower of {self.manifest.model.name} in the layout differs from the bundle by {error:.1e} on equal "
                f"inputs, the limit is {LIMIT:.0e}: report it, and use the bundle with engines"
            )
        return error


def _until_end(ids: Array) -> list[list[int]]:
    """Each row up to and with its first highest id, which is the end token."""
    return [row[: int(row.argmax()) + 1].tolist() for row in ids]


def _difference(what: str, equal: int, ours: Array, theirs: Array) -> Difference:
    cosines = np.minimum(1, (ours.astype(np.float64) * theirs).sum(axis=1))
    return Difference(what, len(ours), equal, float(cosines.min()), float(cosines.mean()))


def _hard_captions(bundle: Path, manifest: Manifest) -> list[str]:
    """The captions that the bundle holds because tokenizers differ in them; none in a bundle of an earlier release."""
    path = resolve_path(bundle, manifest.reference)
    with opened_npz(path, BundleError, "is missing or damaged", "copy or export the bundle again") as arrays:
        return list(json.loads(arrays[TEXTS].tobytes())) if TEXTS in arrays.files else []


def _compare_pictures(layout: _Layout, data: ParityData, out: Path) -> tuple[tuple[Difference, ...], str]:
    """Resize the pictures with every image processor for CLIP that the installed transformers has; also why none was used."""
    library = import_or_reason("transformers", "transformers", "pip install transformers")
    if isinstance(library, str):
        return (), library
    found = tuple(_processed(library, layout, data, out))
    return (
        found,
        "" if found else f"transformers {installed_version('transformers')} has no image processor that runs here",
    )


def _processed(library: Any, layout: _Layout, data: ParityData, out: Path) -> Iterator[Difference]:
    # Version 4 has the class on Pillow and the one on torchvision, version 5 the other way about.
    pillow = hasattr(library, "CLIPImageProcessorPil")
    for name in ("CLIPImageProcessor", "CLIPImageProcessorPil" if pillow else "CLIPImageProcessorFast"):
        try:
            processor = getattr(library, name).from_pretrained(out)
            values = processor(list(data.images), return_tensors="np")["pixel_values"]
        except (ImportError, AttributeError, ValueError):  # another version's class, or one that needs torchvision
            continue
        yield layout.compare_pictures(f"{name} of transformers {installed_version('transformers')}", np.asarray(values))
