"""Bytes of an image file → one upright RGB picture, decoded once for the hash, OCR and CLIP.

Nothing here trusts the bytes: only the formats named below are tried, the header's size is
checked before a pixel is decoded, and whatever a decoder raises becomes an ``ImageError``.
"""

from __future__ import annotations

import errno
import hashlib
import io
import os
import stat
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
import numpy.typing as npt
import pillow_heif
from PIL import ExifTags, Image

from indexer.models.types import ImageError

# A short list on purpose: Pillow's others are rarely photos, and some of them start programs (EPS).
FORMATS = ("JPEG", "PNG", "WEBP", "HEIF", "AVIF", "GIF", "TIFF", "BMP", "JPEG2000")

# Large images are decoded or shrunk to about this short side: twice what OCR and CLIP look at,
# and the size of Immich's own previews.
SHORT_SIDE = 1440

# EXIF 2.32, tag 0x0112: how to turn what is stored into what was seen.
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}

_SWAPS_SIDES = (5, 6, 7, 8)

Image.init()
pillow_heif.register_heif_opener()
_ceiling_lock = threading.Lock()


@dataclass(frozen=True, slots=True, eq=False)
class Photo:
    """An image, decoded.

    Attributes:
        sha256: of the file's bytes, 32 bytes.
        width: of the whole image, upright, in pixels; ``image`` may be smaller.
        height: as ``width``.
        image: RGB, 8 bit, upright; its short side is at least min(the original's, 1440).
    """

    sha256: bytes
    width: int
    height: int
    image: Image.Image


def read(path: Path, *, max_bytes: int) -> bytes:
    """Return the bytes of a file.

    Raises:
        OSError: the file isn't there or can't be read; unchanged. Or somebody is writing it.
        ImageError: it is larger than `max_bytes`, or a pipe or a device, which never end.
    """
    with _regular_file(path) as file:
        size = os.fstat(file.fileno()).st_size
        _check_bytes(size, max_bytes)
        data = file.read(size + 1)  # not max_bytes: every photo would take that much memory
        if len(data) > size:
            raise OSError(errno.EAGAIN, "it grows, somebody is writing it")
        return data


@contextmanager
def _regular_file(path: Path) -> Iterator[BinaryIO]:
    with open(path, "rb", opener=open_at_once) as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise ImageError("not a file")
        yield file


def open_at_once(path: str, flags: int) -> int:
    """Open without waiting for somebody to write into a pipe."""
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))


def decode(
    data: bytes,
    *,
    max_bytes: int,
    max_pixels: int,
    short_side: int = SHORT_SIDE,
    hold: Callable[[int], AbstractContextManager[object]] = lambda _: nullcontext(),
) -> Photo:
    """Decode an image file; of an animation, the first frame.

    JPEGs are decoded at a half, quarter or eighth where that still leaves `short_side`
    (Pillow's ``draft``): three times faster than whole, for the same text and embeddings.

    Args:
        hold: called with how many pixels are about to be decoded; entered meanwhile.

    Raises:
        ImageError: empty, too many bytes or pixels, damaged, or not an image; says which.
    """
    if not data:
        raise ImageError("the file is empty (0 bytes)")
    _check_bytes(len(data), max_bytes)
    with _faults("image"):
        image = _open(io.BytesIO(data), max_pixels)
    width, height = image.size
    if width * height > max_pixels:
        raise ImageError(
            f"{width} x {height} pixels are more than the limit of {max_pixels:,} "
            "(MAX_IMAGE_PIXELS)"
        )
    with _faults(image.format or "image"):
        shrink = max(1, min(width, height) // short_side)
        image.draft("RGB", (width // shrink, height // shrink))
        with hold(image.width * image.height):
            image.load()
            orientation = _orientation(image)
            upright = _rgb(image, short_side)
            if orientation in _UPRIGHT:
                upright = upright.transpose(_UPRIGHT[orientation])
    if orientation in _SWAPS_SIDES:
        width, height = height, width
    return Photo(hashlib.sha256(data).digest(), width, height, upright)


def read_size(path: Path) -> tuple[int, int]:
    """Width and height of an image file, upright, in pixels, from its header alone.

    Raises:
        OSError: the file isn't there or can't be read; unchanged.
        ImageError: not an image in a known format, or a pipe or a device.
    """
    with _regular_file(path) as file, _faults("image"):
        image = _open(file, 0)
        width, height = image.size
        # PNG's EXIF may come after the picture: asking for it would decode all of it.
        turned = "exif" in image.info and _orientation(image) in _SWAPS_SIDES
    return (height, width) if turned else (width, height)


def shrunk(photo: Photo, box: tuple[int, int]) -> bytes:
    """JPEG of a photo that fits into a box (width, height in pixels); never enlarged."""
    image = photo.image
    scale = min(box[0] / image.width, box[1] / image.height)
    if scale < 1:
        size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
        image = image.resize(size, Image.Resampling.LANCZOS, reducing_gap=2.0)
    out = io.BytesIO()
    image.save(out, "JPEG", quality=85, progressive=True)
    return out.getvalue()


def _check_bytes(size: int, max_bytes: int) -> None:
    if size > max_bytes:
        raise ImageError(f"the file is larger than the limit of {max_bytes:,} (MAX_IMAGE_BYTES)")


@contextmanager
def _faults(kind: str) -> Iterator[None]:
    """Turn whatever a decoder raises into an ImageError.

    Damaged files make the decoders raise nearly anything: OSError, SyntaxError, ValueError,
    struct.error, IndexError, RuntimeError, MemoryError. All mean the same to the caller.
    """
    try:
        yield
    except ImageError:
        raise
    except MemoryError as error:
        raise ImageError(f"too little memory to decode this {kind} file") from error
    except Exception as error:
        reason = str(error) or type(error).__name__
        raise ImageError(f"damaged or truncated {kind} file ({reason})") from error


def _open(file: BinaryIO, max_pixels: int) -> Image.Image:
    """Read the header only.

    Goes through Pillow's registry of formats itself, because `Image.open` refuses by a limit
    that is one global of the process. What plugins check against it (tiles of a TIFF, a WebP's
    canvas) stays checked: the global is only ever raised, to the largest limit asked for.
    """
    with _ceiling_lock:
        if Image.MAX_IMAGE_PIXELS is not None:
            Image.MAX_IMAGE_PIXELS = max(Image.MAX_IMAGE_PIXELS, max_pixels)
    start = file.read(16)
    file.seek(0)
    for name in FORMATS:
        factory, accepts = Image.OPEN[name]
        # A text instead of True says that the format is known but its decoder isn't there.
        if accepts is not None and accepts(start) is True:
            return factory(file, "")
    raise ImageError(f"not an image in a known format ({', '.join(FORMATS)})")


def _orientation(image: Image.Image) -> int:
    """EXIF orientation of a loaded image, 1..8; 1 where the EXIF is missing or damaged."""
    try:
        return int(image.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:
        # A broken EXIF block is no reason to refuse the picture.
        return 1


def _rgb(image: Image.Image, short_side: int) -> Image.Image:
    """Convert any mode to RGB, shrunk where the short side allows it."""
    if image.mode == "I" or image.mode == "F" or image.mode.startswith("I;16"):
        image = Image.fromarray(_eight_bits(np.asarray(image)))
    elif image.has_transparency_data:
        image = image.convert("RGBA")
    elif image.mode not in ("L", "RGB", "CMYK"):
        image = image.convert("L" if image.mode == "1" else "RGB")
    shrink = min(image.size) // short_side
    if shrink >= 2:
        image = image.reduce(shrink)
    if image.mode == "RGBA":
        return _flatten(image)
    return image.convert("RGB")


def _eight_bits(values: npt.NDArray[np.generic]) -> npt.NDArray[np.uint8]:
    """Grey values of 16 or 32 bits, or floats, shape (h, w), as uint8.

    Pillow's own conversion clips at 255, which turns nearly all of a 16-bit image white.
    Integers that fit 16 bits use that whole range; floats 0..1; all else its own range.
    """
    grey = np.nan_to_num(values.astype(np.float32), posinf=0.0, neginf=0.0)
    low, high = float(grey.min()), float(grey.max())
    if np.issubdtype(values.dtype, np.integer) and low >= 0 and high <= 65535:
        low, high = 0.0, 65535.0
    elif low >= 0 and high <= 1:
        low, high = 0.0, 1.0
    return ((grey - low) * (255 / max(high - low, 1e-12))).round().astype(np.uint8)


def _flatten(image: Image.Image) -> Image.Image:
    """Lay an RGBA image on white, black or grey.

    Whichever leaves the opaque pixels the most contrast, counted at the tenth of them that has
    the least: white text needs black behind it, black text white, and a picture with both grey.
    """
    opaque = np.asarray(image.getchannel("A")) >= 128
    luma = np.asarray(image.convert("L"))[opaque].astype(np.int16)
    background = max(
        (255, 0, 128),
        key=lambda grey: float(np.percentile(np.abs(luma - grey), 10)) if luma.size else 0.0,
    )
    flat = Image.new("RGBA", image.size, (background,) * 3 + (255,))
    flat.alpha_composite(image)
    return flat.convert("RGB")
