"""The worker: claims jobs, has them processed, writes what came out, until told to stop."""

from __future__ import annotations

import logging
import os
import socket
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import nullcontext, suppress
from uuid import UUID, uuid4

import psycopg

from indexer import queue, results, write_back
from indexer.immich import ImmichConfig, ocr_options, read_config, same_embeddings
from indexer.listener import Listener, Wake
from indexer.media import MediaAwayError
from indexer.metrics import Metrics
from indexer.models.types import ModelUnavailable, TimeLimitError
from indexer.process import Processor
from indexer.queue import Failure, Job, Outcome, Task, WriteLostError
from indexer.results import ClipModelChangedError
from indexer.settings import Settings
from indexer.shared import SharedEngine
from indexer.write_back import WriteBack
from pg.connect import Connection, connect

log = logging.getLogger(__name__)

# While one lane writes or reads ahead, the other infers.
_LANES = 2
_HEARTBEAT_SECONDS = 5.0
_OUTAGE_SECONDS = 10.0
_RATE_WINDOW_SECONDS = 60.0
# Outcomes are written when this many are ready, so that results are searchable soon.
_WRITE_EVERY = 8
# Whatever the database's own limit is: results of one photo that take longer are a fault of theirs.
_STATEMENT_TIMEOUT = "SET statement_timeout = '60s'"
# Nor is any transaction of a worker's this long. From PostgreSQL 17 on it ends whatever a worker
# did as it froze; before, what it does between two statements alone (`pg.connect`).
_TRANSACTION_TIMEOUT = "SET transaction_timeout = '120s'"
_HAS_TRANSACTION_TIMEOUT = 170_000


class Worker:
    """Several lanes that share one engine, a heartbeat that keeps their leases, and a listener.

    Args:
        settings: see the table in the README.
        url: of the database.
        engine: shared with the gateway where both are in one process; not closed here.
        on_outcome: called for every job that ended, from any thread.
        metrics: where outcomes and lost connections are counted.
    """

    def __init__(
        self,
        settings: Settings,
        url: str,
        engine: SharedEngine,
        on_outcome: Callable[[Outcome], None] | None = None,
        metrics: Metrics | None = None,
    ) -> None:
        self.id = uuid4()
        self._settings = settings
        self._url = url
        self._engine = engine
        self._on_outcome = on_outcome
        self._metrics = metrics or Metrics()
        self._processor = Processor(settings, engine)
        self._wake = Wake()
        self._listener = Listener(url, self._wake, self._metrics.listener_reconnects.inc)
        self._stop = threading.Event()
        self._threads: list[threading.Thread] = []
        self._lock = threading.Lock()
        self._others = threading.Lock()  # held by every lane but the first while it works
        self._leases: set[UUID] = set()
        # Leases to be given back when the database is there again, and photos that may be why not.
        self._owed: dict[UUID, frozenset[UUID]] = {}
        self._done = 0
        self._failed = 0
        self._recent: deque[float] = deque()
        self._note = ""
        self._immich: ImmichConfig | None = None

    def start(self) -> None:
        """Start in threads of its own. LISTEN comes before the first look at the queue.

        Raises:
            psycopg.OperationalError: the database is away.
        """
        with connect(self._url) as connection:
            self._immich = read_config(connection)
        self._listener.start()
        self._listener.listening.wait(timeout=self._settings.poll_seconds)
        self._threads = [
            threading.Thread(target=self._heartbeat, name="heartbeat", daemon=True),
            *(
                threading.Thread(
                    target=self._lane, args=(number,), name=f"lane-{number}", daemon=True
                )
                for number in range(_LANES)
            ),
        ]
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Finish what is being computed, give the rest back, and wait for it. Idempotent."""
        self._stop.set()
        self._wake.ring()
        self._engine.drop_bulk()
        for thread in self._threads:
            thread.join()
        self._listener.stop()
        self._processor.close()

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until stopped; True if it was."""
        return self._stop.wait(timeout)

    # -- a lane -----------------------------------------------------------------------------------

    def _lane(self, number: int) -> None:
        backoff = 0.5
        while not self._stop.is_set():
            try:
                with self._connect() as connection:
                    while not self._stop.is_set():
                        self._step(connection, number)
                        backoff = 0.5
            except psycopg.Error as error:
                log.warning("database: %s; again in %.1f s", str(error).strip(), backoff)
                self._stop.wait(backoff)
                backoff = min(backoff * 2, 30.0)
            except Exception:
                log.exception("unexpected; the claimed jobs are free again after their lease")
                self._stop.wait(_OUTAGE_SECONDS)
        if self._owed:
            with suppress(psycopg.Error):
                self._connect().close()

    def _connect(self) -> Connection:
        """A connection; what was claimed when the last one was lost is given back first.

        An outage of the database is charged to nobody, and no lease of ours ends because of it.
        """
        connection = connect(self._url)
        try:
            connection.execute(_STATEMENT_TIMEOUT)
            if connection.info.server_version >= _HAS_TRANSACTION_TIMEOUT:
                connection.execute(_TRANSACTION_TIMEOUT)
            with self._lock:
                owed, self._owed = self._owed, {}
                kept = list(self._leases)
            try:
                for token in kept:
                    queue.renew(connection, token, self._settings.lease_seconds)
                for token, charged in list(owed.items()):
                    queue.release(connection, token, charged=charged)
                    del owed[token]
            finally:
                with self._lock:
                    self._owed |= owed
        except BaseException:
            connection.close()
            raise
        return connection

    def _step(self, connection: Connection, number: int) -> None:
        """Claim a batch and work through it, or wait for a reason to look again.

        Only the first lane takes suspects, photos that a worker may have died of; while it works on
        one the others stand still, so that a second death is no neighbour's fault.
        """
        heard = self._wake.rings
        if number == 0:
            worked = self._claim_and_work(connection, suspects=True)
        else:
            with self._others:
                worked = self._claim_and_work(connection, suspects=False)
        if not worked:
            self._wake.wait(heard, self._settings.poll_seconds)

    def _claim_and_work(self, connection: Connection, *, suspects: bool) -> bool:
        tasks = self._tasks(connection)
        queue.take_missed(connection)
        token = uuid4()
        charged: frozenset[UUID] = frozenset()
        with self._lock:
            self._leases.add(token)
        try:
            jobs = queue.claim(
                connection,
                token,
                tasks,
                self._settings.batch_size * len(tasks),
                self._settings.lease_seconds,
                self._settings.max_attempts,
                suspects,
            )
            if jobs:
                with self._others if jobs[0].suspect else nullcontext():
                    self._work(connection, token, jobs)
        except psycopg.Error as error:
            if isinstance(error, WriteLostError):
                charged = error.asset_ids
            with self._lock:
                self._owed[token] = charged
            raise
        finally:
            with self._lock:
                self._leases.discard(token)
        if not jobs:
            write_back.flush(connection, self._beside())
        return bool(jobs)

    def _tasks(self, connection: Connection) -> list[Task]:
        """What can be done now. CLIP jobs wait while the model is away or isn't the index's."""
        problem = self._engine.clip_problem()
        if problem is None:
            recorded, served = results.recorded_clip_model(connection), self._engine.clip_info.name
            if recorded != served:
                problem = (
                    f"the index is made with the CLIP model {recorded}, this worker has {served}:"
                    f" set CLIP_MODEL={recorded}, or let `immich-indexer migrate --clip-model"
                    f" {served}` embed every photo again"
                )
        note = f"CLIP waits: {problem}" if problem else ""
        if note != self._note:
            self._note = note
            log.warning(note or "CLIP is available")
        return ["ocr"] if problem else ["ocr", "clip"]

    def _work(self, connection: Connection, token: UUID, jobs: list[Job]) -> None:
        ready: list[Outcome] = []
        delay = 0.0
        try:
            try:
                options = ocr_options(self._settings, self._immich)
                for outcome in self._processor.run(jobs, options, self._stop):
                    ready.append(outcome)
                    if len(ready) >= _WRITE_EVERY:
                        self._write(connection, token, ready)
                        ready = []
            except (MediaAwayError, ModelUnavailable) as outage:
                log.warning("%s; the jobs wait", outage)
                delay = _OUTAGE_SECONDS
            except TimeLimitError as slow:
                # As if the worker had died of it: the photos come one by one now.
                log.warning("%s, and which photo it was isn't known", slow)
                self._write(connection, token, ready)
                queue.release(connection, token, charged={job.asset_id for job in jobs})
                return
            self._write(connection, token, ready)
        except ClipModelChangedError as changed:
            log.warning("%s; the results are thrown away", changed)
        queue.release(connection, token, delay)
        if delay:
            self._stop.wait(delay)

    def _write(self, connection: Connection, token: UUID, outcomes: list[Outcome]) -> None:
        if not outcomes:
            return
        beside = self._beside()
        written = queue.finish(connection, token, outcomes, self._settings.max_attempts, beside)
        write_back.flush(connection, beside)
        with self._lock:
            for outcome in written:
                if isinstance(outcome.result, Failure):
                    self._failed += 1
                else:
                    self._done += 1
                if outcome.job.task == "ocr":
                    self._recent.append(time.monotonic())
        for outcome in written:
            failure = outcome.result if isinstance(outcome.result, Failure) else None
            if failure:
                self._metrics.failures.labels(failure.kind).inc()
            elif outcome.age is not None:
                self._metrics.notify_to_done.observe(outcome.age)
            log.log(
                logging.WARNING if failure else logging.DEBUG,
                "%s asset=%s task=%s attempt=%d%s",
                "failed" if failure else "done",
                outcome.job.asset_id,
                outcome.job.task,
                outcome.job.attempts,
                f" reason={failure.reason!r}" if failure else "",
            )
            if self._on_outcome:
                self._on_outcome(outcome)

    def _beside(self) -> WriteBack:
        return WriteBack(
            redone=self._settings.write_back == "on",
            mend=self._settings.mend == "on",
            embeddings=same_embeddings(self._settings, self._immich),
        )

    # -- the heartbeat ----------------------------------------------------------------------------

    def _heartbeat(self) -> None:
        # Until the lanes have ended, not only until told to stop: what they finish needs its lease.
        lanes = self._threads[1:]
        pause = min(_HEARTBEAT_SECONDS, self._settings.lease_seconds / 3)
        while not self._stop.is_set() or any(lane.is_alive() for lane in lanes):
            try:
                with connect(self._url) as connection:
                    while not self._stop.is_set() or any(lane.is_alive() for lane in lanes):
                        self._beat(connection)
                        if self._stop.wait(pause):
                            time.sleep(0.1)
                    connection.execute("DELETE FROM indexer_v1.worker WHERE id = %s", [self.id])
            except Exception as error:  # without heartbeats, jobs would be done twice
                surprising = not isinstance(error, psycopg.Error)
                log.warning("heartbeat: %s", str(error).strip(), exc_info=surprising)
                self._stop.wait(pause)

    def _beat(self, connection: Connection) -> None:
        with self._lock:
            leases = [*self._leases, *self._owed]
            while self._recent and self._recent[0] < time.monotonic() - _RATE_WINDOW_SECONDS:
                self._recent.popleft()
            rate = len(self._recent) / _RATE_WINDOW_SECONDS
            done, failed = self._done, self._failed
        self._immich = read_config(connection)
        for token in leases:
            queue.renew(connection, token, self._settings.lease_seconds)
        connection.execute(
            """
            INSERT INTO indexer_v1.worker AS w (id, host, pid, device, done, failed, rate, note)
            VALUES (%s, %s, %s, %s, %s, %s, %s, %s)
            ON CONFLICT (id) DO UPDATE SET
                seen_at = now(), done = excluded.done, failed = excluded.failed,
                rate = excluded.rate, note = excluded.note
            """,
            [
                self.id,
                socket.gethostname(),
                os.getpid(),
                self._engine.device,
                done,
                failed,
                rate,
                self._note,
            ],
        )
        connection.execute(
            "DELETE FROM indexer_v1.worker WHERE seen_at < now() - interval '1 hour'"
        )
