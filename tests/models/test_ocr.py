"""What is read, where, and how sure; with the real models, on the shipped samples and drawings."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFont
from rapidocr_onnxruntime import RapidOCR

import immich_indexer
from bench.accuracy import characters
from indexer.models import images, ocr, openvino_cpu
from indexer.models.cores import Share
from indexer.models.images import Photo
from indexer.models.ocr import OcrReader
from indexer.models.types import Line, OcrOptions

SAMPLES = Path(immich_indexer.__file__).parent / "samples"
EVERYTHING = OcrOptions()
READ = [
    "screenshot-payment.png",
    "ticket-train-tilted.jpg",
    "letter-upside-down.jpg",
    "book-page-turned.jpg",
    "parking-small.jpg",
    "business-card-faint.jpg",
]


@pytest.fixture(scope="module")
def reader() -> OcrReader:
    return OcrReader(share=Share(1, 1))


@pytest.fixture(scope="module", params=["f32", "bf16"])
def openvino_reader(request: pytest.FixtureRequest) -> OcrReader:
    if not openvino_cpu.installed():
        pytest.skip("OpenVINO isn't installed: pip install openvino")
    wanted = {"f32": "exact", "bf16": "auto"}[request.param]
    if request.param not in openvino_cpu.precisions(wanted):
        pytest.skip("this CPU doesn't compute in bf16: run on one with AMX or AVX512-BF16")
    made = OcrReader(share=Share(1, 1), openvino="auto", precision=wanted)
    assert made.kind == f"OpenVINO {request.param}"
    return made


@pytest.fixture(scope="module")
def truth() -> dict[str, list[str]]:
    samples = json.loads((SAMPLES / "truth.json").read_text("utf-8"))
    return {sample["file"]: sample["lines"] for sample in samples}


def sample(name: str) -> Photo:
    data = (SAMPLES / name).read_bytes()
    return images.decode(data, max_bytes=10**8, max_pixels=10**8)


def photo_of(image: Image.Image) -> Photo:
    digest = hashlib.sha256(image.tobytes()).digest()
    return Photo(digest, image.width, image.height, image.convert("RGB"))


def drawn(
    size: tuple[int, int], *texts: tuple[int, int, int, str]
) -> tuple[Photo, list[tuple[int, int, int, int]]]:
    """Draw texts (x, y, height in pixels, text); returns also the boxes of their ink."""
    image = Image.new("RGB", size, "white")
    draw = ImageDraw.Draw(image)
    boxes = []
    for x, y, height, text in texts:
        font = ImageFont.load_default(height)
        draw.text((x, y), text, "black", font)
        boxes.append(draw.textbbox((x, y), text, font))
    return photo_of(image), [tuple(map(int, box)) for box in boxes]  # type: ignore[misc]


def corners(line: Line) -> np.ndarray:
    return np.array(line.box).reshape(4, 2)


def turned(photo: Photo, degrees: int) -> Photo:
    """Turn the pixels clockwise."""
    return photo_of(photo.image.rotate(-degrees, expand=True))


@pytest.mark.parametrize("name", READ)
def test_the_samples_are_read(name: str, reader: OcrReader, truth: dict[str, list[str]]) -> None:
    check_text(reader.read(sample(name), EVERYTHING), truth[name])


@pytest.mark.parametrize("name", READ)
def test_the_samples_are_read_through_openvino(
    name: str, openvino_reader: OcrReader, truth: dict[str, list[str]]
) -> None:
    check_text(openvino_reader.read(sample(name), EVERYTHING), truth[name])


def check_text(lines: list[Line], true: list[str]) -> None:
    expected, seen = characters(true), characters(line.text for line in lines)
    assert (expected & seen).total() >= 0.98 * expected.total()
    assert (seen - expected).total() <= 0.05 * expected.total()
    for line in lines:
        assert EVERYTHING.min_box_score <= line.box_score <= 1
        assert EVERYTHING.min_text_score <= line.text_score <= 1
        assert all(0 <= value <= 1 for value in line.box)


def test_no_less_is_read_than_by_rapidocr_itself(
    reader: OcrReader, truth: dict[str, list[str]]
) -> None:
    """With its defaults. By kind, and on photos made worse: the benchmark, `--only accuracy`."""
    rapidocr = RapidOCR()
    right = Counter({"ours": 0, "theirs": 0})
    for name in ("ticket-train-tilted.jpg", "parking-small.jpg", "business-card-faint.jpg"):
        photo, true = sample(name), characters(truth[name])
        ours = characters(line.text for line in reader.read(photo, EVERYTHING))
        found, _ = rapidocr(np.asarray(photo.image)[:, :, ::-1])
        theirs = characters(text for _, text, _ in found)
        for who, seen in (("ours", ours), ("theirs", theirs)):
            right[who] += (true & seen).total() - (seen - true).total()
    assert right["ours"] >= right["theirs"] > 0


def test_faint_text_is_read(reader: OcrReader, truth: dict[str, list[str]]) -> None:
    """As it is, the detector finds half of it."""
    name, contrast = "medicine-box.jpg", 0.08
    faint = sample(name).image.point(
        [round(200 + (value - 128) * contrast) for value in range(256)] * 3
    )
    check_text(reader.read(photo_of(faint), EVERYTHING), truth[name])


def test_no_text_in_fog(reader: OcrReader) -> None:
    """Faint, but there is nothing in it but clouds and the camera's noise."""
    dice = np.random.default_rng(1)
    clouds = Image.fromarray(dice.integers(170, 230, (6, 8, 3), np.uint8)).resize(
        (960, 720), Image.Resampling.BICUBIC
    )
    fog = np.asarray(clouds) + dice.normal(0, 4, (720, 960, 3))
    fog_photo = photo_of(Image.fromarray(fog.clip(0, 255).astype(np.uint8)))
    assert ocr._with_contrast(np.asarray(fog_photo.image)).min() == 0
    assert reader.read(fog_photo, EVERYTHING) == []


@pytest.mark.parametrize("degrees", [45, 60])
def test_tilted_text_is_not_dropped(
    degrees: int, reader: OcrReader, truth: dict[str, list[str]]
) -> None:
    """The detector gives three of its lines scores of 0.4 to 0.5."""
    check_text(
        reader.read(turned(sample("sign-road.jpg"), degrees), EVERYTHING), truth["sign-road.jpg"]
    )


def test_text_far_away_is_looked_at_closer(
    reader: OcrReader, truth: dict[str, list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    photo = Image.new("RGB", (1920, 1440), (128, 128, 128))
    card = sample("sign-shop.jpg").image
    photo.paste(card.resize((card.width // 3, card.height // 3)), (480, 480))
    expected = characters(truth["sign-shop.jpg"])

    def share_read() -> float:
        lines = reader.read(photo_of(photo), EVERYTHING)
        return (characters(line.text for line in lines) & expected).total() / expected.total()

    assert share_read() > 0.95
    monkeypatch.setattr(ocr, "_TOO_DOUBTFUL", 1.1)
    assert share_read() < 0.9


@pytest.mark.parametrize("name", ["view-mountains.jpg", "shape-red-circle.jpg"])
def test_no_text(name: str, reader: OcrReader) -> None:
    assert reader.read(sample(name), EVERYTHING) == []


def test_lines_are_where_the_text_is(reader: OcrReader) -> None:
    photo, inks = drawn(
        (1200, 800), (60, 80, 40, "PARKING LEVEL 3"), (700, 90, 40, "EXIT"), (300, 600, 28, "1234")
    )
    lines = reader.read(photo, EVERYTHING)
    assert ["".join(line.text.split()) for line in lines] == ["PARKINGLEVEL3", "EXIT", "1234"]
    for line, (left, top, right, bottom) in zip(lines, inks, strict=True):
        box = corners(line) * (1200, 800)
        assert box[0] == pytest.approx((left, top), abs=14)
        assert box[2] == pytest.approx((right, bottom), abs=14)
        assert box[1] == pytest.approx((right, top), abs=14)


@pytest.mark.parametrize("degrees", [90, 180, 270])
def test_turned_text_is_read_in_order_and_its_box_starts_where_it_starts(
    degrees: int, reader: OcrReader
) -> None:
    upright, _ = drawn(
        (900, 500),
        (60, 60, 44, "The quick brown fox"),
        (60, 180, 44, "jumps over the dog"),
        (60, 300, 44, "in Platform 42B"),
    )
    expected = reader.read(upright, EVERYTHING)
    lines = reader.read(turned(upright, degrees), EVERYTHING)
    assert [line.text for line in lines] == [line.text for line in expected]
    for line, reference in zip(lines, expected, strict=True):
        x, y = corners(reference).T
        where = {90: (1 - y, x), 180: (1 - x, 1 - y), 270: (y, 1 - x)}[degrees]
        assert corners(line) == pytest.approx(np.stack(where, axis=1), abs=0.02)


def test_vertical_chinese_is_read_from_right_to_left(reader: OcrReader) -> None:
    path = Path(__file__).parents[1] / "data" / "models" / "vertical.png"
    photo = images.decode(path.read_bytes(), max_bytes=10**6, max_pixels=10**6)
    lines = reader.read(photo, EVERYTHING)
    assert [line.text for line in lines] == [
        "春眠不觉晓处处闻啼鸟",
        "夜来风雨声花落知多少",
        "量子计算机的研究取得了",
        "重要突破性进展",
    ]
    for line in lines:
        (left, top), _, (right, bottom), _ = corners(line)
        assert left < right
        assert top < bottom


def test_thresholds_hold_for_their_call_only(reader: OcrReader) -> None:
    photo = sample("screenshot-payment.png")
    before = reader.read(photo, EVERYTHING)
    text_scores = sorted(line.text_score for line in before)
    box_scores = sorted(line.box_score for line in before)
    sure = OcrOptions(min_text_score=text_scores[len(before) // 2])
    assert reader.read(photo, sure) == [
        line for line in before if line.text_score >= sure.min_text_score
    ]
    strict = OcrOptions(min_box_score=box_scores[len(before) // 2])
    assert {line.text for line in reader.read(photo, strict)} == {
        line.text for line in before if line.box_score >= strict.min_box_score
    }
    assert reader.read(photo, OcrOptions(min_box_score=1)) == []
    assert reader.read(photo, EVERYTHING) == before


def test_max_resolution_is_the_detectors(reader: OcrReader) -> None:
    photo, _ = drawn((1440, 1440), (200, 300, 16, "small print of 2024"))
    assert reader.read(photo, OcrOptions(max_resolution=160)) == []
    assert len(reader.read(photo, OcrOptions(max_resolution=1440))) == 1
    # Absurd wishes cost no more than the largest sensible one.
    assert len(reader.read(photo, OcrOptions(max_resolution=10**9))) == 1
    assert reader.read(photo, OcrOptions(max_resolution=0)) == []


@pytest.mark.parametrize(
    "size", [(1, 1), (3, 3), (10_000, 3), (3, 10_000), (20_000, 12), (40, 40), (2, 700)]
)
def test_nothing_to_read_in_extreme_shapes(size: tuple[int, int], reader: OcrReader) -> None:
    assert reader.read(photo_of(Image.new("RGB", size, "white")), EVERYTHING) == []


def test_a_small_label(reader: OcrReader) -> None:
    photo, _ = drawn((90, 30), (6, 2, 22, "EXIT 7"))
    assert [line.text.replace(" ", "") for line in reader.read(photo, EVERYTHING)] == ["EXIT7"]


def test_every_line_of_a_long_screenshot_is_read_once(reader: OcrReader) -> None:
    texts = [(40, 100 * i + 30, 36, f"Message {1000 + i}") for i in range(45)]
    photo, _ = drawn((500, 4560), *texts)
    lines = reader.read(photo, OcrOptions(max_resolution=500))
    assert [line.text.replace(" ", "") for line in lines] == [
        text.replace(" ", "") for *_, text in texts
    ]


@pytest.mark.parametrize("size", [(1000, 30_000), (30_000, 1000), (4_000_000, 40)])
def test_no_shape_needs_more_memory_than_a_window(
    size: tuple[int, int], reader: OcrReader, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[int, ...]] = []

    def infer(values: np.ndarray) -> list[np.ndarray]:
        seen.append(values.shape)
        return [np.zeros((1, 1, *values.shape[2:]), np.float32)]

    monkeypatch.setattr(reader._detector, "infer", infer)
    assert reader.read(photo_of(Image.new("L", size)), EVERYTHING) == []
    assert max((h * w for _, _, h, w in seen), default=0) <= 2.5 * 768**2
    assert sum(h * w for _, _, h, w in seen) <= 1.5 * 24_000_000


def test_a_line_across_a_wide_strip_stays_one_line(reader: OcrReader) -> None:
    words = "one two three four five six seven eight nine ten eleven twelve thirteen fourteen"
    photo, _ = drawn((1800, 60), (10, 5, 40, words))
    (line,) = reader.read(photo, EVERYTHING)
    assert line.text.replace(" ", "") == words.replace(" ", "")
