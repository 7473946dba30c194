"""Faces: passed on to Immich's own ML server, or refused with a word on what to set."""

import gzip
import json
import re
import socket
from collections.abc import Callable
from typing import Any

import httpx
import pytest
import undici
from peers import Answer, Peer, Received

Predict = Callable[..., httpx.Response]

FACE = {
    "boundingBox": {"x1": 10, "y1": 20, "x2": 110, "y2": 140},
    "embedding": json.dumps([0.5, -0.25] + [0.0] * 510),
    "score": 0.87,
}
FOUND = {"facial-recognition": [FACE], "imageHeight": 480, "imageWidth": 640}
MIXED = {**undici.FACES, **undici.OCR}


def test_an_error_there_is_given_back_as_it_is(
    gateway: Any, predict: Predict, picture: bytes
) -> None:
    content = b"Internal Server Error"
    with Peer(lambda _: Answer(500, content, {"content-type": "text/plain"})) as there:
        answer = predict(gateway(immich_api=there.url), undici.FACES, image=picture)
    assert answer.status_code == 500
    assert answer.content == content
    assert answer.headers["content-type"].startswith("text/plain")


def test_a_compressed_answer_stays_compressed(
    gateway: Any, predict: Predict, picture: bytes
) -> None:
    packed = gzip.compress(json.dumps(FOUND).encode())
    headers = {"content-type": "application/json", "content-encoding": "gzip"}
    with Peer(lambda _: Answer(200, packed, headers)) as there:
        client = gateway(immich_api=there.url)
        with client.stream(
            "POST",
            "/predict",
            content=undici.form(undici.FACES, image=picture),
            headers={"content-type": undici.content_type()},
        ) as answer:
            assert b"".join(answer.iter_raw()) == packed
            assert answer.headers["content-encoding"] == "gzip"


def test_an_url_with_a_path(gateway: Any, predict: Predict, picture: bytes) -> None:
    with Peer(lambda _: Answer.json(FOUND)) as there:
        client = gateway(immich_api=f"{there.url}/ml/")
        assert predict(client, undici.FACES, image=picture).json() == FOUND
        assert there.received[0].path == "/ml/predict"


def test_faces_and_text_in_one_request(gateway: Any, predict: Predict, picture: bytes) -> None:
    with Peer(lambda _: Answer.json(FOUND)) as there:
        answer = predict(gateway(immich_api=there.url), MIXED, image=picture)
    assert answer.status_code == 200
    assert answer.json()["facial-recognition"] == [FACE]
    assert answer.json()["ocr"]["text"] == ["出口"]
    assert (answer.json()["imageHeight"], answer.json()["imageWidth"]) == (480, 640)
    (received,) = there.received
    parts = parsed(received)
    assert json.loads(parts["entries"]) == undici.FACES
    assert parts["image"] == picture
    assert parts.keys() == {"entries", "image"}


def test_other_tasks_are_passed_on_too(gateway: Any, predict: Predict, picture: bytes) -> None:
    pets = {"pets": {"detection": {"modelName": "x"}}}
    with Peer(lambda _: Answer.json({"pets": []})) as there:
        answer = predict(gateway(immich_api=there.url), pets, image=picture)
    assert answer.json() == {"pets": []}


@pytest.mark.parametrize(
    ("reply", "says"),
    [
        (Answer(500, b"broken"), "answered 500 for facial-recognition"),
        (Answer(200, b"no json"), "no JSON object"),
        (Answer(200, b"[]"), "no JSON object"),
        (None, "doesn't answer"),
    ],
)
def test_a_mixed_request_fails_with_its_faces(
    gateway: Any,
    predict: Predict,
    picture: bytes,
    reply: Answer | None,
    says: str,
) -> None:
    with Peer(lambda _: reply) as there:
        answer = predict(gateway(immich_api=there.url), MIXED, image=picture)
    assert answer.status_code == 502
    assert says in answer.json()["detail"]


def test_nobody_listens_there(gateway: Any, predict: Predict, picture: bytes) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound, not listening: refuses
        url = f"http://127.0.0.1:{taken.getsockname()[1]}"
        answer = predict(gateway(immich_api=url), undici.FACES, image=picture)
    assert answer.status_code == 502
    assert f"{url} (IMMICH_API) doesn't answer (ConnectError)" in answer.json()["detail"]


def test_an_url_that_is_none(gateway: Any, predict: Predict, picture: bytes) -> None:
    answer = predict(gateway(immich_api="immich-ml:3003"), undici.FACES, image=picture)
    assert answer.status_code == 502
    assert "IMMICH_API" in answer.json()["detail"]


def test_immich_api_that_leads_back_here(gateway: Any, predict: Predict, picture: bytes) -> None:
    second: list[httpx.Client] = []

    def to_the_second(request: Received) -> Answer:
        headers = {name: request.headers[name] for name in ("content-type", "x-passed-on-by")}
        answer = second[0].post("/predict", content=request.body, headers=headers)
        return Answer(answer.status_code, answer.content)

    with Peer(to_the_second) as there:
        second.append(gateway(immich_api=there.url))
        answer = predict(gateway(immich_api=there.url), undici.FACES, image=picture)
        assert answer.status_code == 508
        assert "leads back here" in answer.json()["detail"]
        assert len(there.received) == 1


@pytest.mark.parametrize("entries", [undici.FACES, MIXED])
def test_without_immich_api(
    gateway: Any, predict: Predict, picture: bytes, entries: object
) -> None:
    answer = predict(gateway(), entries, image=picture)
    assert answer.status_code == 501
    assert "Set IMMICH_API" in answer.json()["detail"]


def parsed(request: Received) -> dict[str, bytes]:
    """Cut a multipart body at its boundary, by hand."""
    boundary = request.headers["content-type"].partition("boundary=")[2].encode()
    parts = {}
    for piece in request.body.split(b"--" + boundary)[1:-1]:
        head, _, content = piece.partition(b"\r\n\r\n")
        name = re.search(rb'name="(\w+)"', head)
        assert name
        parts[name[1].decode()] = content.removesuffix(b"\r\n")
    return parts
