"""Images to pixels in threads, ahead of the engine."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from engines.errors import EngineError, ImageError, InputError
from engines.manifest import Preprocess
from engines.preprocess import ImageInput, preprocess_image

Pixels: TypeAlias = npt.NDArray[np.uint8]

_AHEAD = 2  # batches that are decoded while the engine works on the one before
_MOST_WORKERS = 8


class Decoder:
    """A pool of threads that preprocess images; Pillow and numpy release the interpreter's lock for most of the work.

    Args:
        config: the checkpoint's transform.
        workers: threads; None is one per core that this process may use, at most 8.
    """

    def __init__(self, config: Preprocess, workers: int | None = None) -> None:
        if workers is not None and workers < 1:
            raise InputError(f"workers is {workers}: pass 1 or more, or None for one per core")
        self._config = config
        self._pool = ThreadPoolExecutor(workers or min(_MOST_WORKERS, usable_cores()), thread_name_prefix="decode")

    def batches(self, images: Sequence[ImageInput], size: int) -> Iterator[tuple[int, list[Pixels | ImageError]]]:
        """Batches in order, decoded while the caller works on the one before.

        Args:
            images: any number.
            size: images in a batch.

        Yields:
            The index of a batch's first image, and for each image its pixels, or the error where it cannot be read.

        Raises:
            InputError: an element is no image at all (a number, an array of another dtype).
            EngineError: the pool was closed meanwhile.
        """
        waiting: deque[tuple[int, list[Future[Pixels | ImageError]]]] = deque()
        try:
            for start in range(0, len(images), size):
                waiting.append((start, [self._submit(image) for image in images[start : start + size]]))
                if len(waiting) > _AHEAD:
                    yield self._finished(*waiting.popleft())
            while waiting:
                yield self._finished(*waiting.popleft())
        finally:  # the caller may stop early, or an image raised
            for _, futures in waiting:
                for future in futures:
                    future.cancel()

    def close(self) -> None:
        """Stop the threads; work that has not begun is dropped."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _submit(self, image: ImageInput) -> Future[Pixels | ImageError]:
        try:
            return self._pool.submit(self._attempt, image)
        except RuntimeError as error:
            raise _closed() from error

    def _attempt(self, image: ImageInput) -> Pixels | ImageError:
        try:
            return preprocess_image(image, self._config)
        except ImageError as error:
            return error

    @staticmethod
    def _finished(start: int, futures: list[Future[Pixels | ImageError]]) -> tuple[int, list[Pixels | ImageError]]:
        try:
            return start, [future.result() for future in futures]
        except CancelledError as error:
            raise _closed() from error


def readable(batch: Sequence[Pixels | ImageError]) -> Pixels:
    """A batch as one array (N, H, W, 3) uint8.

    Raises:
        ImageError: of the first image that cannot be read.
    """
    pixels: list[Pixels] = []
    for item in batch:
        if isinstance(item, ImageError):
            raise item
        pixels.append(item)
    return np.stack(pixels)


def _closed() -> EngineError:
    return EngineError("the embedder was closed: load the bundle again")


def usable_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
