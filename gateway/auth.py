"""Who is asking, and which photos they may see.

Folder mode has no users: whoever sits at this computer sees everything, and nobody else gets in.
Attached to Immich, every request carries Immich's own credentials, and Immich is asked whose
they are.
"""

from __future__ import annotations

import hashlib
import ipaddress
import logging
import re
import time
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from urllib.parse import urlsplit
from uuid import UUID

import httpx
import msgspec
from litestar.connection import ASGIConnection
from litestar.exceptions import (
    NotAuthorizedException,
    PermissionDeniedException,
    ServiceUnavailableException,
)
from litestar.handlers import BaseRouteHandler

from gateway import outgoing
from gateway.database import Queries
from gateway.errors import AnyRequest, BadGateway, NotConfigured

log = logging.getLogger(__name__)

_COOKIE = "immich_access_token"
_SESSION_HEADERS = ("x-immich-user-token", "x-immich-session-token")  # older mobile clients
KEY_COOKIE = "immich_indexer_key"
"""Holds the API key of Immich that somebody signed in to the page with."""

_CREDENTIAL = re.compile(r"[\x21-\x2b\x2d-\x3a\x3c-\x7e]{1,4096}")  # no comma, no semicolon
# What proxies say of themselves and of whom they ask for; and all that begins with `x-forwarded`.
_FORWARDING = {
    *("forwarded", "via", "x-real-ip", "x-client-ip", "x-cluster-client-ip"),
    *("x-original-forwarded-for", "x-original-host", "true-client-ip", "cf-connecting-ip"),
}
_PRINTABLE = re.compile(r"[\x20-\x7e]{1,1024}")
# Immich goes by these before an API key.
_SESSIONS = {"cookie", "authorization", *_SESSION_HEADERS}
_PERMISSION = "asset.read"
REDO = ("job.create", "asset.update")
"""What a key needs to have photos redone: what Immich itself asks for its own jobs, or more."""

_REMEMBER_SECONDS = 30.0
_REMEMBER_USERS = 1000


@dataclass(frozen=True, slots=True)
class Caller:
    """Which photos a request may see.

    Attributes:
        user: id of the Immich user; None where there are no users (folder mode).
        folder: folder mode: the owner that stands for the folder of photos that is served.
        name: of the Immich user, for people.
        admin: runs this server: Immich's administrators, and whoever sits at this computer.
        permissions: of the API key of Immich's that was sent; None: a session, which may all.
    """

    user: UUID | None
    folder: UUID | None = None
    name: str = ""
    admin: bool = False
    permissions: frozenset[str] | None = None

    def require(self, *permissions: str) -> None:
        """Let pass what Immich would let this key do; one of these is enough.

        Raises:
            PermissionDeniedException: the key hasn't any of them.
        """
        if self.permissions is not None and not {"all", *permissions} & self.permissions:
            raise PermissionDeniedException(
                f"This API key may not do this; it needs the permission {permissions[0]}."
            )

    @property
    def owner(self) -> UUID | None:
        """Whose photos may be changed; None means everybody's."""
        return self.user or self.folder

    async def owners(self, database: Queries) -> list[UUID] | None:
        """Whose photos may be found: the user's, and those that partners show in the timeline.

        The user comes first: see `owners` of `indexer_v1.search_scope`.

        None means everybody's.
        """
        if self.user is None:
            return None if self.folder is None else [self.folder]
        rows = await database.fetch(
            """
            SELECT p."sharedById" FROM partner p JOIN "user" u ON u.id = p."sharedById"
            WHERE p."sharedWithId" = $1 AND p."inTimeline" AND u."deletedAt" IS NULL
            """,
            self.user,
        )
        return [self.user, *(row["sharedById"] for row in rows)]


class _Me(msgspec.Struct, rename="camel"):
    """Immich's answer to `/api/users/me`, as far as it is needed."""

    id: UUID
    name: str = ""
    is_admin: bool = False


@dataclass(frozen=True, slots=True)
class User:
    """Whose credentials they are; `permissions` as in `Caller`."""

    id: UUID
    name: str
    is_admin: bool
    permissions: frozenset[str] | None


class _Key(msgspec.Struct):
    permissions: list[str]


class ImmichUsers:
    """Asks Immich, at ``IMMICH_URL``, whose credentials these are; remembers it for 30 s."""

    def __init__(self, url: str) -> None:
        self._url = url.rstrip("/")
        self._client = outgoing.client(timeout=10.0)
        # By a hash: the credentials themselves are nowhere kept.
        self._known: OrderedDict[bytes, tuple[float, User]] = OrderedDict()

    async def user(self, request: AnyRequest) -> User:
        """Return the user that sends a request.

        Raises:
            NotConfigured: ``IMMICH_URL`` isn't set.
            NotAuthorizedException: no credentials, or Immich doesn't take them.
            ServiceUnavailableException: Immich doesn't answer.
        """
        credentials = credentials_of(request)
        if self._url and not credentials:
            raise NotAuthorizedException(
                "Sign in to Immich, or send its API key (x-api-key) or token (Authorization: "
                "Bearer)."
            )
        return await self.user_of(credentials)

    async def user_of(self, credentials: Credentials) -> User:
        """Return the user that credentials belong to; raises as `user`."""
        if not self._url:
            raise NotConfigured(
                "Set IMMICH_URL to the URL of Immich's own server (http://immich-server:2283): "
                "it says who is searching."
            )
        key = credentials.fingerprint
        now = time.monotonic()
        if (known := self._known.get(key)) and now < known[0]:
            return known[1]
        user = await self._ask(credentials.headers)
        self._known[key] = (now + _REMEMBER_SECONDS, user)
        self._known.move_to_end(key)
        while len(self._known) > _REMEMBER_USERS:
            self._known.popitem(last=False)
        return user

    async def close(self) -> None:
        """Close the connections."""
        await self._client.aclose()

    async def thumbnail(
        self, request: AnyRequest, asset_id: UUID, size: str, max_bytes: int
    ) -> bytes:
        """Return a photo's picture from Immich, for whoever sends a request.

        Args:
            size: `thumbnail` or `preview`.

        Raises:
            ServiceUnavailableException, BadGateway: Immich doesn't answer, or not with a picture.
        """
        path = f"/api/assets/{asset_id}/thumbnail"
        parts: list[bytes] = []
        with self._unreachable():
            async with self._client.stream(
                "GET",
                f"{self._url}{path}",
                params={"size": size, "edited": "true"},
                headers=credentials_of(request).headers,
            ) as answer:
                status = answer.status_code
                async for part in answer.aiter_bytes():
                    parts.append(part)
                    if sum(map(len, parts)) > max_bytes:
                        status = 413
                        break
        if status != 200:
            raise BadGateway(
                f"The media folder isn't mounted here (MEDIA_MAP), and Immich answered {status} to "
                f"{path}. An API key needs the permission asset.view."
            )
        return b"".join(parts)

    async def _ask(self, headers: dict[str, str]) -> User:
        with self._unreachable():
            answer = await self._client.get(f"{self._url}/api/users/me", headers=headers)
        if answer.status_code == 401:
            raise NotAuthorizedException("Immich doesn't take these credentials; sign in again.")
        if answer.status_code == 403:
            raise PermissionDeniedException(
                "Immich says these credentials may not read their user; an API key needs the "
                "permission user.read."
            )
        try:
            if answer.status_code != 200:
                raise msgspec.ValidationError
            me = msgspec.json.decode(answer.content, type=_Me)
        except msgspec.DecodeError:
            log.warning("immich not understood url=%s status=%d", self._url, answer.status_code)
            raise ServiceUnavailableException(
                f"{self._url} (IMMICH_URL) answered {answer.status_code} and no user; is it "
                "Immich's own server?"
            ) from None
        permissions = None
        if not headers.keys() & _SESSIONS:
            permissions = await self._permissions(headers)
        return User(me.id, me.name, me.is_admin, permissions)

    async def _permissions(self, headers: dict[str, str]) -> frozenset[str] | None:
        """Return what an API key may do, if Immich itself would let it search.

        None for one of an Immich that knows no permissions.

        Raises:
            PermissionDeniedException: it hasn't that permission.
            ServiceUnavailableException: Immich doesn't answer.
        """
        try:
            answer = await self._client.get(f"{self._url}/api/api-keys/me", headers=headers)
            if answer.status_code in (400, 404):  # an Immich before this route
                return None
            permissions = frozenset(msgspec.json.decode(answer.content, type=_Key).permissions)
        except (httpx.HTTPError, msgspec.DecodeError) as error:
            log.warning("immich not understood url=%s error=%s", self._url, type(error).__name__)
            raise ServiceUnavailableException(
                f"Immich at {self._url} (IMMICH_URL) doesn't say what this API key may do, so it "
                "may nothing for the moment."
            ) from None
        if not {"all", _PERMISSION} & permissions:
            raise PermissionDeniedException(
                f"This API key may not see photos; it needs the permission {_PERMISSION}."
            )
        return permissions

    @contextmanager
    def _unreachable(self) -> Iterator[None]:
        try:
            yield
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            log.warning("immich unreachable url=%s error=%r", self._url, error)
            raise ServiceUnavailableException(
                f"Immich at {self._url} (IMMICH_URL) doesn't answer ({type(error).__name__}), so "
                "nobody can be let in for the moment."
            ) from None


@dataclass(frozen=True, slots=True)
class Credentials:
    """What somebody sent to show who they are; false if nothing.

    Attributes:
        headers: to ask Immich with. Besides the credentials the browser's name: Immich notes by
            which one a session was last used.
        fingerprint: a hash, to remember them by.
    """

    headers: dict[str, str]
    fingerprint: bytes

    def __bool__(self) -> bool:
        return bool(self.headers)


def key_credentials(key: str) -> Credentials:
    """Return what an API key of Immich's is shown as; false where it can't be one."""
    return _credentials({"x-api-key": key} if _CREDENTIAL.fullmatch(key) else {})


def credentials_of(request: AnyRequest) -> Credentials:
    """Return the headers to ask Immich with: those that were sent, and nothing else.

    Who signed in to the page by a key meant that one: Immich's cookie, which may belong to a
    session that is over, is left out then.
    """
    headers: dict[str, str] = {}
    key = request.cookies.get(KEY_COOKIE, "")
    if _CREDENTIAL.fullmatch(key):
        headers["x-api-key"] = key
    token = request.cookies.get(_COOKIE, "")
    if not headers and _CREDENTIAL.fullmatch(token):
        headers["cookie"] = f"{_COOKIE}={token}"
    scheme, _, bearer = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer" and _CREDENTIAL.fullmatch(bearer.strip()):
        headers["authorization"] = f"Bearer {bearer.strip()}"
    for name in ("x-api-key", *_SESSION_HEADERS):
        value = request.headers.get(name, "")
        if _CREDENTIAL.fullmatch(value):
            headers[name] = value
    browser = request.headers.get("user-agent", "")
    return _credentials(headers, browser if _PRINTABLE.fullmatch(browser) else "")


def _credentials(headers: dict[str, str], browser: str = "") -> Credentials:
    if not headers:
        return Credentials({}, b"")
    fingerprint = hashlib.sha256(repr(sorted(headers.items())).encode()).digest()
    return Credentials(headers | ({"user-agent": browser} if browser else {}), fingerprint)


def check_local(request: AnyRequest) -> None:
    """Let pass what comes from this computer and was meant for it.

    A web page elsewhere can make a browser here send requests, under a name of its own that
    resolves to 127.0.0.1 (DNS rebinding): the Host header gives it away. A reverse proxy on this
    computer brings others' requests: its headers do, if it sends any.

    Raises:
        PermissionDeniedException: anything else.
    """
    passed_on = any(
        name in _FORWARDING or name.startswith("x-forwarded") for name in request.headers
    )
    if passed_on or not (_is_loopback(_host(request)) and _is_loopback(_peer(request))):
        raise PermissionDeniedException(
            "In folder mode there are no users, so searching is for this computer alone: open "
            "http://localhost or http://127.0.0.1 here. To search from elsewhere, attach the "
            "indexer to Immich (DB_URL, IMMICH_URL)."
        )


def _host(request: AnyRequest) -> str | None:
    try:
        return urlsplit(f"//{request.headers.get('host', '')}").hostname
    except ValueError:
        return None


def _peer(request: AnyRequest) -> str | None:
    return request.client.host if request.client else None


def _is_loopback(host: str | None) -> bool:
    if host is None or host == "localhost":
        return host is not None
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return False
    mapped = getattr(address, "ipv4_mapped", None)
    return (mapped or address).is_loopback


def refuse_cross_site(
    connection: ASGIConnection,  # type: ignore[type-arg]
    _: BaseRouteHandler,
) -> None:
    """Guard of routes that change something: not from another site's page.

    Browsers say so in Sec-Fetch-Site; programs that aren't browsers don't send it. Safari
    before 16.4 doesn't either, but sends an Origin.

    Raises:
        PermissionDeniedException: another site asks.
    """
    site = connection.headers.get("sec-fetch-site")
    origin = connection.headers.get("origin")
    if site is None and origin is not None:
        same = origin.partition("://")[2] == connection.headers.get("host")
        site = "same-origin" if same else "cross-site"
    if site not in {None, "same-origin", "none"}:
        raise PermissionDeniedException("Another web site may not do this.")
