"""open_clip's own model in PyTorch: eager, as a user runs it, and compiled by ``torch.compile``."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.contenders import Call, Contender, missing_library
from benchmarks.records.machine import usable_cores, versions
from benchmarks.records.precisions import torch_dtype
from benchmarks.workloads.inputs import SETS, Case

if TYPE_CHECKING:
    from benchmarks.workloads.subject import Subject

_FILES_BATCH = 32
_MODES: dict[str, str | None] = {"torch.compile": "default", "torch.compile max-autotune": "max-autotune"}


def why_not(subject: Subject, contender: Contender, device: str) -> str | None:
    """PyTorch or open_clip is missing, or there is no GPU."""
    missing = missing_library("open_clip", "torch")
    if missing is not None:
        return missing
    import torch

    if device == "cuda" and not torch.cuda.is_available():
        return "PyTorch sees no GPU"
    return None


def open_tower(subject: Subject, contender: Contender, tower: str, device: str, folder: Path) -> EagerTower:
    """Load the model, and compile it for contenders that are compiled (at the first call of each shape)."""
    model, weights, note = load_clip(subject, device)
    return EagerTower(model, subject, contender, tower, device, weights, note)


def load_clip(subject: Subject, device: str = "cpu") -> tuple[Any, str, str]:
    """The model in float32, the origin of its weights, and a note if they are not the subject's.

    Where the weights are not at hand (no network) random ones take their place, because they take the same time.
    """
    if subject.pretrained == "none":
        return _random_model(subject.source, device), "random", ""
    from exporter.errors import ExportError
    from exporter.source.loading import load_source

    try:
        source = load_source(subject.source, subject.pretrained, with_tokenizer=False)
    except ExportError as error:
        return (
            _random_model(subject.source, device),
            "random",
            f"random weights, for {' '.join(str(error).split())[:120]}",
        )
    return source.model, source.info.tag or source.info.source, ""


def _random_model(name: str, device: str) -> Any:
    import logging

    import open_clip
    import torch

    from exporter.weights.random_weights import fill_random, uninitialized_parameters

    level = logging.root.manager.disable
    logging.disable(logging.WARNING)  # open_clip warns that no weights were loaded
    try:
        if device == "cuda":  # where open_clip's own random fills take no time
            with torch.device(device):
                model = open_clip.create_model(name, pretrained=None, device=device)
        else:
            with uninitialized_parameters():
                model = open_clip.create_model(name, pretrained=None)
            fill_random(model, seed=0)
    finally:
        logging.disable(level)
    return model.eval().requires_grad_(False)


class EagerTower:
    """One tower of the model, normalized embeddings out."""

    def __init__(
        self, model: Any, subject: Subject, contender: Contender, tower: str, device: str, weights: str, note: str
    ) -> None:
        import torch

        self._torch, self._device, self._subject = torch, device, subject
        self._dtype = torch_dtype(contender.precision)
        self._model = model.eval().to(device=device, dtype=self._dtype)
        encode = self._model.encode_image if tower == "image" else self._model.encode_text
        self._encode: Any = lambda x: encode(x, normalize=True)
        mode = _MODES.get(contender.engine)
        if mode is not None:
            torch._dynamo.config.cache_size_limit = 64
            # Each batch size is compiled for itself, as max-autotune wants it; the run warms every one up first.
            self._encode = torch.compile(self._encode, dynamic=False, mode=None if mode == "default" else mode)
        self.on_stream = device == "cuda"
        self.versions = versions(("torch", "open_clip_torch"))
        self.weights, self.note, self.threads = weights, note, torch.get_num_threads()
        self._wait = self._total = 0.0

    def prepare(self, case: Case) -> Call:
        """Normalized pixels or int64 ids, on the device."""
        torch = self._torch
        inputs = case.load()
        if case.kind == "files":
            return lambda i: self._embed_files(inputs)
        if case.kind == "pixels":
            sets = [self._normalize(torch.from_numpy(inputs[i])) for i in range(SETS)]
        else:
            sets = [torch.from_numpy(inputs[i]).long().to(self._device) for i in range(SETS)]

        def call(i: int) -> object:
            with torch.inference_mode():
                return self._encode(sets[i % SETS])

        return call

    def figures(self) -> dict[str, float]:
        """The share of a run over files in which the model waits for pixels."""
        return {"decode_share": self._wait / self._total} if self._total else {}

    def _normalize(self, pixels: Any) -> Any:
        torch, subject = self._torch, self._subject
        mean, std = torch.tensor(subject.mean), torch.tensor(subject.std)
        x = (pixels.float() / 255 - mean) / std
        return x.permute(0, 3, 1, 2).contiguous().to(device=self._device, dtype=self._dtype)

    def _embed_files(self, files: list[str]) -> Any:
        """Embed files as most scripts do: open_clip's transform in the workers of a DataLoader, batches of 32."""
        torch = self._torch
        start, self._wait, parts = time.perf_counter(), 0.0, []
        with torch.inference_mode():
            for batch, waited in _timed(iter(self._loader(files))):
                self._wait += waited
                parts.append(self._encode(batch.to(device=self._device, dtype=self._dtype)).float().cpu())
        self._total = time.perf_counter() - start
        return torch.cat(parts)

    def _loader(self, files: list[str]) -> Any:
        import open_clip
        from PIL import Image

        subject = self._subject
        transform = open_clip.image_transform(subject.size, is_train=False, mean=subject.mean, std=subject.std)

        class Files(self._torch.utils.data.Dataset):  # type: ignore[misc, name-defined]
            def __len__(self) -> int:
                return len(files)

            def __getitem__(self, i: int) -> Any:
                with Image.open(files[i]) as image:
                    return transform(image)

        loader = self._torch.utils.data.DataLoader
        # Forked workers are what a script gets on Linux; they only decode.
        return loader(Files(), batch_size=_FILES_BATCH, num_workers=usable_cores(), multiprocessing_context="fork")


def _timed(iterator: Iterator[Any]) -> Iterator[tuple[Any, float]]:
    """Items, each with the seconds of waiting for it."""
    while True:
        start = time.perf_counter()
        item = next(iterator, None)
        if item is None:
            return
        yield item, time.perf_counter() - start
