"""Immich's own search box through the gateway, as its clients use it."""

from typing import Any

import httpx
import psycopg
from immich_server import ImmichServer, assets_of

from gateway.database import Database

Rows = psycopg.Connection[Any]
SMART, METADATA = "/api/search/smart", "/api/search/metadata"
STOCK = {"stock": "搜索"}

# search-smart-response-item.json among the captures of a real 3.1
ITEM = {
    "id", "createdAt", "ownerId", "libraryId", "type", "originalPath", "originalFileName",
    "originalMimeType", "thumbhash", "fileCreatedAt", "fileModifiedAt", "localDateTime",
    "updatedAt", "isFavorite", "isArchived", "isTrashed", "visibility", "duration", "exifInfo",
    "livePhotoVideoId", "people", "checksum", "isOffline", "hasMetadata", "duplicateId", "resized",
    "width", "height", "isEdited",
}  # fmt: skip

# As captured from the web client (web-search-smart.json, web-search-ocr.json), and as its source
# has it for the mobile app (search_api.repository.dart).
WEB = {"visibility": "timeline", "page": 1, "withExif": True, "query": "", "language": "en-US"}
WEB_OCR = {"visibility": "timeline", "page": 1, "withExif": True, "ocr": "发票"}
MOBILE = {
    "query": "", "language": "zh-CN", "visibility": "timeline", "personIds": [], "page": 1,
    "size": 100,
}  # fmt: skip
MOBILE_OCR = {"ocr": "发票", "visibility": "timeline", "personIds": [], "page": 1, "size": 1000}
WEB_QUERY = {**WEB, "query": "ocr:发票"}
UUID4 = "5b1ad902-789b-42e3-8db5-a8c1be96fcf6"


def attached(gateway: Any, url: str, server: ImmichServer, **how: Any) -> httpx.Client:
    """A gateway attached to Immich, asked by Anna."""
    how.setdefault("database", Database(url))
    client: httpx.Client = gateway(db_url=url, immich_url=server.url, **how)
    client.headers["cookie"] = "immich_access_token=anna-session; immich_auth_type=password"
    return client


def found(answer: httpx.Response) -> list[str]:
    return [item["id"] for item in assets_of(answer)["items"]]


def search(client: httpx.Client, query: str = "ocr:发票", **more: Any) -> list[str]:
    return found(client.post(SMART, json={"query": query, **more}))


def scroll(client: httpx.Client, path: str = SMART, **request: Any) -> list[list[str]]:
    """All pages, as Immich's clients get them: by `nextPage`."""
    pages, page = [], "1"
    while page:
        assets = assets_of(client.post(path, json={**request, "page": int(page)}))
        pages.append([item["id"] for item in assets["items"]])
        page = assets["nextPage"]
    return pages


def another_version_of_everything(server: ImmichServer) -> None:
    server._db.execute('UPDATE asset SET "updatedAt" = now()')
