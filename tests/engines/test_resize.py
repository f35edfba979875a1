"""engines.inputs.resize: one rule under every Pillow, which is 13.0's, and the one that FORMAT.md has in words."""

from __future__ import annotations

import hashlib

import numpy as np
import PIL
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from resize_by_the_book import pixels_by_the_book, resized_size

from engines.errors import ImageError
from engines.inputs.preprocess import preprocess_image
from engines.inputs.resize import height_first, resize
from engines.manifest import Preprocess

PILLOW = tuple(int(part) for part in PIL.__version__.split(".")[:2])
BICUBIC, BILINEAR = Image.Resampling.BICUBIC, Image.Resampling.BILINEAR
CHANNELS = {"L": 1, "RGB": 3, "RGBA": 4, "LA": 2, "CMYK": 4, "P": 1, "1": 1, "I;16": 1, "I": 1, "F": 1}
MORE_MODES = ("I;16B", "I;16L", "YCbCr", "HSV", "LAB", "RGBX", "La", "RGBa", "PA")


def samples_of(mode: str, height: int, width: int, seed: int) -> np.ndarray:
    """(height, width, channels): noise, or (odd seeds) hard edges, which drive the filter out of range."""
    rng = np.random.default_rng(seed)
    shape = (height, width, CHANNELS[mode])
    edges = rng.integers(0, 2, shape)
    if mode == "1":
        return (edges * 255).astype(np.uint8)
    if mode == "I;16":
        return (edges * 65535 if seed % 2 else rng.integers(0, 1 << 16, shape)).astype(np.uint16)
    if mode == "I":
        return (edges * 900_000 - 300 if seed % 2 else rng.integers(-100, 400, shape)).astype(np.int32)
    if mode == "F":
        return rng.normal(100, 100, shape).astype(np.float32)
    return (edges * 255 if seed % 2 else rng.integers(0, 256, shape)).astype(np.uint8)


def palette_of(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (256, 3), dtype=np.uint8)


def image_of(samples: np.ndarray, mode: str, seed: int = 0) -> Image.Image:
    size = (samples.shape[1], samples.shape[0])
    if mode == "1":
        return Image.frombytes("L", size, samples.tobytes()).convert("1", dither=Image.Dither.NONE)
    if mode == "F":  # one that Pillow has read from bytes may not be written to
        return Image.frombytes("F", size, samples.tobytes())
    image = Image.frombytes(mode, size, samples.tobytes())
    if mode == "P":
        image.putpalette(palette_of(seed).tobytes())
    return image


def made_image(mode: str, height: int, width: int, seed: int) -> Image.Image:
    """An image of any mode."""
    if mode in ("I;16B", "I;16L"):
        return Image.frombytes(mode, (width, height), samples_of("I;16", height, width, seed).tobytes())
    if mode in ("YCbCr", "HSV", "LAB"):
        return Image.frombytes(mode, (width, height), samples_of("RGB", height, width, seed).tobytes())
    if mode == "RGBX":
        return Image.frombytes(mode, (width, height), samples_of("RGBA", height, width, seed).tobytes())
    if mode in ("La", "RGBa", "PA"):
        straight = {"La": "LA", "RGBa": "RGBA", "PA": "P"}[mode]
        return image_of(samples_of(straight, height, width, seed), straight).convert(mode)
    return image_of(samples_of(mode, height, width, seed), mode)


sides = st.integers(1, 40) | st.sampled_from([1, 2, 3, 64, 100, 101, 250])


@pytest.mark.skipif(PILLOW < (13, 0), reason="an older Pillow has another order: the checksums below are 13.0's")
@settings(max_examples=300, deadline=None)
@given(
    mode=st.sampled_from((*CHANNELS, *MORE_MODES)),
    old=st.tuples(sides, sides),
    new=st.tuples(sides, sides),
    seed=st.integers(0, 9),
    resampling=st.sampled_from([BICUBIC, BILINEAR]),
)
def test_two_calls_give_what_one_call_of_pillow_13_gives(
    mode: str, old: tuple[int, int], new: tuple[int, int], seed: int, resampling: Image.Resampling
) -> None:
    image = made_image(mode, old[1], old[0], seed)
    try:
        expected = image.resize(new, resampling)
    except ValueError:
        with pytest.raises(ValueError, match="mode"):
            resize(image, new, resampling)
        return
    result = resize(image, new, resampling)
    assert (result.mode, result.size) == (mode, new)
    assert result.tobytes() == expected.tobytes()


def test_the_order_of_the_axes() -> None:
    for old, new, expected in [
        ((40, 1200), (32, 960), True),  # 240 rows go and 8 columns
        ((640, 480), (224, 168), False),
        ((480, 640), (168, 224), False),  # 416 rows go, no more than twice 312
        ((10, 31), (9, 28), True),  # 3 > 2 · 1
        ((10, 30), (9, 28), False),  # 2 = 2 · 1
        ((10, 30), (20, 29), True),  # the width grows
        ((10, 30), (20, 30), False),  # the height stays
        ((10, 30), (20, 60), False),
    ]:
        assert height_first(old, new) is expected, (old, new)


# Of what Pillow 13.0 makes in one call: mode, old (width, height), new, filter, and the start of the SHA-256 of its bytes.
CHECKSUMS: list[tuple[str, tuple[int, int], tuple[int, int], Image.Resampling, str]] = [
    ("RGB", (40, 1200), (32, 960), BICUBIC, "bdf2f8b19f52d390"),
    ("RGB", (40, 1200), (32, 960), BILINEAR, "3272cab7b0761426"),
    ("L", (3, 400), (1, 90), BICUBIC, "3f5442f67852ae86"),
    ("RGBA", (30, 300), (24, 90), BICUBIC, "fbbfad9d4e1263ad"),
    ("LA", (30, 300), (40, 90), BILINEAR, "a86f8221a41edf5b"),
    ("CMYK", (50, 170), (45, 90), BICUBIC, "b11938fa1b5f234d"),
    ("I;16", (20, 150), (18, 80), BICUBIC, "21ece45802948a05"),
    ("I;16B", (20, 150), (18, 80), BICUBIC, "21ece45802948a05"),
    ("I;16", (150, 20), (80, 18), BICUBIC, "bcc3d54d672446e3"),
    ("I", (20, 150), (18, 80), BILINEAR, "56f9c59ebc03b557"),
    ("F", (20, 150), (18, 80), BICUBIC, "5f83cf14a8cef558"),
    ("P", (4, 500), (3, 70), BICUBIC, "2a870f3ab2755ee6"),
    ("1", (4, 500), (3, 70), BICUBIC, "45dcfc6b793c09cc"),
    ("RGB", (640, 48), (320, 24), BICUBIC, "24044d25cfe6e9c7"),
    ("RGBA", (20, 20), (50, 61), BICUBIC, "1ee35413644d0964"),
    ("YCbCr", (9, 90), (8, 50), BICUBIC, "d2b021da232ade2b"),
]


@pytest.mark.parametrize(("mode", "old", "new", "resampling", "checksum"), CHECKSUMS)
def test_checksums_hold_under_every_pillow(
    mode: str, old: tuple[int, int], new: tuple[int, int], resampling: Image.Resampling, checksum: str
) -> None:
    result = resize(made_image(mode, old[1], old[0], seed=3), new, resampling)
    assert hashlib.sha256(result.tobytes()).hexdigest()[:16] == checksum


def test_the_height_first_order_is_seen() -> None:
    """The pictures of the checksums would differ in the other order, so the test above can fail."""
    for mode, old, new, resampling, _ in CHECKSUMS:
        image = made_image(mode, old[1], old[0], seed=3)
        if mode in ("RGB", "L", "CMYK", "I;16") and height_first(old, new):
            other = image.resize((new[0], old[1]), resampling).resize(new, resampling)
            assert other.tobytes() != resize(image, new, resampling).tobytes(), (mode, old, new)


@settings(max_examples=250, deadline=None)
@given(
    mode=st.sampled_from(list(CHANNELS)),
    height=sides,
    width=sides,
    seed=st.integers(0, 9),
    size=st.sampled_from([(32, 32), (24, 40), (40, 24), (17, 33), (1, 1)]),
    resize_mode=st.sampled_from(["shortest", "longest", "squash"]),
    interpolation=st.sampled_from(["bicubic", "bilinear"]),
    fill=st.sampled_from([0, 127, 255, (1, 2, 3), (250, 130, 0)]),
)
def test_the_words_of_the_format_are_right(
    mode: str,
    height: int,
    width: int,
    seed: int,
    size: tuple[int, int],
    resize_mode: str,
    interpolation: str,
    fill: int | tuple[int, int, int],
) -> None:
    samples = samples_of(mode, height, width, seed)
    config = Preprocess(
        size=size,
        mean=(0.5, 0.5, 0.5),
        std=(0.5, 0.5, 0.5),
        interpolation=interpolation,  # type: ignore[arg-type]
        resize_mode=resize_mode,  # type: ignore[arg-type]
        fill_color=fill,
    )
    image = image_of(samples, mode, seed)
    if min(resized_size(height, width, size, resize_mode)) == 0:
        with pytest.raises(ImageError, match="less extreme aspect ratio"):
            preprocess_image(image, config)
        return
    expected = pixels_by_the_book(samples, mode, size, resize_mode, interpolation, fill, palette_of(seed))
    np.testing.assert_array_equal(preprocess_image(image, config), expected)
