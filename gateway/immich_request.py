"""A search as Immich's clients ask for it: read strictly, or not at all.

Names and meanings are those of SmartSearchDto and MetadataSearchDto (immich-app/immich,
server/src/dtos/search.dto.ts, and searchAssetBuilder in server/src/utils/database.ts; 2.3 to 3.1).
What isn't understood to the last field is for Immich itself to answer, or to refuse.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Any, Literal
from uuid import UUID

import msgspec
from msgspec import UNSET, Meta, UnsetType

MAX_ITEMS = 100
"""Items in one answer; who asks for more scrolls on."""

# Immich's own when `size` isn't sent.
_SMART_SIZE, _METADATA_SIZE = 100, 250

# An answer that ends before its page does names what comes next by its place: this plus the offset.
# Clients send back as `page` what they got as `nextPage`, any whole number.
_PLACES = 1_000_000

_TEXT_ALONE = re.compile(r"\s*ocr\s*[:：]", re.IGNORECASE)

_Instant = Annotated[datetime, Meta(tz=True)]
_Words = Annotated[str, Meta(min_length=1, pattern=r"\S")]
_Name = Annotated[str, Meta(min_length=1)]
_Ids = list[UUID]


class _Filters(msgspec.Struct, rename="camel", omit_defaults=True):
    """The fields that `indexer_v1.filter_conditions` has too, under the same names."""

    visibility: Literal["timeline", "archive"] | UnsetType = UNSET
    type: Literal["IMAGE", "VIDEO"] | UnsetType = UNSET
    is_favorite: bool | UnsetType = UNSET
    is_motion: bool | UnsetType = UNSET
    is_offline: bool | UnsetType = UNSET
    is_not_in_album: bool | UnsetType = UNSET
    album_ids: _Ids | UnsetType = UNSET
    person_ids: _Ids | UnsetType = UNSET
    tag_ids: _Ids | UnsetType | None = UNSET
    library_id: UUID | UnsetType = UNSET
    taken_after: _Instant | UnsetType = UNSET
    taken_before: _Instant | UnsetType = UNSET
    created_after: _Instant | UnsetType = UNSET
    created_before: _Instant | UnsetType = UNSET
    updated_after: _Instant | UnsetType = UNSET
    updated_before: _Instant | UnsetType = UNSET
    city: _Name | UnsetType | None = UNSET
    state: _Name | UnsetType | None = UNSET
    country: _Name | UnsetType | None = UNSET
    make: _Name | UnsetType | None = UNSET
    model: _Name | UnsetType | None = UNSET
    lens_model: _Name | UnsetType | None = UNSET
    rating: Annotated[int, Meta(ge=1, le=5)] | UnsetType | None = UNSET


class _Request(_Filters, rename="camel", forbid_unknown_fields=True):
    page: Annotated[int, Meta(ge=1, le=2 * _PLACES)] = 1
    size: Annotated[int, Meta(ge=1, le=1000)] | UnsetType = UNSET
    with_exif: bool = False
    with_deleted: bool = False
    language: str | UnsetType = UNSET


class SmartRequest(_Request, rename="camel", forbid_unknown_fields=True, kw_only=True):
    """``POST /api/search/smart``; without `queryAssetId`, which Immich's own vectors answer."""

    query: _Words


class MetadataRequest(_Request, rename="camel", forbid_unknown_fields=True, kw_only=True):
    """``POST /api/search/metadata`` for the text in pictures; `order` would be by date."""

    ocr: _Words
    with_people: bool = False


@dataclass(frozen=True, slots=True)
class Asked:
    """What is asked for, in our terms.

    Attributes:
        query: in the query language of `indexer_v1.parse_query`.
        text_alone: by the text in pictures alone.
        stock_reads_text: whether Immich would search texts too, if this went there.
        filter: for `indexer_v1.filter_conditions`.
        size: of a page, as Immich counts pages.
        skip: results before this page.
    """

    query: str
    text_alone: bool
    stock_reads_text: bool
    filter: dict[str, Any]
    with_exif: bool
    size: int
    skip: int

    @property
    def limit(self) -> int:
        """How many items the answer may have: to the end of the page, at most `MAX_ITEMS`."""
        return min(self.size - self.skip % self.size, MAX_ITEMS)

    def next_page(self, items: int) -> str:
        """The page after so many of this one's results."""
        after = self.skip + items
        return str(_PLACES + after if after % self.size else after // self.size + 1)


Form = type[SmartRequest] | type[MetadataRequest]


def read(body: bytes, form: Form, max_query_length: int) -> Asked | None:
    """Read a request; None where any of it isn't ours to answer, such as a longer query."""
    try:
        request: SmartRequest | MetadataRequest = msgspec.json.decode(body, type=form)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None
    if isinstance(request, MetadataRequest):
        typed, default_size, for_others = request.ocr, _METADATA_SIZE, request.with_people
    else:
        typed, default_size, for_others = request.query, _SMART_SIZE, False
    lists = [request.album_ids, request.person_ids, request.tag_ids]
    if (
        "\x00" in typed
        or len(typed) > max_query_length
        or for_others
        or request.with_deleted
        or request.is_offline is True  # includes trashed ones
        or (request.is_not_in_album is True and request.album_ids)
        # Immich counts the different ones that match, and wants as many as were sent.
        or any(isinstance(ids, list) and len(set(ids)) < len(ids) for ids in lists)
    ):
        return None
    text_alone = isinstance(request, MetadataRequest) or bool(_TEXT_ALONE.match(typed))
    size = default_size if isinstance(request.size, UnsetType) else request.size
    return Asked(
        query=f"ocr:{typed}" if isinstance(request, MetadataRequest) else typed,
        text_alone=text_alone,
        stock_reads_text=isinstance(request, MetadataRequest),
        filter=_filter(request),
        with_exif=request.with_exif,
        size=size,
        skip=request.page - _PLACES if request.page > _PLACES else (request.page - 1) * size,
    )


def _filter(request: _Filters) -> dict[str, Any]:
    chosen: dict[str, Any] = {}
    for field in msgspec.structs.fields(_Filters):
        value = getattr(request, field.name)
        if isinstance(value, UnsetType) or value == []:
            continue
        if isinstance(value, datetime):  # JavaScript's dates have milliseconds
            value = value.replace(microsecond=value.microsecond // 1000 * 1000)
        chosen[field.encode_name] = msgspec.to_builtins(value)
    return chosen
