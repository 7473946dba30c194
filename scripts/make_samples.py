"""Draw the sample photos, and write what is on them to ``immich_indexer/samples/truth.json``.

    python scripts/make_samples.py            # into immich_indexer/samples/

Needs Debian's fonts-noto-cjk, fonts-lxgw-wenkai and fontconfig. Drawn again with the same
versions of these and of Pillow, the photos come out the same.
"""

from __future__ import annotations

import argparse
import json
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pillow_heif
import sample_papers as papers
import sample_places as places
import shapes
from drawing import Page, photograph
from PIL import Image

SAMPLES = Path(__file__).parent.parent / "immich_indexer/samples"
MAX_BYTES = 4_000_000
ROTATED_90_BY_EXIF = 6  # "the top of the picture is at the right of the file"


@dataclass(frozen=True)
class Sample:
    """A sample photo and how it is taken.

    Attributes:
        draw: makes the page.
        camera: `drawing.photograph`'s arguments; None: the page is the photo (a screenshot).
        turned: degrees, clockwise, by which the stored pixels are turned.
        exif: EXIF orientation to store, with the pixels turned to need it.
    """

    file: str
    kind: str
    draw: Callable[[np.random.Generator], Page]
    camera: dict[str, Any] | None = None
    turned: int = 0
    exif: int = 0
    shapes: list[str] = field(default_factory=list)


def taken(width: int, height: int, **how: Any) -> dict[str, Any]:
    return {"size": (width, height), **how}


def coloured(
    file: str, colour: str, shape: str, word: str = "", size: tuple[int, int] = (1440, 1080)
) -> Sample:
    def draw(rng: np.random.Generator) -> Page:
        return Page(shapes.scene(rng, size, colour, shape, word), [word] if word else [])

    return Sample(file, "shape", draw, shapes=[f"{colour}的{shape}"])


STEEL, CLOTH, PINE, OAK = "#8f959b", "#5d6b78", "#b58d5f", "#7b5a3e"

ALL = [
    Sample("receipt-supermarket.jpg", "receipt", papers.supermarket_receipt,
           taken(1080, 1620, table=OAK, tilt=-2, skew=0.03)),
    Sample("bill-hotpot-exif.jpg", "receipt", papers.hotpot_bill,
           taken(1200, 1600, table=PINE, tilt=2), exif=ROTATED_90_BY_EXIF),
    Sample("invoice.png", "invoice", papers.invoice),
    Sample("ticket-train-tilted.jpg", "ticket", papers.train_ticket,
           taken(1500, 1200, table=CLOTH, tilt=15, skew=0.01)),
    Sample("menu-noodles.jpg", "menu", papers.noodle_menu, taken(1200, 1600, table=OAK)),
    Sample("menu-taiwan.webp", "menu", papers.tea_menu, taken(1150, 1500, table=PINE, tilt=1)),
    Sample("sign-road.jpg", "sign", places.road_sign),
    Sample("sign-shop.jpg", "sign", places.shop_sign),
    Sample("screenshot-chat.png", "chat", places.chat),
    Sample("screenshot-payment.png", "payment", places.payment),
    Sample("table-bilingual.jpg", "table", papers.bilingual_table,
           taken(1500, 1080, table=STEEL, tilt=1)),
    Sample("book-page-turned.jpg", "book", papers.book_page,
           taken(1200, 1600, table=CLOTH, skew=0.03), turned=90),
    Sample("medicine-box.jpg", "medicine", places.medicine_box,
           taken(1400, 1000, table=STEEL, tilt=-3, margin=0.1)),
    Sample("whiteboard.heic", "whiteboard", places.whiteboard,
           taken(1600, 1200, table="#c9c4bb", margin=0.03, skew=0.07)),
    Sample("letter-upside-down.jpg", "letter", papers.english_letter,
           taken(1200, 1500, table=PINE, tilt=-1), turned=180),
    Sample("boarding-pass.avif", "ticket", papers.boarding_pass,
           taken(1500, 900, table=OAK, tilt=-4)),
    Sample("business-card-faint.jpg", "card", papers.business_card,
           taken(1280, 900, table="#b9b7b2", tilt=2)),
    Sample("parking-small.jpg", "receipt", papers.parking_slip,
           taken(440, 330, table=STEEL, margin=0.03, skew=0.01, blur=0.4)),
    Sample("view-mountains.jpg", "landscape", places.mountains),
    Sample("view-sea.jpg", "landscape", places.sea),
    coloured("shape-red-circle.jpg", "红色", "圆"),
    coloured("shape-red-circle-exit.jpg", "红色", "圆", "出口"),
    coloured("shape-blue-square-exit.jpg", "蓝色", "正方形", "出口", (1080, 1440)),
    coloured("shape-green-triangle.jpg", "绿色", "三角形"),
    coloured("shape-yellow-star.jpg", "黄色", "五角星", size=(1600, 1000)),
    coloured("shape-purple-heart-spring.jpg", "紫色", "心形", "春天", (1200, 1200)),
    coloured("shape-black-cross.jpg", "黑色", "十字", size=(1080, 1440)),
]  # fmt: skip


def make(sample: Sample, folder: Path) -> dict[str, Any]:
    """Draw ``sample`` into ``folder``; returns its entry of ``truth.json``."""
    rng = np.random.default_rng(zlib.crc32(sample.file.encode()))
    page = sample.draw(rng)
    if sample.camera:
        page = photograph(page, rng=rng, **sample.camera)
    image, options = page.image, {}
    if sample.exif:
        image = image.transpose(Image.Transpose.ROTATE_90)
        exif = Image.Exif()
        exif[0x0112] = sample.exif
        options["exif"] = exif
    if sample.turned:
        image = image.rotate(-sample.turned, expand=True)
    path = folder / sample.file
    if path.suffix == ".png":
        image.quantize(128, dither=Image.Dither.NONE).save(path, optimize=True)
    else:
        quality = {".jpg": 80, ".webp": 78, ".heic": 55, ".avif": 60}[path.suffix]
        image.save(path, quality=quality, **options)
    return {
        "file": sample.file,
        "lines": page.lines,
        "kind": sample.kind,
        "shapes": sample.shapes,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--out", type=Path, default=SAMPLES, help="folder to write to")
    parser.add_argument("--only", default="", help="only files whose name contains this")
    args = parser.parse_args()
    pillow_heif.register_heif_opener()
    args.out.mkdir(exist_ok=True)
    truth = [make(sample, args.out) for sample in ALL if args.only in sample.file]
    if args.only:
        return
    text = json.dumps(truth, ensure_ascii=False, indent=1)
    (args.out / "truth.json").write_text(text + "\n", encoding="utf-8")
    total = sum((args.out / sample.file).stat().st_size for sample in ALL)
    print(f"{len(ALL)} photos, {total / 1e6:.2f} MB, in {args.out}")
    if total > MAX_BYTES:
        raise SystemExit(f"more than {MAX_BYTES / 1e6:.0f} MB: lower a size or a quality")


if __name__ == "__main__":
    main()
