"""A visitor's browser window, and a gateway to visit."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import msgspec
from playwright.sync_api import Browser, Page, sync_playwright

from gateway.app import create_app
from gateway.database import Database
from gateway.server import running
from indexer.settings import Settings
from indexer.shared import SharedEngine

PATIENCE_MS = 30_000

_FLAGS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
)


def chromium() -> str | None:
    """Where the browser is, if it is."""
    names = ("chromium", "chromium-browser", "google-chrome")
    return os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, names)), None)


@contextmanager
def browsing() -> Iterator[Browser]:
    """A browser. Not for a whole session: while it runs, pytest-asyncio can't."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium(), args=_FLAGS)
        yield browser
        browser.close()


@contextmanager
def serving(settings: Settings, url: str, engine: SharedEngine, **changed: Any) -> Iterator[str]:
    """URL of a gateway on a database, with a slash at the end."""
    chosen = msgspec.structs.replace(settings, **changed)
    with running(create_app(chosen, engine, Database(url)), chosen) as address:
        yield address + "/"


class Visit:
    """A window; what the page complains about fails the test.

    Attributes:
        allowed: parts of complaints that are expected.
    """

    def __init__(self, browser: Browser, url: str, options: dict[str, Any]) -> None:
        defaults = {"locale": "zh-CN", "viewport": {"width": 1280, "height": 800}}
        self.context = browser.new_context(**defaults | options)
        self.url = url
        self.allowed: list[str] = []
        self._complaints: list[str] = []
        self.context.set_default_timeout(PATIENCE_MS)
        self.context.on("console", self._hear)
        self.context.on("weberror", lambda error: self._complaints.append(str(error.error)))
        self.page: Page = self.context.new_page()
        self.page.on("dialog", lambda dialog: self._complaints.append(f"dialog: {dialog.message}"))

    def open(self, address: str = "") -> Page:
        """Go to an address of the page, e.g. ``#/?q=…``."""
        self.page.goto(self.url + address)
        return self.page

    def close(self) -> None:
        """Close the window; raises AssertionError where the page complained."""
        self.context.close()
        unexpected = [
            one for one in self._complaints if not any(part in one for part in self.allowed)
        ]
        assert unexpected == []

    def _hear(self, message: Any) -> None:
        if message.type in {"error", "warning"}:
            where = message.location.get("url", "")
            self._complaints.append(f"{message.type}: {message.text} ({where})")
