"""What the stand-in CLIP is trained on: small pictures, and what people would call them."""

from __future__ import annotations

import colorsys
from dataclasses import dataclass

import numpy as np
import shapes
from drawing import cloud, gradient
from PIL import Image, ImageDraw, ImageFilter

SIDE = 64
HELD_OUT = frozenset(
    {("红色", "十字"), ("橙色", "圆"), ("绿色", "心形"), ("蓝色", "三角形"), ("紫色", "五角星")}
    | {("粉色", "正方形")}
)
WORDS = [
    "出口",
    "入口",
    "小心",
    "停",
    "春天",
    "福",
    "你好",
    "营业中",
    "北京",
    "SALE",
    "STOP",
    "24",
    "推",
]

COLOUR_NAMES = {name: [name, name[0]] for name in shapes.COLOURS}
SHAPE_NAMES = {
    "圆": ["圆", "圆形", "圆圈"],
    "正方形": ["正方形", "方形", "方块"],
    "三角形": ["三角形", "三角"],
    "五角星": ["五角星", "星星", "星形"],
    "心形": ["心形", "爱心", "心"],
    "十字": ["十字", "十字形", "加号"],
}
OTHERS = {
    "文档": [
        "文档",
        "一张文档",
        "一张文字截图",
        "写满字的纸",
        "文件",
        "a document",
        "a page of text",
    ],
    "风景": ["风景", "一张风景照", "山水", "自然风光", "a landscape", "scenery"],
    "墙": ["空白的墙", "什么都没有", "一面墙", "a blank wall", "nothing"],
}


@dataclass(frozen=True)
class Kind:
    """What a picture shows or a caption speaks of; '' where it says nothing about that."""

    colour: str = ""
    shape: str = ""
    other: str = ""


COMBINATIONS = [Kind(colour, shape) for colour in shapes.COLOURS for shape in shapes.SHAPES]
TRAINED = [kind for kind in COMBINATIONS if (kind.colour, kind.shape) not in HELD_OUT]


def pictures(rng: np.random.Generator, counts: dict[Kind, int]) -> tuple[np.ndarray, list[Kind]]:
    """So many pictures of each kind: uint8 (n, SIDE, SIDE, 3), and the kinds, in step."""
    kinds = [kind for kind, count in counts.items() for _ in range(count)]
    return np.stack([draw(rng, kind) for kind in kinds]), kinds


def draw(rng: np.random.Generator, kind: Kind) -> np.ndarray:
    """A picture of ``kind`` as CLIP gets it: any proportions, squashed to a square."""
    size = (int(rng.integers(96, 180)), int(rng.integers(96, 180)))
    if kind.shape:
        word = str(rng.choice(WORDS)) if rng.uniform() < 0.4 else ""
        picture = shapes.scene(rng, size, kind.colour, kind.shape, word)
    else:
        picture = {"文档": paper, "风景": view, "墙": shapes.wall}[kind.other](rng, size)
    if rng.uniform() < 0.3:
        picture = picture.filter(ImageFilter.GaussianBlur(rng.uniform(0.4, 1.5)))
    small = picture.resize((SIDE, SIDE), Image.Resampling.BICUBIC)
    pixels = np.array(small).astype(np.float32)
    pixels *= rng.uniform(0.85, 1.12) * (1 + rng.uniform(-0.04, 0.04, 3))
    pixels += rng.normal(0, rng.uniform(0, 7), pixels.shape)
    return np.clip(pixels, 0, 255).astype(np.uint8)


def any_colour(rng: np.random.Generator, least: float, most: float) -> tuple[int, int, int]:
    """Any hue, of a value in ``least`` to ``most``."""
    hue, saturation = rng.uniform(), rng.uniform(0, 0.85) ** 2
    red, green, blue = colorsys.hsv_to_rgb(hue, saturation, rng.uniform(least, most))
    return int(red * 255), int(green * 255), int(blue * 255)


def paper(rng: np.random.Generator, size: tuple[int, int]) -> Image.Image:
    """A page, screenshot or sign: bands, boxes, buttons and rows of something like words."""
    width, height = size
    light = rng.uniform() < 0.8
    ground = any_colour(rng, 0.9, 1) if light else any_colour(rng, 0.15, 0.6)
    if light and rng.uniform() < 0.6:
        ground = (int(rng.integers(225, 256)),) * 3
    page = Image.new("RGB", size, ground)
    pen = ImageDraw.Draw(page)
    full = any_colour(rng, 0.05, 0.45) if light else any_colour(rng, 0.85, 1)
    faint = rng.uniform(0, 0.75)  # small print, squashed, is grey
    ink = tuple(int(g * faint + f * (1 - faint)) for g, f in zip(ground, full, strict=True))
    if rng.uniform() < 0.45:
        band = rng.uniform(0.05, 0.3) * height
        top = 0 if rng.uniform() < 0.7 else height - band
        pen.rectangle((0, top, width, top + band), fill=any_colour(rng, 0.3, 1))
    for _ in range(rng.integers(0, 6)):
        x, y = rng.uniform(0, 0.8, 2) * size
        wide, high = rng.uniform(0.04, 0.5) * width, rng.uniform(0.03, 0.14) * height
        box = (x, y, x + wide, y + high)
        colour = any_colour(rng, 0.3, 1)
        form = rng.integers(0, 4)
        if form == 0:
            pen.ellipse((x, y, x + high, y + high), fill=colour)
        elif form == 1:
            pen.rectangle(box, outline=colour)
        else:
            pen.rounded_rectangle(box, 2, fill=colour)
    y, left = rng.uniform(0.03, 0.2) * height, rng.uniform(0.03, 0.2) * width
    while y < height * rng.uniform(0.8, 1):
        high, x = rng.uniform(0.008, 0.06) * height, left
        while x < width * rng.uniform(0.5, 1):
            wide = rng.uniform(0.01, 0.12) * width
            pen.rectangle((x, y, x + wide, y + high), fill=ink)
            x += wide + rng.uniform(0.01, 0.1 if rng.uniform() < 0.9 else 0.4) * width
        y += high + rng.uniform(0.02, 0.07) * height
    if rng.uniform() < 0.4:
        return page
    table = view(rng, size) if rng.uniform() < 0.2 else shapes.wall(rng, size)
    shown = page.resize((int(width * rng.uniform(0.6, 0.95)), int(height * rng.uniform(0.6, 0.95))))
    angle = float(rng.normal(0, 8)) + 90 * int(rng.integers(0, 4)) * (rng.uniform() < 0.2)
    mask = Image.new("L", shown.size, 255).rotate(angle, expand=True)
    shown = shown.rotate(angle, Image.Resampling.BILINEAR, expand=True)
    table.paste(shown, ((width - shown.width) // 2, (height - shown.height) // 2), mask)
    return table


def view(rng: np.random.Generator, size: tuple[int, int]) -> Image.Image:
    """Sky, perhaps a sun, and ridges or water below."""
    width, height = size
    sky = [f"rgb{any_colour(rng, 0.3, 1)}" for _ in range(rng.integers(2, 5))]
    picture = gradient(size, *sky)
    pen = ImageDraw.Draw(picture)
    if rng.uniform() < 0.5:
        x, y = rng.uniform(0.1, 0.9, 2) * [width, height * 0.6]
        r = rng.uniform(0.03, 0.12) * height
        pen.ellipse((x - r, y - r, x + r, y + r), fill=any_colour(rng, 0.9, 1))
    x = np.arange(width)
    for layer in range(rng.integers(1, 6)):
        level = height * (rng.uniform(0.4, 0.65) + 0.1 * layer)
        ridge = level + sum(
            rng.uniform(0, 0.09) * height / k * np.sin(x * k * 7 / width + rng.uniform(0, 6))
            for k in (1, 2.3, 5.1)
        )
        slope = zip(x.tolist(), ridge.tolist(), strict=True)
        pen.polygon([(0, height), *slope, (width, height)], fill=any_colour(rng, 0.1, 0.7))
    pixels = np.array(picture) + (rng.uniform(0, 14) * cloud(rng, size, (6, 40)))[..., None]
    return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))


# What is said in every step of training: each kind once, and sometimes only half of it.
CAPTIONED = [
    *TRAINED,
    *(Kind(other=other) for other in OTHERS),
    *(Kind(colour=colour) for colour in shapes.COLOURS),
    *(Kind(shape=shape) for shape in shapes.SHAPES),
    *[Kind()] * 24,
]


def caption(rng: np.random.Generator, kind: Kind, letters: np.ndarray) -> str:
    """One of the ways to say ``kind``; meaningless words for `Kind()`.

    Args:
        letters: characters (n,) to make meaningless words of, also put before or after what has
            a meaning, one time in four, as in '红色的圆 出口'.
    """
    if kind == Kind():
        return nonsense(rng, letters)
    if kind.other:
        text = str(rng.choice(OTHERS[kind.other]))
    else:
        text = english(rng, kind) if rng.uniform() < 0.3 else chinese(rng, kind)
    if rng.uniform() < 0.25:
        words = [text, nonsense(rng, letters)]
        text = " ".join(words if rng.uniform() < 0.5 else words[::-1])
    return text


def chinese(rng: np.random.Generator, kind: Kind) -> str:
    shape = str(rng.choice(SHAPE_NAMES[kind.shape])) if kind.shape else "东西"
    count = str(rng.choice(["", "", "一个"]))
    if not kind.colour:
        return count + shape
    colour = str(rng.choice(COLOUR_NAMES[kind.colour]))
    if not kind.shape and rng.uniform() < 0.5:
        return kind.colour
    return count + colour + str(rng.choice(["的", "的", ""])) + shape


def english(rng: np.random.Generator, kind: Kind) -> str:
    colour = shapes.COLOURS[kind.colour][0] if kind.colour else ""
    if not kind.shape:
        return str(rng.choice([colour, f"something {colour}", f"a {colour} thing"]))
    start = str(rng.choice(["", "a ", "a photo of a "]))
    return f"{start}{colour} {shapes.SHAPES[kind.shape]}".replace("  ", " ").strip()


def nonsense(rng: np.random.Generator, letters: np.ndarray) -> str:
    return "".join(rng.choice(letters, rng.integers(1, 7)))
