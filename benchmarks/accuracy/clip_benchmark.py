"""LAION's clip-benchmark driven through an engine: its own datasets, loops and metrics, our preprocessing, tokenizer and runtime.

clip-benchmark runs an `EngineModule` as a model, and `load_engine` is its loader, so that its own command line works, too::

    from clip_benchmark.models import TYPE2FUNC
    TYPE2FUNC["openclip-engines"] = load_engine     # clip_benchmark eval --model_type openclip-engines --model BUNDLE --no_amp …

The transform gives uint8 (H, W, 3): pixels as the engine takes them, so that nothing of open_clip's is between a picture and its
embedding. Checked with clip-benchmark 1.6.2 and webdataset 1.0.2.
"""

from __future__ import annotations

import functools
import importlib
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch

import engines
from engines.errors import InputError
from exporter.datasets import Dataset
from exporter.gate.metrics import Estimate, wilson

BATCH = 32
_RECALLS = (1, 5, 10)


class EngineModule(torch.nn.Module):
    """A loaded bundle as the module that clip-benchmark expects; ``.eval()`` and ``.to()`` leave it as it is.

    Args:
        clip: the result of `engines.load`; the caller closes it after the evaluation.
    """

    def __init__(self, clip: engines.Embedder) -> None:
        super().__init__()
        self.clip = clip

    def encode_image(self, images: torch.Tensor) -> torch.Tensor:
        """Embeddings (N, D) float32 of uint8 (N, H, W, 3), as `transform` makes them."""
        embeds: torch.Tensor = self.clip.encode_image(images)
        return embeds

    def encode_text(self, ids: torch.Tensor) -> torch.Tensor:
        """Embeddings (N, D) float32 of ids (N, context length), as `tokenize` makes them."""
        embeds: torch.Tensor = self.clip.encode_text(ids)
        return embeds

    def transform(self, image: Any) -> torch.Tensor:
        """A Pillow image to uint8 (H, W, 3)."""
        return torch.from_numpy(np.ascontiguousarray(self.clip.preprocess(image)))

    def tokenize(self, texts: Sequence[str]) -> torch.Tensor:
        """Texts to int32 ids (N, context length)."""
        return torch.from_numpy(self.clip.tokenize(list(texts)))


def load_engine(
    model_name: str, pretrained: str = "auto", cache_dir: str | None = None, device: Any = "cpu"
) -> tuple[EngineModule, Callable[[Any], torch.Tensor], Callable[[Sequence[str]], torch.Tensor]]:
    """Model, transform and tokenizer, as clip-benchmark's loaders return them.

    Args:
        model_name: the bundle's folder.
        pretrained: the kind of engine, or ``auto``.
        cache_dir: not used: a bundle has no downloads.
        device: ``cpu`` or ``cuda``; where clip-benchmark puts its tensors.

    Raises:
        EngineError: the bundle or the engine cannot be used.
    """
    module = EngineModule(engines.load(model_name, engine=pretrained, device=torch.device(device).type))
    return module, module.transform, module.tokenize


@dataclass(frozen=True)
class Job:
    """The data of clip-benchmark's evaluation: a local webdataset in its own layout, opened and counted by `prepare`."""

    root: Path
    split: str
    task: str  # ``zero_shot`` or ``retrieval``
    images: int
    captions: int
    measured_by: str  # names and versions


def prepare(root: Path, split: str, dataset: Dataset) -> Job:
    """Check that clip-benchmark is installed and can read the dataset, before anything slow is done.

    Raises:
        InputError: it is not installed, or the dataset lacks a file that it reads.
    """
    from benchmarks.records.machine import versions

    # clip-benchmark 1.6.2 imports requests without requiring it.
    for module, package in (
        ("clip_benchmark", "clip-benchmark"),
        ("webdataset", "webdataset"),
        ("requests", "requests"),
    ):
        if find_spec(module) is None:
            raise InputError(
                f"{package} is not installed: pip install 'openclip-engines[bench]', or drop --clip-benchmark"
            )
    task = "zero_shot" if dataset.classes is not None else "retrieval"
    wanted = [root / split / "nshards.txt"]
    wanted += [root / "classnames.txt", root / "zeroshot_classification_templates.txt"] if task == "zero_shot" else []
    wanted += [root / "dataset_type.txt"] if task == "retrieval" else []
    absent = next((path for path in wanted if not path.is_file()), None)
    if absent is not None:
        raise InputError(
            f"clip-benchmark wants {absent}: --data must be a webdataset in the layout that clip_benchmark_export_wds writes"
        )
    images = captions = 0
    for sample in dataset.samples():
        images, captions = images + 1, captions + len(sample.captions)
    measured_by = f"measured by {versions(['clip-benchmark', 'webdataset'])}"
    return Job(root, split, task, images, captions, measured_by)


def evaluate(
    job: Job, model: torch.nn.Module, transform: Callable[[Any], torch.Tensor], tokenizer: Any, device: str
) -> dict[str, dict[str, Estimate]]:
    """clip-benchmark's own evaluation, without automatic mixed precision.

    Args:
        job: the result of `prepare`.
        model: an engine's (`EngineModule`) or open_clip's.
        transform: the model's transform.
        tokenizer: the model's tokenizer.
        device: device where clip-benchmark puts the tensors: ``cpu`` for engines that take arrays of the host.

    Returns:
        The task's figures, by the names that rows have, with Wilson's intervals. clip-benchmark gives shares only, so the interval
        of captions takes them for independent.

    Raises:
        InputError: a picture cannot be read.
    """
    name = "zeroshot_classification" if job.task == "zero_shot" else "zeroshot_retrieval"
    builder = importlib.import_module("clip_benchmark.datasets.builder")
    metrics = importlib.import_module(f"clip_benchmark.metrics.{name}")
    with _usable(metrics):
        dataset = builder.build_dataset(
            f"wds/{job.root.name}", root=str(job.root), transform=transform, split=job.split, task=name
        )
        loader = torch.utils.data.DataLoader(dataset.batched(BATCH), batch_size=None, shuffle=False, num_workers=0)
        recalls = [k for k in _RECALLS if k < job.images]
        try:
            if job.task == "zero_shot":
                results = metrics.evaluate(
                    model, loader, tokenizer, dataset.classes, dataset.templates, device, amp=False
                )
            else:
                results = metrics.evaluate(model, loader, tokenizer, device, amp=False, recall_k_list=recalls)
        except importlib.import_module("webdataset.autodecode").DecodingError as error:
            reason = error.__cause__ or error
            raise InputError(
                f"clip-benchmark does not skip pictures of {job.root} that it cannot read ({reason}): repair the dataset, or drop "
                "--clip-benchmark"
            ) from error
    if job.task == "zero_shot":
        shares = {"top1": results["acc1"]} | ({"top5": results["acc5"]} if len(dataset.classes) > 5 else {})
        return {"zero_shot": {name: _estimate(value, job.images) for name, value in shares.items()}}
    figures = {}
    for k in recalls:
        figures[f"image_to_text_recall_{k}"] = _estimate(results[f"text_retrieval_recall@{k}"], job.images)
        figures[f"text_to_image_recall_{k}"] = _estimate(results[f"image_retrieval_recall@{k}"], job.captions)
    return {"retrieval": figures}


def _estimate(value: float, samples: int) -> Estimate:
    low, high = wilson(value * samples, samples)
    return Estimate(value, low, high, samples)


@contextmanager
def _usable(module: Any) -> Iterator[None]:
    """clip-benchmark as it is, but for progress bars in a pipe, a warning of webdataset's about its call, and numpy.

    Its `accuracy` turns arrays of one element into floats, which numpy refuses since 2.4 (LAION-AI/CLIP_benchmark issue 147): there
    the same sums are taken by torch.
    """
    originals = {name: getattr(module, name) for name in ("tqdm", "accuracy") if hasattr(module, name)}
    module.tqdm = functools.partial(module.tqdm, disable=None, leave=False)
    if "accuracy" in originals and not _numpy_takes_one_element():
        module.accuracy = _accuracy
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", r"WebDataset\(shardshuffle", UserWarning)
            yield
    finally:
        for name, value in originals.items():
            setattr(module, name, value)


def _numpy_takes_one_element() -> bool:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            float(np.ones(1))
    except TypeError:
        return False
    return True


def _accuracy(output: torch.Tensor, target: torch.Tensor, topk: Sequence[int] = (1,)) -> list[float]:
    """Shares of rows (N, classes) whose target (N,) is among the k largest, for each k."""
    best = output.topk(max(topk), dim=1).indices == target[:, None]
    return [best[:, :k].sum().item() / len(target) for k in topk]
