"""Pages with text that is remembered, and what a camera does to them."""

from __future__ import annotations

import functools
import subprocess
from dataclasses import dataclass, field

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFilter, ImageFont

# name used in the drawings -> (fontconfig pattern, Debian package)
FONTS = {
    "sans": ("Noto Sans CJK SC", "fonts-noto-cjk"),
    "bold": ("Noto Sans CJK SC:bold", "fonts-noto-cjk"),
    "serif": ("Noto Serif CJK SC", "fonts-noto-cjk"),
    "serif-bold": ("Noto Serif CJK SC:bold", "fonts-noto-cjk"),
    "sans-tc": ("Noto Sans CJK TC", "fonts-noto-cjk"),
    "serif-tc": ("Noto Serif CJK TC:bold", "fonts-noto-cjk"),
    "mono": ("Noto Sans Mono CJK SC", "fonts-noto-cjk"),
    "hand": ("LXGW WenKai", "fonts-lxgw-wenkai"),
    "hand-bold": ("LXGW WenKai:bold", "fonts-lxgw-wenkai"),
}


@functools.cache
def font(name: str, size: int) -> ImageFont.FreeTypeFont:
    """Font ``name`` (a key of `FONTS`) at ``size`` pixels.

    Raises:
        SystemExit: the font, or fontconfig, isn't installed; names the Debian package.
    """
    pattern, package = FONTS[name]
    command = ["fc-match", "-f", "%{file}\t%{index}\t%{family}", pattern]
    try:
        found = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    except FileNotFoundError:
        raise SystemExit("fc-match is missing: apt-get install fontconfig") from None
    file, index, family = found.split("\t")
    if pattern.split(":")[0] not in family:
        raise SystemExit(f"Font {pattern!r} is not installed: apt-get install {package}")
    return ImageFont.truetype(file, size, index=int(index))


@dataclass
class Page:
    """A drawing surface that remembers its text.

    Attributes:
        image: RGB.
        lines: every text drawn, in the order of drawing.
    """

    image: Image.Image
    lines: list[str] = field(default_factory=list)

    @classmethod
    def blank(cls, width: int, height: int, fill: str = "#fdfdfb") -> Page:
        return cls(Image.new("RGB", (width, height), fill))

    def __post_init__(self) -> None:
        self.draw = ImageDraw.Draw(self.image)

    def text(
        self,
        xy: tuple[float, float],
        text: str,
        size: int,
        name: str = "sans",
        fill: str = "#1c1c1c",
        anchor: str = "la",
    ) -> float:
        """Draw one line; returns its right edge in pixels."""
        self.draw.text(xy, text, fill=fill, font=font(name, size), anchor=anchor)
        self.lines.append(text.strip())
        return self.draw.textbbox(xy, text, font=font(name, size), anchor=anchor)[2]

    def row(
        self,
        y: float,
        cells: list[tuple[float, str, str]],
        size: int,
        name: str = "sans",
        fill: str = "#1c1c1c",
    ) -> None:
        """Draw cells ``(x, text, anchor)`` side by side."""
        for x, text, anchor in cells:
            if text:
                self.text((x, y), text, size, name, fill, anchor)

    def paragraph(
        self,
        xy: tuple[float, float],
        text: str,
        size: int,
        width: int,
        name: str = "serif",
        fill: str = "#1c1c1c",
        leading: float = 1.7,
    ) -> float:
        """Draw text broken to ``width`` pixels; returns the y below it."""
        x, y = xy
        for line in self.broken(text, size, width, name):
            self.text((x, y), line, size, name, fill)
            y += size * leading
        return y

    @staticmethod
    def broken(text: str, size: int, width: int, name: str) -> list[str]:
        """Lines no wider than ``width``: at spaces in English, at any character in Chinese."""
        pieces = text.replace(" ", " \0").split("\0") if text.isascii() else list(text)
        lines, line = [], ""
        for piece in pieces:
            too_wide = font(name, size).getlength((line + piece).rstrip()) > width
            if too_wide and piece not in "，。、；：？！”》）":
                lines.append(line.rstrip())
                line = ""
            line += piece
        return [*lines, line.rstrip()]

    def rule(self, y: float, left: float, right: float, dash: int = 0, fill: str = "#555") -> None:
        """A horizontal line, dashed where ``dash`` > 0."""
        if not dash:
            self.draw.line((left, y, right, y), fill=fill, width=2)
            return
        for x in np.arange(left, right, dash * 2):
            self.draw.line((x, y, x + dash, y), fill=fill, width=2)

    def barcode(self, box: tuple[int, int, int, int], rng: np.random.Generator) -> None:
        x, y, right, bottom = box
        while x < right - 8:
            bar, gap = rng.integers(2, 7, 2)
            self.draw.rectangle((x, y, x + bar, bottom), fill="#222")
            x += int(bar + gap)

    def squares(self, box: tuple[int, int, int, int], n: int, rng: np.random.Generator) -> None:
        """A picture of a QR code (n × n; it encodes nothing)."""
        x, y, right, _ = box
        grid = rng.integers(0, 2, (n, n))
        for row, column in ((0, 0), (0, n - 7), (n - 7, 0)):
            grid[row : row + 7, column : column + 7] = 1
            grid[row + 1 : row + 6, column + 1 : column + 6] = 0
            grid[row + 2 : row + 5, column + 2 : column + 5] = 1
        code = Image.fromarray(((1 - grid) * 220 + 20).astype(np.uint8))
        self.image.paste(code.resize((right - x, right - x), Image.Resampling.NEAREST), (x, y))


def cloud(rng: np.random.Generator, size: tuple[int, int], cells: tuple[int, int]) -> np.ndarray:
    """Smooth noise in -1..1, shape (height, width); ``cells`` (x, y) says how coarse."""
    noise = rng.uniform(-1, 1, (cells[1], cells[0])).astype(np.float32)
    return np.clip(cv2.resize(noise, size, interpolation=cv2.INTER_CUBIC), -1, 1)


def surface(rng: np.random.Generator, size: tuple[int, int], colour: str) -> Image.Image:
    """A table top: ``colour`` with the grain of wood."""
    base = np.array(Image.new("RGB", (1, 1), colour)).reshape(3).astype(np.float32)
    grain = 7 * cloud(rng, size, (3, 60)) + 12 * cloud(rng, size, (3, 3))
    return Image.fromarray(np.clip(base + grain[..., None], 0, 255).astype(np.uint8))


def gradient(size: tuple[int, int], *colours: str) -> Image.Image:
    """``colours`` from top to bottom."""
    strip = Image.new("RGB", (1, len(colours)))
    strip.putdata([Image.new("RGB", (1, 1), colour).getpixel((0, 0)) for colour in colours])
    rows = np.array(strip)[:, 0].astype(np.float32)
    at = np.linspace(0, len(colours) - 1, size[1])
    column = np.stack([np.interp(at, np.arange(len(colours)), band) for band in rows.T], -1)
    return Image.fromarray(np.repeat(column[:, None], size[0], 1).astype(np.uint8))


def photograph(
    page: Page,
    size: tuple[int, int],
    rng: np.random.Generator,
    *,
    table: str = "#8a6a4c",
    margin: float = 0.05,
    tilt: float = 0.0,
    skew: float = 0.02,
    blur: float = 0.7,
) -> Page:
    """``page`` lying on a table, seen by a camera: ``size`` pixels, turned by ``tilt`` degrees,
    each corner off by up to ``skew`` of the frame, uneven light, a little blur and noise."""
    angle = np.deg2rad(tilt)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    half = np.array(page.image.size) / 2
    corners = np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]]) * half @ turn.T
    corners *= min((np.array(size) * (0.5 - margin)) / np.abs(corners).max(0))
    corners += np.array(size) / 2 + rng.uniform(-skew, skew, (4, 2)) * min(size)
    source = np.array([[0, 0], [1, 0], [1, 1], [0, 1]]) * page.image.size
    matrix = cv2.getPerspectiveTransform(source.astype(np.float32), corners.astype(np.float32))
    seen = cv2.warpPerspective(np.array(page.image), matrix, size, flags=cv2.INTER_AREA)
    mask = cv2.warpPerspective(np.full(page.image.size[::-1], 255, np.uint8), matrix, size)
    scene = surface(rng, size, table)
    shadow = Image.fromarray(mask).filter(ImageFilter.GaussianBlur(size[0] / 90))
    scene.paste(Image.new("RGB", size, "#1a1410"), (size[0] // 150, size[0] // 110), shadow)
    scene.paste(Image.fromarray(seen), (0, 0), Image.fromarray(mask))
    return Page(exposed(scene, rng, blur=blur), page.lines)


def exposed(
    scene: Image.Image, rng: np.random.Generator, *, blur: float = 0.7, light: float = 0.1
) -> Image.Image:
    """Uneven light, a little blur and noise."""
    pixels = np.array(scene.filter(ImageFilter.GaussianBlur(blur))).astype(np.float32)
    pixels *= 1 + light * cloud(rng, scene.size, (3, 3))[..., None]
    pixels += rng.normal(0, 1.2, pixels.shape[:2])[..., None]
    return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))
