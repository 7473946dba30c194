"""/predict beyond the recorded requests: several tasks, options, and every way to be refused."""

import json
import logging
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from io import BytesIO
from typing import Any

import httpx
import numpy as np
import pytest
import undici
from doubles import Failing, Recording, StockSized
from litestar.exceptions import ServiceUnavailableException
from PIL import Image

from gateway import inference
from gateway import predict as predict_routes
from indexer.models import images
from indexer.models.batching import EngineBusy, EngineClosed
from indexer.models.clip import MODELS
from indexer.models.types import ClipInfo, Lane, ModelUnavailable, OcrOptions, TimeLimitError

Predict = Callable[..., httpx.Response]

STAND_IN = undici.visual("cn-clip/stand-in")
OCR_AND_CLIP = {**STAND_IN, **undici.OCR}


def test_root_answers_as_immich_ml(gateway: Any) -> None:
    answer = gateway().get("/")
    assert (answer.status_code, answer.json()) == (200, {"message": "Immich ML"})


def test_several_tasks_decode_the_image_once(
    gateway: Any, engine: Any, predict: Predict, picture: bytes
) -> None:
    recording = Recording(engine)
    answer = predict(gateway(engine=recording), OCR_AND_CLIP, image=picture)
    assert answer.status_code == 200
    assert answer.json().keys() == {"clip", "ocr", "imageHeight", "imageWidth"}
    assert answer.json()["ocr"]["text"] == ["出口"]
    assert len(recording.photos) == 2
    assert recording.photos[0] is recording.photos[1]
    assert recording.lanes == [Lane.INTERACTIVE] * 2


def test_the_embedding_knows_its_picture(gateway: Any, predict: Predict, picture: bytes) -> None:
    client = gateway()

    def vector(entries: object, **inputs: Any) -> np.ndarray:
        return np.array(json.loads(predict(client, entries, **inputs).json()["clip"]), np.float32)

    seen = vector(STAND_IN, image=picture)
    red, blue = (
        vector(undici.textual("cn-clip/stand-in"), text=text)
        for text in ("红色的圆", "蓝色的正方形")
    )
    assert np.linalg.norm(seen) == pytest.approx(1, abs=1e-5)
    assert seen @ red > seen @ blue


def test_an_image_beside_a_text(gateway: Any, predict: Predict, picture: bytes) -> None:
    both = {**undici.textual("cn-clip/stand-in"), **undici.OCR}
    answer = predict(gateway(), both, image=picture, text="红色的圆").json()
    assert answer.keys() == {"clip", "ocr", "imageHeight", "imageWidth"}


def test_options_of_ocr(gateway: Any, engine: Any, predict: Predict, picture: bytes) -> None:
    recording = Recording(engine)
    client = gateway(
        engine=recording, ocr_min_box_score=0.25, ocr_min_text_score=0.35, ocr_max_resolution=512
    )
    given = {
        "ocr": {
            "detection": {"modelName": "x", "options": {"minScore": 0.1, "maxResolution": 960}},
            "recognition": {"modelName": "x", "options": {"minScore": 0.2, "other": True}},
        }
    }
    bare = {"ocr": {"detection": {"modelName": "x"}, "recognition": {"modelName": "x"}}}
    for entries in (given, bare, undici.LEGACY_OCR):
        assert predict(client, entries, image=picture).status_code == 200
    ours = OcrOptions(min_box_score=0.25, min_text_score=0.35, max_resolution=512)
    assert recording.options == [OcrOptions(0.1, 0.2, 960), ours, ours]


def test_a_min_score_nothing_reaches(gateway: Any, predict: Predict, picture: bytes) -> None:
    entries = json.loads(json.dumps(undici.OCR))
    entries["ocr"]["detection"]["options"]["minScore"] = 1
    answer = predict(gateway(), entries, image=picture).json()
    assert answer["ocr"] == {"text": [], "box": [], "boxScore": [], "textScore": []}


@pytest.mark.parametrize(
    ("entries", "says"),
    [
        (b"{not json", "wrong form"),
        (b"\xff\xfe", "wrong form"),
        (b'{"clip": {"visual": {}}}', "modelName"),
        (b'{"clip": {"visual": {"modelName": 5}}}', "Expected `str`"),
        (b'{"clip": []}', "Expected `object`"),
        (b"[]", "Expected `object`"),
        (b"{}", "no task"),
        (b'{"clip": {}}', "no task"),
        ({"clip": {"other": {"modelName": "x"}}}, "visual and textual"),
        ({"clip": {"visual": {"modelName": "x"}, "textual": {"modelName": "x"}}}, "visual and"),
        ({"ocr": {"detection": {"modelName": "x"}}}, "detection and recognition together"),
        ({"ocr": {"recognition": {"modelName": "PP-OCRv5_mobile"}}}, "together"),
        ({"ocr": {"recognition": {"modelName": "ocr"}, "x": {"modelName": "x"}}}, "together"),
        (
            {
                "ocr": {
                    "detection": {"modelName": "x", "options": {"minScore": "high"}},
                    "recognition": {"modelName": "x"},
                }
            },
            "minScore",
        ),
        (
            {
                "ocr": {
                    "detection": {"modelName": "x", "options": {"maxResolution": 10**9}},
                    "recognition": {"modelName": "x"},
                }
            },
            "maxResolution",
        ),
        ({"pets": {"detection": {"modelName": "x"}}}, "Unknown task pets"),
    ],
)
def test_bad_entries(
    gateway: Any, predict: Predict, picture: bytes, entries: object, says: str
) -> None:
    answer = predict(gateway(), entries, image=picture)
    assert answer.status_code == 422
    assert says in answer.json()["detail"]


def test_bad_bodies(gateway: Any, picture: bytes) -> None:
    client = gateway()
    whole = undici.form(STAND_IN, image=picture)

    def send(body: bytes, kind: str = undici.content_type()) -> tuple[int, str]:
        answer = client.post("/predict", content=body, headers={"content-type": kind})
        return answer.status_code, answer.json()["detail"]

    assert send(b"{}", "application/json") == (
        422,
        "Send multipart/form-data with a boundary, not 'application/json'.",
    )
    assert send(whole, "multipart/form-data")[0] == 422
    assert send(b"")[0] == 422
    status, detail = send(whole[: len(whole) // 2])
    assert (status, "damaged" in detail) == (422, True)
    status, detail = send(whole.replace(b'name="entries"', b'name="others"'))
    assert (status, detail) == (422, "The part `entries` is missing.")
    assert send(b"--x\r\n" * 100_000, "multipart/form-data; boundary=x")[0] == 422


@pytest.mark.parametrize(
    ("entries", "inputs", "says"),
    [
        (STAND_IN, {}, "Either image or text"),
        (undici.OCR, {"text": "红"}, "take an image"),
        (STAND_IN, {"text": "红"}, "take an image"),
        (undici.textual("cn-clip/stand-in"), {"image": b"x"}, "takes a text"),
        (STAND_IN, {"image": b""}, "empty"),
        (STAND_IN, {"image": b"no image at all"}, "can't be read"),
        (undici.OCR, {"image": b"\xff\xd8\xff\xe0 half a JPEG"}, "can't be read"),
    ],
)
def test_no_input_or_a_bad_image(
    gateway: Any, predict: Predict, entries: object, inputs: dict[str, Any], says: str
) -> None:
    answer = predict(gateway(), entries, **inputs)
    assert answer.status_code == 400
    assert says in answer.json()["detail"]


def test_an_image_of_too_many_pixels(gateway: Any, predict: Predict) -> None:
    bomb = BytesIO()
    Image.new("1", (20_000, 20_000)).save(bomb, "PNG")
    answer = predict(gateway(), STAND_IN, image=bomb.getvalue())
    assert answer.status_code == 400
    assert "MAX_IMAGE_PIXELS" in answer.json()["detail"]


def test_an_image_of_too_many_bytes(gateway: Any, predict: Predict, picture: bytes) -> None:
    client = gateway(max_image_bytes=10_000)
    answer = predict(client, STAND_IN, image=picture)
    assert answer.status_code == 400
    assert "MAX_IMAGE_BYTES" in answer.json()["detail"]
    answer = predict(client, STAND_IN, image=bytes(2_000_000))
    assert answer.status_code == 413
    assert "1,010,000 bytes" in answer.json()["detail"]
    assert "MAX_IMAGE_BYTES" in answer.json()["detail"]


def test_bad_texts(gateway: Any, predict: Predict) -> None:
    client, entries = gateway(), undici.textual("cn-clip/stand-in")
    assert predict(client, entries, text=b"\xff\xfe").status_code == 422
    too_long = predict(client, entries, text="长" * 100_000)
    assert (too_long.status_code, "65,536 bytes" in too_long.json()["detail"]) == (413, True)
    for text in ("", " ", "长" * 10_000, "\x00"):
        assert predict(client, entries, text=text).status_code == 200


@pytest.mark.parametrize(
    ("served", "name", "says"),
    [
        ("ViT-B-16", "cn-clip/ViT-L-14__openai", "set CLIP_MODEL=ViT-L-14"),
        ("ViT-B-16", "ViT-L-14__openai", "vectors of 768 numbers"),
        ("ViT-L-14", "ViT-B-32__openai", "to cn-clip/ViT-L-14__openai"),
        ("ViT-B-16", "a-model-of-tomorrow", "length unknown"),
    ],
)
def test_a_model_that_is_not_served(
    gateway: Any, engine: Any, predict: Predict, served: str, name: str, says: str
) -> None:
    client = gateway(engine=StockSized(engine, MODELS[served]))
    for entries, inputs in (
        (undici.visual(name), {"image": b"never looked at"}),
        (undici.textual(name), {"text": "红"}),
    ):
        answer = predict(client, entries, **inputs)
        assert answer.status_code == 422
        assert says in answer.json()["detail"]
        assert "clip" not in answer.json()


def test_a_vector_of_the_wrong_length_is_kept_back(
    gateway: Any, engine: Any, predict: Predict, picture: bytes
) -> None:
    broken = StockSized(engine, ClipInfo("ViT-B-16", 512, 224), length=500)
    client = gateway(engine=broken)
    for entries, inputs in (
        (undici.visual("ViT-B-32__openai"), {"image": picture}),
        (undici.textual("ViT-B-32__openai"), {"text": "红"}),
    ):
        answer = predict(client, entries, **inputs)
        assert answer.status_code == 500
        assert "shape (500,) where (512,)" in answer.json()["detail"]


@pytest.mark.parametrize(
    ("error", "status", "says"),
    [
        (ModelUnavailable("put clip_cn.pt into /models"), 503, "put clip_cn.pt into /models"),
        (EngineBusy("256 requests are waiting for ocr; try again soon"), 503, "256 requests"),
        (EngineClosed("the ocr engine was closed"), 503, "was closed"),
        (RuntimeError("secret contents of a photo"), 500, "RuntimeError"),
    ],
)
def test_a_model_that_fails(
    gateway: Any,
    engine: Any,
    predict: Predict,
    picture: bytes,
    error: Exception,
    status: int,
    says: str,
) -> None:
    client = gateway(engine=Failing(engine, error))
    for entries, inputs in (
        (undici.OCR, {"image": picture}),
        (STAND_IN, {"image": picture}),
        (undici.textual("cn-clip/stand-in"), {"text": "红"}),
        (OCR_AND_CLIP, {"image": picture}),
    ):
        answer = predict(client, entries, **inputs)
        assert answer.status_code == status
        assert says in answer.json()["detail"]
        assert "secret" not in answer.text


def test_a_model_that_never_answers(
    gateway: Any,
    engine: Any,
    predict: Predict,
    picture: bytes,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(inference, "WAIT_SECONDS", 0.2)
    hanging = Failing(engine, None)
    answer = predict(gateway(engine=hanging), undici.OCR, image=picture)
    assert answer.status_code == 503
    assert "no turn" in answer.json()["detail"]
    (asked,) = hanging.asked
    assert asked.cancelled()


async def test_a_future_that_the_engine_cancels_is_no_cancelled_request() -> None:
    future: Future[None] = Future()
    future.cancel()
    with pytest.raises(ServiceUnavailableException):
        await inference._answer_of(future, "OCR")


def test_an_unexpected_error_tells_nothing_and_logs_everything(
    gateway: Any,
    predict: Predict,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def broken(*_: object) -> None:
        raise LookupError("a secret")

    monkeypatch.setattr(predict_routes, "parse_entries", broken)
    answer = predict(gateway(), STAND_IN, text="x")
    assert answer.status_code == 500
    assert answer.json() == {
        "status_code": 500,
        "detail": "Something unexpected failed; the gateway's log says what.",
    }
    assert "LookupError" in caplog.text


def test_the_log_has_no_contents(
    gateway: Any, predict: Predict, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    client = gateway()
    assert predict(client, undici.textual("cn-clip/stand-in"), text="绝密文字").status_code == 200
    client.get("/search", params={"q": "绝密文字"})
    client.get("/ping")
    # Lines are written after the answers, so the last ones may be late, and those of the test
    # before this one, too.
    expected = {
        "request method=POST path=/predict status=200",
        "request method=GET path=/search status=503",
    }
    deadline = time.monotonic() + 10
    while True:
        lines = [record.getMessage() for record in caplog.records if "gateway" in record.name]
        if expected <= {line.rpartition(" ms=")[0] for line in lines}:
            break
        assert time.monotonic() < deadline, lines
        time.sleep(0.01)
    assert not any("/ping" in line for line in lines)
    assert not any("绝密" in line or "%E7" in line for line in lines)


def test_the_event_loop_stays_free_while_an_image_is_decoded(
    gateway: Any, predict: Predict, picture: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoding, go_on = threading.Event(), threading.Event()
    decode = images.decode

    def slow(*args: Any, **limits: Any) -> Any:
        decoding.set()
        go_on.wait(30)
        return decode(*args, **limits)

    monkeypatch.setattr(images, "decode", slow)
    client = gateway()
    answers: list[httpx.Response] = []
    sender = threading.Thread(
        target=lambda: answers.append(predict(client, undici.OCR, image=picture))
    )
    sender.start()
    assert decoding.wait(30)
    assert client.get("/ping").text == "pong"  # answered while the decoder is held
    assert not answers
    go_on.set()
    sender.join()
    assert answers[0].status_code == 200


def test_a_model_that_takes_too_long(
    gateway: Any, predict: Predict, picture: bytes, engine: Any
) -> None:
    slow = Failing(engine, TimeLimitError("ocr inference took longer than 120 s"))
    answer = predict(gateway(engine=slow), undici.OCR, image=picture)
    assert answer.status_code == 500
    assert "longer than 120 s" in answer.json()["detail"]


@pytest.mark.parametrize(
    "entries",
    [
        b'{"clip":{"visual":' + b"[" * 50_000 + b"]" * 50_000 + b"}}",
        b'{"x":{"y":' + b'{"a":' * 50_000 + b"1" + b"}" * 50_000 + b"}}",
        b"[" * 50_000,
    ],
)
def test_entries_that_are_nested_too_deeply(
    gateway: Any, predict: Predict, entries: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    client = gateway()
    assert predict(client, entries, text="x").status_code == 422
    assert "Traceback" not in caplog.text
    answer = client.post("/search", content=b'{"q":"x","filter":' + b"[" * 60_000)
    assert 400 <= answer.status_code < 500
    answer = client.post("/search", content=b'{"x":' + b'{"a":' * 12_000)
    assert 400 <= answer.status_code < 500
