"""Scrolling on in Immich's search box."""

from typing import Any

import httpx
import pytest
from box import METADATA, SMART, another_version_of_everything, found, scroll
from immich_server import ImmichServer, assets_of
from peers import Answer, Received

from gateway import immich_search
from gateway.immich_items import AT_LEAST


def test_pages_are_immichs(client: httpx.Client, photo: Any) -> None:
    """Of 12 photos; whoever counts pages for himself gets the same."""
    photos = {photo("发票") for _ in range(12)}
    for size in (1, 4, 6, 12, 13, 100):
        pages = scroll(client, query="ocr:发票", size=size)
        assert [len(page) for page in pages[:-1]] == [size] * (len(pages) - 1)
        assert len(pages) == -(-12 // size)
        assert {asset for page in pages for asset in page} == photos
        assert sum(map(len, pages)) == 12
        second = client.post(SMART, json={"query": "ocr:发票", "size": size, "page": 2})
        assert found(second) == (pages[1] if len(pages) > 1 else [])


def test_a_slow_immich_makes_the_page_shorter_and_loses_nothing(
    client: httpx.Client, photo: Any, server: ImmichServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    photos = [photo("发票") for _ in range(60)]
    monkeypatch.setattr(immich_search, "_ITEMS_SECONDS", 0.0)
    server.asset_seconds = 0.01
    pages = scroll(client, METADATA, ocr="发票", size=50)
    assert AT_LEAST <= len(pages[0]) < 50
    assert sorted(asset for page in pages for asset in page) == sorted(photos)
    # what was asked for is asked for once, and the next search has it all
    assert sorted(server.assets_asked()) == sorted(photos)
    monkeypatch.setattr(immich_search, "_ITEMS_SECONDS", 60.0)
    assert [len(page) for page in scroll(client, METADATA, ocr="发票", size=50)] == [50, 10]


def test_what_immich_does_not_show_is_left_out_and_the_pages_go_on(
    client: httpx.Client, photo: Any, server: ImmichServer
) -> None:
    photos = [photo("发票") for _ in range(9)]
    order = [asset for page in scroll(client, query="ocr:发票", size=3) for asset in page]
    assert sorted(order) == sorted(photos)
    gone, trashed, locked = order[1], order[4], order[8]

    def reply(request: Received) -> Answer | None:
        asset = request.path.rpartition("/")[2]
        if asset == gone:
            return Answer.json({"message": "Not found or no asset.read access"}, 400)
        if asset in (trashed, locked):
            state = {"isTrashed": asset == trashed, "visibility": "locked"}
            return Answer.json({"id": asset, **state})
        return None

    server.on_asset = reply
    another_version_of_everything(server)
    pages = scroll(client, query="ocr:发票", size=3)
    shown = [a for a in order if a not in (gone, trashed, locked)]
    assert [asset for page in pages for asset in page] == shown
    assert [len(page) for page in pages] == [2, 2, 2]


def test_more_than_there_is(client: httpx.Client, photo: Any) -> None:
    photo("发票")
    for page in (2, 1000, 1_000_050, 2_000_000):
        assets = assets_of(client.post(SMART, json={"query": "ocr:发票", "page": page}))
        assert (assets["items"], assets["nextPage"]) == ([], None)
