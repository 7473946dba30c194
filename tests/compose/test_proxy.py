"""The proxy in front of Immich, with a real nginx between two servers that stand in."""

from __future__ import annotations

import http.client
import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from nginx import NO_NGINX, has_nginx, running_nginx

SEARCHES = ["/api/search/smart", "/api/search/metadata"]

pytestmark = pytest.mark.skipif(not has_nginx(), reason=NO_NGINX)


@dataclass(frozen=True)
class Request:
    method: str
    path: str
    headers: dict[str, str]
    body: bytes


@dataclass
class StandIn:
    """A server that answers everything with its name, or with `status`."""

    name: str
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    requests: list[Request] = field(default_factory=list)
    port: int = 0
    server: ThreadingHTTPServer | None = None

    def start(self) -> None:
        stand_in = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def handle_any(self) -> None:
                length = int(self.headers.get("Content-Length", 0))
                body = self.rfile.read(length)
                headers = {name.lower(): value for name, value in self.headers.items()}
                stand_in.requests.append(Request(self.command, self.path, headers, body))
                answer = stand_in.name.encode()
                self.send_response(stand_in.status)
                for name, value in stand_in.headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(answer)))
                self.end_headers()
                self.wfile.write(answer)

            do_GET = do_POST = do_PUT = do_OPTIONS = handle_any  # noqa: N815

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", self.port), Handler)
        self.port = self.server.server_port
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def stop(self) -> None:
        if self.server:
            self.server.shutdown()
            self.server.server_close()
            self.server = None


@dataclass(frozen=True)
class Proxy:
    port: int
    gateway: StandIn
    immich: StandIn

    def send(
        self, method: str, path: str, body: bytes = b"", headers: dict[str, str] | None = None
    ) -> tuple[int, str, http.client.HTTPMessage]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        connection.request(method, path, body, headers or {})
        answer = connection.getresponse()
        text = answer.read().decode()
        connection.close()
        return answer.status, text, answer.headers


@pytest.fixture(scope="module")
def nginx(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proxy]:
    gateway, immich = StandIn("indexer"), StandIn("immich")
    gateway.start()
    immich.start()
    here = "127.0.0.1"
    with running_nginx(
        tmp_path_factory.mktemp("nginx"), f"{here}:{gateway.port}", f"{here}:{immich.port}"
    ) as port:
        yield Proxy(port, gateway, immich)
    gateway.stop()
    immich.stop()


@pytest.fixture
def proxy(nginx: Proxy) -> Proxy:
    for server in (nginx.gateway, nginx.immich):
        server.requests.clear()
        server.status = 200
        server.headers = {}
        if server.server is None:
            server.start()
    return nginx


@pytest.mark.parametrize("path", SEARCHES)
def test_search_goes_to_the_indexer(proxy: Proxy, path: str) -> None:
    body = json.dumps({"query": "红色的圆", "page": 1}).encode()
    headers = {"Cookie": "immich_access_token=abc", "X-Api-Key": "key", "Authorization": "Bearer x"}
    status, text, answer = proxy.send("POST", f"{path}?a=%20b", body, headers)
    assert (status, text, answer["X-Search-By"]) == (200, "indexer", "immich-indexer")
    (got,) = proxy.gateway.requests
    assert (got.method, got.path, got.body) == ("POST", f"{path}?a=%20b", body)
    for name, value in headers.items():
        assert got.headers[name.lower()] == value
    assert got.headers["host"] == f"127.0.0.1:{proxy.port}"
    assert got.headers["x-forwarded-for"] == "127.0.0.1"
    assert got.headers["x-forwarded-proto"] == "http"
    assert proxy.immich.requests == []


@pytest.mark.parametrize("path", SEARCHES)
@pytest.mark.parametrize("status", [404, 405, 500, 501, 502, 503, 504])
def test_immich_searches_where_the_indexer_cannot(proxy: Proxy, path: str, status: int) -> None:
    proxy.gateway.status = status
    body = "发票".encode() * 30_000  # more than nginx keeps in memory
    answer = proxy.send("POST", path, body, {"Cookie": "immich_access_token=abc"})
    assert answer[:2] == (200, "immich")
    assert answer[2]["X-Search-By"] == "immich"
    (got,) = proxy.immich.requests
    assert (got.method, got.path, got.body) == ("POST", path, body)
    assert got.headers["cookie"] == "immich_access_token=abc"


def test_immich_searches_while_the_indexer_is_away(proxy: Proxy) -> None:
    proxy.gateway.stop()
    status, text, _ = proxy.send("POST", SEARCHES[0], b"{}")
    assert (status, text, proxy.immich.requests[0].body) == (200, "immich", b"{}")
    proxy.gateway.start()
    assert proxy.send("POST", SEARCHES[0], b"{}")[1] == "indexer"


def test_immich_searches_where_the_indexer_has_no_address(proxy: Proxy, tmp_path: Path) -> None:
    immich = f"127.0.0.1:{proxy.immich.port}"
    with running_nginx(tmp_path, "immich-indexer.invalid:3003", immich) as port:
        lonely = Proxy(port, proxy.gateway, proxy.immich)
        assert lonely.send("POST", SEARCHES[0], b"{}")[:2] == (200, "immich")
    assert proxy.immich.requests[0].body == b"{}"


@pytest.mark.parametrize("who", ["immich", "immich-indexer"])
def test_the_gateway_says_who_has_answered(proxy: Proxy, who: str) -> None:
    proxy.gateway.headers = {"X-Search-By": who}
    status, _, answer = proxy.send("POST", SEARCHES[0], b"{}")
    assert (status, answer.get_all("X-Search-By")) == (200, [who])


@pytest.mark.parametrize("status", [400, 401, 403, 422])
def test_other_answers_of_the_indexer_are_its_own(proxy: Proxy, status: int) -> None:
    proxy.gateway.status = status
    assert proxy.send("POST", SEARCHES[0], b"{}")[:2] == (status, "indexer")
    assert proxy.immich.requests == []


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/"),
        ("GET", "/api/assets/1/thumbnail?size=preview"),
        ("GET", "/api/search/smart"),
        ("OPTIONS", "/api/search/metadata"),
        ("POST", "/api/search/smart/more"),
        ("POST", "/api/search/random"),
        ("POST", "/api/search/statistics"),
        ("GET", "/api/a//b/%2F?x=%E5%8F%91"),
        ("PUT", "/api/users/me"),
    ],
)
def test_everything_else_goes_to_immich(proxy: Proxy, method: str, path: str) -> None:
    status, text, _ = proxy.send(method, path, b"body" if method in ("PUT", "POST") else b"")
    assert (status, text) == (200, "immich")
    (got,) = proxy.immich.requests
    assert (got.method, got.path) == (method, path)
    assert proxy.gateway.requests == []


def test_errors_of_immich_are_its_own(proxy: Proxy) -> None:
    proxy.immich.status = 503
    assert proxy.send("GET", "/api/server/ping")[:2] == (503, "immich")
    proxy.gateway.status = 502
    assert proxy.send("POST", SEARCHES[0], b"{}")[:2] == (503, "immich")


def test_uploads_of_any_size_are_passed_on(proxy: Proxy) -> None:
    body = bytes(20_000_000)
    assert proxy.send("POST", "/api/assets", body)[:2] == (200, "immich")
    assert proxy.immich.requests[0].body == body


def test_websockets_and_an_outer_proxy(proxy: Proxy) -> None:
    headers = {
        "Connection": "Upgrade",
        "Upgrade": "websocket",
        "X-Forwarded-Proto": "https",
        "X-Forwarded-For": "192.0.2.7",
    }
    proxy.send("GET", "/api/socket.io/", headers=headers)
    got = proxy.immich.requests[0].headers
    assert (got["connection"], got["upgrade"]) == ("upgrade", "websocket")
    assert (got["x-forwarded-proto"], got["x-forwarded-for"]) == ("https", "192.0.2.7, 127.0.0.1")
    proxy.send("GET", "/api/server/ping")
    assert "upgrade" not in proxy.immich.requests[1].headers


def test_probe_needs_nobody(proxy: Proxy) -> None:
    assert proxy.send("GET", "/.proxy/live")[0] == 204
    assert proxy.immich.requests == []


ASSET = "0b1c2d3e-0000-4000-8000-000000000001"


@pytest.mark.parametrize(
    ("method", "path", "there"),
    [
        ("GET", "/indexer/", "/"),
        ("GET", "/indexer/page/app.js", "/page/app.js"),
        ("POST", "/indexer/session", "/session"),
        ("POST", "/indexer/search", "/search"),
        ("POST", "/indexer/index/retry", "/index/retry"),
        ("GET", f"/indexer/events?asset={ASSET}", f"/events?asset={ASSET}"),
        ("GET", f"/indexer/assets/{ASSET}?q=%E5%8F%91", f"/assets/{ASSET}?q=%E5%8F%91"),
        ("GET", f"/indexer/assets/{ASSET}/thumbnail?size=x", f"/assets/{ASSET}/thumbnail?size=x"),
        ("POST", f"/indexer/assets/{ASSET}/reprocess", f"/assets/{ASSET}/reprocess"),
        ("GET", "/indexer/reprocess/7", "/reprocess/7"),
    ],
)
def test_the_page_is_below_indexer(proxy: Proxy, method: str, path: str, there: str) -> None:
    status, text, _ = proxy.send(method, path, headers={"Cookie": "immich_access_token=t"})
    assert (status, text) == (200, "indexer")
    (request,) = proxy.gateway.requests
    assert (request.method, request.path) == (method, there)
    assert request.headers["cookie"] == "immich_access_token=t"


@pytest.mark.parametrize(
    "path",
    ["predict", "ocr", "metrics", "schema/openapi.json", "page/../predict", "page/%2e%2e/predict",
     "previews/x", "api/search/smart", "health", f"assets/{ASSET}/other"],
)  # fmt: skip
def test_nothing_else_of_the_gateway_is(proxy: Proxy, path: str) -> None:
    proxy.send("POST", f"/indexer/{path}")
    assert proxy.gateway.requests == []


def test_the_page_without_its_slash(proxy: Proxy) -> None:
    status, _, headers = proxy.send("GET", "/indexer")
    assert (status, headers["location"]) == (308, "/indexer/")
