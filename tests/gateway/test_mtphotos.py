"""MT Photos' AI API, in the forms of its reference servers."""

import json
import re
from io import BytesIO
from typing import Any

import httpx
import numpy as np
import pytest
import undici
from doubles import Failing
from peers import Answer, Peer, Received
from PIL import Image

from indexer.models.types import ModelUnavailable

KEY = {"api-key": "mt_photos_key"}
IMAGE_ROUTES = ("/ocr", "/clip/img", "/represent")

FACE = {
    "boundingBox": {"x1": 212.4, "y1": 112, "x2": 391, "y2": 362},
    "embedding": json.dumps([4.0, -3.0] + [0.0] * 510),
    "score": 0.87,
}


@pytest.fixture
def mt(gateway: Any) -> httpx.Client:
    client: httpx.Client = gateway()
    client.headers.update(KEY)
    return client


def upload(client: httpx.Client, path: str, image: bytes) -> httpx.Response:
    """As ``curl --form file=@test.jpg`` does."""
    return client.post(path, files={"file": ("test.jpg", image, "image/jpeg")})


def test_ping_needs_no_key(mt: httpx.Client) -> None:
    assert mt.get("/ping", headers={"api-key": ""}).text == "pong"


def test_check(mt: httpx.Client) -> None:
    assert mt.post("/check").json() == {
        "result": "pass",
        "title": "mt-photos-ai服务",
        "help": "https://mtmt.tech/docs/advanced/ocr_api",
    }


@pytest.mark.parametrize("path", ["/restart", "/restart_v2"])
def test_restart(mt: httpx.Client, path: str) -> None:
    assert mt.post(path).json() == {"result": "pass"}
    assert mt.get("/ping").text == "pong"


def test_ocr(mt: httpx.Client, picture: bytes) -> None:
    answer = upload(mt, "/ocr", picture)
    assert answer.status_code == 200
    result = answer.json()["result"]
    assert result.keys() == {"texts", "scores", "boxes"}
    assert result["texts"] == ["出口"]
    assert re.fullmatch(r"[01]\.\d\d", result["scores"][0])
    (box,) = result["boxes"]
    assert list(box) == ["x", "y", "width", "height"]
    assert all(re.fullmatch(r"\d+\.\d{1,2}", side) for side in box.values())
    sides = {name: float(side) for name, side in box.items()}
    assert sides == {
        "x": pytest.approx(308, abs=15),
        "y": pytest.approx(205, abs=15),
        "width": pytest.approx(237, abs=25),
        "height": pytest.approx(130, abs=25),
    }


def test_ocr_without_text(mt: httpx.Client) -> None:
    white = BytesIO()
    Image.new("RGB", (200, 100), "white").save(white, "PNG")
    answer = upload(mt, "/ocr", white.getvalue())
    assert answer.json() == {"result": {"texts": [], "scores": [], "boxes": []}}


def test_clip(mt: httpx.Client, picture: bytes) -> None:
    seen = upload(mt, "/clip/img", picture).json()["result"]
    read = mt.post("/clip/txt", json={"text": "红色的圆"}).json()["result"]
    for numbers in (seen, read):
        assert len(numbers) == 64
        assert all(re.fullmatch(r"-?\d\.\d{16}", number) for number in numbers)
        assert np.linalg.norm(np.array(numbers, float)) == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("path", IMAGE_ROUTES)
@pytest.mark.parametrize(
    ("image", "says"),
    [(b"", "empty"), (b"no image", "image"), (b"\xff\xd8\xff\xe0 half a JPEG", "image")],
)
def test_unreadable_images_have_no_result_and_a_message(
    mt: httpx.Client, path: str, image: bytes, says: str
) -> None:
    answer = upload(mt, path, image)
    assert answer.status_code == 200
    assert answer.json()["result"] == []
    assert says in answer.json()["msg"]
    assert answer.json().keys() == {"result", "msg"}


@pytest.mark.parametrize("path", IMAGE_ROUTES)
def test_images_of_more_than_ten_thousand_pixels_a_side(mt: httpx.Client, path: str) -> None:
    long = BytesIO()
    Image.new("L", (10_001, 50)).save(long, "PNG")
    answer = upload(mt, path, long.getvalue())
    assert answer.json() == {"result": [], "msg": "height or width out of range"}


def test_bodies_without_a_file_or_a_text(mt: httpx.Client) -> None:
    for path in IMAGE_ROUTES:
        assert mt.post(path, files={"other": b"x"}).status_code == 422
        assert mt.post(path, json={}).status_code == 422
    for body in (b"", b"{", b"{}", b'{"text": 5}', json.dumps({"text": "x" * 2001}).encode()):
        headers = {"content-type": "application/json"}
        assert mt.post("/clip/txt", content=body, headers=headers).status_code == 400


@pytest.mark.parametrize("given", ["", "wrong", "mt_photos_key_", "MT_PHOTOS_KEY", "密钥"])
def test_wrong_keys(mt: httpx.Client, picture: bytes, given: str) -> None:
    mt.headers = httpx.Headers([(b"api-key", given.encode())])
    for path in ("/check", "/restart", "/restart_v2", "/ocr", "/clip/img", "/clip/txt"):
        answer = upload(mt, path, picture)
        assert answer.status_code == 401
        assert answer.json()["detail"] == "Invalid API key"


def test_no_key_at_all_and_a_key_in_chinese(gateway: Any) -> None:
    client = gateway(api_key="密钥")
    assert client.post("/check").status_code == 401
    client.headers = httpx.Headers([(b"api-key", "密钥".encode())])
    assert client.post("/check").status_code == 200


def test_without_a_key_in_the_settings_it_is_off(gateway: Any, picture: bytes) -> None:
    client = gateway(api_key="")
    for headers in ({}, {"api-key": ""}, KEY):
        client.headers.update(headers)
        for path in ("/check", "/ocr", "/clip/img", "/clip/txt", "/represent", "/restart"):
            answer = upload(client, path, picture)
            assert answer.status_code == 501
            assert "Set API_KEY" in answer.json()["detail"]


def test_a_missing_model_is_no_bad_image(gateway: Any, engine: Any, picture: bytes) -> None:
    away = Failing(engine, ModelUnavailable("put clip_cn.pt into /models"))
    client = gateway(engine=away)
    client.headers.update(KEY)
    for answer in (
        upload(client, "/ocr", picture),
        upload(client, "/clip/img", picture),
        client.post("/clip/txt", json={"text": "红"}),
    ):
        assert answer.status_code == 503
        assert answer.json()["detail"] == "put clip_cn.pt into /models"


def test_faces(gateway: Any, picture: bytes) -> None:
    def find(request: Received) -> Answer:
        assert picture in request.body
        assert json.loads(request.body.split(b"\r\n\r\n")[1].split(b"\r\n")[0]) == {
            "facial-recognition": {
                "detection": {"modelName": "buffalo_l", "options": {"minScore": 0.65}},
                "recognition": {"modelName": "buffalo_l"},
            }
        }
        return Answer.json({"facial-recognition": [FACE], "imageHeight": 480, "imageWidth": 640})

    with Peer(find) as immich_ml:
        client = gateway(immich_api=immich_ml.url)
        client.headers.update(KEY)
        answer = upload(client, "/represent", picture)
        checked = client.post("/check").json()
    assert checked["recognition_model"] == "buffalo_l"
    assert (checked["facial_min_score"], checked["facial_max_distance"]) == (0.65, 0.5)
    assert answer.json() == {
        "detector_backend": "insightface",
        "recognition_model": "buffalo_l",
        "result": [
            {
                # Of length 1, which Immich's aren't.
                "embedding": pytest.approx([0.8, -0.6] + [0.0] * 510),
                "facial_area": {"x": 212, "y": 112, "w": 178, "h": 250},
                "face_confidence": 0.87,
            }
        ],
    }


@pytest.mark.parametrize(
    "reply",
    [
        Answer.json({}),
        Answer.json({"facial-recognition": [{"score": 1}]}),
        Answer.json({"facial-recognition": [{**FACE, "embedding": "no array"}]}),
        Answer(500, b"x"),
        None,
    ],
)
def test_faces_that_are_none(gateway: Any, picture: bytes, reply: Answer | None) -> None:
    with Peer(lambda _: reply) as immich_ml:
        client = gateway(immich_api=immich_ml.url)
        client.headers.update(KEY)
        answer = upload(client, "/represent", picture)
    assert answer.status_code == 502
    assert "IMMICH_API" in answer.json()["detail"]


def test_faces_without_immich_api(mt: httpx.Client, picture: bytes) -> None:
    answer = upload(mt, "/represent", picture)
    assert answer.status_code == 501
    assert "Set IMMICH_API" in answer.json()["detail"]


def test_an_image_turned_by_exif_is_read_upright(mt: httpx.Client) -> None:
    upright = Image.open(BytesIO(undici.preview("shape-red-circle-exit.jpg", (640, 640))))
    turned = BytesIO()
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90° clockwise
    upright.rotate(90, expand=True).save(turned, "JPEG", exif=exif, quality=90)
    result = upload(mt, "/ocr", turned.getvalue()).json()["result"]
    assert result["texts"] == ["出口"]
    assert float(result["boxes"][0]["x"]) == pytest.approx(308, abs=20)
