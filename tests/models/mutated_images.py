"""Decodes image files that were damaged at random, the same ones for the same seed.

    python tests/models/mutated_images.py SEED COUNT

Says for each what it is before it is decoded, so that a crash can be repeated. Ends with status 1
where anything but an ImageError is raised.
"""

from __future__ import annotations

import hashlib
import io
import random
import resource
import sys
from pathlib import Path

from PIL import Image

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from indexer.models import images  # noqa: E402
from indexer.models.types import ImageError  # noqa: E402

SAMPLES = ROOT / "immich_indexer" / "samples"
# The larger ones decode too slowly for thousands of times.
CHOSEN = ("parking-small.jpg", "boarding-pass.avif", "invoice.png")
FORMATS = {
    "JPEG": [{}, {"progressive": True}, {"exif": True}],
    "PNG": [{}, {"mode": "P"}, {"mode": "I;16"}, {"mode": "LA"}],
    "WEBP": [{}, {"lossless": True}, {"save_all": True}],
    "HEIF": [{}],
    "AVIF": [{}],
    "GIF": [{}, {"save_all": True}],
    "TIFF": [{}, {"compression": "tiff_lzw"}, {"compression": "jpeg"}, {"mode": "F"}],
    "BMP": [{}, {"mode": "P"}],
    "JPEG2000": [{}],
}
MAX_BYTES, MAX_PIXELS = 2_000_000, 4_000_000
# Numbers that make sizes, offsets and counts overflow.
EDGES = (0x00, 0x01, 0x7F, 0x80, 0xFE, 0xFF)


def originals() -> dict[str, bytes]:
    """Whole files by name: small pictures of every format, and some of the samples."""
    made = {name: (SAMPLES / name).read_bytes() for name in CHOSEN}
    noise = random.Random(1)
    picture = Image.frombytes("RGB", (40, 30), noise.randbytes(3600))
    for kind, variants in FORMATS.items():
        for number, wanted in enumerate(variants):
            options = dict(wanted)
            image = picture
            if mode := options.pop("mode", None):
                grey = mode in ("I;16", "F")
                image = picture.convert("L" if grey else mode)
                image = (
                    image.convert("I").convert("I;16") if mode == "I;16" else image.convert(mode)
                )
            if options.pop("exif", None):
                exif = image.getexif()
                exif[0x0112] = 6
                options["exif"] = exif.tobytes()
            if options.get("save_all"):
                options["append_images"] = [image.rotate(90), image.rotate(180)]
            out = io.BytesIO()
            image.save(out, kind, **options)
            made[f"{kind}-{number}"] = out.getvalue()
    return made


def mutate(data: bytes, chance: random.Random, others: list[bytes]) -> bytes:
    """Damage a file: one to four changes, more often near its beginning, where headers are."""
    damaged = bytearray(data)
    for _ in range(chance.randint(1, 4)):
        where = int(len(damaged) * chance.random() ** chance.choice((1, 3, 6)))
        match chance.randrange(8):
            case 0:
                damaged[where : where + 1] = bytes([chance.choice(EDGES)])
            case 1:
                damaged[where : where + 1] = bytes([chance.randrange(256)])
            case 2:
                size = chance.choice((2, 4, 8))
                damaged[where : where + size] = bytes([chance.choice(EDGES)]) * size
            case 3:
                del damaged[where : where + chance.randint(1, 64)]
            case 4:
                damaged[where:where] = chance.randbytes(chance.randint(1, 64))
            case 5:
                piece = damaged[where : where + chance.randint(1, 200)]
                at = chance.randint(0, len(damaged))
                damaged[at:at] = piece * chance.choice((1, 2, 50))
            case 6:
                del damaged[max(16, where) :]
            case 7:
                other = chance.choice(others)
                start = chance.randrange(len(other))
                damaged[where : where + 100] = other[start : start + 100]
    return bytes(damaged)


def main(seed: int, count: int) -> int:
    # A decoder that asks for all the memory there is gets an error, not the machine.
    resource.setrlimit(resource.RLIMIT_AS, (8 << 30, 8 << 30))
    chance = random.Random(seed)
    files = originals()
    others = list(files.values())
    decoded = refused = 0
    for number in range(count):
        name = chance.choice(sorted(files))
        data = mutate(files[name], chance, others)
        say(f"{number} {name} {hashlib.sha256(data).hexdigest()[:16]}")
        try:
            photo = images.decode(data, max_bytes=MAX_BYTES, max_pixels=MAX_PIXELS)
        except ImageError:
            refused += 1
            continue
        assert photo.image.mode == "RGB"
        assert 0 < photo.width * photo.height <= MAX_PIXELS
        photo.image.tobytes()
        decoded += 1
    say(f"{count} files: {decoded} decoded, {refused} refused")
    return 0


def say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), int(sys.argv[2])))
