"""What decoding makes of every kind of file, good and bad."""

from __future__ import annotations

import contextlib
import hashlib
import io
import random
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFont

from indexer.models import images
from indexer.models.images import SHORT_SIDE, Photo
from indexer.models.types import ImageError

LOSSLESS = ("PNG", "TIFF", "BMP")
ALL = ("JPEG", "PNG", "WEBP", "HEIF", "AVIF", "GIF", "TIFF", "BMP", "JPEG2000")


def decode(data: bytes, max_bytes: int = 10**8, max_pixels: int = 10**8) -> Photo:
    return images.decode(data, max_bytes=max_bytes, max_pixels=max_pixels)


def encode(image: Image.Image, kind: str, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def noise(width: int = 96, height: int = 64) -> Image.Image:
    pixels = np.random.default_rng(1).integers(0, 256, (height, width, 3), np.uint8)
    return Image.fromarray(pixels)


def quarters(width: int = 60, height: int = 40) -> Image.Image:
    """Red at the top left, green right of it, blue below it, white in the last quarter."""
    image = Image.new("RGB", (width, height), "white")
    draw = ImageDraw.Draw(image)
    draw.rectangle((0, 0, width // 2 - 1, height // 2 - 1), "red")
    draw.rectangle((width // 2, 0, width, height // 2 - 1), "lime")
    draw.rectangle((0, height // 2, width // 2 - 1, height), "blue")
    return image


def assert_quarters(image: Image.Image) -> None:
    left, right = image.width // 4, image.width * 3 // 4
    top, bottom = image.height // 4, image.height * 3 // 4
    spots = [(left, top), (right, top), (left, bottom), (right, bottom)]
    expected = [(255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255)]
    seen = [image.getpixel(spot) for spot in spots]
    assert np.abs(np.subtract(seen, expected)).max() < 12, seen


def png(width: int, height: int) -> bytes:
    """A PNG of a few bytes whose header promises any size."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(bytes(100)))
        + chunk(b"IEND", b"")
    )


# Good files


@pytest.mark.parametrize("kind", ALL)
def test_every_format_comes_out_as_upright_rgb(kind: str) -> None:
    data = encode(quarters(), kind)
    photo = decode(data)
    assert (photo.width, photo.height) == photo.image.size == (60, 40)
    assert photo.image.mode == "RGB"
    assert photo.sha256 == hashlib.sha256(data).digest()
    assert_quarters(photo.image)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_turns_the_image_upright(kind: str, orientation: int) -> None:
    undo = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }
    stored = quarters()
    if orientation in undo:
        stored = stored.transpose(undo[orientation])
    exif = Image.Exif()
    exif[0x0112] = orientation
    photo = decode(encode(stored, kind, exif=exif))
    assert (photo.width, photo.height) == photo.image.size == (60, 40)
    assert_quarters(photo.image)


@pytest.mark.parametrize("exif", [b"Exif\0\0garbage", b"Exif\0\0MM\0*\0\0\0\x08\xff\xff", b""])
def test_damaged_exif_is_no_reason_to_refuse_a_photo(exif: bytes) -> None:
    assert_quarters(decode(encode(quarters(), "JPEG", exif=exif)).image)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF"])
@pytest.mark.parametrize("turned", [False, True])
def test_large_images_are_shrunk_and_keep_their_size_on_record(kind: str, turned: bool) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6 if turned else 1
    size = (3100, 5000) if turned else (5000, 3100)
    photo = decode(encode(quarters(5000, 3100), kind, exif=exif))
    assert (photo.width, photo.height) == size
    assert SHORT_SIDE <= min(photo.image.size) < 3100
    assert photo.image.width / photo.image.height == pytest.approx(size[0] / size[1], rel=1e-3)


def test_small_images_are_not_enlarged() -> None:
    assert decode(encode(quarters(20, 10), "PNG")).image.size == (20, 10)


@pytest.mark.parametrize("size", [(1, 1), (10_000, 3), (3, 10_000)])
@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_extreme_sizes(kind: str, size: tuple[int, int]) -> None:
    photo = decode(encode(Image.new("RGB", size, "red"), kind))
    assert (photo.width, photo.height) == photo.image.size == size


@pytest.mark.parametrize("kind", ["GIF", "PNG", "WEBP", "AVIF", "TIFF"])
def test_of_several_frames_the_first_is_taken(kind: str) -> None:
    others = [Image.new("RGB", (60, 40), color) for color in ("black", "gray")]
    assert_quarters(decode(encode(quarters(), kind, save_all=True, append_images=others)).image)


def test_cmyk_jpeg_keeps_its_colours() -> None:
    photo = decode(encode(Image.new("CMYK", (20, 20), (0, 255, 255, 0)), "JPEG"))
    red, green, blue = photo.image.getpixel((10, 10))  # type: ignore[misc]
    assert red > 240
    assert max(green, blue) < 15


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "PA", "RGBA"])
def test_other_modes(mode: str) -> None:
    image = Image.new("L", (20, 10), 255)
    image.paste(0, (0, 0, 10, 10))
    photo = decode(encode(image.convert("RGBA").convert(mode), "TIFF" if mode == "PA" else "PNG"))
    assert photo.image.getpixel((5, 5)) == (0, 0, 0)
    assert photo.image.getpixel((15, 5)) == (255, 255, 255)


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        (np.linspace(0, 65535, 256).astype(np.uint16), "PNG"),
        (np.linspace(0, 65535, 256).astype(np.uint16), "TIFF"),
        (np.linspace(0, 65535, 256).astype(np.int32), "TIFF"),
        (np.linspace(-1e6, 1e6, 256).astype(np.int32), "TIFF"),
        (np.linspace(0, 1, 256).astype(np.float32), "TIFF"),
        (np.linspace(-5, 300, 256).astype(np.float32), "TIFF"),
    ],
)
def test_deep_greys_are_scaled_not_clipped(values: Any, kind: str) -> None:
    photo = decode(encode(Image.fromarray(np.tile(values, (4, 1))), kind))
    grey = np.asarray(photo.image)[0, :, 0].astype(int)
    assert np.abs(grey - np.arange(256)).max() <= 1


def test_floats_that_are_no_numbers() -> None:
    values = np.array([[0, 1, np.nan, np.inf]], np.float32)
    grey = np.asarray(decode(encode(Image.fromarray(values), "TIFF")).image)[0, :, 0]
    assert grey.tolist() == [0, 255, 0, 0]


@pytest.mark.parametrize(
    ("inks", "background"), [(["black"], 255), (["white"], 0), (["black", "white"], 128)]
)
@pytest.mark.parametrize("kind", ["PNG", "WEBP", "GIF"])
def test_text_on_nothing_gets_a_background_it_can_be_read_on(
    inks: list[str], background: int, kind: str
) -> None:
    image = Image.new("RGBA", (300, 60 * len(inks)), (255, 255, 255, 0))
    draw = ImageDraw.Draw(image)
    for i, ink in enumerate(inks):
        draw.text((10, 60 * i + 5), "Immich", ink, ImageFont.load_default(40))
    options = {"lossless": True} if kind == "WEBP" else {}
    photo = decode(encode(image, kind, **options))
    assert photo.image.getpixel((0, 0)) == (background,) * 3
    assert {tuple(c) for c in np.asarray(photo.image).reshape(-1, 3)} >= {
        (255,) * 3 if ink == "white" else (0,) * 3 for ink in inks
    }


def test_nothing_but_transparency() -> None:
    photo = decode(encode(Image.new("RGBA", (8, 8), (0, 0, 0, 0)), "PNG"))
    assert photo.image.getcolors() == [(64, (255, 255, 255))]


# Bad files


def test_empty_file() -> None:
    with pytest.raises(ImageError, match="empty"):
        decode(b"")


@pytest.mark.parametrize("kind", ALL)
@pytest.mark.parametrize("part", [0.3, 0.7])
def test_truncated_files(kind: str, part: float) -> None:
    data = encode(noise(), kind)
    with pytest.raises(ImageError, match="damaged or truncated"):
        decode(data[: int(len(data) * part)])


@pytest.mark.parametrize(
    "data",
    [
        b"hello, this is a text file",
        b"%PDF-1.7\n...",
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n",
        b"<svg xmlns='http://www.w3.org/2000/svg'/>",
        b"\0" * 1000,
        b"\xff",
    ],
)
def test_files_that_are_no_images(data: bytes) -> None:
    with pytest.raises(ImageError, match="not an image in a known format"):
        decode(data)


def test_a_bomb_is_refused_by_its_header() -> None:
    bomb = png(20_000, 20_000)
    assert len(bomb) < 200
    with pytest.raises(ImageError, match=r"20000 x 20000 pixels .*MAX_IMAGE_PIXELS"):
        decode(bomb, max_pixels=200_000_000)


def test_the_limits_are_inclusive() -> None:
    data = encode(quarters(10, 10), "PNG")
    assert decode(data, max_bytes=len(data), max_pixels=100).width == 10
    with pytest.raises(ImageError, match="MAX_IMAGE_PIXELS"):
        decode(data, max_pixels=99)
    with pytest.raises(ImageError, match="MAX_IMAGE_BYTES"):
        decode(data, max_bytes=len(data) - 1)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("kind", ["PNG", "WEBP", "TIFF", "GIF"])
def test_pillows_own_limit_does_not_get_in_the_way(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    assert_quarters(decode(encode(quarters(), kind)).image)
    # Raised for this image, not taken away: plugins check tiles and frames against it.
    assert Image.MAX_IMAGE_PIXELS == 10**8


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
@pytest.mark.parametrize("kind", ALL)
def test_whatever_is_broken_the_fault_is_an_image_error(kind: str) -> None:
    chance = random.Random(kind)
    whole = encode(noise(24, 16), kind)
    for _ in range(60):
        data = bytearray(whole)
        for _ in range(chance.choice((1, 3, 20))):
            data[chance.randrange(len(data))] = chance.randrange(256)
        with contextlib.suppress(ImageError):
            assert decode(bytes(data), max_pixels=10**6).image.mode == "RGB"


def test_reading(tmp_path: Path) -> None:
    path = tmp_path / "photo.jpg"
    path.write_bytes(b"12345")
    assert images.read(path, max_bytes=5) == b"12345"
    with pytest.raises(ImageError, match="MAX_IMAGE_BYTES"):
        images.read(path, max_bytes=4)
    with pytest.raises(FileNotFoundError):
        images.read(tmp_path / "missing.jpg", max_bytes=5)
    with pytest.raises(IsADirectoryError):
        images.read(tmp_path, max_bytes=10**6)
