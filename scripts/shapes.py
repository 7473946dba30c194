"""Coloured shapes as photos: what the stand-in CLIP learns, and some of the samples."""

from __future__ import annotations

import colorsys

import numpy as np
from drawing import cloud, font
from PIL import Image, ImageDraw, ImageFilter

# Chinese -> English, and (hue, saturation, value), each 0..1
COLOURS = {
    "红色": ("red", (0.995, 0.85, 0.82)),
    "橙色": ("orange", (0.075, 0.92, 0.95)),
    "黄色": ("yellow", (0.150, 0.85, 0.95)),
    "绿色": ("green", (0.365, 0.75, 0.60)),
    "蓝色": ("blue", (0.600, 0.82, 0.80)),
    "紫色": ("purple", (0.775, 0.65, 0.60)),
    "粉色": ("pink", (0.925, 0.38, 0.97)),
    "黑色": ("black", (0.600, 0.10, 0.12)),
}
SHAPES = {
    "圆": "circle",
    "正方形": "square",
    "三角形": "triangle",
    "五角星": "star",
    "心形": "heart",
    "十字": "cross",
}


def outline(shape: str) -> np.ndarray:
    """Corners of ``shape`` (a key of `SHAPES`), about -1..1, y downwards; shape (n, 2)."""
    turn = np.linspace(0, 2 * np.pi, 120, endpoint=False)
    if shape == "圆":
        return np.stack([np.cos(turn), np.sin(turn)], 1)
    if shape == "正方形":
        return np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]]) * 0.88
    if shape == "三角形":
        return np.array([[0, -0.95], [1.05, 0.85], [-1.05, 0.85]])
    if shape == "五角星":
        points = np.arange(10) * np.pi / 5 - np.pi / 2
        radius = np.where(np.arange(10) % 2, 0.44, 1.1)
        return np.stack([np.cos(points), np.sin(points)], 1) * radius[:, None]
    if shape == "心形":
        x = 16 * np.sin(turn) ** 3
        y = 13 * np.cos(turn) - 5 * np.cos(2 * turn) - 2 * np.cos(3 * turn) - np.cos(4 * turn)
        return np.stack([x, -y - 2], 1) / 15.5
    arm = np.array([[-0.34, -1], [0.34, -1], [0.34, -0.34]])
    quarter_turn = np.array([[0, 1], [-1, 0]])
    return np.concatenate([arm @ np.linalg.matrix_power(quarter_turn, n) for n in range(4)])


def paint(rng: np.random.Generator, colour: str) -> tuple[int, int, int]:
    """An RGB that people would call ``colour`` (a key of `COLOURS`)."""
    hue, saturation, value = np.array(COLOURS[colour][1]) + rng.uniform(-1, 1, 3) * [
        0.016,
        0.08,
        0.08,
    ]
    rgb = colorsys.hsv_to_rgb(hue % 1, np.clip(saturation, 0, 1), np.clip(value, 0, 1))
    red, green, blue = (int(255 * band) for band in rgb)
    return red, green, blue


def wall(rng: np.random.Generator, size: tuple[int, int]) -> Image.Image:
    """A quiet background: plaster, sky, wood, fabric or stone in muted colours."""
    hue, saturation = rng.uniform(), rng.uniform(0, 0.28)
    value = rng.uniform(0.45, 0.97)
    base = np.array(colorsys.hsv_to_rgb(hue, saturation, value)) * 255
    shade = 22 * cloud(rng, size, (3, 3)) + rng.uniform(0, 14) * cloud(rng, size, (24, 24))
    if rng.uniform() < 0.3:
        shade += rng.uniform(4, 16) * cloud(rng, size, (3, 40))
    if rng.uniform() < 0.3:
        shade += np.linspace(-1, 1, size[1])[:, None] * rng.uniform(-40, 40)
    return Image.fromarray(np.clip(base + shade[..., None], 0, 255).astype(np.uint8))


def scene(
    rng: np.random.Generator,
    size: tuple[int, int],
    colour: str,
    shape: str,
    word: str = "",
) -> Image.Image:
    """A ``colour`` ``shape`` on a wall, anywhere and of any size that fits, with ``word`` on it.

    Args:
        size: width and height in pixels.
    """
    width, height = size
    picture = wall(rng, size)
    radius = min(size) * rng.uniform(0.24, 0.42)
    edge = radius * 1.1
    centre = np.array([rng.uniform(edge, width - edge), rng.uniform(edge, height - edge)])
    angle = rng.uniform(-0.2, 0.2)
    turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    corners = outline(shape) * [rng.uniform(0.88, 1), rng.uniform(0.88, 1)] @ turn * radius
    mask = Image.new("L", (2 * width, 2 * height))
    ImageDraw.Draw(mask).polygon([tuple(p) for p in (corners + centre) * 2], fill=255)
    mask = mask.resize(size, Image.Resampling.BOX)
    if rng.uniform() < 0.6:
        soft = mask.filter(ImageFilter.GaussianBlur(max(size) / 70))
        dark = soft.point(lambda level: int(level * 0.45))
        picture.paste((20, 20, 24), (max(1, width // 120), max(1, width // 90)), dark)
    flat = (
        np.array(paint(rng, colour))
        + (rng.uniform(4, 16) * cloud(rng, size, (3, 3)) + 4 * cloud(rng, size, (40, 40)))[
            ..., None
        ]
    )
    picture.paste(Image.fromarray(np.clip(flat, 0, 255).astype(np.uint8)), (0, 0), mask)
    if word:
        letters = font(
            "bold", max(6, int(radius * (0.75 if shape == "心形" else 0.95) / len(word) ** 0.6))
        )
        ink = "#ffffff" if colour not in ("黄色", "粉色") else "#1c1c1c"
        low = radius * (0.12 if shape == "三角形" else 0)
        ImageDraw.Draw(picture).text(
            (centre[0], centre[1] + low), word, fill=ink, font=letters, anchor="mm"
        )
    return picture
