"""What the routes of one application share; made by `gateway.app.create_app`."""

from __future__ import annotations

import asyncio

from litestar.di import NamedDependency

from gateway.auth import Caller, ImmichUsers, check_local
from gateway.clip_names import ClipNames
from gateway.database import Database, NoDatabase, Queries
from gateway.errors import AnyRequest
from gateway.events import Events
from gateway.faces import ImmichMl
from gateway.immich_client import ImmichClient
from gateway.immich_items import Items
from gateway.immich_ranking import Ranking
from gateway.inference import Inference
from gateway.intake import Intake
from gateway.replica import Replica
from gateway.thumbnails import Thumbnails
from indexer.library import owner_of
from indexer.metrics import Metrics
from indexer.models.engine import Engine
from indexer.settings import Settings


class Services:
    """One of each, opened and closed with the application."""

    def __init__(
        self, settings: Settings, engine: Engine, database: Queries | None, metrics: Metrics
    ) -> None:
        self.settings = settings
        self.metrics = metrics
        # Anybody may ask, and each answer keeps a thread waiting for the database.
        self.counting = asyncio.Lock()
        self.engine = engine
        self.inference = Inference(settings, engine)
        self.intake = Intake(settings)
        self.clip_names = ClipNames()
        self.database: Queries = database or NoDatabase()
        self.replica = _replica(settings, self.database)
        # What is ranked and read for a search; who may see what is asked of the primary.
        self.searching: Queries = self.replica or self.database
        self.immich_ml = ImmichMl(settings.immich_api, faces=settings.faces_by == "forward")
        self.users = ImmichUsers(settings.immich_url)
        self.immich = ImmichClient(settings.immich_url)
        self.immich_items = Items(self.immich)
        self.immich_ranking = Ranking(self.database, self.searching, self.inference)
        self.events = Events(self.database)
        self.thumbnails = Thumbnails(settings, self.inference)

    async def open(self) -> None:
        """Open what needs the event loop. Nothing that is away keeps it from starting."""
        await self.database.open()
        if self.replica:
            await self.replica.open()

    async def close(self) -> None:
        """Close everything but the engine, which isn't ours."""
        await self.events.close()
        self.thumbnails.close()
        await self.immich_ml.close()
        await self.users.close()
        await self.immich.close()
        if self.replica:
            await self.replica.close()
        await self.database.close()


def _replica(settings: Settings, primary: Queries) -> Replica | None:
    if not settings.search_db_url:
        return None
    there = Database(settings.search_db_url, names="SEARCH_DB_URL", log_failures=False)
    return Replica(there, primary)


async def provide_caller(request: AnyRequest, services: NamedDependency[Services]) -> Caller:
    """Say which photos a request may see; the dependency ``caller`` of routes that show any.

    Raises:
        NotAuthorizedException, PermissionDeniedException, NotConfigured,
        ServiceUnavailableException: see `gateway.auth`.
    """
    if services.settings.attached:
        user = await services.users.user(request)
        return Caller(user.id, name=user.name, admin=user.is_admin, permissions=user.permissions)
    check_local(request)
    folder = services.settings.photos_dir
    return Caller(None, owner_of(folder) if folder else None, admin=True)
