"""The renderer of the demo scenes; the state of the random generator determines the picture."""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from exporter.demo.vocabulary import COLOURS, SHAPES, Scene

_SUPERSAMPLING = 2
_ANCHORS = {"left": (0.27, 0.5), "right": (0.73, 0.5), "top": (0.5, 0.27), "bottom": (0.5, 0.73), "centre": (0.5, 0.5)}
_DIAMETERS = {1: (0.34, 0.44), 2: (0.27, 0.34), 3: (0.24, 0.28)}  # shares of the picture's side, by count


def render(scene: Scene, size: int, rng: np.random.Generator) -> Image.Image:
    """Draw a picture of `scene`; the same generator state gives the same picture.

    Args:
        scene: the scene to draw.
        size: the side of the square picture in pixels, at least 16.
        rng: the generator of sizes, offsets, rotations, shades, lighting and grain.

    Returns:
        An RGB image of size x size.

    Raises:
        ValueError: the size is below 16 pixels.
    """
    if size < 16:
        raise ValueError(f"size {size} is below 16 pixels: the objects would vanish")
    side = size * _SUPERSAMPLING
    picture = _draw_background(scene.background, side, rng)
    shade = np.clip(np.array(COLOURS[scene.colour]) + rng.integers(-14, 15, 3), 0, 255)
    diameter = float(rng.uniform(*_DIAMETERS[scene.count]))
    mask = Image.new("L", (side, side))
    draw = ImageDraw.Draw(mask)
    for x, y in _layout(scene, diameter, rng):
        radius = diameter / 2 * float(rng.uniform(0.94, 1.06))
        turn = math.radians(float(rng.uniform(-13, 13)))
        outline, hole = _outline(scene.shape)
        draw.polygon(_place_points(outline, x, y, radius, turn, side), fill=255)
        if hole is not None:
            draw.polygon(_place_points(hole, x, y, radius, turn, side), fill=0)
    picture.paste((int(shade[0]), int(shade[1]), int(shade[2])), mask=mask)
    return _light(picture.reduce(_SUPERSAMPLING), rng)


def _layout(scene: Scene, diameter: float, rng: np.random.Generator) -> NDArray[np.float64]:
    """Choose the objects' centres (count, 2), in units of the picture's side: a loose row or cluster around the place."""
    gap = diameter * 1.1
    angles = {"left": 90.0, "right": 90.0, "top": 0.0, "bottom": 0.0}
    angle = math.radians(angles.get(scene.place, float(rng.uniform(0, 180))) + float(rng.uniform(-14, 14)))
    along = np.array([math.cos(angle), math.sin(angle)])
    steps = np.arange(scene.count) - (scene.count - 1) / 2
    centres = steps[:, None] * along * gap * float(rng.uniform(1.0, 1.12))
    if scene.count == 3 and scene.place == "centre" and rng.random() < 0.5:
        corners = np.radians(float(rng.uniform(0, 360)) + np.array([0.0, 120.0, 240.0]))
        centres = np.stack([np.cos(corners), np.sin(corners)], axis=1) * gap / math.sqrt(3)
    centres = centres + np.array(_ANCHORS[scene.place]) + rng.uniform(-0.045, 0.045, 2)
    margin = diameter * 0.53
    kept_inside: NDArray[np.float64] = np.clip(centres, margin, 1 - margin)
    return kept_inside


@lru_cache(maxsize=len(SHAPES))
def _outline(shape: str) -> tuple[NDArray[np.float64], NDArray[np.float64] | None]:
    """Return the corner points (n, 2) of a shape within the unit circle, y pointing down, and those of its hole, or None."""
    turn = np.linspace(0, 2 * math.pi, 48, endpoint=False)
    circle = np.stack([np.cos(turn), np.sin(turn)], axis=1)
    hole = None
    if shape == "circle":
        points = circle * 0.95
    elif shape == "ring":
        points, hole = circle, circle * 0.55
    elif shape == "square":
        points = np.array([(-0.8, -0.8), (0.8, -0.8), (0.8, 0.8), (-0.8, 0.8)])
    elif shape == "diamond":
        points = np.array([(0, -1.05), (0.72, 0), (0, 1.05), (-0.72, 0)])
    elif shape == "triangle":
        points = np.array([(0, -0.95), (0.98, 0.75), (-0.98, 0.75)])
    elif shape == "star":
        spokes = -math.pi / 2 + np.arange(10) * math.pi / 5
        radii = np.where(np.arange(10) % 2 == 0, 1.1, 0.45)
        points = np.stack([np.cos(spokes), np.sin(spokes)], axis=1) * radii[:, None]
    elif shape == "cross":
        arm, end = 0.32, 1.0
        quarter = [(arm, -end), (arm, -arm), (end, -arm)]
        points = np.array(
            [(x * c - y * s, x * s + y * c) for c, s in ((1, 0), (0, 1), (-1, 0), (0, -1)) for x, y in quarter]
        )
    elif shape == "heart":
        x = np.sin(turn) ** 3
        y = -(13 * np.cos(turn) - 5 * np.cos(2 * turn) - 2 * np.cos(3 * turn) - np.cos(4 * turn)) / 16
        points = np.stack([x, y - 0.06], axis=1)
    else:
        outer = np.linspace(math.radians(50), math.radians(310), 32)
        inner = np.linspace(math.radians(302), math.radians(58), 32)
        limb = np.stack([np.cos(outer), np.sin(outer)], axis=1)
        bite = np.stack([0.32 + 0.86 * np.cos(inner), 0.9 * np.sin(inner)], axis=1)
        points = np.concatenate([limb, bite]) + np.array([0.2, 0.0])
    return points, hole


def _place_points(
    points: NDArray[np.float64], x: float, y: float, radius: float, turn: float, side: int
) -> list[tuple[float, float]]:
    rotation = np.array([[math.cos(turn), -math.sin(turn)], [math.sin(turn), math.cos(turn)]])
    placed = (points @ rotation.T * radius + np.array([x, y])) * side
    return [(float(px), float(py)) for px, py in placed]


def _draw_background(background: str, side: int, rng: np.random.Generator) -> Image.Image:
    """Draw a plain tone, or a pattern of two greys with a random period, phase and direction."""
    plain = {"white": (232, 253), "grey": (112, 146), "black": (8, 36)}
    if background in plain:
        tone = int(rng.integers(*plain[background]))
        tint = rng.integers(-4, 5, 3)
        return Image.new("RGB", (side, side), tuple(int(np.clip(tone + t, 0, 255)) for t in tint))
    light, dark = int(rng.integers(205, 232)), int(rng.integers(138, 166))
    period = side * float(rng.uniform(0.15, 0.2))
    phase_x, phase_y = rng.uniform(0, period, 2)
    v, u = np.mgrid[0:side, 0:side].astype(np.float32)
    u, v = (u + np.float32(phase_x)) / np.float32(period), (v + np.float32(phase_y)) / np.float32(period)
    if background == "striped":
        lines = (u, v, (u + v) * np.float32(0.7))[int(rng.integers(3))]
        is_dark = lines % 1 < 0.5
    elif background == "dotted":
        is_dark = (u % 1 - 0.5) ** 2 + (v % 1 - 0.5) ** 2 < 0.28**2
    else:
        is_dark = (u.astype(np.int32) + v.astype(np.int32)) % 2 == 0
    return Image.fromarray(np.where(is_dark, dark, light).astype(np.uint8)).convert("RGB")


def _light(picture: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Add a soft gradient of brightness across the picture, and grain."""
    pixels = np.asarray(picture, dtype=np.float32)
    ramp = np.linspace(-0.5, 0.5, pixels.shape[0], dtype=np.float32)
    slope_x, slope_y = rng.uniform(-0.14, 0.14, 2).astype(np.float32)
    gain = 1 + slope_x * ramp[None, :, None] + slope_y * ramp[:, None, None]
    grain = rng.standard_normal(pixels.shape, dtype=np.float32) * np.float32(rng.uniform(1, 5))
    return Image.fromarray(np.clip(pixels * gain + grain, 0, 255).astype(np.uint8))
