"""Pixels against open_clip's own inference transform, to the bit."""

from __future__ import annotations

import contextlib
import io
import struct
import subprocess
import sys
import zlib
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from open_clip.transform import image_transform
from PIL import Image
from PIL import __version__ as pillow_version

from engines.errors import ImageError, InputError
from engines.inputs.preprocess import MAX_PIXELS, normalize_pixels, preprocess_image
from engines.inputs.resize import resize
from engines.manifest import Preprocess

MODES = (
    "RGB",
    "L",
    "P",
    "RGBA",
    "LA",
    "PA",
    "CMYK",
    "I;16",
    "I;16B",
    "I",
    "F",
    "1",
    "YCbCr",
    "HSV",
    "RGBX",
    "La",
    "RGBa",
)
MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)


def make_config(**changes: Any) -> Preprocess:
    options = {"size": (32, 32), "mean": MEAN, "std": STD, "interpolation": "bicubic", "resize_mode": "shortest"}
    return Preprocess(**(options | changes))


def open_clip_steps(config: Preprocess) -> list[Any]:
    size = config.size[0] if config.size[0] == config.size[1] else config.size
    return image_transform(
        size,
        is_train=False,
        mean=config.mean,
        std=config.std,
        resize_mode=config.resize_mode,
        interpolation=config.interpolation,
        fill_color=config.fill_color,
    ).transforms


def open_clip_pixels(image: Image.Image, config: Preprocess) -> np.ndarray:
    """Of open_clip's transform with Pillow 13.0; an older one resizes by `engines.inputs.resize`, which test_resize.py tests."""
    steps = open_clip_steps(config)[:-2]
    if int(pillow_version.split(".")[0]) < 13:
        size = steps[0](image).size  # what the transform wants, whatever pixels it gets
        filters = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}
        bicubic = config.resize_mode == "shortest" and config.size[0] != config.size[1]
        image = resize(image, size, filters["bicubic" if bicubic else config.interpolation])
        steps = steps[1:]
    for step in steps:
        image = step(image)
    return np.array(image)


def make_image(mode: str, width: int, height: int, seed: int) -> Image.Image:
    rng = np.random.default_rng(seed)
    noise = rng.integers(0, 256, (height, width, 4), dtype=np.uint8)
    if mode == "I;16":
        return Image.fromarray(rng.integers(0, 1 << 16, (height, width), dtype=np.uint16))
    if mode == "I;16B":
        words = rng.integers(0, 1 << 16, (height, width), dtype=np.uint16)
        return Image.frombytes(mode, (width, height), words.astype(">u2").tobytes())
    if mode == "I":
        return Image.fromarray(rng.integers(-500, 100_000, (height, width), dtype=np.int32))
    if mode == "F":
        return Image.fromarray(rng.normal(100, 100, (height, width)).astype(np.float32))
    if mode in ("P", "PA"):
        image = Image.fromarray(noise[..., 0])
        image.putpalette(rng.integers(0, 256, 768, dtype=np.uint8).tobytes())
        return image if mode == "P" else image.convert("PA")
    if mode in ("RGBA", "CMYK", "RGBX"):
        return Image.frombytes(mode, (width, height), noise.tobytes())
    if mode in ("RGBa", "La"):
        return (
            Image.frombytes("RGBA", (width, height), noise.tobytes())
            .convert(mode if mode == "RGBa" else "LA")
            .convert(mode)
        )
    rgb = Image.fromarray(noise[..., :3].copy())
    return rgb if mode == "RGB" else rgb.convert(mode)


def encode(image: Image.Image, kind: str, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


sides = st.integers(1, 40) | st.sampled_from([1, 2, 31, 32, 33, 63, 64, 65, 200])
configs = st.builds(
    make_config,
    size=st.sampled_from([(32, 32), (33, 33), (24, 40), (40, 24), (17, 64), (1, 1)]),
    interpolation=st.sampled_from(["bicubic", "bilinear"]),
    resize_mode=st.sampled_from(["shortest", "longest", "squash"]),
    fill_color=st.sampled_from([0, 127, 255]),
)


@settings(max_examples=400, deadline=None)
@given(mode=st.sampled_from(MODES), width=sides, height=sides, seed=st.integers(0, 99), config=configs)
def test_pixels_are_open_clips(mode: str, width: int, height: int, seed: int, config: Preprocess) -> None:
    image = make_image(mode, width, height, seed)
    try:
        expected = open_clip_pixels(image, config)
    except Exception:  # noqa: BLE001 - whatever open_clip's transform cannot take has to be a named error here
        with pytest.raises(ImageError):
            preprocess_image(image, config)
        return
    pixels = preprocess_image(image, config)
    assert pixels.dtype == np.uint8
    assert pixels.shape == (*config.size, 3)
    np.testing.assert_array_equal(pixels, expected)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("resize_mode", ["shortest", "longest", "squash"])
@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
def test_every_mode_at_a_common_size(mode: str, resize_mode: str, interpolation: str) -> None:
    config = make_config(resize_mode=resize_mode, interpolation=interpolation, fill_color=99)
    image = make_image(mode, 75, 50, seed=1)
    try:
        expected = open_clip_pixels(image, config)
    except ValueError:
        with pytest.raises(ImageError, match=r"unsupported"):
            preprocess_image(image, config)
    else:
        np.testing.assert_array_equal(preprocess_image(image, config), expected)


@settings(max_examples=150, deadline=None)
@given(
    mode=st.sampled_from(["RGB", "YCbCr", "HSV"]),
    width=sides,
    height=sides,
    color=st.tuples(*[st.integers(0, 255)] * 3),
    size=st.sampled_from([(32, 32), (24, 40)]),
)
def test_a_colour_fills_as_open_clip_fills(
    mode: str, width: int, height: int, color: tuple[int, int, int], size: tuple[int, int]
) -> None:
    config = make_config(resize_mode="longest", size=size, fill_color=color)
    image = make_image(mode, width, height, seed=7)
    try:
        expected = open_clip_pixels(image, config)
    except ValueError:  # no pixel is left of a strip
        with pytest.raises(ImageError, match="aspect ratio"):
            preprocess_image(image, config)
        return
    np.testing.assert_array_equal(preprocess_image(image, config), expected)


@pytest.mark.parametrize("fill", [0, 255, (1, 2, 3)])
def test_a_fill_colour_survives_the_manifest(fill: int | tuple[int, int, int]) -> None:
    config = make_config(fill_color=fill)
    assert msgspec.json.decode(msgspec.json.encode(config), type=Preprocess) == config


@pytest.mark.parametrize("wrong", [b"[1, 2]", b"[1, 2, 3, 4]", b'"red"', b"[1, 2, 0.5]", b"null"])
def test_no_other_fill_colour_is_read(wrong: bytes) -> None:
    data = msgspec.json.encode(make_config(fill_color=77)).replace(b'"fill_color":77', b'"fill_color":' + wrong)
    with pytest.raises(msgspec.ValidationError, match=r"fill_color"):
        msgspec.json.decode(data, type=Preprocess)


@pytest.mark.parametrize("mode", ["L", "LA", "P", "PA", "RGBA", "1", "I;16", "I", "F", "CMYK", "RGBX", "RGBa"])
def test_a_colour_around_a_mode_that_open_clip_cannot_fill(mode: str) -> None:
    """The border has that colour whatever the mode, and what lies within is what a border of zeros has within."""
    image = make_image(mode, 20, 60, seed=8)
    config = make_config(resize_mode="longest", fill_color=(200, 30, 70))
    with pytest.raises((ValueError, TypeError)):
        open_clip_pixels(image, config)
    pixels = preprocess_image(image, config)
    inside = slice(10, 21)  # 60 becomes 32, 20 becomes 11; 21 columns are missing, 10 of them on the left
    np.testing.assert_array_equal(np.unique(np.delete(pixels, inside, axis=1).reshape(-1, 3), axis=0), [[200, 30, 70]])
    zeros = preprocess_image(image, make_config(resize_mode="longest"))
    np.testing.assert_array_equal(pixels[:, inside], zeros[:, inside])
    square = make_image(mode, 60, 60, seed=8)  # no border: open_clip takes it, too
    np.testing.assert_array_equal(preprocess_image(square, config), open_clip_pixels(square, config))


def test_modes_that_files_have_are_supported() -> None:
    for mode in ("RGB", "L", "P", "RGBA", "LA", "CMYK", "I;16", "I;16B", "1"):
        preprocess_image(make_image(mode, 75, 50, seed=1), make_config(resize_mode="longest"))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_treated_as_open_clip_treats_it(orientation: int, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    file = tmp_path / "rotated.jpg"
    make_image("RGB", 80, 50, seed=2).save(file, exif=exif, quality=90)
    config = make_config(resize_mode="longest")
    with Image.open(file) as image:
        expected = open_clip_pixels(image, config)
    np.testing.assert_array_equal(preprocess_image(file, config), expected)


@pytest.mark.parametrize(
    ("kind", "mode", "options"),
    [
        ("JPEG", "RGB", {"quality": 80}),
        ("JPEG", "L", {}),
        ("JPEG", "CMYK", {}),
        ("PNG", "RGBA", {}),
        ("PNG", "I;16", {}),
        ("PNG", "1", {}),
        ("PNG", "P", {"transparency": 3}),
        ("GIF", "P", {"transparency": 3}),
        ("WEBP", "RGBA", {"lossless": True}),
        ("BMP", "RGB", {}),
        ("TIFF", "CMYK", {}),
        ("TIFF", "I;16", {}),
        ("ICO", "RGBA", {}),
    ],
)
def test_paths_bytes_and_images_agree_with_open_clip(
    kind: str, mode: str, options: dict[str, Any], tmp_path: Path
) -> None:
    config = make_config(resize_mode="longest", size=(40, 24))
    data = encode(make_image(mode, 48, 61, seed=3), kind, **options)
    file = tmp_path / "image"
    file.write_bytes(data)
    with Image.open(file) as image:
        expected = open_clip_pixels(image, config)
    for source in (file, str(file), data):
        np.testing.assert_array_equal(preprocess_image(source, config), expected)
    with Image.open(file) as image:
        np.testing.assert_array_equal(preprocess_image(image, config), expected)


def test_an_array_is_taken_as_rgb() -> None:
    array = np.random.default_rng(0).integers(0, 256, (50, 70, 3), dtype=np.uint8)
    expected = open_clip_pixels(Image.fromarray(array), make_config())
    np.testing.assert_array_equal(preprocess_image(array, make_config()), expected)
    np.testing.assert_array_equal(preprocess_image(np.asfortranarray(array), make_config()), expected)


def test_the_callers_image_stays_as_it_was() -> None:
    image = make_image("P", 64, 20, seed=4)
    before = image.copy()
    preprocess_image(image, make_config(resize_mode="longest"))
    assert (image.mode, image.size, image.tobytes(), image.getpalette()) == (
        before.mode,
        before.size,
        before.tobytes(),
        before.getpalette(),
    )


@settings(max_examples=20, deadline=None)
@given(
    mean=st.tuples(*[st.floats(0, 1, width=64)] * 3),
    std=st.tuples(*[st.floats(0.01, 1, width=64)] * 3),
)
def test_normalized_pixels_are_torchvisions_to_the_bit(mean: Any, std: Any) -> None:
    config = make_config(mean=mean, std=std)
    pixels = np.arange(2 * 16 * 16 * 3, dtype=np.int64).reshape(2, 16, 16, 3).astype(np.uint8)
    pixels[1] = np.arange(256, dtype=np.uint8).reshape(16, 16, 1)
    to_tensor, normalize = open_clip_steps(config)[-2:]
    expected = np.stack([normalize(to_tensor(Image.fromarray(image))).numpy() for image in pixels])
    result = normalize_pixels(pixels, config)
    assert result.flags.c_contiguous
    np.testing.assert_array_equal(result, expected, strict=True)


def test_no_pixels_normalize_to_none() -> None:
    assert normalize_pixels(np.empty((0, 8, 8, 3), np.uint8), make_config()).shape == (0, 3, 8, 8)


def bomb(width: int, height: int) -> bytes:
    """A PNG that claims a size and holds no pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


def test_a_decompression_bomb_is_refused_by_its_header(tmp_path: Path) -> None:
    file = tmp_path / "bomb.png"
    file.write_bytes(bomb(50_000, 50_000))
    with pytest.raises(
        ImageError,
        match=rf"bomb\.png: .*2500000000 pixels are over the limit of {MAX_PIXELS} pixels; scale the image down",
    ):
        preprocess_image(file, make_config())


def test_the_pixel_limit_is_the_callers(tmp_path: Path) -> None:
    file = tmp_path / "large.png"
    file.write_bytes(bomb(3000, 2000))
    with pytest.raises(ImageError, match=r"large\.png: 3000 x 2000 = 6000000 pixels are over the limit of 5000000"):
        preprocess_image(file, make_config(), max_pixels=5_000_000)


def test_a_strip_is_refused_before_resizing_makes_it_huge() -> None:
    with pytest.raises(ImageError, match=r"resized by 'shortest' would be .*aspect ratio"):
        preprocess_image(Image.new("RGB", (300_000, 1)), make_config(size=(224, 224)))
    with pytest.raises(ImageError, match=r"resized by 'longest' would be 32 x 0, outside 1 to"):
        preprocess_image(Image.new("RGB", (1000, 1)), make_config(resize_mode="longest"))


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF", "BMP", "GIF"])
@pytest.mark.parametrize("share", [0.02, 0.3, 0.7, 0.97])
def test_truncated_files_are_named(kind: str, share: float, tmp_path: Path) -> None:
    data = encode(make_image("P" if kind == "GIF" else "RGB", 200, 150, seed=5), kind)
    file = tmp_path / "cut.bin"
    file.write_bytes(data[: int(len(data) * share)])
    config = make_config()
    try:
        with Image.open(file) as image:
            expected = open_clip_pixels(image, config)
    except Exception:  # noqa: BLE001
        with pytest.raises(ImageError, match=r"cut\.bin: .*; ") as caught:
            preprocess_image(file, config)
        assert "\n" not in str(caught.value)
    else:  # Pillow found all pixels in what is left
        np.testing.assert_array_equal(preprocess_image(file, config), expected)


@settings(max_examples=150, deadline=None)
@given(
    kind=st.sampled_from(["JPEG", "PNG", "WEBP", "TIFF", "BMP", "GIF", "ICO"]),
    damage=st.lists(st.tuples(st.integers(0, 600), st.integers(0, 255)), min_size=1, max_size=8),
)
def test_damaged_bytes_give_pixels_or_a_named_error(kind: str, damage: list[tuple[int, int]]) -> None:
    data = bytearray(encode(make_image("P" if kind == "GIF" else "RGB", 24, 24, seed=6), kind))
    for position, value in damage:
        data[position % len(data)] = value
    with contextlib.suppress(ImageError):
        assert preprocess_image(bytes(data), make_config(), max_pixels=1_000_000).shape == (32, 32, 3)


def test_unreadable_files_are_named(tmp_path: Path) -> None:
    empty, text = tmp_path / "empty.jpg", tmp_path / "text.jpg"
    empty.write_bytes(b"")
    text.write_text("not an image")
    for source, message in [
        (empty, r"empty\.jpg: the file is empty \(0 bytes\)"),
        (text, r"text\.jpg: not an image that Pillow can read"),
        (tmp_path / "missing.jpg", r"missing\.jpg: no such file"),
        (tmp_path, r": cannot be opened \(Is a directory\)"),
        (b"", r"0 bytes: there is nothing to decode"),
        (b"no image", r"8 bytes: not an image"),
        (Image.new("RGB", (0, 5)), r"0 x 5 pixels; it needs at least one"),
        (np.empty((0, 5, 3), np.uint8), r"the image is empty"),
    ]:
        with pytest.raises(ImageError, match=message):
            preprocess_image(source, make_config())


@pytest.mark.parametrize(
    "wrong",
    [
        None,
        5,
        [1, 2],
        np.zeros((4, 4)),
        np.zeros((4, 4, 3), np.float32),
        np.zeros((3, 4, 4), np.uint8),
        np.zeros((4, 4, 4), np.uint8),
    ],
)
def test_wrong_arguments_are_named(wrong: Any) -> None:
    with pytest.raises(InputError, match=r"uint8"):
        preprocess_image(wrong, make_config())


@pytest.mark.parametrize(
    "wrong", [np.zeros((4, 4, 3), np.uint8), np.zeros((1, 3, 4, 4), np.uint8), np.zeros((1, 4, 4, 3))]
)
def test_wrong_pixels_are_named(wrong: np.ndarray) -> None:
    with pytest.raises(InputError, match=r"uint8 \(N, H, W, 3\)"):
        normalize_pixels(wrong, make_config())


def test_importing_needs_no_torch() -> None:
    code = (
        "import sys; from engines.inputs import preprocess, tokenizer\n"
        "assert not {'torch', 'torchvision', 'open_clip'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
