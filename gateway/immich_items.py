"""Photos as Immich shows them to one person in a search: fetched one by one, and remembered.

Immich has no call for many ids (2.3 to 3.1), and answers about a hundred in a second on one core.
So what was fetched is kept for as long as the asset's version stands, and who waits gets what is
there after a moment: the rest is the next page.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import Any
from uuid import UUID

import msgspec
from msgspec import Raw

from gateway.auth import Credentials
from gateway.errors import BadGateway
from gateway.immich_client import ImmichClient

log = logging.getLogger(__name__)

AT_LEAST = 4
"""Items that are waited for however long they take: less is no page."""

# Immich's server is one thread: more at once only wait there instead of here.
_AT_ONCE = 8
_MAX_BYTES = 64_000_000
_KEEP_SECONDS = 3600.0  # an Immich that was upgraded shows the same asset otherwise
# Credentials must have shown this lately that they may read photos: an API key may be one that
# can't, of a person whose browser has filled the memory.
_PROOF_SECONDS = 30.0
_MAX_PROOFS = 1000

# Of GET /api/assets/{id}, what a search doesn't have.
_NOT_IN_SEARCH = ("owner", "stack", "tags", "unassignedFaces")


@dataclass(frozen=True, slots=True)
class Viewer:
    """Whom photos are shown to.

    Attributes:
        credentials: to ask Immich with.
    """

    user: UUID
    credentials: Credentials


@dataclass(frozen=True, slots=True)
class _Kept:
    version: str
    until: float
    item: bytes


class _State(msgspec.Struct, rename="camel"):
    id: UUID
    is_trashed: bool = False
    visibility: str = "timeline"


class Items:
    """What Immich shows, by viewer, asset and version; at most 64 MB."""

    def __init__(self, immich: ImmichClient) -> None:
        self._immich = immich
        self._kept: OrderedDict[tuple[UUID, UUID], _Kept] = OrderedDict()
        self._bytes = 0
        self._proofs: OrderedDict[bytes, float] = OrderedDict()
        self._slots = asyncio.Semaphore(_AT_ONCE)
        self._waiting: set[asyncio.Task[bytes | None]] = set()
        self._asking: dict[tuple[UUID, UUID, str | None], asyncio.Task[bytes | None]] = {}

    async def first(
        self, viewer: Viewer, wanted: Sequence[tuple[UUID, str | None]], until: float
    ) -> list[bytes | None]:
        """Return the items of as many photos, from the first on, as are there by then.

        Args:
            wanted: ids and versions; a version of None is kept by nobody.
            until: on `time.monotonic`'s clock; the first `AT_LEAST` are waited for longer.

        Returns:
            JSON objects with `exifInfo`; None for a photo that this viewer isn't shown.

        Raises:
            RefusedError: these credentials may not read photos.
            BadGateway: Immich doesn't answer.
        """
        enough = asyncio.Event()
        proved = time.monotonic() < self._proofs.get(viewer.credentials.fingerprint, 0.0)
        tasks: list[asyncio.Task[bytes | None]] = []
        try:
            for place, (asset_id, version) in enumerate(wanted):
                anew = not (place or proved)
                task = asyncio.create_task(self._get(viewer, asset_id, version, anew, enough))
                tasks.append(task)
                self._waiting.add(task)
                task.add_done_callback(self._ended)
            if tasks:
                await asyncio.wait(tasks, timeout=max(0.0, until - time.monotonic()))
            await asyncio.gather(*tasks[:AT_LEAST])
            return [task.result() for task in takewhile(_came, tasks)]
        finally:
            enough.set()  # what is asked already is kept when it comes; nothing more is asked

    def _ended(self, task: asyncio.Task[bytes | None]) -> None:
        self._waiting.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.debug("asset not fetched: %r", error)

    async def _get(
        self,
        viewer: Viewer,
        asset_id: UUID,
        version: str | None,
        anew: bool,
        enough: asyncio.Event,
    ) -> bytes | None:
        if not anew and (known := self._find(viewer, asset_id, version)) is not None:
            return known
        async with self._slots:
            if enough.is_set():
                return None
            if not anew and (known := self._find(viewer, asset_id, version)) is not None:
                return known  # came for the page before, while this waited
            key = (viewer.user, asset_id, version)
            if anew or key not in self._asking:
                self._asking[key] = asyncio.create_task(self._ask(viewer, asset_id, version))
            task = self._asking[key]
            try:
                return await task
            finally:
                if self._asking.get(key) is task:
                    del self._asking[key]

    async def _ask(self, viewer: Viewer, asset_id: UUID, version: str | None) -> bytes | None:
        answer = await self._immich.asset(asset_id, viewer.credentials.headers)
        if answer is None:
            return None
        item = _as_in_search(answer, asset_id)
        self._prove(viewer)
        if item is not None and version is not None:
            self._keep(viewer, asset_id, version, item)
        return item

    def _find(self, viewer: Viewer, asset_id: UUID, version: str | None) -> bytes | None:
        kept = self._kept.get((viewer.user, asset_id))
        if kept is None or kept.version != version or kept.until < time.monotonic():
            return None
        self._kept.move_to_end((viewer.user, asset_id))
        return kept.item

    def _keep(self, viewer: Viewer, asset_id: UUID, version: str, item: bytes) -> None:
        key = (viewer.user, asset_id)
        if (old := self._kept.pop(key, None)) is not None:
            self._bytes -= len(old.item)
        self._kept[key] = _Kept(version, time.monotonic() + _KEEP_SECONDS, item)
        self._bytes += len(item)
        while self._bytes > _MAX_BYTES:
            self._bytes -= len(self._kept.popitem(last=False)[1].item)

    def _prove(self, viewer: Viewer) -> None:
        self._proofs[viewer.credentials.fingerprint] = time.monotonic() + _PROOF_SECONDS
        self._proofs.move_to_end(viewer.credentials.fingerprint)
        while len(self._proofs) > _MAX_PROOFS:
            self._proofs.popitem(last=False)


def without_exif(item: bytes) -> bytes:
    """The item of a search without `withExif`."""
    fields = msgspec.json.decode(item, type=dict[str, Raw])
    fields.pop("exifInfo", None)
    return msgspec.json.encode(fields)


def _came(task: asyncio.Task[bytes | None]) -> bool:
    return task.done() and not task.cancelled() and task.exception() is None


def _as_in_search(answer: bytes, asset_id: UUID) -> bytes | None:
    """An AssetResponseDto as a search has it: that of a single asset has more in it.

    None for what isn't to be found any more: it was trashed or locked a moment ago.
    """
    try:
        state = msgspec.json.decode(answer, type=_State)
        fields: dict[str, Any] = msgspec.json.decode(answer, type=dict[str, Raw])
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise BadGateway(f"Immich's asset can't be understood ({error}).") from None
    if state.id != asset_id:
        raise BadGateway("Immich answered with another asset.")
    if state.is_trashed or state.visibility not in {"timeline", "archive"}:
        return None
    for name in _NOT_IN_SEARCH:
        fields.pop(name, None)
    if "people" in fields:  # nobody, where faces weren't asked for
        fields["people"] = Raw(b"[]")
    return msgspec.json.encode(fields)
