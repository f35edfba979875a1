"""The chapter "From a decoded image to pixels" of engines/FORMAT.md in numpy, line by line, without Pillow.

It is slow and plain on purpose: if its pixels are `preprocess_image`'s, a reader in another language can be written from the words.
Modes are Pillow's names: L, RGB, RGBA, LA, CMYK, P, 1 (uint8 samples), I;16 (uint16), I (int32) and F (float32).
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

Samples = npt.NDArray[np.generic]  # (H, W, channels)
Fill = int | tuple[int, int, int]

NEAREST = ("P", "1")


def pixels_by_the_book(
    samples: Samples,
    mode: str,
    size: tuple[int, int],
    resize_mode: str,
    interpolation: str,
    fill: Fill = 0,
    palette: npt.NDArray[np.uint8] | None = None,
) -> npt.NDArray[np.uint8]:
    """(H, W, 3) uint8 of samples (h, w, channels); `palette` is (256, 3)."""
    height, width = resized_size(samples.shape[0], samples.shape[1], size, resize_mode)
    if resize_mode == "shortest" and size[0] != size[1]:
        interpolation = "bicubic"
    samples = resized(samples, mode, height, width, interpolation)
    if resize_mode != "squash":
        if samples.shape[0] < size[0] or samples.shape[1] < size[1]:
            color = fill if resize_mode == "longest" else 0
            if isinstance(color, tuple) and samples.shape[2] != 3:
                samples, mode = to_rgb(samples, mode, palette), "RGB"
            samples = padded(samples, size, color)
        top, left = half_to_even(samples.shape[0] - size[0]), half_to_even(samples.shape[1] - size[1])
        samples = samples[top : top + size[0], left : left + size[1]]
    return to_rgb(samples, mode, palette)


def resized_size(h: int, w: int, size: tuple[int, int], resize_mode: str) -> tuple[int, int]:
    height, width = size
    if resize_mode == "squash":
        return height, width
    if resize_mode == "shortest" and height == width:
        long = int(height * max(h, w) / min(h, w))
        return (long, width) if w <= h else (height, long)
    ratios = (h / height, w / width)
    ratio = max(ratios) if resize_mode == "longest" else min(ratios)
    return nearest_even(h / ratio), nearest_even(w / ratio)


def nearest_even(x: float) -> int:
    below = math.floor(x)
    rest = x - below
    return below + (rest > 0.5 or (rest == 0.5 and below % 2 == 1))


def half_to_even(excess: int) -> int:
    return nearest_even(excess / 2)


def resized(samples: Samples, mode: str, height: int, width: int, interpolation: str) -> Samples:
    h, w = samples.shape[:2]
    if (height, width) == (h, w):
        return samples
    if mode in NEAREST:
        return samples[nearest(h, height)][:, nearest(w, width)]
    if mode in ("LA", "RGBA"):
        samples = premultiplied(samples)
    height_first = h - height > 0 and h - height > 2 * (w - width)
    for axis, length in [(0, height), (1, width)] if height_first else [(1, width), (0, height)]:
        if samples.shape[axis] != length:
            samples = np.moveaxis(one_pass(np.moveaxis(samples, axis, 0), length, interpolation), 0, axis)
    return unmultiplied(samples) if mode in ("LA", "RGBA") else samples


def nearest(old: int, new: int) -> list[int]:
    """Indices of the samples taken; the position is kept by adding up."""
    step = old / new
    position, found = step * 0.5, []
    for _ in range(new):
        found.append(int(position))
        position += step
    return found


def filter_value(x: float, interpolation: str) -> float:
    x = abs(x)
    if interpolation == "bilinear":
        return 1 - x if x < 1 else 0.0
    if x < 1:
        return (1.5 * x - 2.5) * x * x + 1
    return (((x - 5) * x + 8) * x - 4) * -0.5 if x < 2 else 0.0


def weights(old: int, new: int, interpolation: str) -> list[tuple[int, list[float]]]:
    """For each of `new` samples: the first of the `old` that count, and their weights."""
    scale = old / new
    stretch = max(scale, 1.0)
    support = (1.0 if interpolation == "bilinear" else 2.0) * stretch
    inverse = 1 / stretch
    found = []
    for i in range(new):
        center = (i + 0.5) * scale
        first = max(0, int(center - support + 0.5))
        end = min(old, int(center + support + 0.5))
        values = [filter_value((x - center + 0.5) * inverse, interpolation) for x in range(first, end)]
        total = 0.0
        for value in values:
            total += value
        found.append((first, [value / total for value in values]))
    return found


def one_pass(samples: Samples, new: int, interpolation: str) -> Samples:
    """Resize the first axis."""
    lines = []
    for first, values in weights(len(samples), new, interpolation):
        if samples.dtype == np.uint8:
            fixed = [int(v * (1 << 22) + (0.5 if v >= 0 else -0.5)) for v in values]
            total = np.full(samples.shape[1:], 1 << 21, np.int64)
            for x, whole in enumerate(fixed):
                total += samples[first + x].astype(np.int64) * whole
            lines.append(np.clip(total >> 22, 0, 255).astype(np.uint8))
            continue
        exact = np.zeros(samples.shape[1:], np.float64)
        for x, value in enumerate(values):
            exact += samples[first + x].astype(np.float64) * value
        if samples.dtype == np.float32:
            lines.append(exact.astype(np.float32))
            continue
        rounded = np.trunc(np.where(exact >= 0, exact + 0.5, exact - 0.5)).astype(np.int64)
        lines.append((np.clip(rounded, 0, 65535) if samples.dtype == np.uint16 else rounded).astype(samples.dtype))
    return np.stack(lines)


def times_share(a: npt.NDArray[np.int64], b: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """a · b / 255 for a, b in 0 … 255."""
    t = a * b + 128
    result: npt.NDArray[np.int64] = (t + (t >> 8)) >> 8
    return result


def premultiplied(samples: Samples) -> Samples:
    color, alpha = samples[..., :-1].astype(np.int64), samples[..., -1:].astype(np.int64)
    return np.concatenate([times_share(color, alpha), alpha], axis=-1).astype(np.uint8)


def unmultiplied(samples: Samples) -> Samples:
    color, alpha = samples[..., :-1].astype(np.int64), samples[..., -1:].astype(np.int64)
    divided = np.minimum(255, 255 * color // np.maximum(alpha, 1))
    return np.concatenate([np.where((alpha == 0) | (alpha == 255), color, divided), alpha], axis=-1).astype(np.uint8)


def padded(samples: Samples, size: tuple[int, int], fill: Fill) -> Samples:
    missing = [max(0, size[axis] - samples.shape[axis]) for axis in (0, 1)]
    before = [m // 2 for m in missing]
    shape = (samples.shape[0] + missing[0], samples.shape[1] + missing[1], samples.shape[2])
    result = np.empty(shape, samples.dtype)
    result[:] = np.array(fill, samples.dtype)
    result[before[0] : before[0] + samples.shape[0], before[1] : before[1] + samples.shape[1]] = samples
    return result


def to_rgb(samples: Samples, mode: str, palette: npt.NDArray[np.uint8] | None) -> npt.NDArray[np.uint8]:
    if mode == "P":
        assert palette is not None
        return palette[samples[..., 0].astype(np.int64)]
    if mode == "CMYK":
        white = 255 - samples[..., 3:].astype(np.int64)
        return (white - times_share(samples[..., :3].astype(np.int64), white)).astype(np.uint8)
    if mode == "1":
        gray: Samples = np.where(samples != 0, 255, 0)
    elif mode in ("L", "LA"):
        gray = samples[..., :1]
    elif mode in ("I;16", "I", "F"):
        gray = np.clip(samples, 0, 255)
    else:
        return samples[..., :3].astype(np.uint8)
    return np.repeat(gray.astype(np.uint8), 3, axis=-1)
