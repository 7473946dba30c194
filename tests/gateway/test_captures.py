"""Recorded requests, replayed byte for byte over a socket against a real server."""

import http.client
import json
import socket
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
from doubles import StockSized
from peers import Answer, Peer
from undici import CAPTURES

from indexer.models.clip import MODELS

RECORDED = Path(__file__).parents[3] / "shared" / "immich-captures"


def replay(client: httpx.Client, capture: Path) -> tuple[int, str | None, bytes]:
    """Send the file's bytes and nothing else; return status, content type and body."""
    url = urlsplit(str(client.base_url))
    assert url.hostname
    with socket.create_connection((url.hostname, url.port), timeout=120) as connection:
        connection.sendall(capture.read_bytes())
        answer = http.client.HTTPResponse(connection)
        answer.begin()
        return answer.status, answer.getheader("content-type"), answer.read()


def captures(name: str) -> list[Any]:
    """The shipped capture, and the one recorded from Immich 3.1 where that is at hand."""
    recorded = RECORDED / f"{name}.raw"
    missing = pytest.mark.skipif(not recorded.exists(), reason="the recorded captures aren't here")
    return [
        pytest.param(CAPTURES / f"{name}.raw", id=f"{name}-shipped"),
        pytest.param(recorded, id=f"{name}-recorded", marks=missing),
    ]


def size(capture: Path) -> tuple[int, int]:
    """Height and width of the picture in a capture."""
    if capture.parent == CAPTURES:
        return 480, 640
    known = json.loads(capture.with_suffix(".json").read_text())["size"]
    return known[1], known[0]


@pytest.mark.parametrize("capture", captures("ping"))
def test_ping(gateway: Any, capture: Path) -> None:
    assert replay(gateway(), capture) == (200, "text/plain; charset=utf-8", b"pong")


@pytest.mark.parametrize("capture", captures("clip-visual") + captures("clip-visual_prefixed"))
def test_clip_visual(gateway: Any, engine: Any, capture: Path) -> None:
    client = gateway(engine=StockSized(engine, MODELS["ViT-B-16"]))
    status, kind, body = replay(client, capture)
    assert (status, kind) == (200, "application/json")
    answer = json.loads(body)
    assert answer.keys() == {"clip", "imageHeight", "imageWidth"}
    assert (answer["imageHeight"], answer["imageWidth"]) == size(capture)
    vector = json.loads(answer["clip"])
    assert len(vector) == 512
    assert sum(x * x for x in vector) == pytest.approx(1, abs=1e-4)


@pytest.mark.parametrize(
    ("capture", "model"),
    [
        (case, model)
        for name, model in [
            ("clip-textual_lang", "ViT-B-16"),
            ("clip-textual_nolang_prefixed", "ViT-B-16"),
            ("clip-textual_lang_prefixed", "ViT-L-14"),
        ]
        for case in (CAPTURES / f"{name}.raw", RECORDED / f"{name}.raw")
    ],
)
def test_clip_textual(gateway: Any, engine: Any, capture: Path, model: str) -> None:
    if not capture.exists():
        pytest.skip("the recorded captures aren't here")
    client = gateway(engine=StockSized(engine, MODELS[model]))
    status, kind, body = replay(client, capture)
    assert (status, kind) == (200, "application/json")
    answer = json.loads(body)
    assert answer.keys() == {"clip"}
    assert isinstance(answer["clip"], str)
    assert len(json.loads(answer["clip"])) == MODELS[model].dim


@pytest.mark.parametrize("capture", captures("ocr-detection+recognition"))
def test_ocr(gateway: Any, capture: Path) -> None:
    status, kind, body = replay(gateway(), capture)
    assert (status, kind) == (200, "application/json")
    answer = json.loads(body)
    assert answer.keys() == {"ocr", "imageHeight", "imageWidth"}
    assert (answer["imageHeight"], answer["imageWidth"]) == size(capture)
    ocr = answer["ocr"]
    assert ocr.keys() == {"text", "box", "boxScore", "textScore"}
    count = len(ocr["text"])
    assert count > 0
    assert (len(ocr["box"]), len(ocr["boxScore"]), len(ocr["textScore"])) == (
        8 * count,
        *[count] * 2,
    )
    assert all(0 <= number <= 1 for number in ocr["box"])
    assert all(score >= 0.5 for score in ocr["boxScore"])
    assert all(score >= 0.8 for score in ocr["textScore"])
    if capture.parent == CAPTURES:
        assert ocr["text"] == ["出口"]


@pytest.mark.parametrize("capture", [CAPTURES / "ocr-legacy.raw"])
def test_ocr_of_the_older_fork(gateway: Any, capture: Path) -> None:
    status, _, body = replay(gateway(), capture)
    answer = json.loads(body)
    assert status == 200
    assert answer["ocr"] == "出口"
    assert answer["result"]["texts"] == ["出口"]
    assert float(answer["result"]["scores"][0]) > 0.9
    assert isinstance(answer["result"]["scores"][0], str)
    (box,) = answer["result"]["boxes"]
    assert all(isinstance(side, int) for side in box.values())
    # Where the word is drawn, in pixels of the picture that was sent.
    assert box == {
        "x1": pytest.approx(308, abs=15),
        "y1": pytest.approx(205, abs=15),
        "x2": pytest.approx(545, abs=15),
        "y2": pytest.approx(335, abs=15),
    }


@pytest.mark.parametrize("capture", captures("facial-recognition-detection+recognition"))
def test_faces_are_passed_on_untouched(gateway: Any, capture: Path) -> None:
    # Spacing that no encoder of ours would write.
    content = b'{ "facial-recognition": [],\n"imageHeight": 1440 , "imageWidth": 2160}'
    with Peer(lambda _: Answer(200, content)) as immich_ml:
        answer = replay(gateway(immich_api=immich_ml.url), capture)
    assert answer == (200, "application/json", content)
    (received,) = immich_ml.received
    head, _, body = capture.read_bytes().partition(b"\r\n\r\n")
    assert received.body == body
    sent = dict(line.split(": ", 1) for line in head.decode().split("\r\n")[1:])
    assert (received.method, received.path) == ("POST", "/predict")
    assert received.headers["content-type"] == sent["content-type"]
    assert received.headers["user-agent"] == sent["User-Agent"]
    assert received.headers["accept-encoding"] == sent["accept-encoding"]


@pytest.mark.parametrize("capture", captures("facial-recognition-detection+recognition"))
def test_faces_without_a_server_for_them(gateway: Any, capture: Path) -> None:
    status, _, body = replay(gateway(), capture)
    assert status == 501
    assert "Set IMMICH_API" in json.loads(body)["detail"]
