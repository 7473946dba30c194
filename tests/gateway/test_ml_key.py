"""A key in the path guards Immich's machine-learning routes, and is in no log."""

import hmac
import logging
import time
from typing import Any

import httpx
import pytest
import undici

from gateway import access_log, mtphotos, predict
from indexer.settings import Settings, SettingsError

KEY = "uNy6_4vv-9ZpQ2w8"
WRONG = "uNy6_4vv-9ZpQ2w9"
STAND_IN = undici.textual("cn-clip/stand-in")


def ask(client: httpx.Client, path: str) -> httpx.Response:
    return client.post(
        path,
        content=undici.form(STAND_IN, text="红色的圆"),
        headers={"content-type": undici.content_type()},
    )


@pytest.fixture
def client(gateway: Any) -> httpx.Client:
    found: httpx.Client = gateway(ml_key=KEY)
    return found


def test_with_the_key(client: httpx.Client) -> None:
    assert client.get(f"/{KEY}/ping").text == "pong"
    assert client.get(f"/{KEY}/").json() == {"message": "Immich ML"}
    assert ask(client, f"/{KEY}/predict").json()["clip"].startswith("[")


@pytest.mark.parametrize("before", ["", f"/{WRONG}", f"/{KEY}x", "/x", f"/{KEY.upper()}", "/%00"])
def test_without_it_or_with_another(client: httpx.Client, before: str) -> None:
    for answer in (client.get(f"{before}/ping"), ask(client, f"{before}/predict")):
        assert answer.status_code == 401
        assert "http://…:3003/<key>/" in answer.json()["detail"]
        assert KEY not in answer.text


def test_only_one_segment_is_a_key(client: httpx.Client) -> None:
    assert ask(client, f"/x/{KEY}/predict").status_code == 404
    assert ask(client, f"/{KEY}/{KEY}/predict").status_code == 404
    assert client.get(f"/{KEY}/search?q=x").status_code == 404


def test_what_has_other_guards_needs_no_key(client: httpx.Client) -> None:
    assert client.get("/health/live").status_code == 200
    assert client.get("/").status_code == 200
    assert client.post("/check", headers={"api-key": "mt_photos_key"}).status_code == 200
    assert client.get("/ping", headers={"api-key": "mt_photos_key"}).text == "pong"
    assert client.get("/ping", headers={"api-key": KEY}).status_code == 401


def test_a_request_of_immich_to_a_url_with_the_key(client: httpx.Client) -> None:
    """Since immich-app/immich#28427 the URL's path is kept, where it ends with a slash."""
    raw = (undici.CAPTURES / "clip-textual_lang_prefixed.raw").read_bytes()
    name = b"cn-clip/ViT-L-14__openai"
    _, _, body = raw.partition(b"\r\n\r\n")
    url = httpx.URL(str(client.base_url) + f"/{KEY}/").join("predict")
    answer = client.post(
        url,
        content=body.replace(name, b"cn-clip/stand-in"),
        headers={"content-type": undici.content_type(), "user-agent": "immich-server/3.1.0"},
    )
    assert answer.status_code == 200


def test_the_key_is_in_no_log(
    client: httpx.Client, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise LookupError("something unexpected")

    caplog.set_level(logging.DEBUG)
    client.get(f"/{KEY}/ping")
    ask(client, f"/{KEY}/predict")
    ask(client, f"/{WRONG}/predict")
    monkeypatch.setattr(predict, "parse_entries", broken)
    assert ask(client, f"/{KEY}/predict").status_code == 500
    # Lines are written after the answers, so the last one may be late.
    deadline = time.monotonic() + 10
    for status in (200, 401, 500):
        while not any(f"path=/***/predict status={status}" in line for line in our_lines(caplog)):
            assert time.monotonic() < deadline, our_lines(caplog)
            time.sleep(0.01)
    lines = our_lines(caplog)
    assert not any(key in line for line in lines for key in (KEY, WRONG))
    assert KEY not in repr(Settings(ml_key=KEY))


def our_lines(caplog: pytest.LogCaptureFixture) -> list[str]:
    names = {"gateway", "indexer", "pg"}
    ours = [record for record in caplog.records if record.name.partition(".")[0] in names]
    return [logging.Formatter().format(record) for record in ours]


@pytest.mark.parametrize(
    "key", ["short", "with/slash-0123456789", "mit Leerzeichen 012345", "é" * 20]
)
def test_keys_that_would_not_work_are_refused_without_being_shown(key: str) -> None:
    with pytest.raises(SettingsError, match="ML_KEY") as refused:
        Settings.from_env({"ML_KEY": key})
    assert key not in str(refused.value)


def test_without_a_key_there_are_no_such_paths(gateway: Any) -> None:
    assert gateway().get(f"/{KEY}/ping").status_code == 404


def test_keys_are_compared_in_constant_time(gateway: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    compared: list[tuple[bytes, bytes]] = []

    def counted(given: bytes, right: bytes) -> bool:
        compared.append((given, right))
        return hmac.compare_digest(given, right)

    for module in (predict, mtphotos):
        monkeypatch.setattr(module, "hmac", type("hmac", (), {"compare_digest": counted}))
    client = gateway(ml_key=KEY)
    client.get(f"/{WRONG}/ping")
    client.post("/check", headers={"api-key": "mt_photos_kez"})
    assert (WRONG.encode(), KEY.encode()) in compared
    assert (b"mt_photos_kez", b"mt_photos_key") in compared


def test_line_breaks_do_not_get_into_the_log() -> None:
    scope: Any = {"path": "/a\nFAKE line\r\x1b[2J/发", "path_params": {}}
    shown = access_log.shown_path(scope)
    assert shown == "/a\\nFAKE line\\r\\x1b[2J/\\u53d1"
