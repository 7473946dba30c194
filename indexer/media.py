"""Where previews lie on this machine, and whether the whole folder is away."""

from __future__ import annotations

import errno
import os
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath

from indexer.settings import SettingsError


class MediaAwayError(Exception):
    """The folder that all previews are in is not there: an outage, charged to no photo."""


def modified_at(status: os.stat_result) -> datetime:
    """Time of modification, to the microsecond, as PostgreSQL keeps it."""
    try:
        return datetime.fromtimestamp(status.st_mtime_ns // 1000 / 1_000_000, UTC)
    except (OverflowError, ValueError, OSError):
        return datetime.fromtimestamp(0, UTC)  # some file systems know the year 30,000


@dataclass(frozen=True, slots=True)
class Media:
    """Maps paths as Immich's database has them to paths on this machine.

    Attributes:
        mounts: (there, here) pairs, the longest `there` first.
    """

    mounts: tuple[tuple[PurePosixPath, Path], ...]

    @classmethod
    def parse(cls, media_map: str, folder: Path | None = None) -> Media:
        """Read `THERE=HERE;THERE=HERE`.

        Args:
            folder: folder mode: where the photos are, which are their own previews.

        Raises:
            SettingsError: a part without `=`.
        """
        mounts = []
        for part in filter(None, (piece.strip() for piece in media_map.split(";"))):
            there, equals, here = part.partition("=")
            if not (there and equals and here):
                raise SettingsError(f"MEDIA_MAP takes THERE=HERE;…, not {part!r}")
            mounts.append((PurePosixPath(there), Path(here).expanduser()))
        if folder:
            mounts.append((PurePosixPath(folder), folder))
        return cls(tuple(sorted(mounts, key=lambda mount: -len(mount[0].parts))))

    def locate(self, path: str) -> Path:
        """Where the preview at `path` (Immich's name for it) lies on this machine.

        Raises:
            FileNotFoundError: the path leads out of the folder that it begins with.
        """
        pure = PurePosixPath(path)
        if ".." in pure.parts:
            raise FileNotFoundError(errno.ENOENT, "a path with .. isn't followed", path)
        for there, here in self.mounts:
            if pure.is_relative_to(there):
                return here / pure.relative_to(there)
        return Path(path)

    def folder(self, path: str) -> Path | None:
        """The folder on this machine that all previews beside `path` are in; None: can't tell."""
        pure = PurePosixPath(path)
        for there, here in self.mounts:
            if pure.is_relative_to(there):
                return here
        # Unmapped: Immich's previews are all in one folder.
        if not self.mounts and "thumbs" in pure.parts:
            return Path(*pure.parts[: pure.parts.index("thumbs") + 1])
        return None

    def check_present(self, path: str) -> None:
        """Tell a missing file from a missing mount, after `path` couldn't be read.

        A mount point whose mount is away is missing or empty.

        Raises:
            MediaAwayError: the mount, not the file, is what is missing.
        """
        root = self._root(path)
        try:
            present = any(root.iterdir())
        except OSError:
            present = False
        if not present:
            raise MediaAwayError(f"{root} is missing or empty: is the media folder mounted?")

    def _root(self, path: str) -> Path:
        """`folder`, or else the first folder below /."""
        parts = PurePosixPath(path).parts
        return self.folder(path) or Path(*parts[: 2 if path.startswith("/") else 1])
