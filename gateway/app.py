"""The HTTP application: every route of the product, put together."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from litestar import Litestar
from litestar.datastructures import State
from litestar.di import Provide

from gateway import (
    health,
    immich_search,
    index,
    metrics,
    mtphotos,
    openapi,
    photos,
    predict,
    previews,
    reprocess,
    search,
    session,
    web,
)
from gateway.access_log import access_log
from gateway.database import Queries
from gateway.errors import EXCEPTION_HANDLERS
from gateway.intake import SMALL_BYTES, timely
from gateway.services import Services, provide_caller
from indexer.metrics import Metrics
from indexer.models.engine import Engine
from indexer.settings import Settings

# Beside the image, a request holds the entries and the multipart framing.
_FORM_BYTES = 1_000_000


def create_app(
    settings: Settings,
    engine: Engine,
    database: Queries | None,
    counted: Metrics | None = None,
) -> Litestar:
    """Make the application.

    Args:
        engine: runs the models; stays its owner's to close.
        database: a `gateway.database.Database`, opened and closed with the application; None
            to serve models alone. It may be away: then searching says so, and the rest works.
        counted: what `/metrics` shows, where others in this process count too.
    """
    counted = counted or Metrics()
    services = Services(settings, engine, database, counted)
    max_form_bytes = settings.max_image_bytes + _FORM_BYTES

    @asynccontextmanager
    async def lifespan(_: Litestar) -> AsyncIterator[None]:
        await services.open()
        try:
            yield
        finally:
            await services.close()

    return Litestar(
        route_handlers=[
            *predict.routes(settings, max_form_bytes),
            mtphotos.router(max_form_bytes),
            search.search,
            search.search_json,
            immich_search.router(),
            reprocess.reprocess,
            reprocess.reprocess_status,
            photos.photos,
            photos.photo,
            photos.thumbnail,
            photos.filters,
            index.index,
            index.retry,
            index.events,
            session.session,
            session.sign_in,
            session.sign_out,
            web.page_file,
            health.health,
            health.live,
            health.ready,
            metrics.metrics,
            previews.preview,
        ],
        lifespan=[lifespan],
        state=State({"services": services}),
        dependencies={
            "services": Provide(lambda: services, sync_to_thread=False),
            "caller": Provide(provide_caller),
        },
        exception_handlers=EXCEPTION_HANDLERS,
        middleware=[access_log, timely(settings)],
        before_send=[metrics.count_requests(counted)],
        request_max_body_size=SMALL_BYTES,
        openapi_config=openapi.config(),
        logging_config=None,  # the command line's, for the whole process
    )
