"""The page beside Immich: signing in, one's own photos and nobody else's, Immich's filters."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import urlsplit

import pytest
from nginx import NO_NGINX, has_nginx, running_nginx
from peers import Answer, Peer, Received
from playwright.sync_api import Page, expect
from visits import Visit, serving

from immich.base import load_schema
from immich.events import FakeImmich
from indexer.settings import Settings
from indexer.shared import SharedEngine
from pg.migrate import migrate

SAMPLES = Path(__file__).parents[2] / "immich_indexer/samples"


@pytest.fixture(scope="module")
def house(
    databases: Any, settings: Settings, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[SimpleNamespace]:
    """Anna, who runs the server, Boris, who shares with her, and Clara; Immich over HTTP."""

    def build(db: Any) -> None:
        load_schema(db)
        migrate(db)

    url = databases.fresh("indexed 3.1", build)
    immich = FakeImmich(url, tmp_path_factory.mktemp("media"))
    names = ("anna", "boris", "clara")
    people = {name: immich.add_user(name, admin=name == "anna") for name in names}
    immich.partner(people["boris"], people["anna"])
    ids = {}
    for name, owner, sample in (
        ("bill", "anna", "invoice.png"),
        ("triangle", "anna", "shape-green-triangle.jpg"),
        ("partners", "boris", "shape-yellow-star.jpg"),
        ("strangers", "clara", "shape-red-circle.jpg"),
    ):
        data = (SAMPLES / sample).read_bytes()
        ids[name] = immich.upload(data, owner=people[owner], name=f"{name}.jpg")
        lines = [{"text": "发票", "box": [0, 0, 0.2, 0, 0.2, 0.1, 0, 0.1], "text_score": 0.9}]
        immich.db.execute(
            "INSERT INTO indexer_v1.ocr (asset_id, text, lines, tsv, tokenizer, model,"
            " content_hash) VALUES (%s, '发票', %s, indexer_v1.to_tsvector('发票'),"
            " indexer_v1.tokenizer(), 'm', sha256('x'))",
            [ids[name], json.dumps(lines)],
        )
    immich.set_exif(ids["bill"], city="南京", country="中国", make="华为", model="P60")
    immich.album("报销", [ids["bill"]], owner=people["anna"])
    immich.add_face(ids["bill"], immich.add_person("小明", owner=people["anna"]))
    immich.set_favorite(ids["triangle"])
    immich.db.execute(
        "INSERT INTO indexer_v1.worker (id, host, pid, device, seen_at)"
        " VALUES (gen_random_uuid(), 'attic', 7, 'cpu', now() + interval '1 hour')"
    )
    immich.db.execute(
        "UPDATE indexer_v1.job SET dead_at = now(), last_error = 'damaged' WHERE task = 'clip'"
    )

    def answer(request: Received) -> Answer:
        sent = request.headers
        token = sent.get("cookie", "").removeprefix("immich_access_token=")
        name = (sent.get("x-api-key") or token).removesuffix("-key")
        if name not in people:
            return Answer.json({"message": "Authentication required"}, 401)
        if request.path == "/api/api-keys/me":
            return Answer.json(
                {"permissions": ["user.read", "asset.read", "asset.view", "job.create"]}
            )
        return Answer.json({"id": str(people[name]), "name": name, "isAdmin": name == "anna"})

    engine = SharedEngine(settings, url)
    try:
        with (
            Peer(answer) as peer,
            serving(settings, url, engine, db_url=url, immich_url=peer.url) as address,
        ):
            yield SimpleNamespace(url=address, ids=ids, immich=peer.url)
    finally:
        engine.close()
        immich.close()
        databases.drop(url)


def names(page: Page, count: int) -> set[str]:
    cells = page.locator(".cell")
    expect(cells).to_have_count(count)
    return {str(cell.get_attribute("aria-label")).split(" · ")[0] for cell in cells.all()}


def signed_in(house: SimpleNamespace, visit: Callable[..., Visit], name: str) -> Visit:
    """By Immich's own cookie, as where both are behind one proxy."""
    opened = visit(house.url)
    cookie = {"name": "immich_access_token", "value": f"{name}-key", "url": house.url}
    opened.context.add_cookies([cookie | {"httpOnly": True}])
    return opened


def test_signing_in_by_a_key_and_out_again(
    house: SimpleNamespace, visit: Callable[..., Visit]
) -> None:
    opened = visit(house.url)
    opened.allowed.append("401")
    page = opened.open("#/?q=ocr%3A%E5%8F%91%E7%A5%A8")
    field = page.get_by_label("Immich 的 API 密钥")
    expect(field).to_be_focused()
    assert page.locator(".cell").count() == 0
    field.fill("wrong")
    page.keyboard.press("Enter")
    expect(page.get_by_role("alert")).to_contain_text("Immich")
    field.fill("clara-key")
    page.get_by_role("button", name="登录").click()
    # Where one wanted to go.
    assert names(page, 1) == {"strangers.jpg"}
    (cookie,) = opened.context.cookies()
    assert (cookie["httpOnly"], cookie["sameSite"], cookie["path"]) == (True, "Strict", "/")
    assert page.evaluate("document.cookie") == ""
    page.reload()
    assert names(page, 1) == {"strangers.jpg"}
    page.get_by_role("link", name="索引").click()
    page.get_by_role("button", name="退出").click()
    expect(page.get_by_label("Immich 的 API 密钥")).to_be_visible()
    assert opened.context.cookies() == []
    page.reload()
    expect(page.get_by_label("Immich 的 API 密钥")).to_be_visible()


def test_everybody_sees_what_is_theirs(house: SimpleNamespace, visit: Callable[..., Visit]) -> None:
    opened = signed_in(house, visit, "anna")
    opened.allowed.append("404")
    page = opened.open()
    assert names(page, 3) == {"bill.jpg", "triangle.jpg", "partners.jpg"}
    expect(page.locator(".cell.loaded")).to_have_count(3)
    opened.open(f"#/photo/{house.ids['strangers']}")
    viewer = page.get_by_role("dialog")
    expect(viewer).to_contain_text("没有这张照片")
    assert viewer.locator("img").count() == 0
    opened.open(f"#/photo/{house.ids['partners']}")
    expect(viewer).to_contain_text("只有主人可以重做")
    expect(viewer.locator(".redo-task")).to_have_count(0)
    page = signed_in(house, visit, "clara").open()
    assert names(page, 1) == {"strangers.jpg"}


def test_immichs_filters(house: SimpleNamespace, visit: Callable[..., Visit]) -> None:
    page = signed_in(house, visit, "anna").open()
    assert len(names(page, 3)) == 3
    page.get_by_role("button", name="筛选").click()
    for label, value in (
        ("相册", "报销"),
        ("人物", "小明"),
        ("地点", "南京, 中国"),
        ("相机", "华为 P60"),
    ):
        page.get_by_label(label).select_option(label=value)
        expect(page.locator(".chip")).to_have_text(value)
        assert names(page, 1) == {"bill.jpg"}
        page.locator(".chip").click()
        assert len(names(page, 3)) == 3
    page.get_by_label("只看收藏").check()
    assert names(page, 1) == {"triangle.jpg"}
    page.keyboard.press("/")
    page.keyboard.type("ocr:发票")
    page.keyboard.press("Enter")
    assert names(page, 1) == {"triangle.jpg"}
    expect(page.locator(".chip")).to_have_text("只看收藏")


def test_the_index_page_tells_each_what_is_theirs_to_know(
    house: SimpleNamespace, visit: Callable[..., Visit]
) -> None:
    page = signed_in(house, visit, "anna").open("#/index")
    expect(page.locator("main")).to_contain_text("全部照片 · 4 张")
    expect(page.locator(".workers")).to_contain_text("attic")
    expect(page.locator(".failure")).to_contain_text("4 张")
    expect(page.locator(".failure .names a")).to_have_text(["bill.jpg", "triangle.jpg"])
    expect(page.locator("footer")).to_contain_text("以 anna 的身份登录")
    page = signed_in(house, visit, "clara").open("#/index")
    expect(page.locator("main")).to_contain_text("你的照片 · 1 张")
    expect(page.locator(".failure .names a")).to_have_text(["strangers.jpg"])
    expect(page.locator("main")).not_to_contain_text("attic")


@pytest.mark.skipif(not has_nginx(), reason=NO_NGINX)
def test_behind_the_proxy_immichs_own_session_is_enough(
    house: SimpleNamespace, visit: Callable[..., Visit], tmp_path: Path
) -> None:
    addresses = (urlsplit(house.url).netloc, urlsplit(house.immich).netloc)
    with running_nginx(tmp_path, *addresses) as port:
        opened = visit(f"http://127.0.0.1:{port}/indexer/")
        cookie = {"name": "immich_access_token", "value": "clara-key", "httpOnly": True}
        opened.context.add_cookies([cookie | {"url": f"http://127.0.0.1:{port}/"}])
        page = opened.open()
        assert names(page, 1) == {"strangers.jpg"}
        expect(page.locator(".cell.loaded")).to_have_count(1)
        page.locator(".cell").click()
        expect(page.get_by_role("dialog").locator(".lines li")).to_have_text("发票")
        page.get_by_role("button", name="重读文字").click()
        expect(page.locator(".redo-task .state").first).to_have_text("排队中…")
        page.keyboard.press("Escape")
        page.get_by_role("link", name="索引").click()
        expect(page.locator(".live.on")).to_have_text("实时")
        page.goto("about:blank")
