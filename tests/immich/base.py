"""What events are made of: rows, files in the media folder, and the two layouts' differences."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any, Literal
from uuid import UUID

import psycopg
from psycopg import sql

from indexer.models.types import Line
from pg import embedded

from . import media

Variant = Literal["3.1", "2.3"]
Connection = psycopg.Connection[tuple[Any, ...]]


def load_schema(connection: Connection, variant: Variant = "3.1") -> None:
    """Make Immich's tables in an empty database, as a superuser (for the extensions)."""
    text = Path(__file__).with_name("schema.sql").read_text()
    real = connection.execute(
        "SELECT FROM pg_available_extensions WHERE name = 'uuid-ossp'"
    ).fetchone()
    if real is None:  # a PostgreSQL built without it, and not started by pg.embedded
        shim = (Path(embedded.__file__).parent / "extension" / "uuid-ossp--1.1.sql").read_text()
        shim = "\n".join(line for line in shim.splitlines() if not line.startswith("\\"))
        text = text.replace('CREATE EXTENSION IF NOT EXISTS "uuid-ossp";', shim)
    if not connection.execute(
        "SELECT FROM pg_available_extensions WHERE name = 'pg_trgm'"
    ).fetchone():
        text = _without_contrib(text)
    if variant == "2.3":
        text += Path(__file__).with_name("schema-2.3.sql").read_text()
    connection.execute(text.encode())


def _without_contrib(text: str) -> str:
    """For a PostgreSQL without its contrib modules, which only Immich's own search uses."""
    text = re.sub(
        r"CREATE EXTENSION IF NOT EXISTS (cube|earthdistance|unaccent|pg_trgm);", "", text
    )
    text = text.replace("RETURN unaccent('unaccent', $1);", "RETURN $1;")
    return re.sub(r"USING gin \((f_unaccent\(\S+\)) gin_trgm_ops\)", r"(\1)", text)


class Rows:
    """A connection of Immich's and its media folder; see `FakeImmich`."""

    def __init__(
        self,
        url: str,
        media_dir: Path,
        *,
        variant: Variant = "3.1",
        location: PurePosixPath | None = None,
    ) -> None:
        self.url = url
        self.media_dir = media_dir
        self.variant = variant
        self.location = location or PurePosixPath(media_dir)
        self.db = self._connect()

    def close(self) -> None:
        self.db.close()

    def reconnect(self) -> None:
        """A new connection, as Immich takes from its pool. Raises psycopg.OperationalError."""
        self.db.close()
        self.db = self._connect()

    def preview_path(self, asset: UUID, *, edited: bool = False) -> Path:
        """Where the preview is here."""
        condition = "" if self.variant == "2.3" else ' AND "isEdited" = %s'
        row = self.db.execute(
            f"SELECT path FROM asset_file WHERE \"assetId\" = %s AND type = 'preview'{condition}",
            [asset, edited][: 1 + bool(condition)],
        ).fetchone()
        assert row, f"{asset} has no preview"
        return self._here(row[0])

    def ocr_lines(self, asset: UUID) -> dict[UUID, Line]:
        """Immich's own OCR result of an asset, by `asset_ocr.id`, as inserted."""
        rows = self.db.execute(
            'SELECT id, text, ARRAY[x1, y1, x2, y2, x3, y3, x4, y4], "boxScore", "textScore"'
            ' FROM asset_ocr WHERE "assetId" = %s ORDER BY ctid',
            [asset],
        )
        return {
            line_id: Line(text, tuple(box), box_score, text_score)
            for line_id, text, box, box_score, text_score in rows
        }

    # The parts that events are made of

    def _connect(self) -> Connection:
        return psycopg.connect(self.url, autocommit=True, application_name="immich")

    def _only(self, variant: Variant, **columns: Any) -> dict[str, Any]:
        return columns if self.variant == variant else {}

    def _insert(self, table: str, **columns: Any) -> UUID:
        statement = sql.SQL("INSERT INTO {} ({}) VALUES ({}) RETURNING id").format(
            sql.Identifier(table),
            sql.SQL(", ").join(map(sql.Identifier, columns)),
            sql.SQL(", ").join([sql.Placeholder()] * len(columns)),
        )
        row = self.db.execute(statement, list(columns.values())).fetchone()
        assert row
        return UUID(str(row[0]))

    def _update_asset(self, asset: UUID, **columns: Any) -> None:
        if columns:
            assignments = sql.SQL(", ").join(
                sql.SQL("{} = %s").format(sql.Identifier(name)) for name in columns
            )
            self.db.execute(
                sql.SQL("UPDATE asset SET {} WHERE id = %s").format(assignments),
                [*columns.values(), asset],
            )

    def _job_done(self, asset: UUID, job: str) -> None:
        self.db.execute(
            sql.SQL(
                'INSERT INTO asset_job_status ("assetId", {0}) VALUES (%s, now())'
                ' ON CONFLICT ("assetId") DO UPDATE SET {0} = excluded.{0}'
            ).format(sql.Identifier(job)),
            [asset],
        )

    def _make_thumbnails(self, asset: UUID, preview: bytes, thumbnail: bytes) -> None:
        self._write_thumbnails(asset, preview, thumbnail)
        self._sync_files(asset, self._thumbnail_paths(asset))
        if self.variant == "2.3":
            self._job_done(asset, "previewAt")
            self._job_done(asset, "thumbnailAt")

    def _thumbnail_paths(self, asset: UUID, *, edited: bool = False) -> dict[str, str]:
        folder = f"thumbs/{self._owner_of(asset)}/{str(asset)[:2]}/{str(asset)[2:4]}"
        suffix = "_edited" if edited else ""
        paths = {
            "preview": f"{folder}/{asset}_preview{suffix}.jpeg",
            "thumbnail": f"{folder}/{asset}_thumbnail{suffix}.webp",
        }
        return paths | ({"fullsize": f"{folder}/{asset}_fullsize_edited.jpeg"} if edited else {})

    def _write_thumbnails(
        self, asset: UUID, preview: bytes, thumbnail: bytes, *, edited: bool = False
    ) -> None:
        paths = self._thumbnail_paths(asset, edited=edited)
        self._write(paths["preview"], preview)
        self._write(paths["thumbnail"], thumbnail)
        if edited:
            self._write(paths["fullsize"], preview)

    def _sync_files(self, asset: UUID, files: Mapping[str, str], *, edited: bool = False) -> None:
        """Rows for the files of a job; none is touched that is there already."""
        condition = "" if self.variant == "2.3" else ' AND "isEdited" = %s'
        known: dict[Any, Any] = dict(
            self.db.execute(
                f'SELECT type, path FROM asset_file WHERE "assetId" = %s{condition}'.encode(),
                [asset, edited][: 1 + bool(condition)],
            ).fetchall()
        )
        new = {k: p for k, p in files.items() if known.get(k) != str(self.location / p)}
        if new:
            self._upsert_files(asset, new, edited=edited)

    def _upsert_files(self, asset: UUID, files: Mapping[str, str], *, edited: bool = False) -> None:
        """One statement for all files of a job."""
        columns, key = '"assetId", type, path', '"assetId", type'
        rows: list[list[Any]] = [
            [asset, kind, str(self.location / path)] for kind, path in files.items()
        ]
        if self.variant != "2.3":
            columns, key = f'{columns}, "isEdited"', f'{key}, "isEdited"'
            rows = [[*row, edited] for row in rows]
        places = ", ".join(["(" + ", ".join(["%s"] * len(rows[0])) + ")"] * len(rows))
        self.db.execute(
            f"INSERT INTO asset_file ({columns}) VALUES {places}"
            f" ON CONFLICT ({key}) DO UPDATE SET path = excluded.path".encode(),
            [value for row in rows for value in row],
        )

    def _show_lines(self, asset: UUID) -> None:
        """What Immich does to its texts whenever it makes thumbnails: two defects and all.

        With a crop, each line of which half is in the picture is shown, and `ocr_search` gets
        those, without bigrams. Without one it gets those that were hidden until now: mostly none.
        """
        crop = self.db.execute(
            "SELECT parameters, width, height FROM asset_edit JOIN ("
            ' SELECT "assetId", "exifImageWidth" AS width, "exifImageHeight" AS height'
            '  FROM asset_exif) AS original USING ("assetId")'
            " WHERE \"assetId\" = %s AND action = 'crop'",
            [asset],
        ).fetchone()
        lines = self.db.execute(
            'SELECT id, text, ARRAY[x1, y1, x2, y2, x3, y3, x4, y4], "isVisible"'
            ' FROM asset_ocr WHERE "assetId" = %s',
            [asset],
        ).fetchall()
        if crop:
            shown = {line[0]: media.shows(crop[0], line[2], (crop[1], crop[2])) for line in lines}
        else:
            shown = {line[0]: True for line in lines if not line[3]}
        with self.db.transaction():
            for visible in (True, False):
                ids = [line_id for line_id, shows in shown.items() if shows is visible]
                if ids:
                    self.db.execute(
                        'UPDATE asset_ocr SET "isVisible" = %s WHERE id = ANY (%s)', [visible, ids]
                    )
            text = " ".join(line[1].strip() for line in lines if shown.get(line[0]))
            self.db.execute('UPDATE ocr_search SET text = %s WHERE "assetId" = %s', [text, asset])

    def _set_dimension(self, dim: int) -> None:
        """Two transactions: the first keeps writers of the old dimension out."""
        with self.db.transaction():
            self.db.execute("DELETE FROM smart_search")
            self.db.execute(
                "ALTER TABLE smart_search DROP CONSTRAINT IF EXISTS dim_size_constraint"
            )
            self.db.execute(
                "ALTER TABLE smart_search ADD CONSTRAINT dim_size_constraint"
                f" CHECK (array_length(embedding::real[], 1) = {int(dim)})".encode()
            )
        with self.db.transaction():
            self.db.execute("DROP INDEX IF EXISTS clip_index")
            self.db.execute(
                f"ALTER TABLE smart_search ALTER COLUMN embedding TYPE vector({int(dim)})".encode()
            )
            self.db.execute(
                "CREATE INDEX clip_index ON smart_search USING hnsw (embedding vector_cosine_ops)"
                " WITH (ef_construction = 300, m = 16)"
            )
            self.db.execute(
                "ALTER TABLE smart_search DROP CONSTRAINT IF EXISTS dim_size_constraint"
            )

    def _upsert_tag(self, owner: UUID, value: str) -> UUID:
        """A tag by its path, and its ancestors."""
        parent = self._upsert_tag(owner, value.rpartition("/")[0]) if "/" in value else None
        with self.db.transaction():
            row = self.db.execute(
                'INSERT INTO tag ("userId", value, "parentId") VALUES (%s, %s, %s)'
                ' ON CONFLICT ("userId", value) DO UPDATE SET "parentId" = excluded."parentId"'
                " RETURNING id",
                [owner, value, parent],
            ).fetchone()
            assert row
            self.db.execute(
                "INSERT INTO tag_closure (id_ancestor, id_descendant) VALUES (%s, %s)"
                " ON CONFLICT DO NOTHING",
                [row[0], row[0]],
            )
            self.db.execute(
                "INSERT INTO tag_closure (id_ancestor, id_descendant)"
                " SELECT id_ancestor, %s FROM tag_closure WHERE id_descendant = %s"
                " ON CONFLICT DO NOTHING",
                [row[0], parent],
            )
        return UUID(str(row[0]))

    def _owner_of(self, asset: UUID) -> UUID:
        row = self.db.execute('SELECT "ownerId" FROM asset WHERE id = %s', [asset]).fetchone()
        assert row, f"no asset {asset}"
        return UUID(str(row[0]))

    def _original_path(self, asset: UUID) -> Path:
        row = self.db.execute('SELECT "originalPath" FROM asset WHERE id = %s', [asset]).fetchone()
        assert row
        return self._here(row[0])

    def _here(self, path: str) -> Path:
        return self.media_dir / PurePosixPath(path).relative_to(self.location)

    def _write(self, path: str, data: bytes) -> None:
        file = self.media_dir / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(data)
