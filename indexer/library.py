"""Folder mode: mirrors a folder of photos into the tables that Immich would have filled.

A photo is its own preview. Triggers turn what changed into jobs, as they do for Immich.

What is mounted may be away for a while, which is an outage and not the end of its photos. It is
away where the folder, or a mount point below it where photos have been seen, is missing or empty
(`Media.check_present` has the same rule). Whoever means to have emptied it puts any other file or
folder there. A folder that was never mounted is emptied as one sees it.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from uuid import NAMESPACE_URL, UUID, uuid5

from indexer.media import modified_at
from pg.connect import Connection
from pg.query import fetch_value

log = logging.getLogger(__name__)

# What is away isn't tried before the next scan (`Reconciler`), and soon once it is back.
_PUT_OFF = "60 s"

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


@dataclass(frozen=True, slots=True)
class Away:
    """A folder whose mount seems to be away, and how many photos of the index are in it."""

    folder: Path
    photos: int

    def __str__(self) -> str:
        return (
            f"{self.folder} is missing or empty: is it mounted? Its {self.photos} photos stay in"
            " the index. Were they removed on purpose, put any other file there."
        )


def away(connection: Connection, folder: Path) -> list[Away]:
    """What is away just now, of a folder that has been scanned. Looks at mount points only."""
    folder = folder.resolve()
    owner = owner_of(folder)
    found: list[Away] = []
    for place in [folder, *_recorded_mounts(connection, owner)]:
        below_another = any(place.is_relative_to(other.folder) for other in found)
        if not below_another and _is_away(place) and (photos := _photos(connection, owner, place)):
            found.append(Away(place, photos))
    return found


def scan(connection: Connection, folder: Path) -> Changes:
    """Bring the tables up to date with a folder, in one transaction. Nothing is decoded.

    A file counts as changed when its size or its time of modification has. Photos in a folder below
    that can't be read just now, or whose mount is away, are left as they are, and their jobs wait.

    Raises:
        NotADirectoryError: `folder` isn't a folder that can be read: nothing is removed then.
    """
    folder = folder.resolve()
    if not folder.is_dir():
        raise NotADirectoryError(f"{folder} isn't a folder")
    owner = owner_of(folder)
    unreadable: list[str] = []
    mounts: set[Path] = set()
    with connection.transaction(), connection.cursor() as cursor:
        cursor.execute(
            "CREATE TEMP TABLE seen (path text PRIMARY KEY, name text, modified timestamptz,"
            " mark bytea) ON COMMIT DROP"
        )
        with cursor.copy("COPY seen FROM STDIN") as copy:
            for path, status in _files(folder, unreadable, mounts):
                modified = modified_at(status)
                mark = hashlib.sha256(f"{status.st_mtime_ns}:{status.st_size}".encode()).digest()
                copy.write_row([path, os.path.basename(path), modified, mark])
        missing = away(connection, folder)  # after the walk: it may have gone meanwhile
        left = [*unreadable, *(_prefix(gone.folder) for gone in missing)]
        removed = cursor.execute(
            'DELETE FROM public.asset a WHERE a."ownerId" = %s'
            ' AND NOT EXISTS (SELECT FROM seen s WHERE s.path = a."originalPath")'
            " AND NOT EXISTS (SELECT FROM unnest(%s::text[]) AS u(folder)"
            '                 WHERE starts_with(a."originalPath", u.folder))',
            [owner, left],
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
        total = _photos(connection, owner, folder)
        _record_mounts(connection, owner, mounts - {folder}, left)
        if left:
            cursor.execute(
                "SELECT indexer_v1.put_off(array_agg(a.id), %s::interval) FROM public.asset a"
                ' WHERE a."ownerId" = %s AND EXISTS (SELECT FROM unnest(%s::text[]) AS u(folder)'
                '                                    WHERE starts_with(a."originalPath", u.folder))'
                ' AND NOT EXISTS (SELECT FROM seen s WHERE s.path = a."originalPath")',
                [_PUT_OFF, owner, left],
            )
    changes = Changes(added, changed, removed, total)
    log.info("scanned %s: %s", folder, changes)
    for gone in missing:
        log.warning("%s", gone)
    return changes


def _is_away(place: Path) -> bool:
    try:
        return not any(place.iterdir())
    except OSError:
        return True


def _prefix(folder: Path) -> str:
    """What the paths of all that is in it begin with."""
    return os.fsencode(os.path.join(folder, "")).decode("utf-8", "replace")


def _photos(connection: Connection, owner: UUID, folder: Path) -> int:
    count: int = fetch_value(
        connection,
        "SELECT count(*) FROM public.asset a"
        ' WHERE a."ownerId" = %s AND starts_with(a."originalPath", %s)',
        [owner, _prefix(folder)],
    )
    return count


def _recorded_mounts(connection: Connection, owner: UUID) -> list[Path]:
    """Mount points where photos have been seen, those that hold others first."""
    row = connection.execute(
        "SELECT value FROM indexer_v1.setting WHERE name = %s", [f"mounts of {owner}"]
    ).fetchone()
    return [Path(mount) for mount in json.loads(row[0])] if row else []


def _record_mounts(
    connection: Connection, owner: UUID, mounts: set[Path], left: Sequence[str]
) -> None:
    """Record those that have been seen; of what was left as it is, all that was known stays."""
    known = _recorded_mounts(connection, owner)
    kept = {mount for mount in known if _prefix(mount).startswith(tuple(left))}
    if (now := sorted(mounts | kept)) != known:
        connection.execute(
            "INSERT INTO indexer_v1.setting VALUES (%s, %s)"
            " ON CONFLICT (name) DO UPDATE SET value = excluded.value",
            [f"mounts of {owner}", json.dumps([str(mount) for mount in now])],
        )


def _files(
    folder: Path, unreadable: list[str], mounts: set[Path]
) -> Iterator[tuple[str, os.stat_result]]:
    """Photos below a folder. Hidden files and folders are left out; links aren't followed.

    Folders that can't be read are added to `unreadable`, with a slash at the end; mount points
    with photos in them to `mounts`.
    """
    mounted: list[str] = []  # those on the way to `parent`

    def missed(error: OSError) -> None:
        if error.filename == str(folder):
            raise NotADirectoryError(f"{folder} can't be read: {error.strerror}") from error
        log.warning("left as it is %r: %s", error.filename, error.strerror)
        unreadable.append(_prefix(Path(error.filename)))

    for parent, folders, names in os.walk(folder, onerror=missed):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        mounted = [mount for mount in mounted if parent.startswith(os.path.join(mount, ""))]
        if os.path.ismount(parent):
            mounted.append(parent)
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
                mounts.update(map(Path, mounted))
                yield path, status
