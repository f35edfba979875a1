"""Decoding and preprocessing of images in threads, ahead of the engine: in the C++ library where it is found, else with Pillow."""

from __future__ import annotations

import itertools
import logging
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from typing import TypeAlias, TypeVar

import numpy as np
import numpy.typing as npt
import PIL

from engines.errors import EngineError, ImageError
from engines.inputs.arguments import whole_number
from engines.inputs.image_inputs import ImageInput, PrivateImage, private_image
from engines.inputs.native import REMEDY, Library, NativeDecoder, NativeImage, check_decoder, find_library
from engines.inputs.preprocess import preprocess_private
from engines.inputs.transform import OVERSAMPLING
from engines.manifest import Preprocess
from engines.process.cores import usable_cores
from engines.process.forks import PerProcess

Pixels: TypeAlias = npt.NDArray[np.uint8]
Result: TypeAlias = "Pixels | ImageError"

_T = TypeVar("_T")
_LOG = logging.getLogger("engines")
_AHEAD = 2  # number of batches that are decoded while the engine works on an earlier batch


class Decoder:
    """A pool of threads that preprocess images. Threads help because Python's lock is released for most of the work.

    A forked child makes a new pool.

    Args:
        config: the checkpoint's transform.
        workers: number of threads; None is one per core that this process may use.
        max_pixels: limit of width x height, see `engines.inputs.preprocess.preprocess_image`.
        bundle: folder of the bundle with this transform, which the C++ library opens; None: only Pillow is used.
        decoder: ``pillow``, ``native`` (the C++ library, and Pillow for images that it does not read), or ``auto``: ``native``
            where the library is found.
        fast_decode: see `engines.load`.

    Attributes:
        description: library and version, ``pillow 13.0.0`` or ``native 0.1.0``.

    Raises:
        InputError: `workers` or `max_pixels` is no whole number of at least 1, or `decoder` is none of the three.
        EngineError: `decoder` is ``native`` and the C++ library cannot be used, or OPENCLIP_ENGINES_LIBRARY names no usable one.
    """

    def __init__(
        self,
        config: Preprocess,
        workers: int | None = None,
        max_pixels: int | None = None,
        bundle: str | os.PathLike[str] | None = None,
        decoder: str = "auto",
        fast_decode: bool = False,
    ) -> None:
        threads = usable_cores() if workers is None else whole_number("workers", workers, 1, "of threads")
        self._config, self._oversampling = config, OVERSAMPLING if fast_decode else 0
        self._max_pixels = None if max_pixels is None else whole_number("max_pixels", max_pixels, 1)
        self._closed = False
        self._native: PerProcess[NativeDecoder] | None = None
        self.description = f"pillow {PIL.__version__}"
        choice = check_decoder(decoder)
        if bundle is not None and choice != "pillow":
            self._choose_native(bundle, choice, threads, bool(fast_decode))
        self._pool = PerProcess(lambda: ThreadPoolExecutor(threads, thread_name_prefix="decode"))

    def batches(self, images: Iterable[ImageInput], size: int) -> Iterator[tuple[int, list[Result]]]:
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
        waiting: deque[tuple[int, _Pending]] = deque()
        try:
            while chunk := list(self._prepared(itertools.islice(source, size), reused)):
                _check_process(process)
                waiting.append((start, self._submit_all(chunk)))
                start += len(chunk)
                if len(waiting) > _AHEAD:
                    yield self._finished(*waiting.popleft(), process)
            while waiting:
                yield self._finished(*waiting.popleft(), process)
        finally:  # the caller may stop early, or an image raised
            # A child does not cancel its parent's futures, because a thread that is missing in the child may hold their locks.
            for _, pending in waiting if os.getpid() == process else ():
                pending.cancel()

    def preprocess(self, image: PrivateImage) -> Result:
        """One image's pixels, or the error where it cannot be read."""
        native = None if self._native is None else self._native.get()
        if native is not None and native.takes(image):
            pixels, failed = native.preprocess([image])  # type: ignore[list-item]
            if not failed:
                return pixels[0]
        return self._with_pillow(image)

    def close(self) -> None:
        """Stop the threads; work that has not begun is dropped."""
        self._closed = True
        pool = self._pool.made_here()
        if pool is not None:
            pool.shutdown(wait=False, cancel_futures=True)
        native = None if self._native is None else self._native.made_here()
        if native is not None:
            native.close()

    def _choose_native(self, bundle: str | os.PathLike[str], choice: str, threads: int, fast: bool) -> None:
        library = find_library()
        try:
            if not isinstance(library, Library):
                raise EngineError(f"the decoder 'native' cannot be used: {library}; {REMEDY}")
            known = library  # the type that the function below captures
            self._native = PerProcess(
                lambda: NativeDecoder(known, bundle, self._config, threads, self._max_pixels, fast)
            )
            self.description = f"native {library.version}"
        except EngineError as error:
            if choice == "native":
                raise
            _LOG.debug("images are decoded with Pillow: %s", error)

    def _prepared(self, images: Iterable[ImageInput], reused: bool) -> Iterator[PrivateImage | ImageError]:
        for image in images:
            try:
                yield private_image(image, self._max_pixels, copy=reused)
            except ImageError as error:
                yield error

    def _with_pillow(self, image: PrivateImage) -> Result:
        try:
            return preprocess_private(image, self._config, self._max_pixels, self._oversampling)
        except ImageError as error:
            return error

    def _submit_all(self, images: Sequence[PrivateImage | ImageError]) -> _Pending:
        """Start to decode a batch: those that the C++ library may read in one call, each other image by itself."""
        native = None if self._native is None else self._native.get()
        pending = _Pending(len(images))
        together: list[tuple[int, NativeImage]] = []
        for index, image in enumerate(images):
            if isinstance(image, ImageError):
                pending.results[index] = image
            elif native is not None and native.takes(image):
                together.append((index, image))  # type: ignore[arg-type]
            else:
                pending.results[index] = self._submit(self._with_pillow, image)
        if native is not None and together:
            pending.batch = self._submit(self._decode_together, native, together, pending)
        return pending

    def _decode_together(
        self, native: NativeDecoder, images: Sequence[tuple[int, NativeImage]], pending: _Pending
    ) -> None:
        pixels, failed = native.preprocess([image for _, image in images])
        for (index, _), row in zip(images, pixels, strict=True):
            pending.results[index] = row
        for place in failed if not pending.cancelled else ():
            index, image = images[place]
            pending.results[index] = self._submit(self._with_pillow, image)

    def _submit(self, function: Callable[..., _T], *arguments: object) -> Future[_T]:
        if self._closed:
            raise _closed()
        try:
            return self._pool.get().submit(function, *arguments)
        except RuntimeError as error:
            if self._closed:
                raise _closed() from error
            raise EngineError(
                f"no thread for decoding can be started ({error}): use fewer workers, or raise the limit of processes"
            ) from error

    @staticmethod
    def _finished(start: int, pending: _Pending, process: int) -> tuple[int, list[Result]]:
        _check_process(process)
        try:
            return start, pending.wait()
        except CancelledError as error:
            raise _closed() from error


class _Pending:
    """A batch that is decoded: results in order, or futures of them.

    Attributes:
        results: for each image its pixels, its error, or the future of one of them; None while `batch` decodes it.
        batch: the call of the C++ library; None without one.
        cancelled: whether nobody waits for the results any more.
    """

    def __init__(self, count: int) -> None:
        self.results: list[Result | Future[Result] | None] = [None] * count
        self.batch: Future[None] | None = None
        self.cancelled = False

    def wait(self) -> list[Result]:
        if self.batch is not None:
            self.batch.result()
        finished = [result.result() if isinstance(result, Future) else result for result in self.results]
        assert all(result is not None for result in finished)
        return finished  # type: ignore[return-value]

    def cancel(self) -> None:
        self.cancelled = True
        for future in (self.batch, *self.results):
            if isinstance(future, Future):
                future.cancel()


def readable(batch: Sequence[Result]) -> Pixels:
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
