"""A real Chromium, headless; without one these tests are skipped."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, expect
from visits import PATIENCE_MS, Visit, browsing, chromium

from indexer.settings import Settings

HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if chromium() is None:
        hint = "no Chromium: apt-get install chromium fonts-noto-cjk, or set CHROMIUM to its path"
        for item in items:
            if HERE in item.path.parents:
                item.add_marker(pytest.mark.skip(reason=hint))


@pytest.fixture(scope="session")
def settings() -> Settings:
    return Settings(clip_model="stand-in", clip_download="off", port=0)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    expect.set_options(timeout=PATIENCE_MS)
    with browsing() as started:
        yield started


@pytest.fixture
def visit(browser: Browser) -> Iterator[Callable[..., Visit]]:
    """Opens windows: a URL, and options as of Playwright's `new_context`."""
    opened: list[Visit] = []

    def open_window(url: str, **options: Any) -> Visit:
        opened.append(Visit(browser, url, options))
        return opened[-1]

    yield open_window
    for one in opened:
        one.close()
