"""A test Immich: its tables, and events that write to them just as the real server does.

What each event does, transaction by transaction, is what was seen on a running 3.1 server
("immich.md", §2 of the project's reference); the order of statements inside it and what §2 leaves
open are from reading Immich's code. Every method is a whole event: what it calls a transaction is
one, and everything else commits by itself, so triggers fire as often and as early as they would.

``variant="2.3"`` has that version's layout (``schema-2.3.sql``).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal
from uuid import UUID, uuid4

from PIL import Image
from psycopg import sql
from psycopg.types.json import Jsonb

from immich import backup, media
from immich.base import Rows, load_schema
from immich.media import Edit
from indexer.models.types import Line

__all__ = ["Edit", "FakeImmich", "load_schema"]

SYSTEM_CONFIG = "system-config"
TAKEN = datetime(2024, 5, 1, 12, tzinfo=UTC)


class FakeImmich(Rows):
    """Immich's side of the database and of the media folder.

    Args:
        url: of a database with `load_schema`'s tables.
        media_dir: where the media folder is here; files are written to it.
        variant: the layout of the database.
        location: where Immich sees the media folder: its paths in the database begin with it.
    """

    _owner: UUID | None = None

    # People

    def add_user(self, name: str = "alice", *, admin: bool = False) -> UUID:
        return self._insert(
            "user", email=f"{name}-{uuid4().hex[:6]}@example.com", name=name, isAdmin=admin
        )

    @property
    def owner(self) -> UUID:
        """The first user, whose assets are when nobody else is named."""
        if self._owner is None:
            row = self.db.execute('SELECT id FROM "user" ORDER BY "createdAt" LIMIT 1').fetchone()
            self._owner = row[0] if row else self.add_user("owner", admin=True)
        return self._owner

    def partner(self, shared_by: UUID, shared_with: UUID, *, in_timeline: bool = True) -> None:
        """Partner sharing; Immich sets ``inTimeline`` afterwards, when the other one agrees."""
        self.db.execute(
            'INSERT INTO partner ("sharedById", "sharedWithId") VALUES (%s, %s)'
            " ON CONFLICT DO NOTHING",
            [shared_by, shared_with],
        )
        self.db.execute(
            'UPDATE partner SET "inTimeline" = %s WHERE "sharedById" = %s AND "sharedWithId" = %s',
            [in_timeline, shared_by, shared_with],
        )

    # Assets come, change and go

    def upload(
        self,
        source: Path | bytes,
        *,
        owner: UUID | None = None,
        name: str | None = None,
        preview: bytes | None = None,
        taken: datetime = TAKEN,
        visibility: str = "timeline",
        kind: Literal["IMAGE", "VIDEO"] = "IMAGE",
    ) -> UUID:
        """A photo arrives and gets its thumbnails. Bytes that are here already aren't stored again.

        §2: INSERT `asset_file` preview + thumbnail in one transaction, then UPDATE `asset`.
        What can't be decoded gets no files, unless `preview` says what Immich made of it.
        """
        data = source if isinstance(source, bytes) else source.read_bytes()
        name = name or (source.name if isinstance(source, Path) else "photo.jpg")
        owner = owner or self.owner
        checksum = hashlib.sha1(data).digest()
        known = self.db.execute(
            'SELECT id FROM asset WHERE "ownerId" = %s AND checksum = %s', [owner, checksum]
        ).fetchone()
        if known:
            return UUID(str(known[0]))

        original = f"upload/{owner}/{uuid4()}{Path(name).suffix}"
        self._write(original, data)
        asset = self._insert(
            "asset",
            ownerId=owner,
            type=kind,
            originalPath=str(self.location / original),
            originalFileName=name,
            fileCreatedAt=taken,
            fileModifiedAt=taken,
            localDateTime=taken,
            checksum=checksum,
            visibility=visibility,
            **self._only("3.1", checksumAlgorithm="sha1"),
            **self._only("2.3", deviceAssetId=name, deviceId="Library Import"),
        )
        self.db.execute(
            'INSERT INTO asset_exif ("assetId", "fileSizeInByte") VALUES (%s, %s)',
            [asset, len(data)],
        )
        image = None if kind == "VIDEO" else media.upright(data)
        if image is None and preview is not None:
            image = media.upright(preview)
        width, height = image.size if image else (None, None)
        self.db.execute(
            'UPDATE asset_exif SET "exifImageWidth" = %s, "exifImageHeight" = %s,'
            ' "dateTimeOriginal" = %s WHERE "assetId" = %s',
            [width, height, taken, asset],
        )
        self._update_asset(asset, **self._only("3.1", width=width, height=height))
        self._job_done(asset, "metadataExtractedAt")
        if image is not None:
            self._make_thumbnails(asset, preview or media.preview(image), media.thumbnail(image))
            self._update_asset(asset, thumbhash=hashlib.sha1(image.tobytes()).digest())
        return asset

    def upload_video(
        self, frame: bytes, *, name: str = "clip.mp4", owner: UUID | None = None
    ) -> UUID:
        """A video: its preview is one frame (an image file); the encoded video comes later."""
        asset = self.upload(b"video " + frame, name=name, owner=owner, preview=frame, kind="VIDEO")
        if self.variant == "2.3":
            self._update_asset(asset, duration="00:00:05.000", encodedVideoPath="/encoded.mp4")
        else:
            self._update_asset(asset, duration=5000)
            self._upsert_files(asset, {"encoded_video": "encoded-video/clip.mp4"})
        return asset

    def regenerate_thumbnails(self, asset: UUID) -> None:
        """§2: same files again, no change in `asset`/`asset_file`; `ocr_search`: `_show_lines`.

        Of an edited photo both previews.
        """
        for (path,) in self.db.execute(
            "SELECT path FROM asset_file WHERE \"assetId\" = %s AND type = 'preview'", [asset]
        ).fetchall():
            file = self._here(path)
            file.write_bytes(file.read_bytes())
        if self.variant != "2.3":
            self._show_lines(asset)

    def replace_preview(self, asset: UUID, data: bytes) -> None:
        """Thumbnails made again from another picture, at the same paths: a new `thumbhash`.

        From Immich's code: the files, then the upsert of their rows, then `asset`.
        """
        image = media.upright(data)
        assert image
        self._make_thumbnails(asset, media.preview(image), media.thumbnail(image))
        self._update_asset(asset, thumbhash=hashlib.sha1(image.tobytes()).digest())

    def change_on_disk(self, asset: UUID, data: bytes) -> None:
        """Another preview at the same path, and nothing in the database (§2, last row)."""
        self.preview_path(asset).write_bytes(data)

    def edit(self, asset: UUID, *edits: Edit) -> None:
        """§2: `asset_edit`, `"isEdited"`; `ocr_search`: `_show_lines`; then `asset_file` rows."""
        assert self.variant != "2.3", "Immich 2.3 can't edit"
        self.record_edits(asset, edits)
        original = media.upright(self._original_path(asset).read_bytes())
        assert original, "only what could be decoded can be edited"
        image = media.apply(original, edits)
        self._write_thumbnails(asset, media.preview(image), media.thumbnail(image), edited=True)
        self._show_lines(asset)
        self._sync_files(asset, self._thumbnail_paths(asset, edited=True), edited=True)
        self._picture_is(asset, image)

    def record_edits(self, asset: UUID, edits: Sequence[Edit]) -> None:
        """Rows of `asset_edit` alone, in the one transaction that an editing client waits for."""
        with self.db.transaction():
            self.db.execute('DELETE FROM asset_edit WHERE "assetId" = %s', [asset])
            if not edits:
                return
            values = ", ".join(["(%s, %s, %s, %s)"] * len(edits))
            rows = [(asset, e.action, Jsonb(e.parameters), n) for n, e in enumerate(edits)]
            self.db.execute(
                'INSERT INTO asset_edit ("assetId", action, parameters, sequence)'
                f" VALUES {values}".encode(),
                [value for row in rows for value in row],
            )

    def undo_edit(self, asset: UUID) -> None:
        """§2: `ocr_search`: `_show_lines`; the edited `asset_file` rows go."""
        self.record_edits(asset, [])
        self._show_lines(asset)
        paths = self.db.execute(
            'DELETE FROM asset_file WHERE "assetId" = %s AND "isEdited" RETURNING path', [asset]
        ).fetchall()
        image = media.upright(self._original_path(asset).read_bytes())
        assert image
        self._picture_is(asset, image)
        for (path,) in paths:  # a job of its own
            self._here(path).unlink(missing_ok=True)

    def _picture_is(self, asset: UUID, image: Image.Image) -> None:
        """What the editor's job writes last: the thumbhash where it differs, then the size."""
        thumbhash = hashlib.sha1(image.tobytes()).digest()
        known = self.db.execute("SELECT thumbhash FROM asset WHERE id = %s", [asset]).fetchone()
        if known != (thumbhash,):
            self._update_asset(asset, thumbhash=thumbhash)
        self._update_asset(asset, width=image.width, height=image.height)

    def trash(self, *assets: UUID) -> None:
        """§2: one UPDATE of `status` and `"deletedAt"`."""
        self.db.execute(
            "UPDATE asset SET status = 'trashed', \"deletedAt\" = now() WHERE id = ANY (%s)",
            [list(assets)],
        )

    def restore(self, *assets: UUID) -> None:
        """§2: out of the trash."""
        self.db.execute(
            "UPDATE asset SET status = 'active', \"deletedAt\" = NULL WHERE id = ANY (%s)",
            [list(assets)],
        )

    def delete(self, *assets: UUID) -> None:
        """§2: for good. DELETE `asset`, cascades; then the files."""
        self.db.execute(
            "UPDATE asset SET status = 'deleted', \"deletedAt\" = now() WHERE id = ANY (%s)",
            [list(assets)],
        )
        for asset in assets:
            paths = self.db.execute(
                'SELECT path FROM asset_file WHERE "assetId" = %s'
                ' UNION ALL SELECT "originalPath" FROM asset WHERE id = %s',
                [asset, asset],
            ).fetchall()
            self.db.execute("DELETE FROM asset WHERE id = %s", [asset])
            for (path,) in paths:
                self._here(path).unlink(missing_ok=True)

    def set_visibility(self, asset: UUID, visibility: str) -> None:
        """``archive``, ``timeline``, ``hidden`` or ``locked``."""
        self._update_asset(asset, visibility=visibility)

    def set_favorite(self, asset: UUID, favorite: bool = True) -> None:
        self._update_asset(asset, isFavorite=favorite)

    def set_exif(self, asset: UUID, **columns: Any) -> None:
        """What the metadata job found: city, make, model, rating, …"""
        assignments = sql.SQL(", ").join(
            sql.SQL("{} = %s").format(sql.Identifier(name)) for name in columns
        )
        self.db.execute(
            sql.SQL('UPDATE asset_exif SET {} WHERE "assetId" = %s').format(assignments),
            [*columns.values(), asset],
        )

    # Machine learning

    def save_embedding(self, asset: UUID, embedding: Sequence[float]) -> None:
        """After the answer to a ``clip`` request."""
        self.db.execute(
            'INSERT INTO smart_search ("assetId", embedding) VALUES (%s, %s::vector)'
            ' ON CONFLICT ("assetId") DO UPDATE SET embedding = excluded.embedding',
            [asset, str([float(value) for value in embedding])],
        )

    def save_ocr(self, asset: UUID, lines: Sequence[Line]) -> None:
        """After the answer to an ``ocr`` request: one statement, then `asset_job_status`."""
        coordinates = ("x1", "y1", "x2", "y2", "x3", "y3", "x4", "y4")
        statement = 'WITH deleted_ocr AS (DELETE FROM asset_ocr WHERE "assetId" = %s), '
        values: list[Any] = [asset]
        if lines:
            rows = ", ".join(["(" + ", ".join(["%s"] * 12) + ")"] * len(lines))
            statement += (
                f'inserted_ocr AS (INSERT INTO asset_ocr ("assetId", {", ".join(coordinates)},'
                f' "boxScore", "textScore", text) VALUES {rows}), '
                'inserted_search AS (INSERT INTO ocr_search ("assetId", text) VALUES (%s, %s)'
                ' ON CONFLICT ("assetId") DO UPDATE SET text = excluded.text)'
            )
            for line in lines:
                values += [asset, *line.box, line.box_score, line.text_score, line.text]
            values += [asset, media.search_text([line.text for line in lines])]
        else:
            statement += 'deleted_search AS (DELETE FROM ocr_search WHERE "assetId" = %s)'
            values.append(asset)
        self.db.execute(statement.encode() + b" SELECT 1", values)
        self._job_done(asset, "ocrAt")

    def add_face(self, asset: UUID, person: UUID, embedding: Sequence[float] | None = None) -> UUID:
        """After the answer to a ``facial-recognition`` request."""
        face = self._insert("asset_face", assetId=asset, personId=person)
        self.db.execute(
            'INSERT INTO face_search ("faceId", embedding) VALUES (%s, %s::vector)',
            [face, str([float(value) for value in embedding or [1.0] * 512])],
        )
        self._job_done(asset, "facesRecognizedAt")
        return face

    def add_person(self, name: str, *, owner: UUID | None = None) -> UUID:
        return self._insert("person", ownerId=owner or self.owner, name=name)

    def smart_search_all(self) -> None:
        """§2, "Smart search: all": DELETE `smart_search` rows; then the column, made anew."""
        row = self.db.execute(
            "SELECT atttypmod FROM pg_attribute"
            " WHERE attrelid = 'smart_search'::regclass AND attname = 'embedding'"
        ).fetchone()
        assert row
        self._set_dimension(row[0])

    def ocr_all(self) -> None:
        """§2, "OCR: all": TRUNCATE `asset_ocr`, `ocr_search`; `"ocrAt"` stays set."""
        with self.db.transaction():
            self.db.execute("TRUNCATE asset_ocr")
            self.db.execute("TRUNCATE ocr_search")

    def set_system_config(self, config: Mapping[str, Any]) -> None:
        """What the administrator saved: the settings that differ from Immich's defaults."""
        self.db.execute(
            "INSERT INTO system_metadata (key, value) VALUES (%s, %s)"
            " ON CONFLICT (key) DO UPDATE SET value = excluded.value",
            [SYSTEM_CONFIG, Jsonb(dict(config))],
        )

    def change_clip_model(self, name: str, dim: int) -> None:
        """§1: another name empties `smart_search`; another dimension also rebuilds the column."""
        row = self.db.execute(
            "SELECT value FROM system_metadata WHERE key = %s", [SYSTEM_CONFIG]
        ).fetchone()
        config = row[0] if row else {}
        learning = config.setdefault("machineLearning", {})
        learning.setdefault("clip", {})["modelName"] = name
        self.set_system_config(config)
        same = self.db.execute(
            "SELECT atttypmod = %s FROM pg_attribute"
            " WHERE attrelid = 'smart_search'::regclass AND attname = 'embedding'",
            [dim],
        ).fetchone()
        if same == (True,):
            self.db.execute("TRUNCATE smart_search")
        else:
            self._set_dimension(dim)

    # Tags, albums, stacks

    def tag(self, asset: UUID, value: str, *, sidecar: bool = True) -> UUID:
        """Put a tag on: its parents are made, and later versions copy the tags to `asset_exif`.

        Args:
            sidecar: whether `write_sidecar` follows at once, as it does where no job waits.
        """
        tag = self._upsert_tag(self._owner_of(asset), value)
        self.db.execute(
            'INSERT INTO tag_asset ("assetId", "tagId") VALUES (%s, %s) ON CONFLICT DO NOTHING',
            [asset, tag],
        )
        self._copy_tags(asset)
        if sidecar:
            self.write_sidecar(asset)
        return tag

    def untag(self, asset: UUID, value: str) -> None:
        self.db.execute(
            'DELETE FROM tag_asset USING tag WHERE tag.id = "tagId" AND value = %s'
            ' AND "assetId" = %s',
            [value, asset],
        )
        self._copy_tags(asset)
        self.write_sidecar(asset)

    def tags(self, asset: UUID) -> list[str]:
        rows = self.db.execute(
            'SELECT value FROM tag JOIN tag_asset ON "tagId" = tag.id WHERE "assetId" = %s'
            " ORDER BY value",
            [asset],
        )
        return [value for (value,) in rows]

    def _copy_tags(self, asset: UUID) -> None:
        if self.variant != "2.3":
            self.set_exif(asset, tags=self.tags(asset), lockedProperties=["tags"])

    def _remembered_tags(self, asset: UUID) -> tuple[list[str] | None, bool]:
        """Those in `asset_exif`, and whether they are locked: not yet in the sidecar."""
        row = self.db.execute(
            'SELECT tags, \'tags\' = ANY ("lockedProperties") FROM asset_exif WHERE "assetId" = %s',
            [asset],
        ).fetchone()
        assert row
        return row[0], bool(row[1])

    def write_sidecar(self, asset: UUID, tags: list[str] | None = None) -> None:
        """The job after tags have changed: the file gets them, then metadata is read again.

        Args:
            tags: what the job has read before something else changed; None: what is there now.
        """
        if self.variant == "2.3":
            return
        known, locked = self._remembered_tags(asset)
        if locked:
            path = f"{self._original_path(asset).relative_to(self.media_dir)}.xmp"
            self._write(path, json.dumps(known if tags is None else tags).encode())
            self._upsert_files(asset, {"sidecar": path})
            self.set_exif(asset, lockedProperties=None)
            self.refresh_metadata(asset)

    def refresh_metadata(self, asset: UUID) -> None:
        """Metadata again: the asset's tags become those of the sidecar, unless they are locked.

        From Immich's code: DELETE, then INSERT of the same rows, in one transaction. A tag that
        was taken off behind Immich's back is on again.
        """
        self._job_done(asset, "metadataExtractedAt")
        if self.variant == "2.3":
            return
        tags, locked = self._remembered_tags(asset)
        if not locked:
            sidecar = Path(f"{self._original_path(asset)}.xmp")
            tags = json.loads(sidecar.read_bytes()) if sidecar.exists() else None
            self.set_exif(asset, tags=tags or None)
        owner = self._owner_of(asset)
        with self.db.transaction():
            self.db.execute('DELETE FROM tag_asset WHERE "assetId" = %s', [asset])
            for value in tags or []:
                tag = self._upsert_tag(owner, value)
                self.db.execute(
                    'INSERT INTO tag_asset ("assetId", "tagId") VALUES (%s, %s)', [asset, tag]
                )

    def album(self, name: str, assets: Iterable[UUID] = (), *, owner: UUID | None = None) -> UUID:
        owner = owner or self.owner
        album = self._insert("album", albumName=name, **self._only("2.3", ownerId=owner))
        if self.variant != "2.3":
            self.db.execute(
                'INSERT INTO album_user ("albumId", "userId", role) VALUES (%s, %s, %s)',
                [album, owner, "owner"],
            )
        for asset in assets:
            self.db.execute(
                'INSERT INTO album_asset ("albumId", "assetId") VALUES (%s, %s)', [album, asset]
            )
        return album

    def stack(self, primary: UUID, *others: UUID) -> UUID:
        stack = self._insert("stack", primaryAssetId=primary, ownerId=self._owner_of(primary))
        self.db.execute(
            'UPDATE asset SET "stackId" = %s WHERE id = ANY (%s)', [stack, [primary, *others]]
        )
        return stack

    # Backups

    def dump(self) -> bytes:
        """Immich's backup: the whole database, our schema and triggers with it."""
        return backup.dump(self.url)

    def restore_backup(self, dump: bytes) -> None:
        """Immich's restore of a backup (rule 5); this connection is a new one afterwards."""
        self.db.close()
        try:
            backup.restore(self.url, dump)
        finally:
            self.db = self._connect()
