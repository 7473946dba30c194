"""The server itself: starting, stopping, limits, and what it tells of its routes."""

import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import msgspec
import pytest
import undici
from doubles import Failing

from gateway.app import create_app
from gateway.server import BindError, StartError, running, serve
from indexer.settings import Settings

ROOT = Path(__file__).parents[2]


def connect(client: httpx.Client) -> socket.socket:
    url = urlsplit(str(client.base_url))
    return socket.create_connection((url.hostname or "", url.port or 0), timeout=30)


def test_an_address_that_is_taken(settings: Settings, engine: Any) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        there = msgspec.structs.replace(settings, port=port)
        app = create_app(there, engine, None)
        with pytest.raises(BindError, match=f"127.0.0.1 port {port}.*Set HOST or PORT"):
            serve(app, there)
        with pytest.raises(BindError), running(app, there):
            pass


def test_an_address_that_is_not_ours(settings: Settings, engine: Any) -> None:
    elsewhere = msgspec.structs.replace(settings, host="203.0.113.1")
    with pytest.raises(BindError, match=r"203\.0\.113\.1"):
        serve(create_app(elsewhere, engine, None), elsewhere)


@pytest.mark.parametrize("host", ["localhost", "0.0.0.0", "::1"])
def test_other_hosts(gateway: Any, host: str) -> None:
    if host == "::1" and not has_ipv6():
        pytest.skip("no IPv6 here")
    assert gateway(host=host).get("/ping").text == "pong"


def has_ipv6() -> bool:
    try:
        with socket.socket(socket.AF_INET6) as probe:
            probe.bind(("::1", 0))
    except OSError:
        return False
    return True


def test_an_application_that_does_not_start(settings: Settings, engine: Any) -> None:
    class Broken:
        async def open(self) -> None:
            raise ValueError("DB_URL is no URL")

        async def close(self) -> None:
            pass

        async def fetch(self, sql: str, *values: object) -> list[Any]:
            return []

        async def fetch_one(self, sql: str, *values: object) -> Any:
            return None

    with (
        pytest.raises(StartError, match="did not start"),
        running(create_app(settings, engine, Broken()), settings),
    ):
        pass
    with pytest.raises(StartError, match="did not start"):
        serve(create_app(settings, engine, Broken()), settings)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_serve_returns_at_a_signal_so_that_the_rest_can_be_stopped(number: int) -> None:
    code = (
        "from gateway.app import create_app\n"
        "from gateway.server import serve\n"
        "from indexer.models.engine import Engine\n"
        "from indexer.settings import Settings\n"
        "import logging\n"
        "logging.basicConfig(level='INFO', format='%(message)s')\n"
        "settings = Settings(port=0, clip_download='off')\n"
        "engine = Engine(settings)\n"
        "serve(create_app(settings, engine, None), settings)\n"
        "engine.close()\n"
        "print('stopped the rest')\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-u", "-c", code],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stderr
        listening = next(line for line in process.stderr if line.startswith("listening"))
        url = listening.strip().partition("url=")[2]
        while True:
            try:
                assert httpx.get(f"{url}/ping", trust_env=False).text == "pong"
                break
            except httpx.TransportError:
                time.sleep(0.05)
        os.kill(process.pid, number)
        out, _ = process.communicate(timeout=60)
    finally:
        process.kill()
    assert out == "stopped the rest\n"
    assert process.returncode == 0


def test_what_runs_is_answered_before_the_server_stops(
    settings: Settings, engine: Any, picture: bytes
) -> None:
    hanging = Failing(engine, None)
    answers: list[httpx.Response] = []

    def ask(url: str) -> None:
        answers.append(
            httpx.post(
                f"{url}/predict",
                content=undici.form(undici.OCR, image=picture),
                headers={"content-type": undici.content_type()},
                timeout=60,
                trust_env=False,
            )
        )

    with running(create_app(settings, hanging, None), settings) as url:
        asking = threading.Thread(target=ask, args=(url,))
        asking.start()
        while not hanging.asked:
            time.sleep(0.01)
        threading.Timer(0.3, lambda: hanging.asked[0].set_result([])).start()
    asking.join()
    assert answers[0].status_code == 200
    assert answers[0].json()["ocr"]["text"] == []


def test_a_head_that_is_too_long(gateway: Any) -> None:
    with connect(gateway()) as connection:
        connection.sendall(b"GET /ping HTTP/1.1\r\nhost: x\r\nx: " + b"x" * 200_000)
        assert b" 400 " in connection.recv(1000).split(b"\r\n")[0]


def test_a_body_longer_than_it_may_be_is_not_read(gateway: Any) -> None:
    client = gateway(max_image_bytes=1000)
    with connect(client) as connection:
        connection.sendall(
            b"POST /predict HTTP/1.1\r\nhost: x\r\ncontent-type: multipart/form-data; boundary=x"
            b"\r\ncontent-length: 100000000\r\n\r\n"
        )
        assert b" 413 " in connection.recv(1000).split(b"\r\n")[0]  # without having sent any
    chunked = (b"x" * 100_000 for _ in range(100))
    headers = {"content-type": "multipart/form-data; boundary=x"}
    try:
        answer = client.post("/predict", content=chunked, headers=headers)
    except httpx.WriteError:
        pytest.skip("the connection was closed before the answer was read")
    assert answer.status_code == 413


def test_a_client_that_goes_away_halfway(gateway: Any) -> None:
    client = gateway()
    with connect(client) as connection:
        connection.sendall(
            b"POST /predict HTTP/1.1\r\nhost: x\r\ncontent-type: multipart/form-data; boundary=x"
            b"\r\ncontent-length: 1000\r\n\r\n--x"
        )
    assert client.get("/ping").text == "pong"


def test_the_server_does_not_name_itself(gateway: Any) -> None:
    assert "server" not in gateway().get("/ping").headers


def test_the_description_of_the_api(gateway: Any) -> None:
    client = gateway()
    description = client.get("/schema/openapi.json").json()
    routes = {(m, p) for p, methods in description["paths"].items() for m in methods}
    assert routes == {
        ("get", "/"),
        ("get", "/ping"),
        ("post", "/predict"),
        ("get", "/search"),
        ("post", "/search"),
        ("post", "/api/search/smart"),
        ("post", "/api/search/metadata"),
        ("post", "/assets/{asset_id}/reprocess"),
        ("get", "/reprocess/{request_id}"),
        ("post", "/photos"),
        ("get", "/assets/{asset_id}"),
        ("get", "/assets/{asset_id}/thumbnail"),
        ("get", "/filters"),
        ("get", "/index"),
        ("post", "/index/retry"),
        ("get", "/events"),
        ("get", "/session"),
        ("post", "/session"),
        ("delete", "/session"),
        ("get", "/health"),
        ("get", "/health/live"),
        ("get", "/health/ready"),
        ("get", "/metrics"),
        ("get", "/previews/{asset_id}"),
        ("post", "/check"),
        ("post", "/restart"),
        ("post", "/restart_v2"),
        ("post", "/ocr"),
        ("post", "/clip/img"),
        ("post", "/clip/txt"),
        ("post", "/represent"),
    }
    for path, methods in description["paths"].items():
        for method, operation in methods.items():
            assert operation["summary"], (method, path)
            assert operation["description"], (method, path)
            assert not re.search(r"Raises:|Args:", operation["description"])
    form = description["paths"]["/predict"]["post"]["requestBody"]["content"]
    parts = form["multipart/form-data"]["schema"]
    assert parts["properties"].keys() == {"entries", "text", "image"}
    assert parts["required"] == ["entries"]
    for page in ("/schema", "/schema/swagger", "/schema/scalar"):
        assert "<script" not in client.get(page).text
