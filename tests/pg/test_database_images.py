"""The images that people run: our schema, both tokenizers and search, in real containers.

The whole suite runs on one of them with `make test` and TEST_DOCKER=built or TEST_DOCKER=immich.
"""

from __future__ import annotations

from collections.abc import Iterator
from uuid import uuid4

import database_images
import psycopg
import pytest

from immich.base import load_schema
from pg.connect import connect
from pg.migrate import migrate

pytestmark = pytest.mark.docker

OWNER, PHOTO = uuid4(), uuid4()


@pytest.fixture(scope="module", params=database_images.IMAGES)
def server(request: pytest.FixtureRequest) -> Iterator[tuple[database_images.Image, str]]:
    with database_images.container(request.param) as url:
        yield request.param, url


def test_photos_are_found_by_their_text(server: tuple[database_images.Image, str]) -> None:
    image, url = server
    with psycopg.connect(url, autocommit=True) as connection:
        load_schema(connection, "3.1")
        if image == "built":  # made by the image itself
            assert connection.execute(
                "SELECT count(*) FROM pg_extension WHERE extname = 'zhparser'"
            ).fetchone() == (1,)
    with connect(url) as connection:
        report = migrate(connection)
        assert report.tokenizer.startswith("zhparser" if image == "built" else "bigram")
        assert migrate(connection).applied == []
        connection.execute(
            'INSERT INTO "user" (id, email, name) VALUES (%s, %s, %s)', [OWNER, "a@x", "A"]
        )
        connection.execute(
            """
            INSERT INTO asset (id, "ownerId", type, "originalPath", "originalFileName",
                "fileCreatedAt", "fileModifiedAt", "localDateTime", checksum, "checksumAlgorithm")
            VALUES (%s, %s, 'IMAGE', '/p', 'a.jpg', now(), now(), now(), 'c', 'sha1')
            """,
            [PHOTO, OWNER],
        )
        connection.execute(
            """INSERT INTO asset_file ("assetId", type, path) VALUES (%s, 'preview', '/p')""",
            [PHOTO],
        )
        jobs = connection.execute("SELECT count(*) FROM indexer_v1.job").fetchone()
        assert jobs == (2,)
        connection.execute(
            """
            INSERT INTO indexer_v1.ocr (asset_id, text, lines, tsv, tokenizer, model, content_hash)
            SELECT %s, t, '[]', indexer_v1.to_tsvector(t), indexer_v1.tokenizer(), 'm', sha256('x')
            FROM (VALUES ('电子发票 2024年')) AS v(t)
            """,
            [PHOTO],
        )
        connection.execute(
            "INSERT INTO indexer_v1.clip (asset_id, embedding, model, content_hash)"
            " VALUES (%s, array_fill(0.5::real, ARRAY[512])::vector::halfvec, 'm', sha256('x'))",
            [PHOTO],
        )
        for query, embedding in (("发票 2024", None), (None, str([1.0] * 512))):
            found = connection.execute(
                "SELECT asset_id FROM indexer_v1.search(%s, %s::vector)", [query, embedding]
            ).fetchall()
            assert found == [(PHOTO,)]
