"""Signing in to the page: by Immich's own session where it is there, else by a key of Immich's."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from litestar import Response, delete, get, post
from litestar.datastructures import Cookie
from litestar.di import NamedDependency
from litestar.exceptions import NotAuthorizedException
from litestar.openapi.datastructures import ResponseSpec
from litestar.params import JSONBody
from msgspec import Meta

from gateway.auth import KEY_COOKIE, key_credentials, refuse_cross_site
from gateway.errors import AnyRequest
from gateway.openapi import Problem
from gateway.services import Services, provide_caller

_TAGS = ["Session"]
_KEY_SECONDS = 30 * 24 * 3600
_RESPONSES = {
    403: ResponseSpec(Problem, description="Folder mode: not from this computer"),
    501: ResponseSpec(Problem, description="Attached to Immich, and `IMMICH_URL` isn't set"),
    503: ResponseSpec(Problem, description="Immich is away"),
}


class Session(msgspec.Struct):
    """Who the page is shown to.

    Attributes:
        mode: `folder`: no users, this computer alone; `immich`: its users.
        signed_in: whether photos can be seen.
        name: of the user.
        admin: whether the whole index is shown on the index page.
        by_key: whether signing out is possible here: by a key, not by Immich's session.
    """

    mode: Literal["folder", "immich"]
    signed_in: bool
    name: str = ""
    admin: bool = False
    by_key: bool = False


class SignIn(msgspec.Struct, forbid_unknown_fields=True):
    """An API key of Immich's with the permissions user.read, asset.read and asset.view.

    To have photos redone, job.create too.
    """

    key: Annotated[str, Meta(max_length=4096)]


@get("/session", tags=_TAGS, summary="Who is signed in", responses=_RESPONSES)
async def session(request: AnyRequest, services: NamedDependency[Services]) -> Session:
    """Say who the page is shown to; not being signed in is no error."""
    mode: Literal["folder", "immich"] = "immich" if services.settings.attached else "folder"
    try:
        caller = await provide_caller(request, services)
    except NotAuthorizedException:
        return Session(mode, signed_in=False)
    return Session(
        mode,
        signed_in=True,
        name=caller.name,
        admin=caller.admin,
        by_key=bool(request.cookies.get(KEY_COOKIE)),
    )


@post(
    "/session",
    status_code=200,
    guards=[refuse_cross_site],
    tags=_TAGS,
    summary="Sign in with an API key of Immich's",
    responses=_RESPONSES | {401: ResponseSpec(Problem, description="Immich doesn't take this key")},
)
async def sign_in(
    data: JSONBody[SignIn], request: AnyRequest, services: NamedDependency[Services]
) -> Response[Session]:
    """Keep a key in a cookie that scripts can't read and other sites can't have sent."""
    key = data.key.strip()
    credentials = key_credentials(key)
    if not credentials:
        raise NotAuthorizedException("This isn't an API key of Immich's.")
    user = await services.users.user_of(credentials)
    return Response(
        Session("immich", signed_in=True, name=user.name, admin=user.is_admin, by_key=True),
        cookies=[_cookie(key, request)],
    )


@delete(
    "/session",
    status_code=200,
    guards=[refuse_cross_site],
    tags=_TAGS,
    summary="Sign out",
)
async def sign_out(request: AnyRequest) -> Response[None]:
    """Forget the key; Immich's own session stays Immich's."""
    return Response(None, cookies=[_cookie(None, request)])


def _cookie(key: str | None, request: AnyRequest) -> Cookie:
    # Without a path, it is the page's own: also where a proxy serves it below one of its paths.
    https = request.headers.get("origin", "").startswith("https://")
    return Cookie(
        KEY_COOKIE,
        path="",
        value=key,
        max_age=_KEY_SECONDS if key else 0,
        httponly=True,
        secure=https or None,
        samesite="strict",
    )
