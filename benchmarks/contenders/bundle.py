"""The engines of a bundle, through the very calls that a service makes."""

from __future__ import annotations

import re
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.contenders import Call, Contender
from benchmarks.records.machine import usable_cores
from benchmarks.workloads.inputs import SETS, Case

if TYPE_CHECKING:
    from benchmarks.workloads.subject import Subject

_FILES_BATCH = 32


def why_not(subject: Subject, contender: Contender, device: str) -> str | None:
    """The reason of `engines.runtimes.choice` for the first tower without an engine that can run."""
    from engines.manifest import read_manifest
    from engines.runtimes.choice import candidates

    assert subject.bundle is not None
    folder = Path(subject.bundle)
    manifest = read_manifest(folder)
    for tower in manifest.towers:
        engines = candidates(folder, manifest, tower, device, contender.engine)
        if all(engine.why_not is not None for engine in engines):
            return engines[0].why_not if engines else f"the bundle has no such engine for its {tower} tower"
    return None


def open_tower(subject: Subject, contender: Contender, tower: str, device: str, folder: Path) -> BundleTower:
    """Load the bundle with this kind of engine and one tower."""
    import engines

    assert subject.bundle is not None
    clip = engines.load(subject.bundle, contender.engine, device, towers=(tower,))  # type: ignore[arg-type]
    return BundleTower(clip, tower, device)


class BundleTower:
    """An embedder of which one tower is loaded."""

    def __init__(self, clip: Any, tower: str, device: str) -> None:
        self._clip, self._device = clip, device
        description = clip.engines[tower]  # "onnxruntime 1.32.0 CPUExecutionProvider"
        library = re.search(r"\S+ \d[\w.]*", description)
        self.versions = library[0] if library else description
        model = clip.manifest.model
        self.weights = "random" if model.source == "random" else (model.tag or model.source)
        self.note = description[library.end() :].strip() if library else ""
        self.threads = usable_cores() if device == "cpu" else 0
        self.on_stream = device == "cuda" and clip._runtime(tower).takes_device_arrays
        self._wait = self._total = 0.0

    def prepare(self, case: Case) -> Call:
        """Load pixels or ids as numpy arrays, or on the GPU where the engine takes them there."""
        inputs, clip = case.load(), self._clip
        if case.kind == "files":
            return lambda i: self._embed_files(inputs)
        if case.kind == "ids":
            ids = [inputs[i] for i in range(SETS)]
            return lambda i: clip.encode_text(ids[i % SETS])
        pixels = [inputs[i] for i in range(SETS)]
        if self.on_stream:
            import torch

            pixels = [torch.from_numpy(rows).cuda() for rows in pixels]
        return lambda i: clip.encode_image(pixels[i % SETS])

    def figures(self) -> dict[str, float]:
        """The share of a run over files in which the engine waits for pixels."""
        return {"decode_share": self._wait / self._total} if self._total else {}

    def _embed_files(self, files: list[str]) -> None:
        from engines.inputs.decode import readable

        start, self._wait = time.perf_counter(), 0.0
        batches = self._clip.preprocess_ahead(files, _FILES_BATCH)
        while True:
            before = time.perf_counter()
            item = next(batches, None)
            self._wait += time.perf_counter() - before
            if item is None:
                break
            self._clip.encode_image(readable(item[1]))
        self._total = time.perf_counter() - start
