"""An engine that computes nothing twice: results are shared by the picture's hash and the options.

Three places are looked at: what is being computed right now in this process, what was lately, and
the database, which the gateway and all workers share. Without a database it does without.
"""

from __future__ import annotations

import logging
import threading
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

import msgspec
import numpy as np
import psycopg
from psycopg.types.json import Jsonb
from psycopg_pool import ConnectionPool, PoolTimeout

from indexer.metrics import Metrics
from indexer.models.engine import Engine
from indexer.models.images import Photo
from indexer.models.types import Embedding, Lane, Line, OcrOptions
from indexer.settings import Settings
from pg.connect import Connection, pool
from pg.query import fetch_value

log = logging.getLogger(__name__)

Result = TypeVar("Result")
_Key = tuple[bytes, str]

_RECENT = 512
_DATABASE_SECONDS = 1.0  # a lookup must not cost more than it may save
_UNIT = 1e-6  # how far from 1 the norm of a float32 embedding may be


class SharedEngine(Engine):
    """See the module. Same interface; `force` computes anew and replaces what is kept.

    Args:
        settings: see the table in the README.
        url: of the database; None does without.
        metrics: where batches and what needn't be computed are counted.
        on_stuck: see `Engine`.
    """

    def __init__(
        self,
        settings: Settings,
        url: str | None,
        metrics: Metrics | None = None,
        on_stuck: Callable[[], None] | None = None,
    ) -> None:
        self._metrics = metrics or Metrics()
        super().__init__(settings, self._metrics.observe_batch, on_stuck)
        self._results = _Results(url) if url else None
        # Interactive callers are event loops: they must not wait for a database.
        self._lookups = ThreadPoolExecutor(2, thread_name_prefix="lookup")
        self._sharing = threading.Lock()
        self._running: dict[_Key, Future[Any]] = {}
        self._computing: dict[_Key, Future[Any]] = {}
        self._urgent: set[_Key] = set()
        self._recent: OrderedDict[_Key, Any] = OrderedDict()

    def read_text(
        self, photo: Photo, options: OcrOptions, lane: Lane, *, force: bool = False
    ) -> Future[list[Line]]:
        """Read the text in a photo, or say what was read in it before."""
        return self._once(
            (photo.sha256, self.ocr_model(options)),
            lane,
            force,
            compute=lambda: super(SharedEngine, self).read_text(photo, options, lane),
            find=_Results.find_text,
        )

    def embed_image(self, photo: Photo, lane: Lane, *, force: bool = False) -> Future[Embedding]:
        """Embed a photo, or give the embedding it has already."""
        return self._once(
            (photo.sha256, self.clip_info.name),
            lane,
            force,
            compute=lambda: super(SharedEngine, self).embed_image(photo, lane),
            find=_Results.find_embedding,
        )

    def close(self) -> None:
        """See `Engine.close`."""
        super().close()
        self._lookups.shutdown(wait=True, cancel_futures=True)
        if self._results:
            self._results.close()

    def _once(
        self,
        key: _Key,
        lane: Lane,
        force: bool,
        compute: Callable[[], Future[Result]],
        find: Callable[[_Results, _Key], Result | None],
    ) -> Future[Result]:
        mine: Future[Result] = Future()
        mine.set_running_or_notify_cancel()  # several may wait for it: nobody cancels it for all
        with self._sharing:
            if not force:
                if (running := self._running.get(key)) is not None:
                    self._metrics.cache_hits.inc()
                    if lane is Lane.INTERACTIVE:
                        self._hurry(key)
                    return running
                if (recent := self._recent.get(key)) is not None:
                    self._metrics.cache_hits.inc()
                    self._recent.move_to_end(key)
                    mine.set_result(recent)
                    return mine
            self._running[key] = mine
            self._computing.pop(key, None)

        def resolve() -> None:
            try:
                found = find(self._results, key) if self._results and not force else None
                if found is not None:
                    self._metrics.cache_hits.inc()
                    self._settle(key, mine, found)
                else:
                    computing = compute()
                    self._begin(key, mine, computing)
                    computing.add_done_callback(
                        lambda computed: self._computed(key, mine, computed, lane)
                    )
            except BaseException as error:
                self._fail(key, mine, error)

        if lane is Lane.INTERACTIVE:
            self._lookups.submit(resolve)
        else:
            resolve()
        return mine

    def _begin(self, key: _Key, mine: Future[Any], computing: Future[Any]) -> None:
        with self._sharing:
            if self._running.get(key) is not mine:
                return  # somebody forced another computation meanwhile
            self._computing[key] = computing
            urgent = key in self._urgent
        if urgent:
            self.promote(computing)

    def _hurry(self, key: _Key) -> None:
        """A person waits, too, for what was asked for in bulk. The lock is held."""
        self._urgent.add(key)
        if (computing := self._computing.get(key)) is not None:
            self.promote(computing)

    def _end(self, key: _Key, mine: Future[Any]) -> None:
        """The lock is held."""
        if self._running.get(key) is mine:
            del self._running[key]
            self._computing.pop(key, None)
            self._urgent.discard(key)

    def _computed(
        self, key: _Key, mine: Future[Result], computed: Future[Result], lane: Lane
    ) -> None:
        if computed.cancelled():
            self._fail(key, mine, RuntimeError("cancelled"))
        elif (error := computed.exception()) is not None:
            self._fail(key, mine, error)
        else:
            result = computed.result()
            self._settle(key, mine, result)
            # A worker writes its results to the index; what the gateway computed would be lost.
            if self._results and lane is Lane.INTERACTIVE:
                try:
                    self._lookups.submit(self._results.keep, key, result)  # type: ignore[arg-type]
                except RuntimeError:
                    log.debug("closing: a result isn't kept")

    def _settle(self, key: _Key, mine: Future[Result], result: Result) -> None:
        with self._sharing:
            self._end(key, mine)
            self._recent[key] = result
            self._recent.move_to_end(key)
            while len(self._recent) > _RECENT:
                self._recent.popitem(last=False)
        mine.set_result(result)

    def _fail(self, key: _Key, mine: Future[Result], error: BaseException) -> None:
        with self._sharing:
            self._end(key, mine)
        mine.set_exception(error)


class _Results:
    """The results in the database. It may be away: then nothing is known, and nothing kept."""

    def __init__(self, url: str) -> None:
        self._pool: ConnectionPool[Connection] = pool(url, min_size=0, max_size=4)

    def find_text(self, key: _Key) -> list[Line] | None:
        lines = self._ask("SELECT indexer_v1.known_text(%s, %s)", key)
        return None if lines is None else msgspec.convert(lines, list[Line])

    def find_embedding(self, key: _Key) -> Embedding | None:
        numbers = self._ask("SELECT indexer_v1.known_embedding(%s, %s)", key)
        if numbers is None:
            return None
        embedding = np.asarray(numbers, np.float32)
        norm = np.linalg.norm(embedding)
        if abs(norm - 1) < _UNIT:  # what was said before is said again, to the last digit
            return embedding
        unit: Embedding = embedding / norm  # halfvec has rounded it
        return unit

    def keep(self, key: _Key, result: list[Line] | Embedding) -> None:
        lines = Jsonb(msgspec.to_builtins(result)) if isinstance(result, list) else None
        numbers = None if isinstance(result, list) else result.tolist()
        try:
            with self._pool.connection(timeout=_DATABASE_SECONDS) as connection:
                connection.execute(
                    "SELECT indexer_v1.keep_result(%s, %s, %s, %s::real[])", [*key, lines, numbers]
                )
        except (psycopg.Error, PoolTimeout) as error:
            log.warning("a result isn't kept: %s", str(error).strip())

    def close(self) -> None:
        self._pool.close()

    def _ask(self, statement: str, key: _Key) -> Any:
        try:
            with self._pool.connection(timeout=_DATABASE_SECONDS) as connection:
                return fetch_value(connection, statement, key)
        except (psycopg.Error, PoolTimeout) as error:
            log.warning("kept results can't be looked at: %s", str(error).strip())
            return None
