"""Decoding and preprocessing of images in threads, ahead of the engine."""

from __future__ import annotations

import itertools
import os
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from engines.errors import EngineError, ImageError
from engines.inputs.arguments import whole_number
from engines.inputs.image_inputs import ImageInput, PrivateImage, private_image
from engines.inputs.preprocess import preprocess_private
from engines.manifest import Preprocess
from engines.process.cores import usable_cores
from engines.process.forks import PerProcess

Pixels: TypeAlias = npt.NDArray[np.uint8]

_AHEAD = 2  # number of batches that are decoded while the engine works on an earlier batch


class Decoder:
    """A pool of threads that preprocess images. Threads help because Pillow and numpy release Python's lock for most of the work.

    A forked child makes a new pool.

    Args:
        config: the checkpoint's transform.
        workers: number of threads; None is one per core that this process may use.
        max_pixels: limit of width x height, see `engines.inputs.preprocess.preprocess_image`.

    Raises:
        InputError: `workers` or `max_pixels` is no whole number of at least 1.
    """

    def __init__(self, config: Preprocess, workers: int | None = None, max_pixels: int | None = None) -> None:
        threads = usable_cores() if workers is None else whole_number("workers", workers, 1, "of threads")
        self._config = config
        self._max_pixels = None if max_pixels is None else whole_number("max_pixels", max_pixels, 1)
        self._closed = False
        self._pool = PerProcess(lambda: ThreadPoolExecutor(threads, thread_name_prefix="decode"))

    def batches(self, images: Iterable[ImageInput], size: int) -> Iterator[tuple[int, list[Pixels | ImageError]]]:
        """Batches of pixels in order, decoded while the caller works on an earlier batch.

        Pillow images and file objects are read in the caller's thread, see `engines.inputs.image_inputs`; other images in the
        pool's threads.

        Args:
            images: any number of images, in a sequence or from an iterator; an iterator is read two batches ahead of the caller.
            size: number of images in a batch, at least 1.

        Yields:
            The index of a batch's first image, and for each image its pixels, or the error where it cannot be read.

        Raises:
            InputError: an element is no image at all (a number, an array of another dtype).
            EngineError: the pool was closed meanwhile, or the process forked, because the batches ahead belong to the parent.
        """
        source, process, start = iter(images), os.getpid(), 0
        # An iterator may reuse one array, or one file of several frames, for each image that it yields.
        reused = not isinstance(images, Sequence)
        waiting: deque[tuple[int, list[Future[Pixels | ImageError]]]] = deque()
        try:
            while chunk := list(self._prepared(itertools.islice(source, size), reused)):
                _check_process(process)
                waiting.append((start, [self._submit(image) for image in chunk]))
                start += len(chunk)
                if len(waiting) > _AHEAD:
                    yield self._finished(*waiting.popleft(), process)
            while waiting:
                yield self._finished(*waiting.popleft(), process)
        finally:  # the caller may stop early, or an image raised
            # A child does not cancel its parent's futures, because a thread that is missing in the child may hold their locks.
            for _, futures in waiting if os.getpid() == process else ():
                for future in futures:
                    future.cancel()

    def preprocess(self, image: PrivateImage) -> Pixels | ImageError:
        """One image's pixels, or the error where it cannot be read."""
        try:
            return preprocess_private(image, self._config, self._max_pixels)
        except ImageError as error:
            return error

    def close(self) -> None:
        """Stop the threads; work that has not begun is dropped."""
        self._closed = True
        pool = self._pool.made_here()
        if pool is not None:
            pool.shutdown(wait=False, cancel_futures=True)

    def _prepared(self, images: Iterable[ImageInput], reused: bool) -> Iterator[PrivateImage | ImageError]:
        for image in images:
            try:
                yield private_image(image, self._max_pixels, copy=reused)
            except ImageError as error:
                yield error

    def _submit(self, image: PrivateImage | ImageError) -> Future[Pixels | ImageError]:
        if isinstance(image, ImageError):
            known: Future[Pixels | ImageError] = Future()
            known.set_result(image)
            return known
        if self._closed:
            raise _closed()
        try:
            return self._pool.get().submit(self.preprocess, image)
        except RuntimeError as error:
            if self._closed:
                raise _closed() from error
            raise EngineError(
                f"no thread for decoding can be started ({error}): pass a smaller workers=, or raise the limit of processes"
            ) from error

    @staticmethod
    def _finished(
        start: int, futures: list[Future[Pixels | ImageError]], process: int
    ) -> tuple[int, list[Pixels | ImageError]]:
        _check_process(process)
        try:
            return start, [future.result() for future in futures]
        except CancelledError as error:
            raise _closed() from error


def readable(batch: Sequence[Pixels | ImageError]) -> Pixels:
    """A batch as one array (N, H, W, 3) uint8.

    Raises:
        ImageError: the error of the first image that cannot be read.
    """
    pixels: list[Pixels] = []
    for item in batch:
        if isinstance(item, ImageError):
            raise item
        pixels.append(item)
    return np.stack(pixels)


def _check_process(process: int) -> None:
    if os.getpid() != process:
        raise EngineError("the process forked while images were read ahead: start again in the child process")


def _closed() -> EngineError:
    return EngineError("the embedder was closed: load the bundle again")
