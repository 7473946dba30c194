"""Whatever reason the program can give, the Chinese page has it in Chinese.

The reasons are read in the program's source, so a new one without its Chinese fails here.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "gateway/page"

# Calls whose first argument is what people read on the page, and names that such texts are kept in.
RAISED = {"ImageError", "TimeLimitError", "MediaAwayError", "ModelUnavailable", "Failure"}
GATEWAY = {
    "NotAuthorizedException",
    "NotConfigured",
    "NotFoundException",
    "PermissionDeniedException",
    "ServiceUnavailableException",
    "DatabaseUnavailable",
    "DatabaseTooSlow",
}
KEPT = {"reason", "problem", "why", "note"}
# What the page asks for.
ROUTES = ("auth", "database", "events", "index", "photos", "reprocess", "search", "session")
# Faces are no part of it.
LEFT_OUT = {"indexer/models/faces.py"}


def template(node: ast.expr | None) -> str | None:
    """A text with 7 for what is filled in; None where it is none."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if isinstance(node, ast.JoinedStr):
        return "".join(
            part.value if isinstance(part, ast.Constant) else "7" for part in node.values
        )
    if isinstance(node, ast.IfExp):
        return template(node.body)
    return None


def texts(path: Path, calls: set[str]) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        found = None
        if isinstance(node, ast.Call) and node.args and isinstance(node.func, ast.Name):
            found = template(node.args[0]) if node.func.id in calls else None
        elif isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            found = template(node.value) if node.targets[0].id in KEPT else None
        elif isinstance(node, ast.FunctionDef) and node.name in ("problem", "_why", "_instruction"):
            yield from filter(
                None, (template(n.value) for n in ast.walk(node) if isinstance(n, ast.Return))
            )
        if found and " " in found:
            yield found


def reasons() -> set[str]:
    """All that there are."""
    found: set[str] = set()
    for path in (ROOT / "indexer").rglob("*.py"):
        if path.relative_to(ROOT).as_posix() not in LEFT_OUT:
            found.update(texts(path, RAISED))
    for name in ROUTES:
        found.update(texts(ROOT / f"gateway/{name}.py", GATEWAY))
    sql = "".join(path.read_text("utf-8") for path in (ROOT / "pg/sql/functions").glob("*.sql"))
    found.update(re.findall(r"'failed: ([^']+[^': ])'", sql))
    return found


@pytest.fixture
def page(browser: Browser) -> Iterator[Callable[[str], Page]]:
    """Windows in a language, with the page's modules and nothing else."""
    contexts = []

    def open_window(locale: str) -> Page:
        context = browser.new_context(locale=locale)
        contexts.append(context)
        context.route(
            "http://page.test/**",
            lambda route: (
                route.fulfill(
                    content_type="text/javascript", path=PAGE / route.request.url.rsplit("/", 1)[1]
                )
                if route.request.url.endswith(".js")
                else route.fulfill(content_type="text/html", body="<!doctype html>")
            ),
        )
        window = context.new_page()
        window.goto("http://page.test/")
        return window

    yield open_window
    for context in contexts:
        context.close()


WHY = "async (all) => { const { why } = await import('/reasons.js'); return all.map(why); }"


def test_every_reason_has_its_chinese(page: Callable[[str], Page]) -> None:
    known = sorted(reasons())
    assert len(known) > 40
    said = page("zh-CN").evaluate(WHY, known)
    assert [text for text, chinese in zip(known, said, strict=True) if text == chinese] == []
    assert page("en-GB").evaluate(WHY, known) == known


@pytest.mark.parametrize(
    ("reason", "chinese"),
    [
        (
            "can't read /data/thumbs/a: b.jpg: Permission denied",
            "读不了文件 /data/thumbs/a: b.jpg：没有权限",
        ),
        (
            "damaged or truncated JPEG file (image file is truncated (0 bytes not processed))",
            "JPEG 文件已损坏或不完整（image file is truncated (0 bytes not processed)）",
        ),
        (
            "ocr inference took longer than 120 s (MAX_IMAGE_SECONDS)",
            "太慢：读文字超过 120 秒（MAX_IMAGE_SECONDS）",
        ),
        (
            "CLIP waits: CLIP model ViT-B-16: its weights are missing: put clip_cn_vit-b-16.pt "
            "into /models, from https://a.b/c",
            "画面在等：CLIP 模型 ViT-B-16：缺少权重：把 clip_cn_vit-b-16.pt 放进 /models，下载地址 https://a.b/c",
        ),
        (
            "the worker ended 3 times while it worked on this photo, or the database's session did",
            "处理这张照片时，工作进程（或它的数据库会话）中断了 3 次",
        ),
        ("the database refused the result: value too long", "数据库没有收下结果：value too long"),
        ("something that nobody has thought of", "something that nobody has thought of"),
        ("", ""),
    ],
)
def test_reasons_in_chinese(page: Callable[[str], Page], reason: str, chinese: str) -> None:
    assert page("zh-CN").evaluate(WHY, [reason]) == [chinese]
