"""Previews for workers on other machines: over real HTTP, from a real gateway."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from io import BytesIO
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import pytest
from peers import Answer, Peer
from PIL import Image

from gateway.database import Database
from immich.events import FakeImmich
from indexer.media import MediaAwayError
from indexer.models.types import ImageError
from indexer.previews import FetchedPreviews
from indexer.results import FileStamp
from indexer.settings import Settings, SettingsError

KEY = "a-key-of-16-signs-or-more"


def picture(width: int) -> bytes:
    out = BytesIO()
    Image.new("RGB", (width, 32), "orange").save(out, "PNG")
    return out.getvalue()


@pytest.fixture
def client(gateway: Any, indexed_immich: FakeImmich) -> httpx.Client:
    started: httpx.Client = gateway(
        database=Database(indexed_immich.url),
        db_url=indexed_immich.url,
        media_map=f"{indexed_immich.location}={indexed_immich.media_dir}",
        previews_key=KEY,
        max_image_bytes=100_000,
    )
    return started


def get(client: httpx.Client, asset: object, key: str | None = KEY) -> httpx.Response:
    headers = {"authorization": f"Bearer {key}"} if key else {}
    return client.get(f"/previews/{asset}", headers=headers)


@pytest.fixture
def previews() -> Iterator[Callable[..., FetchedPreviews]]:
    """Makes what a worker reads with."""
    with ExitStack() as stack:

        def make(url: object, key: str = KEY) -> FetchedPreviews:
            settings = Settings(previews_url=str(url), previews_key=key, max_image_bytes=100_000)
            return stack.enter_context(closing(FetchedPreviews(settings)))

        yield make


def test_a_worker_gets_what_it_would_read(
    client: httpx.Client,
    indexed_immich: FakeImmich,
    previews: Callable[..., FetchedPreviews],
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("INFO")
    asset = indexed_immich.upload(picture(40))
    file = indexed_immich.preview_path(asset)
    os.utime(file, ns=(0, 1714564800_123456_789))
    fetched = previews(client.base_url).read(asset, "/wherever")
    assert fetched.data == file.read_bytes()
    # To the microsecond: else whoever has the files would think that they have changed.
    assert fetched.file == FileStamp.of(file)
    assert get(client, asset).headers["cache-control"] == "no-store"
    assert "path=/previews/" not in caplog.text  # a line for every photo is too many


def test_of_an_edited_photo_the_edited_preview(
    client: httpx.Client, indexed_immich: FakeImmich
) -> None:
    asset = indexed_immich.upload(picture(40))
    edited = indexed_immich.media_dir / "edited.jpeg"
    edited.write_bytes(b"edited")
    indexed_immich.db.execute(
        """INSERT INTO asset_file ("assetId", type, path, "isEdited")
           VALUES (%s, 'preview', %s, true)""",
        [asset, f"{indexed_immich.location}/edited.jpeg"],
    )
    assert get(client, asset).content == b"edited"


@pytest.mark.parametrize("key", [None, "", "another-key-of-16-signs", KEY[:-1], f"{KEY}é"])
def test_only_with_the_key(
    client: httpx.Client, indexed_immich: FakeImmich, key: str | None
) -> None:
    asset = indexed_immich.upload(picture(40))
    headers = {b"authorization": f"Bearer {key}".encode("latin-1")} if key else {}
    answer = client.get(f"/previews/{asset}", headers=headers)
    assert answer.status_code == 401
    assert get(client, uuid4(), "x").status_code == 401  # before anything is looked up


def test_off_without_a_key(gateway: Any, indexed_immich: FakeImmich) -> None:
    client = gateway(database=Database(indexed_immich.url))
    for key in (None, KEY):
        answer = get(client, uuid4(), key)
        assert answer.status_code == 501
        assert "PREVIEWS_KEY" in answer.json()["detail"]


def test_nothing_but_previews_in_their_folder(
    client: httpx.Client, indexed_immich: FakeImmich, tmp_path: Path, gateway: Any
) -> None:
    asset = indexed_immich.upload(picture(40))
    (indexed_immich.media_dir / "inside").write_bytes(b"inside")
    secret = tmp_path / "secret"
    secret.write_bytes(b"secret")
    (indexed_immich.media_dir / "link").symlink_to(secret)
    os.mkfifo(indexed_immich.media_dir / "pipe")
    location = indexed_immich.location

    def answer(path: object, asked: httpx.Client = client) -> int:
        indexed_immich.db.execute(
            """UPDATE asset_file SET path = %s WHERE "assetId" = %s AND type = 'preview'""",
            [str(path), asset],
        )
        status = get(asked, asset).status_code
        assert b"secret" not in get(asked, asset).content
        return status

    assert answer(f"{location}/inside") == 200
    for path in (
        secret,
        f"{location}/link",
        f"{location}/../secret",
        f"{location}/missing",
        "/etc/passwd",
        "secret",
    ):
        assert answer(path) == 404, path
    for path in (f"{location}/pipe", location):  # no files
        assert answer(path) in (404, 413), path
    # Without a map, Immich's own folder of previews alone.
    unmapped = gateway(
        database=Database(indexed_immich.url), db_url=indexed_immich.url, previews_key=KEY
    )
    assert answer(secret, unmapped) == 404
    (tmp_path / "thumbs").mkdir()
    (tmp_path / "thumbs" / "a").write_bytes(b"a")
    assert answer(tmp_path / "thumbs" / "a", unmapped) == 200
    for path in ("%2e%2e%2fsecret", "%2fetc%2fpasswd", f"{asset}%2f..%2fsecret"):
        assert get(client, path).status_code in (400, 404), path


def test_what_is_missing_fails_that_photo_alone(
    client: httpx.Client, indexed_immich: FakeImmich, previews: Callable[..., FetchedPreviews]
) -> None:
    asset, other = (indexed_immich.upload(picture(width)) for width in (40, 41))
    indexed_immich.preview_path(asset).unlink()
    worker = previews(client.base_url)
    for missing in (asset, uuid4()):
        with pytest.raises(FileNotFoundError):
            worker.read(missing, "/p")
    indexed_immich.preview_path(other).write_bytes(bytes(100_001))
    with pytest.raises(ImageError, match="MAX_IMAGE_BYTES"):
        worker.read(other, "/p")


def test_what_is_away_is_an_outage(
    client: httpx.Client, indexed_immich: FakeImmich, previews: Callable[..., FetchedPreviews]
) -> None:
    asset = indexed_immich.upload(picture(40))
    with pytest.raises(MediaAwayError, match="PREVIEWS_KEY isn't the gateway's"):
        previews(client.base_url, "another-key-of-16-signs").read(asset, "/p")
    indexed_immich.media_dir.rename(indexed_immich.media_dir.with_name("away"))
    with pytest.raises(MediaAwayError, match="answered 503"):
        previews(client.base_url).read(asset, "/p")


@pytest.mark.parametrize(
    ("reply", "says"),
    [
        (None, "doesn't answer"),
        (Answer(404, b"{}"), "answered 404 and no preview: is it a gateway"),
        (Answer(200, b"<html>"), "answered 200 and no preview"),
        (Answer(302, b"", {"location": "/elsewhere"}), "answered 302"),
        (Answer(501, b"{}"), "must be set at the gateway"),
        (Answer(500, b"{}"), "answered 500"),
    ],
)
def test_what_is_no_gateway_is_an_outage(
    previews: Callable[..., FetchedPreviews], reply: Answer | None, says: str
) -> None:
    with Peer(lambda _: reply) as there, pytest.raises(MediaAwayError, match=says):
        previews(there.url).read(uuid4(), "/p")


def test_more_bytes_than_allowed_are_not_taken(
    previews: Callable[..., FetchedPreviews],
) -> None:
    headers = {"x-preview-modified": "2024-05-01T12:00:00+00:00"}
    reply = Answer(200, bytes(100_001), headers)
    with Peer(lambda _: reply) as there, pytest.raises(ImageError, match="MAX_IMAGE_BYTES"):
        previews(there.url).read(uuid4(), "/p")


@pytest.mark.parametrize(
    ("url", "key", "says"),
    [("http://x", "", "needs PREVIEWS_KEY"), ("192.168.1.10:3003", KEY, "must look like http://")],
)
def test_settings_that_make_no_sense(url: str, key: str, says: str) -> None:
    with pytest.raises(SettingsError, match=says):
        FetchedPreviews(Settings(previews_url=url, previews_key=key))
