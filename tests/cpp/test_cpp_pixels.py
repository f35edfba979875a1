"""Pixels of the C++ library against Python's, to the bit: kinds of files, shapes, transforms, kernels, and damaged files."""

from __future__ import annotations

import functools
import io
import itertools
import os
import platform
import random
import struct
import zlib
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from cpp_library import CppClip, CppLibrary
from hypothesis import given, settings
from hypothesis import strategies as st
from made_pictures import picture
from msgspec.structs import replace
from PIL import Image

from engines.errors import ImageError, InputError
from engines.inputs.preprocess import preprocess_image
from engines.manifest import Preprocess

Bundle = Callable[[dict[str, Any]], Path]
KERNELS = {"x86_64": ("scalar", "avx2"), "aarch64": ("scalar", "neon")}.get(platform.machine(), ("scalar",))
SHORTEST = Preprocess(
    size=(56, 56), mean=(0, 0, 0), std=(1, 1, 1), interpolation="bicubic", resize_mode="shortest", fill_color=0
)
CONFIGS = [
    SHORTEST,
    replace(SHORTEST, size=(40, 72)),
    replace(SHORTEST, interpolation="bilinear", size=(90, 90)),
    replace(SHORTEST, resize_mode="squash", size=(64, 33)),
    replace(SHORTEST, resize_mode="longest", fill_color=127),
    replace(SHORTEST, resize_mode="longest", fill_color=(200, 100, 50), size=(60, 41)),
    replace(SHORTEST, resize_mode="longest", interpolation="bilinear", size=(1, 1)),
]


def opened(stack: ExitStack, cpp: CppLibrary, bundle: Bundle, config: Preprocess, **options: Any) -> CppClip:
    fields = {name: getattr(config, name) for name in ("size", "interpolation", "resize_mode", "fill_color")}
    return stack.enter_context(cpp.open(bundle(fields), engine="none", **options))


@pytest.fixture
def clips(cpp: CppLibrary, preprocess_bundle: Bundle) -> Any:
    """Each of CONFIGS with an opened bundle."""
    with ExitStack() as stack:
        yield [(config, opened(stack, cpp, preprocess_bundle, config)) for config in CONFIGS]


def check(clips: list[tuple[Preprocess, CppClip]], image: Any) -> None:
    """The pixels are Python's in each of the transforms; an image that Python refuses for its shape is refused here, too."""
    for config, clip in clips:
        expected, refusal = outcome(lambda config=config: preprocess_image(image, config))  # type: ignore[misc]
        actual, other_refusal = outcome(lambda clip=clip: clip.preprocess([image])[0])  # type: ignore[misc]
        if expected is None:
            assert " resized by " in refusal
            assert refusal in other_refusal
        else:
            assert actual is not None, other_refusal
            assert (actual == expected).all(), (config, np.abs(actual.astype(int) - expected).max())


def outcome(make: Callable[[], npt.NDArray[np.uint8]]) -> tuple[npt.NDArray[np.uint8] | None, str]:
    """The pixels, or None and the sentence of the error."""
    try:
        return make(), ""
    except ImageError as error:
        return None, str(error)


def saved(image: Image.Image, kind: str, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(
    width: int, height: int, depth: int, color: int, rows: bytes, before: bytes = b"", interlaced: int = 0
) -> bytes:
    header = struct.pack(">IIBBBBB", width, height, depth, color, 0, 0, interlaced)
    parts = chunk(b"IHDR", header), before, chunk(b"IDAT", zlib.compress(rows)), chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def noise_rows(width: int, height: int, bits: int) -> bytes:
    """Rows of noise, each with one of the five filters before it."""
    rng = np.random.default_rng(width * height * bits)
    length = (width * bits + 7) // 8
    return b"".join(bytes([y % 5]) + rng.integers(0, 256, length, dtype=np.uint8).tobytes() for y in range(height))


def interlaced_rows(width: int, height: int, bits: int) -> bytes:
    passes = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))
    found = b""
    for left, top, across, down in passes:
        columns, rows = -(-(width - left) // across), -(-(height - top) // down)
        if columns > 0 and rows > 0:
            found += noise_rows(columns, rows, bits)
    return found


def noise(height: int, width: int, channels: int) -> npt.NDArray[np.uint8]:
    return np.random.default_rng(height + width).integers(0, 256, (height, width, channels), dtype=np.uint8)


@functools.cache
def kinds() -> dict[str, bytes]:
    """A file of each kind of pixels."""
    rgb = picture(0).resize((123, 91))
    rgba = rgb.convert("RGBA").rotate(20)
    rgba.putalpha(Image.fromarray(noise(91, 123, 1)[..., 0]))
    words = Image.fromarray(np.random.default_rng(0).integers(0, 400, (91, 123)).astype(np.uint16))
    turned = rgb.rotate(90)
    exif = Image.Exif()
    exif[0x112] = 6
    return {
        "png grey": saved(rgb.convert("L"), "PNG"),
        "png bit": saved(rgb.convert("1"), "PNG"),
        "png palette": saved(rgb.quantize(200), "PNG"),
        "png palette of three": saved(rgb.quantize(3), "PNG"),
        "png palette with alpha": saved(rgb.quantize(20), "PNG", transparency=bytes(range(20))),
        "png 16 bits": saved(words, "PNG"),
        "png rgb": saved(rgb, "PNG"),
        "png rgb with transparent colour": saved(rgb, "PNG", transparency=(1, 2, 3)),
        "png rgba": saved(rgba, "PNG"),
        "png grey with alpha": saved(rgba.convert("LA"), "PNG"),
        "apng": saved(rgba, "PNG", save_all=True, append_images=[rgba.rotate(9)]),
        "apng with default image": saved(
            rgba, "PNG", save_all=True, default_image=True, append_images=[rgba.rotate(9)]
        ),
        "jpeg grey": saved(rgb.convert("L"), "JPEG"),
        "jpeg": saved(rgb, "JPEG"),
        "jpeg 444": saved(rgb, "JPEG", quality=100, subsampling=0),
        "jpeg 422": saved(rgb, "JPEG", quality=30, subsampling=1),
        "jpeg rgb": saved(rgb, "JPEG", keep_rgb=True),
        "jpeg progressive": saved(rgb, "JPEG", progressive=True),
        "jpeg cmyk": saved(rgb.convert("CMYK"), "JPEG"),
        "jpeg restarts": saved(rgb, "JPEG", restart_marker_rows=1),
        "jpeg turned": saved(rgb, "JPEG", exif=exif),
        "mpo": saved(rgb, "MPO", save_all=True, append_images=[turned]),
        "webp": saved(rgb, "WEBP"),
        "webp with exif": saved(rgb, "WEBP", exif=exif),
        "webp with alpha": saved(rgba, "WEBP"),
        "webp lossless": saved(rgb, "WEBP", lossless=True),
        "webp lossless with alpha": saved(rgba, "WEBP", lossless=True, exact=True),
        "webp animated": saved(rgba, "WEBP", save_all=True, append_images=[rgba.rotate(9)]),
    }


def test_kinds(clips: list[tuple[Preprocess, CppClip]]) -> None:
    for name, data in kinds().items():
        try:
            check(clips, data)
        except AssertionError as error:
            raise AssertionError(name) from error


@pytest.mark.parametrize(
    ("color", "depths"), [(0, (1, 2, 4, 8, 16)), (2, (8, 16)), (3, (1, 2, 4, 8)), (4, (8, 16)), (6, (8, 16))]
)
def test_png_depths(clips: list[tuple[Preprocess, CppClip]], color: int, depths: tuple[int, ...]) -> None:
    """Also interlaced, with a transparent colour, and with chunks that change no pixel."""
    channels = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}[color]
    transparent = {0: b"\0\1", 2: b"\0\1\0\2\0\3", 3: b"\1\2"}
    for depth in depths:
        colors = noise(1, min(256, 2**depth), 3).tobytes()
        before = chunk(b"gAMA", b"\0\0\xb1\x8f") + (chunk(b"PLTE", colors) if color == 3 else b"")
        bits = depth * channels
        check(clips, png(37, 29, depth, color, noise_rows(37, 29, bits), before))
        check(clips, png(37, 29, depth, color, interlaced_rows(37, 29, bits), before, 1))
        if color in transparent:
            check(
                clips, png(37, 29, depth, color, noise_rows(37, 29, bits), before + chunk(b"tRNS", transparent[color]))
            )


def test_short_palette(clips: list[tuple[Preprocess, CppClip]]) -> None:
    check(clips, png(37, 29, 8, 3, noise_rows(37, 29, 8), chunk(b"PLTE", noise(1, 10, 3).tobytes())))


def test_png_in_parts_and_with_a_wrong_checksum(clips: list[tuple[Preprocess, CppClip]]) -> None:
    whole = png(37, 29, 8, 2, noise_rows(37, 29, 24))
    data = zlib.compress(noise_rows(37, 29, 24))
    parts = b"".join(chunk(b"IDAT", data[start : start + 100]) for start in range(0, len(data), 100))
    check(clips, whole[:33] + parts + chunk(b"IEND", b""))
    wrong = bytearray(whole)
    wrong[-13] ^= 1
    check(clips, bytes(wrong))
    check(clips, whole[:-12])  # without IEND
    check(clips, whole + b"more")


def test_jpeg_colours(clips: list[tuple[Preprocess, CppClip]]) -> None:
    """Adobe's marker with each transform and without; CMYK is inverted either way."""
    data = kinds()["jpeg cmyk"]
    marker = data.index(b"\xff\xee")
    check(clips, data[:marker] + data[marker + 16 :])
    for transform in range(3):
        check(clips, data[: marker + 15] + bytes([transform]) + data[marker + 16 :])
    plain = kinds()["jpeg"]
    plain = plain[:2] + plain[20:]  # without JFIF's marker
    check(clips, plain)
    for transform in range(3):
        check(clips, plain[:2] + b"\xff\xee\x00\x0eAdobe\x00d\x00\x00\x00\x00" + bytes([transform]) + plain[2:])
    for names in (b"RGB", b"\1\2\42", b"\0\1\2"):
        named = bytearray(plain)
        for index, name in enumerate(names):
            named[plain.index(b"\xff\xc0") + 10 + 3 * index] = named[plain.index(b"\xff\xda") + 5 + 2 * index] = name
        check(clips, bytes(named))


@pytest.mark.parametrize("samplings", [(0x12, 0x11, 0x11), (0x21, 0x11, 0x21), (0x41, 0x11, 0x11), (0x11, 0x22, 0x22)])
def test_jpeg_samplings(clips: list[tuple[Preprocess, CppClip]], samplings: tuple[int, ...]) -> None:
    """The data is another sampling's, and so noise, but complete."""
    data = bytearray(kinds()["jpeg 444"])
    for index, sampling in enumerate(samplings):
        data[data.index(b"\xff\xc0") + 11 + 3 * index] = sampling
    scan = data.index(b"\xff\xda") + 14
    check(clips[:3], bytes(data) + bytes(data[scan:]) * 8)


def test_webp_frame_that_is_smaller_than_the_canvas(clips: list[tuple[Preprocess, CppClip]]) -> None:
    frames = [picture(index).resize((100, 60)).convert("RGBA") for index in range(2)]
    data = bytearray(saved(frames[0], "WEBP", save_all=True, append_images=frames[1:]))
    header, frame = data.index(b"VP8X"), data.index(b"ANMF")
    data[header + 12 : header + 18] = (149).to_bytes(3, "little") + (99).to_bytes(3, "little")
    data[frame + 8 : frame + 14] = (10).to_bytes(3, "little") + (8).to_bytes(3, "little")
    check(clips, bytes(data))
    data[header + 8] &= ~0x10  # without the flag of alpha
    check(clips, bytes(data))


@pytest.mark.parametrize(
    ("height", "width"),
    [(1, 1), (1, 200), (200, 1), (2, 900), (900, 2), (56, 56), (40, 72), (57, 56), (55, 56), (300, 200)],
)
@pytest.mark.parametrize("mode", ["L", "1", "P", "I;16", "RGBA", "CMYK", "RGB"])
def test_shapes(clips: list[tuple[Preprocess, CppClip]], height: int, width: int, mode: str) -> None:
    rgb = Image.fromarray(noise(height, width, 3))
    image = Image.fromarray(noise(height, width, 4)) if mode == "RGBA" else rgb.quantize(7) if mode == "P" else None
    if mode == "I;16":
        image = Image.fromarray(noise(height, width, 2).view(np.uint16)[..., 0])
    kind = "JPEG" if mode == "CMYK" else "PNG"
    check(clips, saved(image or rgb.convert(mode), kind))


def test_any_size(cpp: CppLibrary, preprocess_bundle: Bundle) -> None:
    sides = [1, 7, 32, 50, 100]
    fills: list[Any] = [0, 255, (1, 2, 3)]
    modes, filters = ("shortest", "longest", "squash"), ("bicubic", "bilinear")
    cases = list(itertools.product(sides, sides, modes, filters))
    random.Random(0).shuffle(cases)
    with ExitStack() as stack:
        found: list[tuple[Preprocess, CppClip]] = []
        for height, width, mode, interpolation in cases[:40]:
            fields: dict[str, Any] = {"size": (height, width), "resize_mode": mode, "interpolation": interpolation}
            config = replace(SHORTEST, **fields, fill_color=fills[len(found) % 3])
            found.append((config, opened(stack, cpp, preprocess_bundle, config)))

        @settings(max_examples=150, deadline=None)
        @given(
            st.integers(1, 150),
            st.integers(1, 150),
            st.sampled_from(["L", "P", "RGB", "RGBA", "LA"]),
            st.integers(0, 39),
        )
        def equal(height: int, width: int, mode: str, index: int) -> None:
            image = Image.fromarray(noise(height, width, 4))
            image = image.convert("RGB").quantize(9) if mode == "P" else image.convert(mode)
            check(found[index : index + 1], saved(image, "PNG"))
            if mode == "RGB":
                check(found[index : index + 1], np.asarray(image))

        equal()


def test_paths_bytes_and_views(clips: list[tuple[Preprocess, CppClip]], tmp_path: Path) -> None:
    path = tmp_path / "фото.jpg"
    path.write_bytes(kinds()["jpeg"])
    check(clips, str(path))
    check(clips, path)
    pixels = noise(70, 90, 3)
    for view in (pixels, pixels[::2], pixels[::-1], pixels[:, 5:60], pixels[:1], pixels[:, :1]):
        check(clips, view)


@pytest.mark.parametrize("kernel", KERNELS)
def test_kernels(clips: list[tuple[Preprocess, CppClip]], monkeypatch: pytest.MonkeyPatch, kernel: str) -> None:
    """OCE_SIMD is read at each image that is resized."""
    monkeypatch.setenv("OCE_SIMD", kernel)
    try:
        clips[0][1].preprocess([noise(90, 90, 3)])
    except InputError as error:
        pytest.skip(str(error))
    for height, width in ((1, 1), (33, 31), (127, 300), (401, 77), (20, 17), (2000, 9), (9, 2000)):
        check(clips, noise(height, width, 3))
        check(clips, saved(Image.fromarray(noise(height, width, 1)[..., 0]), "PNG"))
        extremes = (noise(height, width, 4) > 127) * np.uint8(255)
        check(clips, saved(Image.fromarray(extremes), "PNG"))


def test_unknown_kernel(clips: list[tuple[Preprocess, CppClip]], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OCE_SIMD", "sse9")
    with pytest.raises(
        InputError, match=r"OCE_SIMD is 'sse9', which does not run here; set it to .*scalar, or unset it"
    ):
        clips[0][1].preprocess([noise(90, 90, 3)])


@pytest.mark.parametrize(
    "name", ["png rgb", "png palette", "jpeg", "jpeg progressive", "jpeg cmyk", "webp", "webp animated"]
)
def test_truncated(clips: list[tuple[Preprocess, CppClip]], name: str) -> None:
    """Cut anywhere, a file is an error; where Python reads it all the same, the pixels are equal or it is an error, too."""
    config, clip = clips[0]
    data = kinds()[name]
    cuts = {*range(1, 40), *range(40, len(data), max(1, len(data) // 40)), *range(len(data) - 20, len(data))}
    refused = 0
    for cut in sorted(cuts):
        try:
            pixels = clip.preprocess([data[:cut]])[0]
        except ImageError:
            refused += 1
        else:
            assert (pixels == preprocess_image(data[:cut], config)).all()
    assert refused >= len(cuts) - 16


def test_damaged(clips: list[tuple[Preprocess, CppClip]]) -> None:
    """Nothing crashes: a damaged file is an error, or has pixels."""
    choose = random.Random(0)
    read = 0
    for name, data in kinds().items():
        for _ in range(12):
            damaged = bytearray(data)
            for _ in range(choose.choice((1, 1, 3, 20))):
                damaged[choose.randrange(choose.choice((60, len(data))))] = choose.randrange(256)
            config, clip = choose.choice(clips)
            pixels, refusal = outcome(lambda clip=clip, data=bytes(damaged): clip.preprocess([data])[0])  # type: ignore[misc]
            assert "\n" not in refusal
            if pixels is not None:
                read += 1
                assert pixels.shape == (*config.size, 3), name
    assert read


@pytest.mark.parametrize(
    "data",
    [
        png(2**31 - 1, 2**31 - 1, 8, 6, b""),
        png(20000, 20000, 1, 0, b""),
        png(100_000_000, 2, 16, 6, b"", interlaced=1),
        b"\xff\xd8\xff\xc0\x00\x11\x08\xff\x00\xff\x00\x03\x01\x22\x00\x02\x11\x01\x03\x11\x01"
        b"\xff\xda\x00\x0c\x03\x01\x00\x02\x11\x03\x11\x00\x3f\x00",
    ],
)
def test_too_many_pixels(clips: list[tuple[Preprocess, CppClip]], data: bytes) -> None:
    """The header is enough."""
    config, clip = clips[0]
    with pytest.raises(
        ImageError, match=" pixels are over the limit of 178956970 pixels; scale the image down"
    ) as error:
        clip.preprocess([data])
    with pytest.raises(ImageError) as expected:
        preprocess_image(data, config)
    assert str(expected.value).split(" of engines.load")[0] in str(error.value)


def test_limit(cpp: CppLibrary, preprocess_bundle: Bundle) -> None:
    with ExitStack() as stack:
        clip = opened(stack, cpp, preprocess_bundle, SHORTEST, max_pixels=8000)
        for image, name in ((noise(80, 101, 3), "array of 101 x 80 pixels"), (kinds()["png grey"], "image of ")):
            with pytest.raises(ImageError, match=f"{name}.* pixels are over the limit of 8000 pixels"):
                clip.preprocess([image])
        clip.preprocess([noise(80, 100, 3)])
        expected = (
            "array of 2 x 200 pixels: 2 x 200 pixels resized by 'shortest' would be 56 x 5600, outside 1 to 8000 pixels"
        )
        with pytest.raises(ImageError, match=expected):
            clip.preprocess([noise(200, 2, 3)])


def test_sentences_are_those_of_python(clips: list[tuple[Preprocess, CppClip]], tmp_path: Path) -> None:
    config, clip = clips[0]
    (tmp_path / "empty.jpg").touch()
    os.mkfifo(tmp_path / "pipe")
    images: list[Any] = [
        b"",
        noise(0, 5, 3),
        tmp_path / "missing.jpg",
        tmp_path / "empty.jpg",
        tmp_path,
        tmp_path / "pipe",
    ]
    for image in [*images, "/dev/null", tmp_path / "empty.jpg" / "x", tmp_path / ("x" * 300)]:
        with pytest.raises(ImageError) as expected:
            preprocess_image(image, config)
        with pytest.raises(ImageError) as error:
            clip.preprocess([image])
        assert str(expected.value) in str(error.value)
    for data in (kinds()["jpeg"][:900], kinds()["png rgb"][:900], kinds()["webp"][:900]):
        sentence = (
            r"900 bytes: the image is truncated, damaged or of an unsupported kind \(.*\); fetch or save the file again"
        )
        with pytest.raises(ImageError, match=sentence):
            clip.preprocess([data])


@pytest.mark.parametrize(
    ("kind", "name"), [("GIF", "GIF"), ("BMP", "BMP"), ("TIFF", "TIFF"), ("PPM", "PPM"), ("ICO", "ICO")]
)
def test_other_formats(clips: list[tuple[Preprocess, CppClip]], kind: str, name: str) -> None:
    sentence = f"{name} files are not read by the C\\+\\+ library; convert it to JPEG, PNG or WebP"
    with pytest.raises(ImageError, match=sentence):
        clips[0][1].preprocess([saved(picture(0), kind)])


def test_other_content(clips: list[tuple[Preprocess, CppClip]]) -> None:
    heads = {
        b"\0\0\0\x18ftypheic": "HEIC files are",
        b"\0\0\0\x1cftypavif": "AVIF files are",
        b"\0\0\0\x0cjP  \r\n\x87\n": "JPEG 2000 files are",
    }
    for head, part in heads.items():
        with pytest.raises(ImageError, match=part):
            clips[0][1].preprocess([head + bytes(50)])
    for data in (b"PK\3\4" + bytes(50), b"x", b"\xff\xd8", b"<svg></svg>"):
        with pytest.raises(
            ImageError, match=r"not an image that the C\+\+ library can read; convert it to JPEG, PNG or WebP"
        ):
            clips[0][1].preprocess([data])
