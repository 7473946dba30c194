"""Ranking for Immich's search box: whose photos, which of them, in which order."""

from __future__ import annotations

import time
from dataclasses import dataclass
from uuid import UUID

import msgspec
import pgvector

from gateway.database import Queries
from gateway.immich_request import Asked
from gateway.inference import Inference

# More than this of what Immich's own search knows isn't in the index yet: it answers better.
_MAX_MISSING_SHARE = 0.05
_MISSING_SECONDS = 60.0

_PREPARE = """
    SELECT q.picture, numnode(q.wanted) > 0 AS has_words,
           (SELECT s.value FROM indexer_v1.setting s WHERE s.name = 'clip_model') AS clip_model,
           -- gone since 3.0, which finds archived photos too where no visibility is asked for
           EXISTS (SELECT FROM pg_attribute WHERE attrelid = 'public.asset'::regclass
                   AND attname = 'deviceId' AND NOT attisdropped) AS before_3,
           -- replaced by 3.2
           EXISTS (SELECT FROM pg_attribute WHERE attrelid = to_regclass('public.person')
                   AND attname = 'id' AND NOT attisdropped) AS person_ids,
           ARRAY(SELECT p."sharedById"
                 FROM public.partner p JOIN public."user" u ON u.id = p."sharedById"
                 WHERE p."sharedWithId" = $2 AND p."inTimeline" AND u."deletedAt" IS NULL
           ) AS partners
    FROM indexer_v1.parse_query($1) AS q
"""
_PAGE = """
    SELECT asset_id, version, more
    FROM indexer_v1.search_page($1, $2, $3, $4::jsonb, $5, $6)
"""


class NotOursError(Exception):
    """Immich itself answers this better, or as it must be; says why."""


@dataclass(frozen=True, slots=True)
class Page:
    """What is found.

    Attributes:
        found: ids and versions, best first.
        more: whether more comes after them.
    """

    found: list[tuple[UUID, str | None]]
    more: bool


class Ranking:
    """Asks `indexer_v1.search_page`.

    Args:
        primary: says who may see what.
        searching: ranks; the primary, or a replica.
    """

    def __init__(self, primary: Queries, searching: Queries, inference: Inference) -> None:
        self._primary = primary
        self._searching = searching
        self._inference = inference
        self._missing: dict[str, tuple[float, float]] = {}

    async def page(self, user: UUID, asked: Asked) -> Page:
        """Find a page of the photos that Immich would let this user find.

        Raises:
            NotOursError
            DatabaseUnavailable, ModelUnavailable, InferenceError, ServiceUnavailableException
            asyncpg.PostgresError: this Immich hasn't what is filtered by.
        """
        prepared = await self._primary.fetch_one(_PREPARE, asked.query, user)
        if prepared is None or not (prepared["has_words"] or prepared["picture"]):
            raise NotOursError("nothing in the query to rank by")
        chosen = dict(asked.filter)
        if "personIds" in chosen and not prepared["person_ids"]:
            raise NotOursError("people have other ids in this Immich")
        if "visibility" not in chosen:
            chosen["visibility"] = ["timeline"] if prepared["before_3"] else ["timeline", "archive"]
        if prepared["partners"] and chosen["visibility"] not in ("timeline", ["timeline"]):
            # It finds partners' archived photos, and shows them in a search alone.
            raise NotOursError("archived photos of partners")
        embedding = None
        if not asked.text_alone:
            if problem := await self._inference.clip_problem():
                raise NotOursError(f"CLIP is away: {problem}")
            served = self._inference.clip_info
            if prepared["clip_model"] != f"{served.name}/{served.dim}":
                raise NotOursError(
                    f"the index is made with {prepared['clip_model']}, {served.name} is served"
                )
            await self._check_complete("clip")
            embedding = pgvector.Vector(await self._inference.embed_text(prepared["picture"]))
        elif asked.stock_reads_text:
            await self._check_complete("ocr")
        rows = await self._searching.fetch(
            _PAGE,
            asked.query,
            embedding,
            [user, *prepared["partners"]],
            msgspec.json.encode(chosen).decode(),
            asked.skip,
            asked.limit,
        )
        return Page(
            [(row["asset_id"], row["version"]) for row in rows],
            bool(rows) and rows[-1]["more"],
        )

    async def _check_complete(self, task: str) -> None:
        known = self._missing.get(task)
        if known is None or known[0] < time.monotonic():
            row = await self._searching.fetch_one(
                "SELECT indexer_v1.missing_share($1) AS share", task
            )
            known = time.monotonic() + _MISSING_SECONDS, row["share"] if row else 0.0
            self._missing[task] = known
        if known[1] > _MAX_MISSING_SHARE:
            raise NotOursError(f"{task}: {known[1]:.0%} of what Immich knows isn't indexed yet")
