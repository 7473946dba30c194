"""The engine with its real models: the stand-in CLIP and RapidOCR."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from io import BytesIO
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import pytest
from PIL import Image
from PIL.BmpImagePlugin import BmpImageFile

import immich_indexer
from indexer.models import clip_openvino, clip_torch, images, openvino_cpu
from indexer.models import engine as engine_module
from indexer.models.batching import EngineClosed
from indexer.models.cores import Budget
from indexer.models.engine import Engine
from indexer.models.images import Photo
from indexer.models.types import Lane, ModelUnavailable, OcrOptions, Side, TimeLimitError
from indexer.settings import Settings, SettingsError

SAMPLES = Path(immich_indexer.__file__).parent / "samples"
PATIENCE = 120.0


def photo(name: str) -> Photo:
    data = (SAMPLES / name).read_bytes()
    return images.decode(data, max_bytes=10**8, max_pixels=10**8)


def make(**settings: Any) -> Engine:
    return Engine(Settings(**({"clip_model": "stand-in"} | settings)))


@pytest.fixture
def engine() -> Iterator[Engine]:
    made = make()
    yield made
    made.close()


def test_text_pictures_and_words_side_by_side(engine: Engine) -> None:
    exit_sign, circle = photo("shape-red-circle-exit.jpg"), photo("shape-red-circle.jpg")
    reading = engine.read_text(exit_sign, OcrOptions(), Lane.INTERACTIVE)
    seen = [engine.embed_image(p, Lane.BULK) for p in (circle, exit_sign) * 5]
    words = [engine.embed_text(text, Lane.BULK) for text in ("红色的圆", "蓝色的正方形")]
    assert [line.text for line in reading.result(PATIENCE)] == ["出口"]
    pictures = [future.result(PATIENCE) for future in seen]
    red_circle, blue_square = (future.result(PATIENCE) for future in words)
    for picture in pictures:
        assert picture.shape == (engine.clip_info.dim,)
        assert picture @ red_circle > picture @ blue_square
    for i in (0, 1):
        for same in pictures[i::2]:
            assert same == pytest.approx(pictures[i], abs=1e-5)
    stats = engine.stats()
    assert stats["ocr"]["done"] == {"interactive": 1, "bulk": 0}
    assert stats["clip_image"]["done"] == {"interactive": 0, "bulk": 10}
    assert stats["clip_image"]["batches"] <= 10
    assert stats["clip_text"]["done"] == {"interactive": 0, "bulk": 2}
    assert stats["cached_texts"] == 2


def test_texts_are_kept_and_shared_read_only(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine_module, "CACHED_TEXTS", 2)

    def embed(text: str) -> Any:
        return engine.embed_text(text, Lane.INTERACTIVE).result(PATIENCE)

    first = embed("圆")
    assert embed("圆") is first
    with pytest.raises(ValueError, match="read-only"):
        first[0] = 1
    embed("三角形")
    embed("圆")
    embed("正方形")  # takes the place of the one that wasn't asked for the longest
    assert embed("圆") is first
    assert engine.stats()["clip_text"]["done"]["interactive"] == 3
    assert np.array_equal(embed("三角形"), embed("三角形"))
    assert engine.stats()["clip_text"]["done"]["interactive"] == 4


def test_without_weights_ocr_goes_on(tmp_path: Path) -> None:
    engine = make(clip_model="ViT-B-16", clip_download="off", clip_download_root=tmp_path)
    try:
        assert engine.clip_info.dim == 512
        assert f"put clip_cn_vit-b-16.pt into {tmp_path}" in (engine.clip_problem() or "")
        sign = photo("shape-red-circle-exit.jpg")
        picture = engine.embed_image(sign, Lane.BULK)
        text = engine.embed_text("出口", Lane.INTERACTIVE)
        for future in (picture, text):
            with pytest.raises(ModelUnavailable, match=r"clip_cn_vit-b-16\.pt"):
                future.result(PATIENCE)
        lines = engine.read_text(sign, OcrOptions(), Lane.BULK).result(PATIENCE)
        assert [line.text for line in lines] == ["出口"]
    finally:
        engine.close()


def test_the_model_s_name_holds_what_changes_its_result(engine: Engine) -> None:
    names = {
        engine.ocr_model(options)
        for options in (
            OcrOptions(),
            OcrOptions(min_box_score=0.4),
            OcrOptions(min_text_score=0.4),
            OcrOptions(max_resolution=960),
        )
    }
    assert len(names) == 4
    assert all("rapidocr-onnxruntime-1.4.4" in name for name in names)


def test_nothing_is_loaded_before_it_is_asked_for(engine: Engine) -> None:
    assert engine.clip_info.name == "stand-in"
    assert engine.clip_problem() is None
    assert engine._clip._models == {}
    assert engine._ocr_reader is None


def test_an_unknown_model_is_refused_at_the_start() -> None:
    with pytest.raises(SettingsError, match="CLIP_MODEL"):
        make(clip_model="GPT")


def test_closed(engine: Engine) -> None:
    engine.close()
    engine.close()
    with pytest.raises(EngineClosed):
        engine.embed_text("圆", Lane.INTERACTIVE).result(PATIENCE)


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_idle_models_leave_one_by_one_and_come_back() -> None:
    engine = make(ocr_idle_seconds=0.05, clip_image_idle_seconds=0.05)
    try:
        sign = photo("shape-red-circle-exit.jpg")
        for _ in range(2):
            engine.embed_text("圆", Lane.INTERACTIVE).result(PATIENCE)
            engine.embed_image(sign, Lane.BULK).result(PATIENCE)
            engine.read_text(sign, OcrOptions(), Lane.BULK).result(PATIENCE)
            wait_for(lambda: engine.stats()["loaded"].keys() == {"clip_text"})
        assert engine.clip_problem() is None
        assert engine.stats()["loaded"]["clip_text"] == "PyTorch f32"
    finally:
        engine.close()


@pytest.mark.parametrize(
    ("preload", "expected"),
    [("none", set()), ("text", {"clip_text"}), ("all", {"clip_text", "clip_image", "ocr"})],
)
def test_what_is_loaded_at_the_start(preload: str, expected: set[str]) -> None:
    engine = make(preload=preload)
    try:
        engine.preload()
        wait_for(lambda: engine.stats()["loaded"].keys() == expected)
    finally:
        engine.close()
    assert engine.stats()["loaded"].keys() == expected


def test_openvino_that_fails_leaves_it_to_pytorch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*args: Any, **kwargs: Any) -> NoReturn:
        raise clip_openvino.InaccurateError("OpenVINO computes other embeddings than PyTorch")

    def stand_in(name: str, side: Side, **how: Any) -> clip_torch.TorchTower:
        how["root"] = tmp_path
        return load_tower(clip_torch.STAND_IN, side, **how)

    load_tower = clip_torch.load_tower
    monkeypatch.setattr(openvino_cpu, "installed", lambda: True)
    monkeypatch.setattr(clip_openvino, "load_tower", fail)
    monkeypatch.setattr(clip_torch, "load_tower", stand_in)
    (tmp_path / "clip_cn_rn50.pt").write_bytes(b"weights")
    engine = make(clip_model="RN50", clip_download_root=tmp_path, device="cpu")
    try:
        assert len(engine.embed_text("圆", Lane.INTERACTIVE).result(PATIENCE)) == 64
        assert engine.stats()["loaded"] == {"clip_text": "PyTorch f32"}
    finally:
        engine.close()
    assert "CLIP goes on in PyTorch, more slowly: OpenVINO computes other" in caplog.text


def test_openvino_can_be_left_out() -> None:
    engine = make(openvino="off")
    try:
        engine.read_text(photo("shape-red-circle-exit.jpg"), OcrOptions(), Lane.BULK).result(
            PATIENCE
        )
        assert engine.stats()["loaded"] == {"ocr": "ONNX Runtime CPU f32"}
    finally:
        engine.close()


def test_a_decoder_that_hangs_is_charged_alone_and_holds_nobody_up(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It may hold all that may be decoded at once; those who wait for that aren't charged."""
    stuck, go_on = threading.Event(), threading.Event()
    engine = Engine(Settings(clip_model="stand-in", max_image_seconds=1.0), on_stuck=stuck.set)
    monkeypatch.setattr(engine, "_pixels", Budget(1))
    load = BmpImageFile.load

    def hang(image: BmpImageFile) -> Any:
        if image.size == (77, 60):
            go_on.wait(PATIENCE)
        return load(image)

    monkeypatch.setattr(BmpImageFile, "load", hang)
    limits = {"max_bytes": 10**6, "max_pixels": 10**6}
    files = []
    for size in ((77, 60), (40, 30)):
        out = BytesIO()
        Image.new("RGB", size).save(out, "BMP")
        files.append(out.getvalue())
    try:
        first = engine.decode(files[0], **limits)
        time.sleep(0.2)
        second = engine.decode(files[1], **limits)
        with pytest.raises(TimeLimitError, match="decoding took longer than 1 s"):
            first.result(PATIENCE)
        assert stuck.wait(PATIENCE)
        with pytest.raises(ModelUnavailable, match="decoding hangs"):
            second.result(PATIENCE)
    finally:
        go_on.set()
        engine.close()
