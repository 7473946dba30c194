"""Connections to the servers behind the gateway, shared by everybody who asks."""

from __future__ import annotations

from http.cookiejar import CookieJar, DefaultCookiePolicy
from typing import Any

import httpx


def client(**options: Any) -> httpx.AsyncClient:
    """Make a client that goes where it is told to, and carries nothing from one caller to another.

    No proxy of the environment's, no redirects, and no cookies kept: httpx would send what one
    person's answer has set along with the next person's request.

    Args:
        options: more of `httpx.AsyncClient`'s.
    """
    return httpx.AsyncClient(
        trust_env=False,
        follow_redirects=False,
        cookies=CookieJar(DefaultCookiePolicy(allowed_domains=[])),
        **options,
    )
