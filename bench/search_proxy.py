"""Immich's search box through the gateway: how long the first answer takes.

    python -m bench.search_proxy [--asset-ms 10] [--searches 40] [--photos 20000]

The Immich beside it is a stand-in: a process that spends so much CPU on each asset, one after the
other, as Immich's one thread does (100 in parallel took about a second on a real 3.1). Cold:
nothing of the answer is in the gateway's memory. Warm: all of it is. All 100: a whole page, cold,
by as many answers as it takes. CLIP is the stand-in: a real one adds the few
milliseconds of embedding a text.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import UUID, uuid4

import httpx
import msgspec
import numpy as np
from rich.console import Console
from rich.table import Table

from gateway.app import create_app
from gateway.database import Database
from gateway.server import running
from immich_indexer.runtime import configure_logging
from indexer.models.engine import Engine
from indexer.models.types import Lane
from indexer.settings import Settings
from pg.connect import connect
from pg.embedded import Server
from pg.migrate import create_library_tables, migrate

_WORDS = ("发票", "收据", "合计", "门票", "电话", "海报", "菜单", "车票", "名片", "合同")
_SHOWS = ("红色的圆", "蓝色的正方形", "绿色的三角形", "黄色的圆")
_GOAL_MS = 400.0

# What Immich has and a folder of photos hasn't, as far as this search looks at it.
_IMMICH = """
    CREATE TABLE "user" (id uuid PRIMARY KEY, "deletedAt" timestamptz);
    CREATE TABLE partner ("sharedById" uuid, "sharedWithId" uuid, "inTimeline" boolean);
    CREATE TABLE person (id uuid PRIMARY KEY);
    CREATE TABLE smart_search ("assetId" uuid PRIMARY KEY);
    CREATE TABLE ocr_search ("assetId" uuid PRIMARY KEY, text text);
    CREATE TABLE asset_exif ("assetId" uuid PRIMARY KEY, "updateId" uuid DEFAULT gen_random_uuid());
    ALTER TABLE asset ADD COLUMN "updateId" uuid NOT NULL DEFAULT gen_random_uuid();
"""
_FILL = """
    INSERT INTO asset (id, "ownerId", type, "originalPath", "originalFileName", "fileCreatedAt",
                       "fileModifiedAt", "localDateTime")
    SELECT gen_random_uuid(), %(user)s, 'IMAGE', '/' || n, n || '.jpg', now(), now(), now()
    FROM generate_series(1, %(photos)s) AS n;
"""
_TEXTS = """
    INSERT INTO indexer_v1.ocr (asset_id, text, lines, tsv, tokenizer, model, content_hash)
    SELECT id, body, '[]', indexer_v1.to_tsvector(body), indexer_v1.tokenizer(), 'm', sha256('')
    FROM (SELECT id, (%(words)s::text[])[1 + (random() * 9)::int] || ' '
                     || (%(words)s::text[])[1 + (random() * 9)::int] AS body FROM asset) AS t
"""


def fill(url: str, user: UUID, photos: int, engine: Engine) -> None:
    """Make a library of so many photos, each with two words and near to one of four pictures."""
    dice = np.random.default_rng(1)
    with connect(url) as connection:
        create_library_tables(connection)
        connection.execute(_IMMICH)
        migrate(connection)
        info = engine.clip_info
        connection.execute("SELECT indexer_v1.use_clip_model(%s, %s)", [info.name, info.dim])
        connection.execute(_FILL, {"user": user, "photos": photos})
        connection.execute("INSERT INTO asset_exif SELECT id FROM asset")
        connection.execute(_TEXTS, {"words": list(_WORDS)})
        shown = [engine.embed_text(text, Lane.BULK).result() for text in _SHOWS]
        assets = connection.execute("SELECT id FROM asset").fetchall()
        with connection.cursor().copy(
            "COPY indexer_v1.clip (asset_id, embedding, model, content_hash) FROM STDIN"
        ) as copy:
            for number, (asset,) in enumerate(assets):
                near = shown[number % len(shown)] + dice.normal(0, 0.05, info.dim)
                copy.write_row([asset, str(near.tolist()), info.name, bytes(32)])
        connection.execute("VACUUM ANALYZE")


async def be_immich(user: str, asset_seconds: float) -> None:
    """Serve what the gateway asks of Immich, on a port that is said on standard output."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode()
                path = head.split(" ", 2)[1]
                status, body = "200 OK", json.dumps({"id": user}).encode()
                if path == "/api/api-keys/me":
                    status = "404 Not Found"
                elif path.startswith("/api/assets/"):
                    body = _asset(path.rpartition("/")[2], user)
                    until = time.perf_counter() + asset_seconds
                    while time.perf_counter() < until:
                        pass
                writer.write(f"HTTP/1.1 {status}\r\ncontent-length: {len(body)}\r\n\r\n".encode())
                writer.write(body)
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0, backlog=256)
    sys.stdout.write(f"{server.sockets[0].getsockname()[1]}\n")
    sys.stdout.flush()
    await server.serve_forever()


def _asset(asset: str, user: str) -> bytes:
    exif = {f"field{n}": "some value" for n in range(22)}
    return json.dumps(
        {
            "id": asset,
            "ownerId": user,
            "owner": {"id": user},
            **{f"field{n}": "some value" for n in range(20)},
            "isTrashed": False,
            "visibility": "timeline",
            "exifInfo": exif,
            "people": [],
            "tags": [],
        }
    ).encode()


@contextmanager
def immich(user: UUID, asset_seconds: float) -> Iterator[str]:
    """Start the stand-in in a process of its own. Yields its URL."""
    command = [sys.executable, "-m", "bench.search_proxy", "--immich", str(user)]
    command += ["--asset-ms", str(asset_seconds * 1000)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:  # noqa: S603
        assert process.stdout  # noqa: S101
        try:
            yield f"http://127.0.0.1:{process.stdout.readline().strip()}"
        finally:
            process.kill()


def search(client: httpx.Client, query: str, page: int = 1) -> tuple[float, list[str], str | None]:
    """Milliseconds, ids of the photos, and the next page."""
    started = time.perf_counter()
    asked = {"query": query, "visibility": "timeline", "withExif": True, "page": page}
    answer = client.post("/api/search/smart", json=asked)
    milliseconds = (time.perf_counter() - started) * 1000
    if answer.headers["x-search-by"] != "immich-indexer":
        raise RuntimeError("the search was passed on to Immich; the log says why")
    assets = answer.json()["assets"]
    return milliseconds, [item["id"] for item in assets["items"]], assets["nextPage"]


def measure(client: httpx.Client, url: str, searches: int) -> dict[str, list[tuple[float, int]]]:
    """By circumstance, of every search: milliseconds, and items in the answer."""
    queries = [*(f"ocr:{w} {v}" for w in _WORDS for v in _WORDS if w != v), *_SHOWS, *_WORDS]
    random.Random(2).shuffle(queries)  # noqa: S311
    search(client, queries[0])
    seen: dict[str, list[tuple[float, int]]] = {"cold": [], "warm": [], "cold, all 100": []}
    known: set[str] = set()
    with connect(url) as connection:
        for query in queries[:searches]:
            connection.execute(
                'UPDATE asset SET "updateId" = gen_random_uuid() WHERE id = ANY (%s)', [list(known)]
            )
            milliseconds, items, following = search(client, query)
            seen["cold"].append((milliseconds, len(items)))
            while following and following != "2":
                more, further, following = search(client, query, int(following))
                milliseconds, items = milliseconds + more, items + further
            seen["cold, all 100"].append((milliseconds, len(items)))
            known.update(items)
            milliseconds, items, _ = search(client, query)
            seen["warm"].append((milliseconds, len(items)))
    return seen


def main() -> int:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(prog="python -m bench.search_proxy")
    parser.add_argument("--asset-ms", type=float, default=10.0, help="CPU that an asset takes")
    parser.add_argument("--searches", type=int, default=40)
    parser.add_argument("--photos", type=int, default=20_000)
    parser.add_argument("--immich", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.immich:
        asyncio.run(be_immich(given.immich, given.asset_ms / 1000))
    configure_logging("warning")
    user = uuid4()
    settings = Settings(clip_model="stand-in", clip_download="off", port=0)
    engine = Engine(settings)
    with (
        tempfile.TemporaryDirectory() as folder,
        Server(Path(folder)) as server,
        immich(user, given.asset_ms / 1000) as immich_url,
    ):
        url = server.start()
        fill(url, user, given.photos, engine)
        chosen = msgspec.structs.replace(settings, db_url=url, immich_url=immich_url)
        with (
            running(create_app(chosen, engine, Database(url)), chosen) as gateway,
            httpx.Client(base_url=gateway, timeout=60, trust_env=False) as client,
        ):
            client.headers["x-api-key"] = "key"
            seen = measure(client, url, given.searches)
    engine.close()
    table = Table(
        title=f"{given.photos} photos, {given.asset_ms:g} ms of Immich's CPU an asset",
        caption=f"first answers: p95 below {_GOAL_MS:.0f} ms is the goal",
    )
    for column in ("", "median ms", "p95 ms", "items (median)"):
        table.add_column(column, justify="left" if not column else "right")
    for name, rows in seen.items():
        times, items = np.array(rows).T
        table.add_row(
            name, *(f"{v:.0f}" for v in (*np.percentile(times, [50, 95]), np.median(items)))
        )
    Console().print(table)
    return int(np.percentile([row[0] for row in seen["cold"]], 95) > _GOAL_MS)


if __name__ == "__main__":
    sys.exit(main())
