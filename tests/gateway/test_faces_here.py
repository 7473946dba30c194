"""Faces found here, in Immich's form and in MT Photos'; the models are stand-ins."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from io import BytesIO
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import undici
from doubles import EngineDouble
from peers import Answer, Peer
from PIL import Image, ImageDraw
from test_captures import captures, replay, size

from indexer.models.engine import Engine
from indexer.models.faces import PACKS
from indexer.models.types import Face
from indexer.settings import Settings

pytest.importorskip("insightface", reason="pip install '.[faces]'")
import face_stand_ins

Predict = Callable[..., httpx.Response]
MIXED = {**undici.FACES, **undici.OCR}


@pytest.fixture(scope="module")
def finder(settings: Settings, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    home = tmp_path_factory.mktemp("insightface")
    face_stand_ins.write_pack(home / "models" / "buffalo_l", PACKS["buffalo_l"])
    made = Engine(Settings(insightface_home=home, clip_model="stand-in", clip_download="off"))
    yield made
    made.close()


@pytest.fixture
def client(gateway: Any, finder: Engine) -> httpx.Client:
    started: httpx.Client = gateway(engine=finder, faces="insightface")
    return started


def portrait() -> bytes:
    """640 x 480, white, with what the stand-in takes for a face at (320, 224)."""
    image = Image.new("RGB", (640, 480), "white")
    ImageDraw.Draw(image).rectangle((320, 224, 351, 255), fill="red")
    out = BytesIO()
    image.save(out, "PNG")
    return out.getvalue()


def test_faces_in_immichs_form(client: httpx.Client, predict: Predict) -> None:
    answer = predict(client, undici.FACES, image=portrait())
    assert answer.status_code == 200
    assert answer.json().keys() == {"facial-recognition", "imageHeight", "imageWidth"}
    assert (answer.json()["imageHeight"], answer.json()["imageWidth"]) == (480, 640)
    (face,) = answer.json()["facial-recognition"]
    assert face.keys() == {"boundingBox", "embedding", "score"}
    assert face["boundingBox"] == {"x1": 320, "y1": 224, "x2": 352, "y2": 256}
    assert face["score"] == pytest.approx(1, abs=0.01)
    assert isinstance(face["embedding"], str)
    vector = json.loads(face["embedding"])
    assert len(vector) == 512
    assert vector[:3] == pytest.approx([1, -1, -1], abs=0.15)
    assert client.get("/health").json()["faces"] == "insightface"


@pytest.mark.parametrize("capture", captures("facial-recognition-detection+recognition"))
def test_immichs_own_requests(client: httpx.Client, capture: Path) -> None:
    status, kind, body = replay(client, capture)
    assert (status, kind) == (200, "application/json")
    answer = json.loads(body)
    assert isinstance(answer["facial-recognition"], list)
    assert (answer["imageHeight"], answer["imageWidth"]) == size(capture)


def test_the_score_asked_for(client: httpx.Client, predict: Predict) -> None:
    def found(options: dict[str, float] | None) -> int:
        types = {"detection": {"modelName": "buffalo_l"}, "recognition": {"modelName": "buffalo_l"}}
        if options is not None:
            types["detection"]["options"] = options  # type: ignore[assignment]
        entries = {"facial-recognition": types}
        return len(predict(client, entries, image=portrait()).json()["facial-recognition"])

    assert [found(None), found({}), found({"minScore": 0.9}), found({"minScore": 1})] == [
        1,
        1,
        1,
        0,
    ]


def test_with_text_in_one_request(client: httpx.Client, predict: Predict, picture: bytes) -> None:
    answer = predict(client, MIXED, image=picture)
    assert answer.json().keys() == {"ocr", "facial-recognition", "imageHeight", "imageWidth"}
    assert answer.json()["ocr"]["text"] == ["出口"]


def test_other_tasks_are_still_passed_on(gateway: Any, finder: Engine, predict: Predict) -> None:
    with Peer(lambda _: Answer.json({"pets": []})) as there:
        client = gateway(engine=finder, faces="insightface", immich_api=there.url)
        entries = {**undici.FACES, "pets": {"detection": {"modelName": "x"}}}
        answer = predict(client, entries, image=portrait()).json()
        (received,) = there.received
    assert answer["pets"] == []
    assert len(answer["facial-recognition"]) == 1
    assert b"facial-recognition" not in received.body


@pytest.mark.parametrize(
    ("types", "says"),
    [
        ({"detection": {"modelName": "buffalo_l"}}, "detection and recognition together"),
        (
            {"detection": {"modelName": "../x"}, "recognition": {"modelName": "../x"}},
            "one of buffalo_l, ",
        ),
        (
            {"detection": {"modelName": "buffalo_l"}, "recognition": {"modelName": "buffalo_s"}},
            "not buffalo_l and buffalo_s",
        ),
        (
            {
                "detection": {"modelName": "buffalo_l", "options": {"minScore": 2}},
                "recognition": {"modelName": "buffalo_l"},
            },
            "options",
        ),
    ],
)
def test_what_makes_no_sense(
    client: httpx.Client, predict: Predict, types: object, says: str
) -> None:
    answer = predict(client, {"facial-recognition": types}, image=portrait())
    assert answer.status_code == 422
    assert says in answer.json()["detail"]


def test_a_text_has_no_faces(client: httpx.Client, predict: Predict) -> None:
    assert predict(client, undici.FACES, text="红").status_code == 400


def test_models_that_are_missing(client: httpx.Client, predict: Predict) -> None:
    other = json.loads(json.dumps(undici.FACES).replace("buffalo_l", "antelopev2"))
    answer = predict(client, other, image=portrait())
    assert answer.status_code == 503
    assert "put scrfd_10g_bnkps.onnx and glintr100.onnx into" in answer.json()["detail"]


def test_vectors_that_immich_could_not_store_are_not_passed_on(
    gateway: Any, finder: Engine, predict: Predict
) -> None:
    class Short(EngineDouble):
        def find_faces(self, *_: Any) -> Any:

            future: Future[list[Face]] = Future()
            future.set_result([Face(0, 0, 1, 1, 0.9, np.zeros(256, np.float32))])
            return future

    answer = predict(
        gateway(engine=Short(finder), faces="insightface"), undici.FACES, image=portrait()
    )
    assert answer.status_code == 500
    assert "512" in answer.json()["detail"]


def test_mt_photos_form(client: httpx.Client) -> None:
    client.headers["api-key"] = "mt_photos_key"
    answer = client.post("/represent", files={"file": ("a.png", portrait())}).json()
    assert (answer["detector_backend"], answer["recognition_model"]) == ("insightface", "buffalo_l")
    (face,) = answer["result"]
    assert face["facial_area"] == {"x": 320, "y": 224, "w": 32, "h": 32}
    assert len(face["embedding"]) == 512
    assert client.post("/check").json()["recognition_model"] == "buffalo_l"


def test_off_is_off(gateway: Any, predict: Predict) -> None:
    with Peer(lambda _: None) as there:
        answer = predict(gateway(faces="off", immich_api=there.url), undici.FACES, image=portrait())
        assert there.received == []
    assert answer.status_code == 501
    assert "FACES=insightface" in answer.json()["detail"]
