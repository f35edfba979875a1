"""Images and texts to embeddings: preprocessing, batching and the engine behind two methods."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt

from engines.arrays import as_numpy, like
from engines.batches import batch_size, check_finite, run_in_batches
from engines.bundle_files import resolve_path, verify_files
from engines.decode import Decoder, Pixels, readable
from engines.device_arrays import current_stream, device_of, like_device
from engines.errors import EngineError, ImageError, InputError
from engines.manifest import Engine, Manifest, Tower, TowerName, read_manifest
from engines.preprocess import ImageInput, normalize_pixels, preprocess_image
from engines.runtime import TowerRuntime, best_first, choose_engine, label, open_tower
from engines.text_length import needed_lengths, plan_batches
from engines.tokenizer import TextTokenizer

Embeddings = npt.NDArray[np.float32]

_LOG = logging.getLogger("engines")

# Rows per run where the engine sets no limit: beyond it throughput does not grow on the CPU, and memory does.
_IMAGE_BATCH = 32
_TEXT_BATCH = 64
_TEXT_CHUNK = 8192  # texts that are tokenized and sorted by length together


class Embedder:
    """A loaded bundle. Many threads may call it; use it as a context manager, or `close` it.

    Attributes:
        manifest: the bundle's manifest (`engines.manifest.Manifest`).
        engines: what runs each tower, such as ``{"image": "onnxruntime 1.32.0 CPUExecutionProvider", …}``.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        engine: str = "auto",
        device: str = "auto",
        *,
        towers: Sequence[TowerName] | None = None,
        workers: int | None = None,
        **options: Any,
    ) -> None:
        """Load a bundle; see `engines.load` for the arguments."""
        folder = Path(path)
        self.manifest: Manifest = read_manifest(folder)
        verify_files(folder, self.manifest)
        wanted = list(self.manifest.towers) if towers is None else list(towers)
        self._closed = False
        self._runtimes: dict[str, TowerRuntime] = {}
        self._decoder = Decoder(self.manifest.preprocess, workers)
        try:
            for name in wanted:
                tower = self._tower(name)
                chosen = choose_engine(folder, self.manifest, name, engine, device)
                _report(folder, self.manifest, chosen, device, chosen_here=engine == "auto")
                self._runtimes[name] = open_tower(folder, chosen, tower, self.manifest.precision, device, **options)
            config = self.manifest.tokenizer
            has_text = "text" in self._runtimes and config is not None
            self._tokenizer = TextTokenizer(resolve_path(folder, config.file), config) if has_text and config else None
        except BaseException:
            self.close()
            raise
        self.engines = {name: runtime.description for name, runtime in self._runtimes.items()}

    def encode_image(self, images: Any, *, stream: int | None = None) -> Any:
        """Embed images.

        Args:
            images: a sequence of paths, encoded bytes, Pillow images or uint8 (H, W, 3) arrays of any size; or one uint8 array or
                tensor (N, H, W, 3) of pixels that are resized and cropped already (see `preprocess`). An array on the GPU (torch,
                CuPy, anything that speaks DLPack) has the tower's own input dtype and shape, and stays there.
            stream: a CUDA stream's handle, for arrays on the GPU: the result is ready in its order. None is the stream that torch
                has current for torch tensors; for others the result is ready when the call returns.

        Returns:
            (N, D) float32, L2-normalized, as the kind of array that came in and where it was.

        Raises:
            InputError: no image, or pixels of another shape or dtype.
            ImageError: an image cannot be read; the message names it.
            EngineError: the embedder is closed, or the engine failed or gave NaN.
        """
        runtime = self._runtime("image")
        if device_of(images) is not None and hasattr(runtime, "run_on_device"):
            used = stream if stream is not None else current_stream(images)
            return like_device(runtime.run_on_device(images, used), images)
        if _is_array(images) and not isinstance(images, (bytes, bytearray)):
            pixels = as_numpy(images)
            self._check_pixels(pixels)
            return like(self._run_pixels(runtime, pixels), images)
        if isinstance(images, (str, bytes, os.PathLike)) or not isinstance(images, Sequence):
            raise InputError(
                f"images must be a list of images or a uint8 array (N, H, W, 3), not {type(images).__name__}"
            )
        if not len(images):
            raise InputError("there is no image: pass at least one")
        batches = self._decoder.batches(images, batch_size(runtime.batch, _IMAGE_BATCH))
        return np.concatenate([self._run_pixels(runtime, readable(batch)) for _, batch in batches])

    def encode_text(self, texts: Any) -> Any:
        """Embed texts.

        Args:
            texts: a sequence of str, or token ids (N, L) of an integer dtype with L up to the context length, as `tokenize`
                gives them.

        Returns:
            (N, D) float32, L2-normalized; a torch tensor if a torch tensor came in.

        Raises:
            InputError: no text, something that is not a str, ids of another shape or dtype or outside the vocabulary.
            EngineError: the embedder is closed, or the engine failed or gave NaN.
        """
        runtime = self._runtime("text")
        if _is_array(texts):
            ids = self._check_ids(as_numpy(texts))
            return like(self._run_ids(runtime, ids), texts)
        if isinstance(texts, str):
            raise InputError("texts must be a list of str; for one text pass a list of one")
        if not isinstance(texts, Sequence) or not len(texts):
            raise InputError("there is no text: pass a list of at least one str")
        chunks = (texts[i : i + _TEXT_CHUNK] for i in range(0, len(texts), _TEXT_CHUNK))
        return np.concatenate([self._run_ids(runtime, self.tokenize(chunk)) for chunk in chunks])

    def classify(
        self, images: Any, labels: Sequence[str], templates: Sequence[str] = ("{}",)
    ) -> npt.NDArray[np.float32]:
        """Zero-shot classification.

        Args:
            images: as for `encode_image`.
            labels: class names or whole captions.
            templates: prompts with ``{}`` in the place of the label; a label's embedding is the mean over them.

        Returns:
            (N, labels) float32 probabilities: a softmax over the labels, or, for models trained with a sigmoid loss (those with a
            logit bias), each label's own probability.
        """
        label_embeds = self.encode_labels(labels, templates)
        return self.probabilities(np.asarray(self.encode_image(images)), label_embeds)

    def encode_labels(self, labels: Sequence[str], templates: Sequence[str] = ("{}",)) -> Embeddings:
        """Embeddings of labels (labels, D), each the normalized mean over its prompts: what `classify` compares with."""
        if isinstance(labels, str) or not len(labels):
            raise InputError("labels must be a list of at least one str")
        if isinstance(templates, str) or not len(templates) or any("{}" not in template for template in templates):
            raise InputError("templates must be a list of str, each with {} in the place of the label")
        prompts = [template.replace("{}", label) for label in labels for template in templates]
        embeds = np.asarray(self.encode_text(prompts)).reshape(len(labels), len(templates), -1).mean(axis=1)
        return np.asarray(embeds / np.linalg.norm(embeds, axis=1, keepdims=True), dtype=np.float32)

    def probabilities(self, image_embeds: Embeddings, label_embeds: Embeddings) -> npt.NDArray[np.float32]:
        """What `classify` gives for images (N, D) and labels (M, D) that are embedded already: (N, M)."""
        model = self.manifest.model
        logits = model.logit_scale * (image_embeds @ label_embeds.T)
        if model.logit_bias is not None:
            # The logistic function, written so that nothing overflows.
            return np.asarray(0.5 + 0.5 * np.tanh(0.5 * (logits + model.logit_bias)), dtype=np.float32)
        weights = np.exp(logits - logits.max(axis=1, keepdims=True))
        return np.asarray(weights / weights.sum(axis=1, keepdims=True), dtype=np.float32)

    def preprocess(self, image: ImageInput) -> npt.NDArray[np.uint8]:
        """One image's pixels (H, W, 3) uint8 as the model takes them: open_clip's resize and crop, to the bit."""
        return preprocess_image(image, self.manifest.preprocess)

    def preprocess_ahead(
        self, images: Sequence[ImageInput], batch: int
    ) -> Iterator[tuple[int, list[Pixels | ImageError]]]:
        """Batches of pixels, decoded by threads while the caller works on the batch before; see `Decoder.batches`."""
        return self._decoder.batches(images, batch)

    def tokenize(self, texts: Sequence[str]) -> npt.NDArray[np.int32]:
        """Token ids (N, context length) int32, equal to open_clip's."""
        if self._tokenizer is None:
            raise EngineError("this bundle has no text tower: export it with --towers image,text")
        return self._tokenizer(texts)

    def close(self) -> None:
        """Free the engines; calls after it fail."""
        self._closed = True
        for runtime in self._runtimes.values():
            runtime.close()
        self._decoder.close()

    def __enter__(self) -> Embedder:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _tower(self, name: TowerName) -> Tower:
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
        return self._runtimes[name]

    def _run_pixels(self, runtime: TowerRuntime, pixels: npt.NDArray[np.uint8]) -> Embeddings:
        size, config = batch_size(runtime.batch, _IMAGE_BATCH), self.manifest.preprocess
        floats = self.manifest.towers["image"].input.dtype == "float32"
        parts = []
        for i in range(0, len(pixels), size):  # floats take four times the bytes: made for a batch at a time
            rows = pixels[i : i + size]
            parts.append(run_in_batches(runtime, normalize_pixels(rows, config) if floats else rows, size))
        embeds = np.concatenate(parts)
        return check_finite(embeds, "image", self.manifest.precision)

    def _run_ids(self, runtime: TowerRuntime, ids: npt.NDArray[np.int32]) -> Embeddings:
        tower, config = self.manifest.towers["text"], self.manifest.tokenizer
        assert tower.length is not None
        assert config is not None
        width = tower.length.max
        if ids.shape[1] < width:
            ids = np.pad(ids, ((0, 0), (0, width - ids.shape[1])), constant_values=config.pad_id)
        lengths = needed_lengths(ids, tower.length, config.pad_id)
        size = batch_size(runtime.batch, _TEXT_BATCH)
        result: Embeddings | None = None
        for rows in plan_batches(lengths, size):
            longest = int(lengths[rows].max())
            embeds = run_in_batches(runtime, ids[rows, :longest], size)
            if result is None:
                result = np.empty((len(ids), embeds.shape[1]), dtype=np.float32)
            result[rows] = embeds
        assert result is not None
        return check_finite(result, "text", self.manifest.precision)

    def _check_pixels(self, pixels: npt.NDArray[Any]) -> None:
        expected = (*self.manifest.preprocess.size, 3)
        if pixels.dtype != np.uint8 or pixels.ndim != 4 or pixels.shape[1:] != expected:
            raise InputError(
                f"pixels must be uint8 (N, {', '.join(map(str, expected))}), not {pixels.dtype} {pixels.shape}; "
                "pass a list of images to have them resized and cropped"
            )
        if not len(pixels):
            raise InputError("there is no image: pass at least one")

    def _check_ids(self, ids: npt.NDArray[Any]) -> npt.NDArray[np.int32]:
        config = self.manifest.tokenizer
        assert config is not None
        if ids.ndim != 2 or not np.issubdtype(ids.dtype, np.integer):
            raise InputError(f"ids must be integers (N, L), not {ids.dtype} {ids.shape}")
        if not ids.size:
            raise InputError("there is no text: pass at least one row of ids")
        if ids.shape[1] > config.context_length:
            raise InputError(f"ids are {ids.shape[1]} long, the model takes at most {config.context_length}")
        low, high = int(ids.min()), int(ids.max())
        if low < 0 or high >= config.vocab_size:
            wrong = low if low < 0 else high
            raise InputError(f"token id {wrong} is outside the vocabulary, 0 to {config.vocab_size - 1}")
        return ids.astype(np.int32, copy=False)


def _report(folder: Path, manifest: Manifest, chosen: Engine, device: str, chosen_here: bool) -> None:
    """Log which engine serves a tower: as a warning where the choice was ours and better ones cannot run here, with the reasons."""
    passed_over = []
    for item in best_first(folder, manifest, chosen.tower, device) if chosen_here else ():
        if item.engine == chosen:
            break
        if item.engine.kind != chosen.kind:  # the same kind for another GPU was never meant for this one
            passed_over.append(f"{label(item.engine)}: {item.why_not}")
    words = f"the {chosen.tower} tower of {folder} runs on {label(chosen)}"
    if passed_over:
        _LOG.warning("%s; not on %s", words, "; ".join(passed_over))
    else:
        _LOG.info("%s", words)


def _is_array(value: Any) -> bool:
    return isinstance(value, np.ndarray) or hasattr(value, "__dlpack__")
