"""Folder mode: mirrors a folder of photos into the tables that Immich would have filled.

A photo is its own preview. Triggers turn what changed into jobs, as they do for Immich.
"""

from __future__ import annotations

import hashlib
import logging
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from uuid import NAMESPACE_URL, UUID, uuid5

from indexer.media import modified_at
from pg.connect import Connection
from pg.query import fetch_value

log = logging.getLogger(__name__)

SUFFIXES = frozenset(
    f".{suffix}"
    for suffix in (
        *("jpg", "jpeg", "jpe", "jfif", "png", "webp", "heic", "heif", "avif"),
        *("gif", "bmp", "tif", "tiff", "jp2"),
    )
)


@dataclass(frozen=True, slots=True)
class Changes:
    """What a scan found: numbers of photos."""

    added: int
    changed: int
    removed: int
    total: int


def owner_of(folder: Path) -> UUID:
    """Whose photos those of a folder are: each folder is an owner, searched by itself."""
    return uuid5(NAMESPACE_URL, folder.resolve().as_uri())


def scan(connection: Connection, folder: Path) -> Changes:
    """Bring the tables up to date with a folder, in one transaction. Nothing is decoded.

    A file counts as changed when its size or its time of modification has. Photos in a folder below
    that can't be read just now are left as they are. So are all of them where `folder` has nothing
    in it at all any more, as a mount point whose mount is away (`Media.check_present` has the same
    rule): whoever means to have emptied it puts anything else there, a note or a folder.

    Raises:
        NotADirectoryError: `folder` isn't a folder that can be read: nothing is removed then.
    """
    folder = folder.resolve()
    if not folder.is_dir():
        raise NotADirectoryError(f"{folder} isn't a folder")
    owner = owner_of(folder)
    unreadable: list[str] = []
    with connection.transaction(), connection.cursor() as cursor:
        cursor.execute(
            "CREATE TEMP TABLE seen (path text PRIMARY KEY, name text, modified timestamptz,"
            " mark bytea) ON COMMIT DROP"
        )
        with cursor.copy("COPY seen FROM STDIN") as copy:
            for path, status in _files(folder, unreadable):
                modified = modified_at(status)
                mark = hashlib.sha256(f"{status.st_mtime_ns}:{status.st_size}".encode()).digest()
                copy.write_row([path, os.path.basename(path), modified, mark])
        # After the walk: it may have gone away meanwhile.
        if away := not any(folder.iterdir()):
            unreadable.append(str(folder) + os.sep)
        removed = cursor.execute(
            'DELETE FROM public.asset a WHERE a."ownerId" = %s'
            ' AND NOT EXISTS (SELECT FROM seen s WHERE s.path = a."originalPath")'
            " AND NOT EXISTS (SELECT FROM unnest(%s::text[]) AS u(folder)"
            '                 WHERE starts_with(a."originalPath", u.folder))',
            [owner, unreadable],
        ).rowcount
        # The thumbhash stands for the picture, as in Immich: when it changes, the trigger queues.
        changed = cursor.execute(
            'UPDATE public.asset a SET thumbhash = s.mark, "fileModifiedAt" = s.modified'
            ' FROM seen s WHERE s.path = a."originalPath" AND a."ownerId" = %s'
            " AND a.thumbhash IS DISTINCT FROM s.mark",
            [owner],
        ).rowcount
        added = cursor.execute(
            """
            WITH new_assets AS (
                INSERT INTO public.asset
                    ("ownerId", type, "originalPath", "originalFileName", "fileCreatedAt",
                     "fileModifiedAt", "localDateTime", thumbhash)
                SELECT %s, 'IMAGE', s.path, s.name, s.modified, s.modified, s.modified, s.mark
                FROM seen s
                ON CONFLICT ("originalPath") DO UPDATE SET "ownerId" = excluded."ownerId"
                    WHERE asset."ownerId" <> excluded."ownerId"
                RETURNING id, "originalPath"
            )
            INSERT INTO public.asset_file ("assetId", type, path)
            SELECT id, 'preview', "originalPath" FROM new_assets
            ON CONFLICT ("assetId", type, "isEdited") DO NOTHING
            """,
            [owner],
        ).rowcount
        total: int = fetch_value(
            connection, 'SELECT count(*) FROM public.asset WHERE "ownerId" = %s', [owner]
        )
    changes = Changes(added, changed, removed, total)
    log.info("scanned %s: %s", folder, changes)
    if total and away:
        log.warning(
            "%s is empty: is it mounted? Its %d photos stay in the index. Were they removed on"
            " purpose, put any other file there.",
            *(folder, total),
        )
    return changes


def _files(folder: Path, unreadable: list[str]) -> Iterator[tuple[str, os.stat_result]]:
    """Photos below a folder. Hidden files and folders are left out; links aren't followed.

    Folders that can't be read are added to `unreadable`, with a slash at the end.
    """

    def missed(error: OSError) -> None:
        if error.filename == str(folder):
            raise NotADirectoryError(f"{folder} can't be read: {error.strerror}") from error
        log.warning("left as it is %r: %s", error.filename, error.strerror)
        unreadable.append(os.fsencode(error.filename).decode("utf-8", "replace") + os.sep)

    for parent, folders, names in os.walk(folder, onerror=missed):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in names:
            if name.startswith(".") or os.path.splitext(name)[1].lower() not in SUFFIXES:
                continue
            path = os.path.join(parent, name)
            try:
                path.encode("utf-8")
                status = os.lstat(path)
            except (OSError, UnicodeEncodeError) as error:
                log.warning("left out %r: %s", path, error)
                continue
            if stat.S_ISREG(status.st_mode):
                yield path, status
