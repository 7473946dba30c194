"""Where previews lie on this machine, and whether the whole folder is away."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from indexer.settings import SettingsError


class MediaAwayError(Exception):
    """The folder that all previews are in is not there: an outage, charged to no photo."""


@dataclass(frozen=True, slots=True)
class Media:
    """Maps paths as Immich's database has them to paths on this machine.

    Attributes:
        mounts: (there, here) pairs, the longest `there` first.
    """

    mounts: tuple[tuple[PurePosixPath, Path], ...]

    @classmethod
    def parse(cls, media_map: str) -> Media:
        """Read `THERE=HERE;THERE=HERE`.

        Raises:
            SettingsError: a part without `=`.
        """
        mounts = []
        for part in filter(None, (piece.strip() for piece in media_map.split(";"))):
            there, equals, here = part.partition("=")
            if not (there and equals and here):
                raise SettingsError(f"MEDIA_MAP takes THERE=HERE;…, not {part!r}")
            mounts.append((PurePosixPath(there), Path(here).expanduser()))
        return cls(tuple(sorted(mounts, key=lambda mount: -len(mount[0].parts))))

    def locate(self, path: str) -> Path:
        """Where the preview at `path` (Immich's name for it) lies on this machine."""
        pure = PurePosixPath(path)
        for there, here in self.mounts:
            if pure.is_relative_to(there):
                return here / pure.relative_to(there)
        return Path(path)

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
        pure = PurePosixPath(path)
        for there, here in self.mounts:
            if pure.is_relative_to(there):
                return here
        # Unmapped: the first folder below / (`/data` in Immich's own container).
        return Path(*pure.parts[:2]) if pure.is_absolute() else Path(pure.parts[0])
