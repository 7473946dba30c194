"""`/metrics` for Prometheus, and the count of requests in it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from litestar import Response, get
from litestar.di import NamedDependency
from litestar.types import Message, Scope
from prometheus_client import CONTENT_TYPE_LATEST

from gateway.services import Services
from indexer.metrics import Metrics

# What no route was found for: raw paths would be as many time series as somebody likes to ask for.
_NO_ROUTE = "none"


def count_requests(metrics: Metrics) -> Callable[[Message, Scope], Awaitable[None]]:
    """Make a `before_send` hook of the application that counts answers by route and status."""

    async def count(message: Message, scope: Scope) -> None:
        if message["type"] == "http.response.start":
            route = scope.get("path_template") or _NO_ROUTE
            metrics.requests.labels(route, str(message["status"])).inc()

    return count


@get("/metrics", tags=["Health"], summary="Metrics for Prometheus")
async def metrics(services: NamedDependency[Services]) -> Response[bytes]:
    """Numbers alone, of no photo and no query: open to whoever reaches the port, as `/health`."""
    async with services.counting:
        text = await asyncio.to_thread(services.metrics.render)
    return Response(text, media_type=CONTENT_TYPE_LATEST)
