"""What Immich's search box shows, and in which form."""

from typing import Any

import httpx
import pytest
from box import ITEM, METADATA, MOBILE, MOBILE_OCR, SMART, WEB, WEB_OCR, Rows, found, search
from immich_server import EXIF, ImmichServer, assets_of


def test_ocr_ranks_by_text_and_anything_else_by_both(
    client: httpx.Client, photo: Any, server: ImmichServer
) -> None:
    both = photo("红色的圆", "红色的圆")
    seen = photo("", "红色的圆")
    read = photo("红色的圆 发票")
    photo("收据", "蓝色的正方形")
    ranked = search(client, "红色的圆")
    assert (ranked[0], set(ranked)) == (both, {both, seen, read})
    assert set(search(client, "ocr:红色的圆")) == {both, read}
    assert found(client.post(METADATA, json={"ocr": "发票"})) == [read]
    assert found(client.post(METADATA, json={"ocr": "支票"})) == []
    assert server.searches() == []


def test_items_are_immichs_own(
    client: httpx.Client, photo: Any, rows: Rows, server: ImmichServer
) -> None:
    asset = photo("发票", name="a.jpg")
    rows.execute("UPDATE asset_exif SET city = '上海', rating = 4")
    answer = client.post(SMART, json={"query": "ocr:发票", "withExif": True})
    assert answer.headers["content-type"] == "application/json; charset=utf-8"
    (item,) = assets_of(answer)["items"]
    assert item.keys() == ITEM
    assert (item["id"], item["originalFileName"], item["people"]) == (asset, "a.jpg", [])
    assert item["exifInfo"].keys() == set(EXIF)
    assert (item["exifInfo"]["city"], item["exifInfo"]["rating"]) == ("上海", 4)
    (plain,) = assets_of(client.post(SMART, json={"query": "ocr:发票"}))["items"]
    assert plain == {name: value for name, value in item.items() if name != "exifInfo"}


def test_what_the_clients_send(client: httpx.Client, photo: Any) -> None:
    asset = photo("发票", "红色的圆")
    for request in (WEB, MOBILE):
        for query in ("发票", "红色的圆", "ocr:发票", " ocr：发票 "):
            assert found(client.post(SMART, json={**request, "query": query})) == [asset], query
    for request in (WEB_OCR, MOBILE_OCR):
        assert found(client.post(METADATA, json=request)) == [asset]


@pytest.mark.parametrize("variant", ["2.3"])
def test_before_version_3_the_timeline_alone_is_searched(client: httpx.Client, photo: Any) -> None:
    shown = photo("发票")
    archived = photo("发票", visibility="archive")
    assert search(client) == [shown]
    assert search(client, visibility="archive") == [archived]
    assert found(client.post(SMART, json={"query": "ocr:发票", "withExif": True})) == [shown]
