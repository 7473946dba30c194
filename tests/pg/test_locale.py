"""A database whose locale knows no letters but ASCII's, as CloudNativePG makes it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit
from uuid import uuid4

import psycopg
import pytest
from test_matches import marked

from immich.base import load_schema
from pg import functions
from pg.connect import Connection, connect
from pg.migrate import migrate
from pg.query import fetch_value


@pytest.fixture(scope="module")
def db(databases: Any) -> Iterator[Connection]:
    name = f"test_{uuid4().hex}"
    with psycopg.connect(databases.url, autocommit=True) as server:
        libc = "LOCALE_PROVIDER libc " if server.info.server_version >= 150_000 else ""
        locale = f"TEMPLATE template0 ENCODING 'UTF8' {libc}LOCALE 'C'"
        server.execute(f"CREATE DATABASE {name} {locale}".encode())
    url = urlsplit(databases.url)._replace(path=f"/{name}").geturl()
    with connect(url) as connection:
        load_schema(connection)
        migrate(connection)
        yield connection
    databases.drop(url)


def test_letters_are_letters(db: Connection) -> None:
    assert fetch_value(db, "SELECT lower('É') = 'É'"), "the locale is what it is to be"
    assert fetch_value(db, "SELECT indexer_v1.normalize('ＣＡＦÉ Ünï 發票')") == "café ünï 发票"
    assert fetch_value(db, "SELECT indexer_v1.to_tsvector('CAFÉ') @@ indexer_v1.to_tsquery('café')")
    assert marked(db, "药品\n服药", "药") == ["[药]品", "服[药]"]
    picture = fetch_value(db, "SELECT picture FROM indexer_v1.parse_query('海边 OR 日落 -人')")
    assert picture.split() == ["海边", "日落"]
    assert migrate(db).applied == []


def test_functions_are_made_anew_where_the_collation_is_another(
    db: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a restore on another server; also where there is none at all."""
    with db.transaction(force_rollback=True):
        monkeypatch.setattr(functions, "_COLLATIONS", [])
        assert "functions/10_normalize.sql" in migrate(db).applied
        assert fetch_value(db, "SELECT indexer_v1.normalize('發票')") == "发票"
