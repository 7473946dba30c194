"""Requests wait for their turn, unread; too many and too slow ones are refused."""

import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from io import BytesIO
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
import undici
from doubles import EngineDouble
from PIL import Image

from gateway import intake
from indexer.models.images import Photo
from indexer.models.types import Lane, Line, OcrOptions

Predict = Callable[..., httpx.Response]
PATIENCE = 30.0


class Held(EngineDouble):
    """Reads no text before it is told to; the rest is the real engine's."""

    def __init__(self, engine: Any) -> None:
        super().__init__(engine)
        self.asked: list[tuple[int, Future[list[Line]]]] = []

    def read_text(self, photo: Photo, options: OcrOptions, lane: Lane) -> Future[list[Line]]:
        future: Future[list[Line]] = Future()
        self.asked.append((photo.width, future))
        return future

    def wait_for(self, count: int) -> None:
        deadline = time.monotonic() + PATIENCE
        while len(self.asked) < count:
            assert time.monotonic() < deadline
            time.sleep(0.01)


class Asking:
    """Requests for the text of pictures of different widths, each in a thread."""

    def __init__(self, client: httpx.Client, predict: Predict) -> None:
        self._client, self._predict = client, predict
        self._threads: list[threading.Thread] = []
        self.answers: list[httpx.Response] = []

    def ask(self, width: int) -> None:
        thread = threading.Thread(target=self._ask, args=(width,))
        thread.start()
        self._threads.append(thread)

    def _ask(self, width: int) -> None:
        self.answers.append(self._predict(self._client, undici.OCR, image=picture(width)))

    def join(self) -> list[int]:
        for thread in self._threads:
            thread.join(PATIENCE)
        return [answer.status_code for answer in self.answers]


def picture(width: int) -> bytes:
    """A PNG that doesn't compress: above what counts as a small body here."""
    noise = Image.effect_noise((width, 40), 90)
    out = BytesIO()
    noise.save(out, "PNG")
    return out.getvalue()


@pytest.fixture
def pictures_are_large(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(intake, "SMALL_BYTES", 1000)


@pytest.fixture
def held(engine: Any) -> Iterator[Held]:
    found = Held(engine)
    yield found
    for _, future in found.asked:
        if not future.done():
            future.set_result([])


def waiting(client: httpx.Client, count: int) -> None:
    """Let requests arrive at the gateway: they are then in its queue, in this order."""
    time.sleep(0.3 * count)
    assert client.get("/ping").text == "pong"


@pytest.mark.usefixtures("pictures_are_large")
def test_pictures_are_taken_in_the_order_they_came(
    gateway: Any, predict: Predict, held: Held
) -> None:
    client = gateway(engine=held, max_requests=1)
    asking = Asking(client, predict)
    for count, width in enumerate((100, 101, 102)):
        asking.ask(width)
        if count == 0:
            held.wait_for(1)
        waiting(client, 1)
    assert [width for width, _ in held.asked] == [100]  # the others aren't even decoded
    for count in (1, 2, 3):
        held.wait_for(count)
        held.asked[count - 1][1].set_result([])
    assert asking.join() == [200, 200, 200]
    assert [width for width, _ in held.asked] == [100, 101, 102]


@pytest.mark.usefixtures("pictures_are_large")
def test_a_search_does_not_wait_behind_pictures(gateway: Any, predict: Predict, held: Held) -> None:
    client = gateway(engine=held, max_requests=1)
    asking = Asking(client, predict)
    asking.ask(100)
    held.wait_for(1)
    assert predict(client, undici.textual("cn-clip/stand-in"), text="红色的圆").status_code == 200
    held.asked[0][1].set_result([])
    assert asking.join() == [200]


@pytest.mark.usefixtures("pictures_are_large")
def test_past_the_bound_they_are_told_to_come_again(
    gateway: Any, predict: Predict, held: Held
) -> None:
    client = gateway(engine=held, max_requests=1, max_waiting_requests=1)
    asking = Asking(client, predict)
    asking.ask(100)
    held.wait_for(1)
    asking.ask(101)
    waiting(client, 1)
    refused = predict(client, undici.OCR, image=picture(102))
    assert refused.status_code == 503
    assert refused.headers["retry-after"] == "10"
    assert "1 requests are waiting" in refused.json()["detail"]
    for count in (1, 2):
        held.wait_for(count)
        held.asked[count - 1][1].set_result([])
    assert asking.join() == [200, 200]


@pytest.mark.usefixtures("pictures_are_large")
def test_many_large_ones_do_not_take_more_memory(
    gateway: Any, predict: Predict, held: Held
) -> None:
    """No more bytes at once than two of the largest pictures have, however many may come."""
    largest = len(picture(300))
    client = gateway(engine=held, max_image_bytes=largest + 2000)
    asking = Asking(client, predict)
    for count in (1, 2):
        asking.ask(300)
        held.wait_for(count)
    asking.ask(300)
    waiting(client, 1)
    asking.ask(100)  # it would fit, but isn't the first
    waiting(client, 1)
    assert [width for width, _ in held.asked] == [300, 300]
    held.asked[0][1].set_result([])
    held.wait_for(3)
    held.asked[1][1].set_result([])
    held.wait_for(4)
    assert [width for width, _ in held.asked] == [300, 300, 300, 100]
    for _, future in held.asked[2:]:
        future.set_result([])
    assert asking.join() == [200] * 4


@pytest.mark.usefixtures("pictures_are_large")
def test_who_goes_away_leaves_the_queue(gateway: Any, predict: Predict, held: Held) -> None:
    client = gateway(engine=held, max_requests=1, max_waiting_requests=1)
    asking = Asking(client, predict)
    asking.ask(100)
    held.wait_for(1)
    with connect(client) as connection:
        connection.sendall(head("/predict", "multipart/form-data; boundary=x", 10**6) + b"--x")
        waiting(client, 1)
        assert predict(client, undici.OCR, image=picture(101)).status_code == 503
    held.asked[0][1].set_result([])
    assert asking.join() == [200]
    again = Asking(client, predict)
    again.ask(102)
    held.wait_for(2)
    held.asked[1][1].set_result([])
    assert again.join() == [200]


@pytest.mark.usefixtures("pictures_are_large")
def test_no_turn_in_time(gateway: Any, predict: Predict, held: Held) -> None:
    client = gateway(engine=held, max_requests=1, max_wait_seconds=0.2)
    asking = Asking(client, predict)
    asking.ask(100)
    held.wait_for(1)
    refused = predict(client, undici.OCR, image=picture(101))
    assert (refused.status_code, refused.headers["retry-after"]) == (503, "10")
    held.asked[0][1].set_result([])
    assert asking.join() == [200]
    again = Asking(client, predict)  # the place it had in the queue is free again
    again.ask(102)
    held.wait_for(2)
    held.asked[1][1].set_result([])
    assert again.join() == [200]


# Slow clients


def connect(client: httpx.Client) -> socket.socket:
    url = urlsplit(str(client.base_url))
    return socket.create_connection((url.hostname or "", url.port or 0), timeout=PATIENCE)


def head(path: str, kind: str, length: int) -> bytes:
    return (
        f"POST {path} HTTP/1.1\r\nhost: localhost\r\ncontent-type: {kind}\r\n"
        f"content-length: {length}\r\n\r\n"
    ).encode()


@pytest.mark.parametrize(
    ("path", "kind"),
    [("/predict", "multipart/form-data; boundary=x"), ("/search", "application/json")],
)
def test_a_body_that_stops_coming(gateway: Any, path: str, kind: str) -> None:
    with connect(gateway(max_pause_seconds=0.3)) as connection:
        connection.sendall(head(path, kind, 1000) + b"--x")
        assert b" 408 " in connection.recv(1000).split(b"\r\n")[0]


def test_a_body_that_comes_byte_by_byte(gateway: Any) -> None:
    with connect(gateway(max_body_seconds=0.5)) as connection:
        connection.sendall(head("/predict", "multipart/form-data; boundary=x", 10**6))
        connection.settimeout(0.05)
        answer = b""
        deadline = time.monotonic() + PATIENCE
        while not answer:
            assert time.monotonic() < deadline
            connection.sendall(b"-")
            try:
                answer = connection.recv(1000)
            except TimeoutError:
                continue
        assert b" 408 " in answer.split(b"\r\n")[0]


def test_more_connections_than_there_may_be(gateway: Any) -> None:
    client = gateway(max_connections=8)
    kept = [connect(client) for _ in range(8)]
    time.sleep(0.3)
    refused = client.get("/ping")
    assert (refused.status_code, refused.headers["retry-after"]) == (503, "10")
    assert refused.json()["status_code"] == 503
    for connection in kept:
        connection.close()
    time.sleep(0.3)
    assert client.get("/ping").text == "pong"


@pytest.mark.parametrize("sent", [b"", b"GET /ping HT", b"GET /ping HTTP/1.1\r\nhost: x\r\nx-"])
def test_a_head_that_does_not_arrive(gateway: Any, sent: bytes) -> None:
    with connect(gateway(max_pause_seconds=0.3)) as connection:
        connection.sendall(sent)
        assert connection.recv(1000) == b""


def test_the_head_of_a_second_request_that_does_not_arrive(gateway: Any) -> None:
    with connect(gateway(max_pause_seconds=0.3)) as connection:
        connection.sendall(b"GET /ping HTTP/1.1\r\nhost: x\r\n\r\n")
        answer = b""
        while not answer.endswith(b"pong"):
            answer += connection.recv(1000)
        time.sleep(0.6)  # between requests it may be silent for longer
        connection.sendall(b"GET /ping HTTP/1.1\r\n")
        assert connection.recv(1000) == b""


def test_an_answer_may_take_longer_than_a_head(gateway: Any, predict: Predict, held: Held) -> None:
    asking = Asking(gateway(engine=held, max_pause_seconds=0.2), predict)
    asking.ask(100)
    held.wait_for(1)
    time.sleep(0.5)
    held.asked[0][1].set_result([])
    assert asking.join() == [200]
