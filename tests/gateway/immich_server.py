"""A server that stands in for Immich's own: its users, its assets by id, and its own search."""

import json
import re
import time
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from http.cookies import SimpleCookie
from typing import Any

import psycopg
from peers import Answer, Peer, Received
from psycopg.rows import dict_row

_ASSET = """
    SELECT to_jsonb(a) AS asset, to_jsonb(x) AS exif,
           encode(a.checksum, 'base64') AS checksum, u.name AS owner,
           a."ownerId" = %(user)s AS own
    FROM asset a JOIN "user" u ON u.id = a."ownerId" LEFT JOIN asset_exif x ON x."assetId" = a.id
    WHERE a.id = %(id)s AND a.visibility <> 'locked' AND (
        a."ownerId" = %(user)s OR a.visibility IN ('timeline', 'hidden') AND a."deletedAt" IS NULL
        AND EXISTS (SELECT FROM partner p WHERE p."sharedById" = a."ownerId"
                    AND p."sharedWithId" = %(user)s))
"""
EXIF = ("make", "model", "lensModel", "city", "state", "country", "description", "rating")


class ImmichServer:
    """Answers as Immich 3.1 does, from the same database.

    Args:
        sessions: users by their session token or API key.

    Attributes:
        stock: what Immich's own search answers with.
        asset_seconds: how long one asset takes; one at a time, as in Immich's one thread.
        on_asset: answers a request for an asset otherwise, unless it returns None.
    """

    def __init__(self, url: str, sessions: dict[str, uuid.UUID]) -> None:
        self.sessions = sessions
        self.stock = Answer.json({"stock": "搜索"})
        self.asset_seconds = 0.0
        self.on_asset: Callable[[Received], Answer | None] = lambda _: None
        self._thread = ThreadPoolExecutor(1)  # first come, first served
        self._db = psycopg.connect(url, autocommit=True, row_factory=dict_row)
        self._peer = Peer(self._answer)
        self.url = self._peer.url

    def __enter__(self) -> "ImmichServer":
        self._peer.__enter__()
        return self

    def __exit__(self, *why: Any) -> None:
        self._peer.__exit__(*why)
        self._db.close()

    @property
    def received(self) -> list[Received]:
        """Every request, in order."""
        return self._peer.received

    def assets_asked(self) -> list[str]:
        """Ids of the assets that were asked for, in order."""
        return [r.path.rpartition("/")[2] for r in self.received if "/api/assets/" in r.path]

    def searches(self) -> list[Received]:
        """What came through to Immich's own search."""
        return [r for r in self.received if r.path.startswith("/api/search/")]

    def _answer(self, request: Received) -> Answer | None:
        if request.method == "POST":
            return self.stock
        user = self.sessions.get(_token(request.headers))
        if user is None:
            return Answer.json({"message": "Invalid user token"}, 401)
        if request.path == "/api/users/me":
            return Answer.json({"id": str(user), "email": "x@y", "name": "N"})
        if request.path == "/api/api-keys/me":
            return Answer.json({"permissions": ["all"]})
        found = re.fullmatch(r"/api/assets/([0-9a-f-]{36})", request.path)
        if found is None:
            return Answer.json({"message": "Cannot GET"}, 404)
        return self._thread.submit(self._asset, request, found[1], user).result()

    def _asset(self, request: Received, asset: str, user: uuid.UUID) -> Answer:
        time.sleep(self.asset_seconds)
        if (otherwise := self.on_asset(request)) is not None:
            return otherwise
        row = self._db.execute(_ASSET, {"id": asset, "user": user}).fetchone()
        if row is None:
            return Answer.json({"message": "Not found or no asset.read access"}, 400)
        return Answer.json(_response(row))


def _response(row: dict[str, Any]) -> dict[str, Any]:
    asset, exif = row["asset"], row["exif"]
    return {
        "id": asset["id"],
        "createdAt": _iso(asset["createdAt"]),
        "ownerId": asset["ownerId"],
        "owner": {"id": asset["ownerId"], "name": row["owner"]},
        "libraryId": asset["libraryId"],
        "type": asset["type"],
        "originalPath": asset["originalPath"],
        "originalFileName": asset["originalFileName"],
        "originalMimeType": "image/jpeg",
        "thumbhash": None,
        **{
            name: _iso(asset[name])
            for name in ("fileCreatedAt", "fileModifiedAt", "localDateTime", "updatedAt")
        },
        "isFavorite": row["own"] and asset["isFavorite"],
        "isArchived": asset["visibility"] == "archive",
        "isTrashed": asset["deletedAt"] is not None,
        "visibility": asset["visibility"],
        "duration": asset["duration"],
        **({"exifInfo": {name: exif[name] for name in EXIF}} if exif else {}),
        "livePhotoVideoId": asset["livePhotoVideoId"],
        "tags": [{"id": str(uuid.uuid4()), "value": "a tag"}],
        "people": [{"id": str(uuid.uuid4()), "name": "Anna", "faces": []}],
        "unassignedFaces": [],
        "checksum": row["checksum"],
        "stack": None,
        "isOffline": asset["isOffline"],
        "hasMetadata": True,
        "duplicateId": asset["duplicateId"],
        "resized": True,
        "width": asset.get("width"),
        "height": asset.get("height"),
        "isEdited": asset.get("isEdited", False),
    }


def _iso(instant: str) -> str:
    moment = datetime.fromisoformat(instant).astimezone(UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _token(headers: dict[str, str]) -> str:
    cookie = SimpleCookie(headers.get("cookie", "")).get("immich_access_token")
    return (
        headers.get("x-immich-user-token")
        or headers.get("x-immich-session-token")
        or headers.get("authorization", "").removeprefix("Bearer ")
        or (cookie.value if cookie else "")
        or headers.get("x-api-key", "")
    )


def assets_of(answer: Any) -> dict[str, Any]:
    """The `assets` of a search's answer that is ours, checked for Immich's shape."""
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = json.loads(answer.content)
    assert found.keys() == {"albums", "assets"}, found
    assert found["albums"] == {"total": 0, "count": 0, "items": [], "facets": []}
    assets: dict[str, Any] = found["assets"]
    assert assets.keys() == {"total", "count", "items", "facets", "nextPage"}
    assert assets["total"] == assets["count"] == len(assets["items"])
    assert assets["facets"] == []
    return assets
