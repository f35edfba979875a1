"""The `Embedder` of a loaded bundle: it preprocesses and batches images and texts, and runs the engines."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, cast, overload

import numpy as np
import numpy.typing as npt

from engines.bundle_files import verify_files
from engines.device.arrays import ArrayT, as_numpy, like
from engines.device.device_arrays import current_stream, device_of, like_device
from engines.errors import EngineError, ImageError, InputError
from engines.files.bundle_paths import resolve_path
from engines.inputs.arguments import (
    Template,
    check_embeddings,
    check_ids,
    check_pixels,
    each_text,
    in_chunks,
    is_array,
    label_prompts,
    whole_number,
)
from engines.inputs.decode import Decoder, Pixels, readable
from engines.inputs.image_inputs import ImageInput, private_image, several_images
from engines.inputs.preprocess import normalize_pixels
from engines.inputs.tokenizer import TextTokenizer
from engines.manifest import Manifest, Tower, TowerName, read_manifest
from engines.process.forks import PerProcess
from engines.runtimes.batches import ThroughputPlan, batch_size, check_finite, run_ids, run_in_batches, throughput_plan
from engines.runtimes.choice import choose_engine, open_for_forks, report_choice
from engines.runtimes.protocol import TowerRuntime

Embeddings = npt.NDArray[np.float32]

# Rows per run where the engine sets no limit: with more rows, throughput on the CPU does not grow, but memory does.
_IMAGE_BATCH, _TEXT_BATCH = 32, 64
_TEXT_CHUNK = 8192  # number of texts that are tokenized and sorted by length together


class Embedder:
    """A loaded bundle. Many threads may call it; use it as a context manager, or `close` it.

    A process that was forked from the loading process may call it, too: the first call there starts threads and opens engines
    again. Engines on a GPU raise an `EngineError` there, because CUDA does not work in a forked process.

    Attributes:
        manifest: the bundle's manifest (`engines.manifest.Manifest`).
        engines: description of each tower's engine, such as ``{"image": "onnxruntime 1.32.0 CPUExecutionProvider", …}``.
        decoder: library and version that decodes images, ``pillow 13.0.0`` or ``native 0.1.0``.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        engine: str = "auto",
        device: str = "auto",
        *,
        towers: Sequence[TowerName] | None = None,
        workers: int | None = None,
        max_pixels: int | None = None,
        decoder: str = "auto",
        fast_decode: bool = False,
        **options: Any,
    ) -> None:
        """Load a bundle; see `engines.load` for the arguments."""
        if not isinstance(path, (str, os.PathLike)):
            raise InputError(f"the bundle's path must be a str or a path, not {type(path).__name__}")
        folder = Path(path)
        self.manifest: Manifest = read_manifest(folder)
        verify_files(folder, self.manifest)
        names = list(self.manifest.towers) if towers is None else list(dict.fromkeys(each_text(towers, "towers")))
        self._closed = False
        self._runtimes: dict[str, PerProcess[TowerRuntime]] = {}
        self._max_pixels = max_pixels
        self._decoder = Decoder(self.manifest.preprocess, workers, max_pixels, folder, decoder, fast_decode)
        self.decoder = self._decoder.description
        try:
            for name in names:
                tower = self._tower(name)
                chosen = choose_engine(folder, self.manifest, cast(TowerName, name), engine, device)
                report_choice(folder, self.manifest, chosen, device, chosen_here=engine == "auto")
                self._runtimes[name] = open_for_forks(folder, chosen, tower, self.manifest.precision, device, **options)
            config = self.manifest.tokenizer
            has_text = "text" in self._runtimes and config is not None
            self._tokenizer = TextTokenizer(resolve_path(folder, config.file), config) if has_text and config else None
        except BaseException:
            self.close()
            raise
        self.engines = {name: runtime.get().description for name, runtime in self._runtimes.items()}

    @overload
    def encode_image(self, images: npt.NDArray[Any], *, stream: int | None = None) -> Embeddings: ...
    @overload
    def encode_image(self, images: ArrayT, *, stream: int | None = None) -> ArrayT: ...
    @overload
    def encode_image(self, images: Iterable[ImageInput], *, stream: int | None = None) -> Embeddings: ...
    def encode_image(self, images: Any, *, stream: int | None = None) -> Any:
        """Embed images.

        Args:
            images: paths, encoded files (bytes, or file objects, which are read from their start), Pillow images or uint8 (H, W, 3)
                arrays of any size, in a list or from any iterable; or one uint8 array or tensor (N, H, W, 3) of pixels that are
                resized and cropped already (see `preprocess`). An array on the GPU (torch, CuPy, any library with DLPack) must
                have the tower's own input dtype and shape, and stays on the GPU.
            stream: a CUDA stream's handle, for arrays on the GPU: the result is ready in the stream's order. None is torch's
                current stream for torch tensors; for other arrays the result is ready when the call returns.

        Returns:
            (N, D) float32, L2-normalized; its kind of array and its device are those of the argument.

        Raises:
            InputError: there is no image, or pixels have another shape or dtype.
            ImageError: an image cannot be read; the message names it.
            EngineError: the embedder is closed, or the engine failed or gave NaN.
        """
        runtime = self._runtime("image")
        if device_of(images) is not None and runtime.takes_device_arrays:
            used = stream if stream is not None else current_stream(images)
            return like_device(runtime.run_on_device(images, used), images)
        if is_array(images):
            pixels = as_numpy(images)
            check_pixels(pixels, self.manifest.preprocess.size)
            return like(self._run_pixels(runtime, pixels), images)
        batches = self._decoder.batches(several_images(images), batch_size(runtime.batch, _IMAGE_BATCH))
        parts = [self._run_pixels(runtime, readable(batch)) for _, batch in batches]
        if not parts:
            raise InputError("there is no image: pass at least one")
        return np.concatenate(parts)

    @overload
    def encode_text(self, texts: npt.NDArray[Any]) -> Embeddings: ...
    @overload
    def encode_text(self, texts: ArrayT) -> ArrayT: ...
    @overload
    def encode_text(self, texts: Iterable[str]) -> Embeddings: ...
    def encode_text(self, texts: Any) -> Any:
        """Embed texts.

        Args:
            texts: str in a list or from any iterable (the rows come in its order), or token ids (N, L) of an integer dtype with L
                up to the context length, as `tokenize` returns them.

        Returns:
            (N, D) float32, L2-normalized; a torch tensor where the argument is a torch tensor.

        Raises:
            InputError: there is no text, an item is not a str, or ids have another shape or dtype or are outside the vocabulary.
            EngineError: the embedder is closed, or the engine failed or gave NaN.
        """
        runtime = self._runtime("text")
        if is_array(texts):
            config = self.manifest.tokenizer
            assert config is not None
            ids = check_ids(as_numpy(texts), config.context_length, config.vocab_size)
            return like(self._run_ids(runtime, ids), texts)
        parts = [self._run_ids(runtime, self.tokenize(chunk)) for chunk in in_chunks(each_text(texts), _TEXT_CHUNK)]
        if not parts:
            raise InputError("there is no text: pass a list of at least one str")
        return np.concatenate(parts)

    def classify(
        self, images: Any, labels: Iterable[str], templates: Iterable[Template] = ("{}",)
    ) -> npt.NDArray[np.float32]:
        """Zero-shot classification.

        Args:
            images: the same values as for `encode_image`.
            labels: class names or whole captions.
            templates: prompts with ``{}`` in the place of the label, or functions of the label, like open_clip's own templates; a
                label's embedding is the mean over its prompts.

        Returns:
            (N, labels) float32 probabilities: a softmax over the labels, or, for models that were trained with a sigmoid loss (they
            have a logit bias), each label's own probability.

        Raises:
            InputError, ImageError, EngineError: see `encode_image` and `encode_labels`.
        """
        label_embeds = self.encode_labels(labels, templates)
        return self.probabilities(np.asarray(self.encode_image(images)), label_embeds)

    def encode_labels(self, labels: Iterable[str], templates: Iterable[Template] = ("{}",)) -> Embeddings:
        """Embeddings of labels (labels, D), each the normalized mean over its prompts, with which `classify` compares images.

        Raises:
            InputError: there is no label or template, a label is not a str, a template is neither a str with ``{}`` nor a function
                that returns a str.
            EngineError: see `encode_text`.
        """
        prompts, count, each = label_prompts(labels, templates)
        embeds = np.asarray(self.encode_text(prompts)).reshape(count, each, -1).mean(axis=1)
        return np.asarray(embeds / np.linalg.norm(embeds, axis=1, keepdims=True), dtype=np.float32)

    def probabilities(self, image_embeds: Embeddings, label_embeds: Embeddings) -> npt.NDArray[np.float32]:
        """The probabilities of `classify`, (N, M), for images (N, D) and labels (M, D) that are embedded already.

        Raises:
            InputError: one of the arrays has another shape.
        """
        width = self.manifest.model.embed_dim
        image_embeds = check_embeddings("image_embeds", image_embeds, width)
        label_embeds = check_embeddings("label_embeds", label_embeds, width)
        model = self.manifest.model
        logits = model.logit_scale * (image_embeds @ label_embeds.T)
        if model.logit_bias is not None:
            # The logistic function in a form that cannot overflow.
            return np.asarray(0.5 + 0.5 * np.tanh(0.5 * (logits + model.logit_bias)), dtype=np.float32)
        weights = np.exp(logits - logits.max(axis=1, keepdims=True))
        return np.asarray(weights / weights.sum(axis=1, keepdims=True), dtype=np.float32)

    def preprocess(self, image: ImageInput) -> npt.NDArray[np.uint8]:
        """One image's pixels (H, W, 3) uint8 as the model takes them: open_clip's resize and crop, to the bit.

        Raises:
            ImageError: the image cannot be read, or is larger than `max_pixels`.
            InputError: the argument is no image at all.
        """
        return readable([self._decoder.preprocess(private_image(image, self._max_pixels))])[0]

    def preprocess_ahead(
        self, images: Iterable[ImageInput], batch: int
    ) -> Iterator[tuple[int, list[Pixels | ImageError]]]:
        """Batches of pixels, decoded by threads while the caller works on an earlier batch; see `Decoder.batches`."""
        return self._decoder.batches(several_images(images), whole_number("batch", batch, 1, "of images"))

    def throughput_plan(self, tower: TowerName) -> ThroughputPlan:
        """How a caller with many rows keeps a tower busy."""
        return throughput_plan(self._runtime(tower), _IMAGE_BATCH if tower == "image" else _TEXT_BATCH)

    def tokenize(self, texts: Iterable[str]) -> npt.NDArray[np.int32]:
        """Token ids (N, context length) int32, equal to open_clip's.

        Raises:
            InputError: there is no text, or an item is not a str.
            EngineError: the bundle has no text tower, or the tower was not loaded.
        """
        if self._tokenizer is None:
            raise EngineError("this bundle has no text tower: export it with --towers image,text")
        return self._tokenizer(list(each_text(texts)))

    def close(self) -> None:
        """Free the engines; calls after it fail."""
        self._closed = True
        for held in self._runtimes.values():
            runtime = held.made_here()
            if runtime is not None:
                runtime.close()
        self._decoder.close()

    def __enter__(self) -> Embedder:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _tower(self, name: str) -> Tower:
        if name not in self.manifest.towers:
            have = ", ".join(self.manifest.towers)
            raise EngineError(f"this bundle has no {name} tower (it has {have}): export it with --towers image,text")
        return self.manifest.towers[name]

    def _runtime(self, name: TowerName) -> TowerRuntime:
        if self._closed:
            raise EngineError("the embedder was closed: load the bundle again")
        if name not in self._runtimes:
            self._tower(name)
            raise EngineError(f"the {name} tower was not loaded: add it to towers=")
        return self._runtimes[name].get()

    def _run_pixels(self, runtime: TowerRuntime, pixels: npt.NDArray[np.uint8]) -> Embeddings:
        size, config = batch_size(runtime.batch, _IMAGE_BATCH), self.manifest.preprocess
        floats = self.manifest.towers["image"].input.dtype == "float32"
        # Floats are made for one batch at a time, because they take four times the bytes.
        parts = [
            run_in_batches(runtime, normalize_pixels(rows, config) if floats else rows, size)
            for rows in (pixels[i : i + size] for i in range(0, len(pixels), size))
        ]
        return check_finite(np.concatenate(parts), "image", self.manifest.precision)

    def _run_ids(self, runtime: TowerRuntime, ids: npt.NDArray[np.int32]) -> Embeddings:
        tower, config = self.manifest.towers["text"], self.manifest.tokenizer
        assert tower.length is not None
        assert config is not None
        embeds = run_ids(runtime, ids, tower.length, config.pad_id, _TEXT_BATCH)
        return check_finite(embeds, "text", self.manifest.precision)
