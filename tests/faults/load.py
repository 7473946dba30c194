"""A load of events, as an Immich in use makes them."""

from __future__ import annotations

import contextlib
import random
import threading
import time
from collections.abc import Callable, Collection
from types import TracebackType
from uuid import UUID

import psycopg

from faults.pictures import lines_of, picture
from immich.base import Connection
from immich.events import Edit, FakeImmich

_WEIGHTS = {
    "upload": 30,
    "replace": 25,
    "reprocess": 8,
    "tag": 4,
    "edit": 6,
    "undo_edit": 5,
    "trash": 4,
    "delete": 6,
    "thumbnails": 6,
    "favorite": 3,
    "ocr": 3,
}


class Load:
    """Events from a thread of its own, from `with` to its end; they go on through outages.

    Args:
        immich: of its own: nobody else may use it meanwhile.
        seed: the same events in the same order.
        pause: seconds between two; may be changed.
        most: photos; from then on as many go as come.
        make: makes a photo from a seed.
        without: kinds of events that don't happen.
        spared: photos that nothing happens to.

    Attributes:
        events: how many there were.
    """

    def __init__(
        self,
        immich: FakeImmich,
        seed: int = 1,
        *,
        pause: float = 0.01,
        most: int = 400,
        make: Callable[[str], bytes] = picture,
        without: Collection[str] = (),
        spared: Collection[UUID] = (),
    ) -> None:
        self.events = 0
        self.pause = pause
        self._make = make
        self._weights = {event: w for event, w in _WEIGHTS.items() if event not in without}
        self._immich = immich
        self._spared = spared
        self._random = random.Random(seed)
        self._most = most
        self._assets: list[UUID] = []
        self._edited: set[UUID] = set()
        self._broken: set[UUID] = set()
        self._stop = threading.Event()
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="load", daemon=True)

    def __enter__(self) -> Load:
        self._forget()
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stop.set()
        self._thread.join()
        if self._error:
            raise self._error

    def _forget(self) -> None:
        """The database may have gone back in time: what photos there are, it says itself."""
        rows = self._immich.db.execute(
            'SELECT "assetId", bool_or("isEdited") FROM asset_file WHERE type = \'preview\''
            " GROUP BY 1"
        ).fetchall()
        self._assets = [asset for asset, _ in rows if asset not in self._spared]
        self._edited = {asset for asset, edited in rows if edited}

    def _run(self) -> None:
        try:
            while not self._stop.wait(self.pause):
                self._one()
            # What an outage interrupted half-way, somebody does again.
            while self._broken:
                self._again()
        except BaseException as error:
            self._error = error

    def _one(self) -> None:
        asset: UUID | None = None
        try:
            if self._broken:
                self._again()
            event = self._random.choices([*self._weights], [*self._weights.values()])[0]
            if event == "upload" or len(self._assets) < 5:
                event = "delete" if len(self._assets) >= self._most else "upload"
            asset = self._random.choice(self._assets) if self._assets else None
            self.events += 1
            self.happen(event, asset)
        except psycopg.Error as error:
            if asset:
                self._broken.add(asset)
            self._recover(error)

    def _again(self) -> None:
        asset = next(iter(self._broken))
        try:
            present = self._immich.db.execute("SELECT FROM asset WHERE id = %s", [asset]).rowcount
            if present:
                edited = asset in self._edited
                if edited:
                    self._immich.undo_edit(asset)
                    self._edited.discard(asset)
                self._immich.replace_preview(asset, self._make(f"again {self._random.random()}"))
            elif asset in self._assets:
                self._assets.remove(asset)
            self._broken.discard(asset)
        except psycopg.Error as error:
            self._recover(error)

    def _recover(self, error: psycopg.Error) -> None:
        """Immich connects again; an error on a connection that lives is a fault of ours."""
        if not self._immich.db.closed:
            raise error
        while True:
            with contextlib.suppress(psycopg.OperationalError):
                self._immich.reconnect()
                self._forget()
                return
            time.sleep(0.05)

    def happen(self, event: str, asset: UUID | None) -> None:
        immich, rng = self._immich, self._random
        if event == "upload" or asset is None:
            new = immich.upload(self._make(f"new {rng.random()}"), name="photo.png")
            self._assets.append(new)
            return
        match event:
            case "replace":
                immich.replace_preview(asset, self._make(f"other {rng.random()}"))
            case "reprocess":
                immich.db.execute(
                    "INSERT INTO indexer_v1.reprocess (asset_id, task) VALUES (%s, %s)",
                    [asset, rng.choice(["ocr", "clip", "all"])],
                )
            case "tag":
                immich.tag(asset, rng.choice(["reprocess", "reprocess/ocr", "reprocess/clip"]))
            case "edit":
                self._edited.add(asset)
                immich.edit(asset, Edit.crop(0, 0, rng.randint(8, 16), rng.randint(6, 12)))
            case "undo_edit" if asset in self._edited:
                immich.undo_edit(asset)
                self._edited.discard(asset)
            case "trash":
                immich.trash(asset)
                immich.restore(asset)
            case "delete":
                immich.delete(asset)
                self._assets.remove(asset)
                self._edited.discard(asset)
            case "thumbnails":
                immich.regenerate_thumbnails(asset)
            case "favorite":
                immich.set_favorite(asset)
            case "ocr":
                immich.save_ocr(asset, lines_of(rng.randbytes(32)))


def storm(db: Connection, assets: list[UUID], events: int) -> None:
    """As many events as asked for, one transaction each, spread over the photos."""
    for number in range(events):
        db.execute(
            "UPDATE asset SET thumbhash = sha256(%s::text::bytea) WHERE id = %s",
            [str(number), assets[number % len(assets)]],
        )
