"""Folder mode: what a scan adds, changes and removes, and what it leaves alone."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from indexer import library
from indexer.library import Away, Changes, away, owner_of, scan
from pg.connect import Connection, connect
from pg.migrate import create_library_tables, migrate


@pytest.fixture
def db(databases: Any) -> Iterator[Connection]:
    def build(connection: Connection) -> None:
        create_library_tables(connection)
        migrate(connection)

    url = databases.fresh("library", build)
    with connect(url) as connection:
        yield connection
    databases.drop(url)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Two photos, one of them in a folder below."""
    folder = tmp_path / "photos"
    write(folder / "a.jpg")
    write(folder / "2024" / "b.PNG")
    return folder


def write(path: Path, data: bytes = b"x") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


def names(connection: Connection, folder: Path | None = None) -> list[str]:
    rows = connection.execute(
        'SELECT "originalFileName" FROM asset'
        ' WHERE %(owner)s::uuid IS NULL OR "ownerId" = %(owner)s ORDER BY 1',
        {"owner": folder and owner_of(folder)},
    )
    return [name for (name,) in rows]


def take_jobs(connection: Connection) -> list[tuple[str, str]]:
    """Photos that have jobs since the last look, with their tasks."""
    rows = connection.execute(
        "WITH taken AS (DELETE FROM indexer_v1.job RETURNING asset_id, task)"
        ' SELECT "originalFileName", task FROM taken JOIN asset ON id = asset_id ORDER BY 1, 2'
    ).fetchall()
    return [(name, task) for name, task in rows]


def test_first_scan(db: Connection, photos: Path) -> None:
    assert scan(db, photos) == Changes(added=2, changed=0, removed=0, total=2)
    assert take_jobs(db) == [(n, t) for n in ("a.jpg", "b.PNG") for t in ("clip", "ocr")]
    rows = db.execute(
        'SELECT "originalPath", path, a.type, f.type, "deletedAt", visibility::text'
        ' FROM asset a JOIN asset_file f ON f."assetId" = a.id ORDER BY 1'
    ).fetchall()
    below, above = str(photos / "2024" / "b.PNG"), str(photos / "a.jpg")
    assert rows == [
        (path, path, "IMAGE", "preview", None, "timeline") for path in sorted([below, above])
    ]


def test_nothing_changed(db: Connection, photos: Path) -> None:
    scan(db, photos)
    before = db.execute("SELECT * FROM asset ORDER BY id").fetchall()
    take_jobs(db)
    assert scan(db, photos) == Changes(0, 0, 0, 2)
    assert take_jobs(db) == []
    assert db.execute("SELECT * FROM asset ORDER BY id").fetchall() == before


def test_added_changed_removed(db: Connection, photos: Path) -> None:
    scan(db, photos)
    take_jobs(db)
    write(photos / "c.webp")
    write(photos / "a.jpg", b"another")
    (photos / "2024" / "b.PNG").unlink()
    assert scan(db, photos) == Changes(added=1, changed=1, removed=1, total=2)
    assert names(db) == ["a.jpg", "c.webp"]
    assert {name for name, _ in take_jobs(db)} == {"a.jpg", "c.webp"}


def test_changed_in_time_alone(db: Connection, photos: Path) -> None:
    scan(db, photos)
    take_jobs(db)
    os.utime(photos / "a.jpg", ns=(1, 1_700_000_000_000_000_001))
    assert scan(db, photos).changed == 1
    os.utime(photos / "a.jpg", ns=(1, 1_700_000_000_000_000_002))
    assert scan(db, photos).changed == 1
    assert {name for name, _ in take_jobs(db)} == {"a.jpg"}


def test_renamed_is_another_photo(db: Connection, photos: Path) -> None:
    scan(db, photos)
    (photos / "a.jpg").rename(photos / "z.jpg")
    assert scan(db, photos) == Changes(added=1, changed=0, removed=1, total=2)
    assert names(db) == ["b.PNG", "z.jpg"]


def test_an_empty_folder_is_not_mounted(
    db: Connection, photos: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Whatever was in it stays in the index, and is there when it is mounted again."""
    scan(db, photos)
    take_jobs(db)
    away = photos.rename(photos.with_name("away"))
    photos.mkdir()
    assert scan(db, photos) == Changes(added=0, changed=0, removed=0, total=2)
    assert "is it mounted?" in caplog.text
    photos.rmdir()
    away.rename(photos)
    assert scan(db, photos) == Changes(added=0, changed=0, removed=0, total=2)
    assert take_jobs(db) == []


def test_a_folder_that_is_mounted_and_has_no_photos_any_more(db: Connection, photos: Path) -> None:
    scan(db, photos)
    (photos / "a.jpg").unlink()
    (photos / "2024" / "b.PNG").unlink()
    assert scan(db, photos) == Changes(added=0, changed=0, removed=2, total=0)


def test_a_folder_that_goes_away_during_the_scan(
    db: Connection, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scan(db, photos)

    def walk(folder: Path, *_: object) -> Iterator[tuple[str, os.stat_result]]:
        shutil.rmtree(folder)
        folder.mkdir()
        yield from ()

    monkeypatch.setattr(library, "_files", walk)
    assert scan(db, photos).removed == 0


class Disk:
    """A disk of its own, mounted below the photos."""

    def __init__(self, files: Path, at: Path) -> None:
        self.at = at
        self._files = files

    def mount(self) -> None:
        self.at.mkdir(exist_ok=True)
        subprocess.run(["mount", "--bind", self._files, self.at], check=True)

    def unmount(self) -> None:
        subprocess.run(["umount", self.at], check=True)


@pytest.fixture
def disk(photos: Path, tmp_path: Path) -> Iterator[Disk]:
    """For real: another file system, with one photo on it."""
    files = tmp_path / "disk"
    files.mkdir()
    made = subprocess.run(["mount", "-t", "tmpfs", "tmpfs", files], check=False).returncode == 0
    if not made:
        pytest.skip("only root may mount: run as root, where mounting is allowed")
    write(files / "2023" / "c.jpg")
    disk = Disk(files, photos / "nas")
    disk.mount()
    yield disk
    if os.path.ismount(disk.at):
        disk.unmount()
    subprocess.run(["umount", files], check=True)


def test_a_mount_below_that_is_away(
    db: Connection, photos: Path, disk: Disk, caplog: pytest.LogCaptureFixture
) -> None:
    """Its photos stay, their jobs wait, and what failed meanwhile is held against nobody."""
    assert scan(db, photos).total == 3
    assert away(db, photos) == []
    disk.unmount()
    db.execute(
        "UPDATE indexer_v1.job SET attempts = 3, dead_at = now(), last_error = 'can''t read it'"
        " FROM asset WHERE id = asset_id AND \"originalFileName\" = 'c.jpg' AND task = 'ocr'"
    )
    (photos / "a.jpg").unlink()
    assert scan(db, photos) == Changes(added=0, changed=0, removed=1, total=2)
    assert f"{disk.at} is missing or empty: is it mounted? Its 1 photos stay" in caplog.text
    assert away(db, photos) == [Away(disk.at, 1)]
    states = (
        'SELECT "originalFileName", attempts, dead_at, next_at > now() FROM indexer_v1.job'
        " JOIN asset ON id = asset_id ORDER BY 1, task"
    )
    assert db.execute(states).fetchall() == [
        *[("b.PNG", 0, None, False)] * 2,
        *[("c.jpg", 0, None, True)] * 2,
    ]
    disk.mount()
    assert scan(db, photos) == Changes(0, 0, 0, 2)
    assert away(db, photos) == []


def test_a_mount_point_that_is_gone(db: Connection, photos: Path, disk: Disk) -> None:
    """Some systems remove it as well."""
    scan(db, photos)
    disk.unmount()
    disk.at.rmdir()
    for _ in range(2):
        assert scan(db, photos) == Changes(0, 0, 0, 3)


def test_a_mount_in_a_folder_that_is_away(db: Connection, photos: Path, disk: Disk) -> None:
    """That comes back without it."""
    scan(db, photos)
    disk.unmount()
    elsewhere = photos.rename(photos.with_name("elsewhere"))
    photos.mkdir()
    assert scan(db, photos) == Changes(0, 0, 0, 3)
    photos.rmdir()
    elsewhere.rename(photos)
    assert scan(db, photos) == Changes(0, 0, 0, 3)


def test_a_mount_that_is_given_up(db: Connection, photos: Path, disk: Disk) -> None:
    scan(db, photos)
    disk.unmount()
    write(disk.at / "note.txt")
    assert scan(db, photos) == Changes(added=0, changed=0, removed=1, total=2)
    (disk.at / "note.txt").unlink()  # an ordinary folder now
    write(disk.at / "d.jpg")
    scan(db, photos)
    (disk.at / "d.jpg").unlink()
    assert scan(db, photos) == Changes(added=0, changed=0, removed=1, total=2)


def test_a_mount_that_goes_away_during_the_scan(
    db: Connection, photos: Path, disk: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its files were listed, and can't be looked at any more."""
    scan(db, photos)
    lstat = os.lstat

    def gone(path: Any) -> os.stat_result:
        if os.fspath(path).endswith("c.jpg"):
            disk.unmount()
        return lstat(path)

    monkeypatch.setattr(os, "lstat", gone)
    assert scan(db, photos) == Changes(0, 0, 0, 3)


def test_removed_takes_its_results_along(db: Connection, photos: Path) -> None:
    scan(db, photos)
    db.execute(
        "INSERT INTO indexer_v1.ocr (asset_id, text, lines, tsv, tokenizer, model, content_hash)"
        " SELECT id, '', '[]', '', 't', 'm', sha256('') FROM asset"
    )
    (photos / "a.jpg").unlink()
    scan(db, photos)
    assert db.execute("SELECT count(*) FROM indexer_v1.ocr").fetchone() == (1,)


def test_only_photos(db: Connection, photos: Path) -> None:
    for name in ("notes.txt", "film.mp4", "noextension", "photo.jpg.part", "Thumbs.db", "jpg"):
        write(photos / name)
    for name in ("x.HEIC", "y.jpeg", "z.avif", "w.tiff", "v.Gif"):
        write(photos / name)
    assert scan(db, photos).total == 7


def test_hidden_are_left_out(db: Connection, photos: Path) -> None:
    write(photos / ".hidden.jpg")
    write(photos / ".thumbnails" / "t.jpg")
    write(photos / "2024" / ".trash" / "deep" / "t.jpg")
    write(photos / "._a.jpg")
    scan(db, photos)
    assert names(db) == ["a.jpg", "b.PNG"]


def test_links_are_not_followed(db: Connection, photos: Path, tmp_path: Path) -> None:
    outside = write(tmp_path / "outside" / "secret.jpg")
    (photos / "file.jpg").symlink_to(outside)
    (photos / "folder").symlink_to(outside.parent)
    (photos / "broken.jpg").symlink_to(tmp_path / "nowhere.jpg")
    (photos / "loop").symlink_to(photos)
    scan(db, photos)
    assert names(db) == ["a.jpg", "b.PNG"]


def test_what_is_no_file_is_left_out(db: Connection, photos: Path) -> None:
    """Nobody would ever come back from reading a pipe."""
    os.mkfifo(photos / "pipe.jpg")
    (photos / "folder.jpg").mkdir()
    write(photos / "folder.jpg" / "in.jpg")
    scan(db, photos)
    assert names(db) == ["a.jpg", "b.PNG", "in.jpg"]


@pytest.mark.parametrize(
    "name",
    ["照片 (1).jpg", 'it\'s "quoted".jpg', "a\tb\\n.jpg", "new\nline.jpg", "😀.jpg", "%s.jpg"],
)
def test_odd_names(db: Connection, photos: Path, name: str) -> None:
    write(photos / name)
    scan(db, photos)
    assert name in names(db)
    assert scan(db, photos) == Changes(0, 0, 0, 3)


def test_a_name_that_is_no_text(
    db: Connection, photos: Path, caplog: pytest.LogCaptureFixture
) -> None:
    try:
        Path(os.fsdecode(os.fsencode(photos) + b"/\xff\xfe.jpg")).write_bytes(b"x")
    except OSError:
        pytest.skip("this file system has UTF-8 names only")
    assert scan(db, photos).total == 2
    assert "left out" in caplog.text


@pytest.mark.parametrize("seconds", [0, -1_000_000_000, 4_000_000_000, 300_000_000_000])
def test_odd_times(db: Connection, photos: Path, seconds: int) -> None:
    try:
        os.utime(photos / "a.jpg", (seconds, seconds))
    except (OSError, OverflowError):
        pytest.skip("this file system can't keep that time")
    assert scan(db, photos).total == 2
    assert scan(db, photos) == Changes(0, 0, 0, 2)


def test_two_folders(db: Connection, photos: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    write(other / "a.jpg")
    scan(db, photos)
    assert scan(db, other) == Changes(1, 0, 0, 1)
    assert names(db, photos) == ["a.jpg", "b.PNG"]
    assert names(db, other) == ["a.jpg"]
    (other / "a.jpg").unlink()
    write(other / "c.jpg")
    scan(db, other)
    assert names(db, photos) == ["a.jpg", "b.PNG"]
    assert names(db, other) == ["c.jpg"]
    assert owner_of(photos) != owner_of(other)


def test_a_folder_and_one_below(db: Connection, photos: Path) -> None:
    """A photo is in the index once, and belongs to the folder that was scanned last."""
    scan(db, photos)
    assert scan(db, photos / "2024").total == 1
    assert names(db, photos / "2024") == ["b.PNG"]
    assert scan(db, photos).total == 2
    assert names(db) == ["a.jpg", "b.PNG"]
    assert db.execute("SELECT count(*) FROM asset_file").fetchone() == (2,)


def test_one_folder_by_two_names(
    db: Connection, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scan(db, photos)
    (tmp_path / "link").symlink_to(photos)
    monkeypatch.chdir(tmp_path)
    for name in (tmp_path / "link", Path("photos"), photos / ".." / "photos"):
        assert owner_of(name) == owner_of(photos)
        assert scan(db, name) == Changes(0, 0, 0, 2)


def test_a_missing_folder_removes_nothing(db: Connection, photos: Path) -> None:
    scan(db, photos)
    photos.rename(photos.with_name("away"))
    with pytest.raises(NotADirectoryError, match="isn't a folder"):
        scan(db, photos)
    write(photos)
    with pytest.raises(NotADirectoryError, match="isn't a folder"):
        scan(db, photos)
    assert names(db) == ["a.jpg", "b.PNG"]


@pytest.fixture
def locked(monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """Folders that can't be read; modes wouldn't stop root, who may run the tests."""
    folders: set[str] = set()
    scandir = os.scandir

    def guarded(path: Any = ".") -> Any:
        if os.fspath(path) in folders:
            raise PermissionError(13, "Permission denied", os.fspath(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", guarded)
    return folders


def test_an_unreadable_folder_removes_nothing(
    db: Connection, photos: Path, locked: set[str]
) -> None:
    scan(db, photos)
    locked.add(str(photos))
    with pytest.raises(NotADirectoryError, match="can't be read: Permission denied"):
        scan(db, photos)
    assert names(db) == ["a.jpg", "b.PNG"]


def test_an_unreadable_folder_below_is_left_as_it_is(
    db: Connection, photos: Path, locked: set[str], caplog: pytest.LogCaptureFixture
) -> None:
    write(photos / "2024x" / "c.jpg")
    scan(db, photos)
    locked.add(str(photos / "2024"))
    (photos / "2024x" / "c.jpg").unlink()
    write(photos / "d.jpg")
    assert scan(db, photos) == Changes(added=1, changed=0, removed=1, total=3)
    assert names(db) == ["a.jpg", "b.PNG", "d.jpg"]
    assert "Permission denied" in caplog.text
    locked.clear()
    assert scan(db, photos) == Changes(0, 0, 0, 3)


def test_an_empty_folder(db: Connection, tmp_path: Path) -> None:
    assert scan(db, tmp_path) == Changes(0, 0, 0, 0)
