"""The page in folder mode, over some of the samples, with a worker that reads and looks."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import quote

import httpx
import pytest
from playwright.sync_api import Locator, Page, expect
from visits import Visit, serving

from indexer import results
from indexer.library import scan
from indexer.settings import Settings
from indexer.shared import SharedEngine
from indexer.worker import Worker
from pg.connect import connect
from pg.migrate import create_library_tables, migrate

SAMPLES = Path(__file__).parents[2] / "immich_indexer/samples"
NAMES = (
    "invoice.png",
    "menu-noodles.jpg",
    "ticket-train-tilted.jpg",
    "shape-red-circle.jpg",
    "shape-red-circle-exit.jpg",
    "shape-blue-square-exit.jpg",
)
HOSTILE = "<img src=x onerror=alert(1)>&amp;.jpg"
MARKUP = "<script>alert(1)</script><b onclick=alert(2)>发票</b>"
PHONE = {"viewport": {"width": 390, "height": 844}, "has_touch": True, "is_mobile": True}


@pytest.fixture(scope="module")
def house(
    databases: Any, settings: Settings, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[SimpleNamespace]:
    """A folder with an index: samples, one damaged photo, one with a hostile name and text."""
    folder = tmp_path_factory.mktemp("photos")
    for name in NAMES:
        (folder / name).write_bytes((SAMPLES / name).read_bytes())
    (folder / HOSTILE).write_bytes((SAMPLES / "shape-yellow-star.jpg").read_bytes())
    (folder / "damaged.jpg").write_bytes(b"\xff\xd8\xff\xe0 no more than that")
    url = databases.fresh("folder", lambda db: (create_library_tables(db), migrate(db)))
    engine = SharedEngine(settings, url)
    with connect(url) as db:
        results.use_clip_model(db, engine.clip_info.name, engine.clip_info.dim)
        scan(db, folder)
        ids = dict(db.execute('SELECT "originalFileName", id::text FROM asset').fetchall())
        worker = Worker(settings, url, engine)
        worker.start()
        try:
            until = time.monotonic() + 300
            while pending(db):
                assert time.monotonic() < until, "the samples weren't indexed in time"
                time.sleep(0.1)
            line = {"text": MARKUP, "box": [0.1, 0.1, 0.9, 0.1, 0.9, 0.2, 0.1, 0.2]}
            db.execute(
                "UPDATE indexer_v1.ocr SET text = %s, lines = %s,"
                " tsv = indexer_v1.to_tsvector(%s) WHERE asset_id = %s",
                [MARKUP, json.dumps([line | {"text_score": 0.9}]), MARKUP, ids[HOSTILE]],
            )
            with serving(settings, url, engine, photos_dir=folder) as address:
                yield SimpleNamespace(url=address, ids=ids, db=db, folder=folder)
        finally:
            worker.stop()
            engine.close()
    databases.drop(url)


def pending(db: Any) -> int:
    row = db.execute("SELECT count(*) FROM indexer_v1.job WHERE dead_at IS NULL").fetchone()
    return int(row[0])


@pytest.fixture
def window(house: SimpleNamespace, visit: Callable[..., Visit]) -> Visit:
    """A window in Chinese; the damaged photo's picture is missing, and the browser says so."""
    opened = visit(house.url)
    opened.allowed.append(house.ids["damaged.jpg"])
    return opened


def loaded(page: Page, count: int) -> Locator:
    """The wall, when it has this many photos and a picture is there."""
    cells = page.locator(".cell")
    expect(cells).to_have_count(count)
    expect(page.locator(".cell.loaded").first).to_be_visible()
    return cells


def rectangle(locator: Locator) -> tuple[float, float, float, float]:
    """Left, top, right, bottom."""
    found: list[float] = locator.evaluate(
        "node => { const r = node.getBoundingClientRect();"
        " return [r.left, r.top, r.right, r.bottom]; }"
    )
    return tuple(found)  # type: ignore[return-value]


def place(box: list[float], picture: tuple[float, ...]) -> tuple[float, float, float, float]:
    """Where a box is on the screen."""
    width, height = picture[2] - picture[0], picture[3] - picture[1]
    return (
        picture[0] + min(box[0::2]) * width,
        picture[1] + min(box[1::2]) * height,
        picture[0] + max(box[0::2]) * width,
        picture[1] + max(box[1::2]) * height,
    )


@pytest.mark.parametrize("options", [{}, PHONE], ids=["desktop", "phone"])
def test_matching_words_are_drawn_where_they_are(
    house: SimpleNamespace, visit: Callable[..., Visit], options: dict[str, Any]
) -> None:
    for query in ("发票号码", "上海虹桥"):
        page = visit(house.url, **options).open(f"#/?q={quote(query)}")
        cell = loaded(page, 1).first
        answer = httpx.post(f"{house.url}search", json={"q": query}).json()["results"][0]
        assert cell.get_attribute("data-id") == answer["asset_id"]
        picture = rectangle(cell.locator("img"))
        lines, hits = cell.locator("polygon.line"), cell.locator("polygon.hit")
        expect(lines).to_have_count(len(answer["lines"]))
        for n, line in enumerate(answer["lines"]):
            drawn = rectangle(lines.nth(n))
            assert drawn == pytest.approx(place(line["box"], picture), abs=2)
            (first, last), letters = line["marks"][0], len(line["text"])
            hit = rectangle(hits.nth(n))
            whole = drawn[2] - drawn[0]
            # Chinese before digits: the marked characters take a little more than their share.
            assert hit[0] >= drawn[0] - 1
            assert hit[2] <= drawn[2] + 1
            assert (last - first) / letters - 0.1 < (hit[2] - hit[0]) / whole < 1.01
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")


def test_hovering_tells_why_and_how_well(window: Visit) -> None:
    page = window.open(f"#/?q={quote('红色的圆 出口')}")
    cell = page.locator(".cell").first
    expect(cell.locator(".caption")).to_have_css("opacity", "0")
    cell.hover()
    expect(cell.locator(".caption")).to_have_css("opacity", "1")
    expect(cell.locator(".caption mark")).to_have_text("出口")
    expect(cell.locator(".scores")).to_contain_text("文字 第 1")
    expect(cell.locator(".scores")).to_contain_text("画面 第")
    expect(cell.locator(".name")).to_contain_text("shape-red-circle-exit.jpg")


def test_by_keyboard_alone(window: Visit) -> None:
    page = window.open()
    loaded(page, 8)
    field = page.get_by_role("searchbox")
    page.keyboard.press("/")
    expect(field).to_be_focused()
    expect(page.locator(".help")).to_be_visible()
    page.keyboard.type("出口")
    page.keyboard.press("Enter")
    cells = loaded(page, 2)
    expect(cells.first).to_be_focused()
    assert cells.first.evaluate("node => getComputedStyle(node).outlineStyle") == "solid"
    page.keyboard.press("ArrowRight")
    expect(cells.nth(1)).to_be_focused()
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("Enter")
    viewer = page.get_by_role("dialog")
    expect(viewer).to_be_visible()
    first = viewer.get_by_role("heading", level=1).text_content()
    page.keyboard.press("ArrowRight")
    expect(viewer.get_by_role("heading", level=1)).not_to_have_text(str(first))
    page.keyboard.press("Escape")
    expect(viewer).to_be_hidden()
    expect(page.locator(".cell:focus")).to_have_count(1)
    page.keyboard.press("/")
    page.keyboard.press("Escape")
    expect(field).to_have_value("")
    page.keyboard.press("Enter")
    loaded(page, 8)
    # Down and up again, over rows.
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowUp")
    expect(page.locator(".cell:focus")).to_have_count(1)


def test_filters(window: Visit) -> None:
    page = window.open()
    loaded(page, 8)
    page.get_by_role("button", name="筛选").click()
    # What a folder of photos doesn't have isn't offered.
    expect(page.locator("#filters input, #filters select")).to_have_count(2)
    page.get_by_label("到").fill("2001-01-31")
    expect(page.locator(".empty")).to_contain_text("没有找到")
    expect(page.locator(".chip")).to_have_text("到 2001年1月31日")
    page.locator(".empty a").click()
    loaded(page, 8)
    expect(page.locator(".chip")).to_have_count(0)


def test_similar_photos(house: SimpleNamespace, window: Visit) -> None:
    page = window.open(f"#/photo/{house.ids['shape-red-circle.jpg']}")
    viewer = page.get_by_role("dialog")
    expect(viewer.locator(".strip a").first).to_have_attribute(
        "aria-label", "shape-red-circle-exit.jpg"
    )
    viewer.get_by_text("查看全部").click()
    # Squares, stars and papers are too far from it, and it itself isn't like itself.
    cell = loaded(page, 1)
    expect(cell).to_have_attribute("data-id", house.ids["shape-red-circle-exit.jpg"])
    cell.hover()
    expect(cell.locator(".scores")).to_contain_text("相似度 0.9")
    window.open(f"#/?like={house.ids['shape-blue-square-exit.jpg']}")
    expect(page.locator(".empty")).to_contain_text("没有相似的照片")
    window.open(f"#/?like={house.ids['damaged.jpg']}")
    expect(page.locator(".empty")).to_contain_text("画面还没有编入索引")


def test_text_lies_over_the_picture_and_can_be_selected_and_copied(
    house: SimpleNamespace, window: Visit
) -> None:
    window.context.grant_permissions(["clipboard-read", "clipboard-write"])
    asset = house.ids["ticket-train-tilted.jpg"]
    page = window.open(f"#/photo/{asset}")
    viewer = page.get_by_role("dialog")
    expect(viewer.locator(".picture.loaded")).to_be_visible()
    lines = httpx.get(f"{house.url}assets/{asset}").json()["lines"]
    laid = viewer.locator(".laid")
    expect(laid).to_have_count(len(lines))
    picture = rectangle(viewer.locator("img.full"))
    for n, line in enumerate(lines):
        # Of a line that isn't level, its corners' outline.
        assert rectangle(laid.nth(n)) == pytest.approx(place(line["box"], picture), abs=4)
    index = next(n for n, line in enumerate(lines) if "虹桥" in line["text"])
    left, top, right, bottom = rectangle(laid.nth(index))
    page.mouse.dblclick((left + right) / 2, (top + bottom) / 2)
    assert str(page.evaluate("getSelection().toString()")) in lines[index]["text"]
    page.evaluate("getSelection().selectAllChildren(document.querySelector('.text-layer'))")
    page.keyboard.press("Control+c")
    copied = str(page.evaluate("navigator.clipboard.readText()"))
    assert copied.splitlines() == [line["text"] for line in lines]
    page.evaluate("navigator.clipboard.writeText('')")
    viewer.get_by_role("button", name="复制全部").click()
    expect(page.locator("#said")).to_have_text("已复制")
    assert page.evaluate("navigator.clipboard.readText()") == copied


@pytest.mark.parametrize(
    ("task", "button", "doing"),
    [("ocr", "重读文字", "正在读…"), ("clip", "重看画面", "正在看…")],
)
def test_redoing_shows_how_far_it_is(
    house: SimpleNamespace, window: Visit, task: str, button: str, doing: str
) -> None:
    asset = house.ids["menu-noodles.jpg"]
    table = f"indexer_v1.{task}"
    house.db.execute(f"UPDATE {table} SET updated_at = '2001-01-01' WHERE asset_id = %s", [asset])
    with window.page.expect_response(lambda answer: "/events" in answer.url):
        page = window.open(f"#/photo/{asset}")
    row = page.locator(f'.redo-task[data-task="{task}"]')
    expect(page.locator(".made")).to_contain_text("2001")
    row.evaluate(
        "node => { const state = node.querySelector('.state'); window.told = [];"
        " new MutationObserver(() => window.told.push(state.textContent))"
        "   .observe(state, {childList: true, characterData: true, subtree: true}); }"
    )
    row.get_by_role("button", name=button).click()
    expect(row.locator(".state")).to_contain_text("完成，用了")
    told = [text for text in page.evaluate("window.told") if text]
    # That it is being worked at is told by an event alone: asking would say "waiting".
    assert told[:2] == ["排队中…", doing]
    assert told[-1].startswith("完成")
    expect(row.locator("progress")).to_be_hidden()
    done = house.db.execute(
        f"SELECT updated_at > '2002-01-01' FROM {table} WHERE asset_id = %s", [asset]
    ).fetchone()
    assert done == (True,)
    expect(page.locator(".made")).not_to_contain_text("2001")


def test_a_failed_photo_is_explained_retried_and_mended(
    house: SimpleNamespace, window: Visit
) -> None:
    page = window.open("#/index")
    expect(page.locator(".live.on")).to_have_text("实时")
    cards = page.locator(".card")
    expect(cards.nth(0).locator(".big")).to_have_text("7 / 8")
    expect(cards.nth(0)).to_contain_text("失败 1")
    expect(page.locator(".workers li")).to_have_count(1)
    failures = page.locator(".failure")
    expect(failures).to_have_count(2)  # its text, its picture
    reason = failures.first.locator(".reason")
    expect(reason).to_contain_text("已损坏或不完整")
    expect(reason).to_have_attribute("title", re.compile("^damaged or truncated"))
    # As it is, it fails again.
    before = house.db.execute("SELECT max(dead_at) FROM indexer_v1.job").fetchone()
    failures.first.get_by_role("button", name="重试").click()
    expect(page.locator("#said")).to_contain_text("1 个任务重新排队")
    until = time.monotonic() + 30
    while house.db.execute("SELECT max(dead_at) FROM indexer_v1.job").fetchone() == before:
        assert time.monotonic() < until
        time.sleep(0.05)
    expect(failures).to_have_count(2)
    # From the failed photo's own view, too.
    failures.first.get_by_role("link", name="damaged.jpg").click()
    expect(page.get_by_role("dialog").locator(".warning")).to_contain_text("已损坏或不完整")
    page.go_back()
    good = (SAMPLES / "shape-green-triangle.jpg").read_bytes()
    (house.folder / "damaged.jpg").write_bytes(good)
    page.get_by_role("button", name="全部重试").click()
    expect(cards.nth(0)).to_contain_text("全部完成")
    expect(cards.nth(1)).to_contain_text("全部完成")
    expect(page.locator("main")).to_contain_text("没有失败的照片。")
    expect(cards.nth(0).locator(".big")).to_have_text("8 / 8")


def test_names_and_texts_are_never_markup(house: SimpleNamespace, window: Visit) -> None:
    page = window.open(f"#/?q={quote('ocr:发票')}")
    cell = page.locator(f'.cell[data-id="{house.ids[HOSTILE]}"]')
    cell.hover()
    expect(cell.locator(".said")).to_have_text(MARKUP)
    expect(cell.locator(".name")).to_contain_text(HOSTILE)
    cell.click()
    viewer = page.get_by_role("dialog")
    expect(viewer.get_by_role("heading", level=1)).to_have_text(HOSTILE)
    expect(viewer.locator(".lines li")).to_have_text(MARKUP)
    expect(viewer.locator(".laid")).to_have_text(MARKUP)
    assert page.locator("script:not([src]), [onerror], [onclick], main b").count() == 0
    for address in ("#/?q=" + quote(MARKUP), "#/?place=x&camera=%5B1&after=zzz", "#/photo/..%2F.."):
        page.goto("about:blank")
        window.allowed.append("422" if "place" in address else "404")
        window.allowed.append("400")
        window.open(address)
        expect(page.locator("#main, dialog").first).not_to_be_empty()
    assert page.locator("script:not([src])").count() == 0


def test_on_a_phone(house: SimpleNamespace, visit: Callable[..., Visit]) -> None:
    opened = visit(house.url, **PHONE)
    opened.allowed.append(house.ids["damaged.jpg"])
    page = opened.open()
    cells = loaded(page, 8)
    assert page.evaluate("document.documentElement.scrollWidth") == 390
    widest = max(rectangle(cell)[2] for cell in cells.all())
    assert 385 <= widest <= 390
    page.locator(f'.cell[data-id="{house.ids["menu-noodles.jpg"]}"]').tap()
    viewer = page.get_by_role("dialog")
    expect(viewer.locator(".picture.loaded")).to_be_visible()
    left, _, right, _ = rectangle(viewer.locator("img.full"))
    assert left >= 0
    assert right <= 390
    button = viewer.get_by_role("button", name="重读文字")
    button.scroll_into_view_if_needed()
    expect(button).to_be_in_viewport()
    viewer.get_by_role("button", name="关闭").tap()
    expect(viewer).to_be_hidden()
    page.get_by_role("link", name="索引").tap()
    expect(page.locator(".card")).to_have_count(2)
    assert page.evaluate("document.documentElement.scrollWidth") == 390


def test_in_english_in_the_dark_and_switched_to_chinese(
    house: SimpleNamespace, visit: Callable[..., Visit]
) -> None:
    opened = visit(house.url, locale="en-GB", color_scheme="dark")
    page = opened.open(f"#/?q={quote('牛肉面')}")
    loaded(page, 1)
    expect(page.locator("html")).to_have_attribute("lang", "en")
    expect(page.locator(".head")).to_contain_text("1 photo")
    red, green, blue = page.evaluate(
        "getComputedStyle(document.documentElement).backgroundColor.match(/\\d+/g).map(Number)"
    )
    assert max(red, green, blue) < 60
    page.get_by_role("button", name="切换到中文").click()
    expect(page.locator("html")).to_have_attribute("lang", "zh-Hans")
    expect(page.locator(".head")).to_contain_text("1 张照片")
    page.reload()
    expect(page.locator(".head")).to_contain_text("1 张照片")


def test_what_goes_wrong_is_said(house: SimpleNamespace, window: Visit) -> None:
    window.allowed += ["404", "ERR_FAILED", "503"]
    page = window.open("#/photo/00000000-0000-0000-0000-000000000000")
    expect(page.get_by_role("dialog")).to_contain_text("没有这张照片")
    page.keyboard.press("Escape")
    loaded(page, 8)
    page.route("**/search", lambda route: route.abort())
    window.open(f"#/?q={quote('出口')}")
    expect(page.get_by_role("alert")).to_contain_text("网关没有回应")
    page.unroute("**/search")
    page.get_by_role("button", name="再试一次").click()
    loaded(page, 2)
    problem = json.dumps({"detail": "PostgreSQL took longer than 30 s, or is out of reach."})
    page.route("**/search", lambda route: route.fulfill(status=503, body=problem))
    window.open(f"#/?q={quote('发票')}")
    expect(page.get_by_role("alert")).to_contain_text("PostgreSQL 超过 30 秒没有回应")
