"""Where previews lie here, and when the whole folder is away."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from indexer.media import Media, MediaAwayError, modified_at
from indexer.settings import SettingsError


@pytest.mark.parametrize(
    ("media_map", "path", "expected"),
    [
        ("", "/data/thumbs/a.jpeg", "/data/thumbs/a.jpeg"),
        ("/data=/mnt/immich", "/data/thumbs/a.jpeg", "/mnt/immich/thumbs/a.jpeg"),
        ("/data=/mnt/immich", "/database/a.jpeg", "/database/a.jpeg"),
        ("/data=/mnt/immich", "/other/a.jpeg", "/other/a.jpeg"),
        ("/data/=/mnt/immich/", "/data/a.jpeg", "/mnt/immich/a.jpeg"),
        (" /a=/x ; /b=/y ;", "/b/照片.jpeg", "/y/照片.jpeg"),
        ("/data=/x;/data/thumbs=/ssd", "/data/thumbs/a.jpeg", "/ssd/a.jpeg"),
        ("/data/thumbs=/ssd;/data=/x", "/data/upload/a.jpeg", "/x/upload/a.jpeg"),
        ("/data=/mnt/a=b", "/data/a.jpeg", "/mnt/a=b/a.jpeg"),
        ("upload=/mnt", "upload/thumbs/a.jpeg", "/mnt/thumbs/a.jpeg"),
    ],
)
def test_locate(media_map: str, path: str, expected: str) -> None:
    assert Media.parse(media_map).locate(path) == Path(expected)


def test_home(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/alice")
    assert Media.parse("/data=~/immich").locate("/data/a") == Path("/home/alice/immich/a")


@pytest.mark.parametrize("media_map", ["/data", "/data=", "=/mnt", "/a=/b;/c"])
def test_malformed(media_map: str) -> None:
    with pytest.raises(SettingsError, match="MEDIA_MAP takes THERE=HERE"):
        Media.parse(media_map)


def test_folder_mode_is_its_own_mount(tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    media = Media.parse("", photos)
    path = str(photos / "2024" / "a.jpg")
    assert media.locate(path) == Path(path)
    with pytest.raises(MediaAwayError, match="photos is missing or empty"):
        media.check_present(path)
    (photos / "thumbs").mkdir(parents=True)
    media.check_present(path)  # the folder is there, a file isn't
    media.check_present(str(photos / "thumbs" / "a.jpg"))


def test_a_mapped_mount_is_away(tmp_path: Path) -> None:
    here = tmp_path / "immich"
    media = Media.parse(f"/data={here}")
    with pytest.raises(MediaAwayError):
        media.check_present("/data/thumbs/a.jpeg")
    here.mkdir()  # the mount point, with nothing mounted
    with pytest.raises(MediaAwayError):
        media.check_present("/data/thumbs/a.jpeg")
    (here / "thumbs").mkdir()
    media.check_present("/data/thumbs/a.jpeg")


def test_an_unmapped_folder_of_previews_is_away(tmp_path: Path) -> None:
    """What is above it, such as / or /usr, is always there and says nothing."""
    media = Media.parse("")
    path = str(tmp_path / "upload" / "thumbs" / "owner" / "aa" / "a_preview.jpeg")
    with pytest.raises(MediaAwayError, match="thumbs is missing or empty"):
        media.check_present(path)
    (tmp_path / "upload" / "thumbs" / "owner").mkdir(parents=True)
    media.check_present(path)


def test_an_unmapped_path_elsewhere(tmp_path: Path) -> None:
    media = Media.parse("")
    media.check_present(str(tmp_path / "a.jpeg"))
    with pytest.raises(MediaAwayError):
        media.check_present("/no-such-folder/a.jpeg")


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [
        (0, "1970-01-01T00:00:00+00:00"),
        (1714564800.123456, "2024-05-01T12:00:00.123456+00:00"),
        (-86400, "1969-12-31T00:00:00+00:00"),
        (300_000_000_000, "1970-01-01T00:00:00+00:00"),  # beyond what can be said
    ],
)
def test_time_of_modification(seconds: float, expected: str) -> None:
    status = os.stat_result(
        (0, 0, 0, 0, 0, 0, 0, 0, 0, 0),
        {"st_mtime_ns": round(seconds * 1_000_000) * 1000},
    )
    assert modified_at(status).isoformat() == expected
