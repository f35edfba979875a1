"""Any number of rows through engines of some batch sizes, and decoding ahead of them."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engines.errors import EngineError, ImageError, InputError
from engines.inputs import decode
from engines.inputs.decode import Decoder, readable
from engines.manifest import BatchProfile, Preprocess
from engines.runtimes.batches import batch_size, check_finite, run_in_batches

TRANSFORM = Preprocess(
    size=(8, 8),
    resize_mode="shortest",
    interpolation="bicubic",
    fill_color=0,
    mean=(0.5, 0.5, 0.5),
    std=(0.5, 0.5, 0.5),
)


class Doubler:
    """A runtime that doubles its rows and refuses batches outside its profile, as TensorRT does."""

    kind = "doubler"
    description = "doubles"

    def __init__(self, least: int, most: int | None) -> None:
        self.batch = BatchProfile(min=least, max=most)
        self.sizes: list[int] = []

    splits = False

    def run(self, inputs: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
        assert inputs.flags.c_contiguous
        assert len(inputs) >= self.batch.min
        assert self.batch.max is None or len(inputs) <= self.batch.max
        self.sizes.append(len(inputs))
        return (inputs * 2).astype(np.float32)

    def close(self) -> None:
        pass


@given(
    rows=st.integers(1, 70),
    least=st.integers(1, 16),
    spread=st.one_of(st.none(), st.integers(0, 16)),
    usual=st.integers(1, 40),
)
def test_every_row_comes_back_once_in_order(rows: int, least: int, spread: int | None, usual: int) -> None:
    runtime = Doubler(least, None if spread is None else least + spread)
    inputs = np.arange(rows * 2, dtype=np.float32).reshape(rows, 2)
    np.testing.assert_array_equal(run_in_batches(runtime, inputs, usual), inputs * 2)
    assert len(runtime.sizes) == -(-rows // batch_size(runtime.batch, usual))


def test_an_embedding_that_is_no_number_is_an_error() -> None:
    embeds = np.ones((4, 3), np.float32)
    assert check_finite(embeds, "image", "fp16") is embeds
    embeds[2, 1] = np.nan
    embeds[3, 0] = np.inf
    with pytest.raises(EngineError, match=r"fp16 image tower gave NaN or infinity for 2 of 4 inputs.*index 2.*fp32"):
        check_finite(embeds, "image", "fp16")
    with pytest.raises(EngineError, match="engines verify"):
        check_finite(embeds, "image", "fp32")


class TestDecoder:
    def test_batches_in_order_with_errors_in_place(self) -> None:
        images: list[Any] = [np.full((8, 8, 3), i, np.uint8) for i in range(10)]
        images[4] = b"no image"
        decoder = Decoder(TRANSFORM)
        found = list(decoder.batches(images, 4))
        decoder.close()
        assert [start for start, _ in found] == [0, 4, 8]
        items = [item for _, batch in found for item in batch]
        assert isinstance(items[4], ImageError)
        assert [int(item[0, 0, 0]) for item in items if not isinstance(item, ImageError)] == [0, 1, 2, 3, 5, 6, 7, 8, 9]
        with pytest.raises(ImageError):
            readable(items)

    def test_only_a_few_batches_are_decoded_ahead(self, monkeypatch: pytest.MonkeyPatch) -> None:
        begun: list[Any] = []
        lock = threading.Lock()

        def preprocess(
            image: Any, config: Preprocess, max_pixels: int | None, oversampling: int
        ) -> npt.NDArray[np.uint8]:
            with lock:
                begun.append(image)
            return np.zeros((8, 8, 3), np.uint8)

        monkeypatch.setattr(decode, "preprocess_private", preprocess)
        decoder = Decoder(TRANSFORM)
        batches = decoder.batches([b"x"] * 100, 5)
        next(batches)
        assert len(begun) <= 5 * 3  # memory does not grow with the number of images
        batches.close()  # type: ignore[attr-defined]
        decoder.close()

    def test_closed(self) -> None:
        decoder = Decoder(TRANSFORM)
        decoder.close()
        with pytest.raises(EngineError, match="closed"):
            next(decoder.batches([np.zeros((8, 8, 3), np.uint8)], 1))

    def test_wrong_number_of_workers(self) -> None:
        with pytest.raises(InputError, match="workers is 0"):
            Decoder(TRANSFORM, workers=0)
