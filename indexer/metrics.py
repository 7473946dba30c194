"""What Prometheus is told, by gateways and workers alike.

What a process does is counted where it happens, in a registry of the process's own. What the
database knows (queue, index) is asked of the database, so that every process answers the same.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import get_args

import psycopg
from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector
from psycopg_pool import ConnectionPool, PoolTimeout

from indexer.queue import FailureKind
from pg.connect import Connection, pool

log = logging.getLogger(__name__)

_NAMESPACE = "immich_indexer"
_TASKS = ("ocr", "clip")
_STATES = ("waiting", "retrying", "running", "dead")
# Prometheus waits for 10 s by default, and the rest is to be had without a database.
_DATABASE_SECONDS = 3.0

_INFERENCE_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
_BATCH_BUCKETS = (1, 2, 4, 8, 16, 32)
_DONE_BUCKETS = (0.25, 0.5, 1, 2, 5, 10, 30, 60, 300, 1800, 7200, 86400)


class Metrics:
    """The metrics of one process; made once and passed down. docs/operations.md explains each.

    Args:
        url: of the database that queue and index are counted in; None leaves those out.
    """

    def __init__(self, url: str | None = None) -> None:
        self.registry = CollectorRegistry()
        self._database = _Database(url)
        self.registry.register(self._database)
        self.requests = Counter(
            "requests",
            "Requests answered, by the route's template (/similar/{asset_id}) and HTTP status.",
            ["route", "status"],
            namespace=_NAMESPACE,
            registry=self.registry,
        )
        self.inference = Histogram(
            "inference_seconds",
            "How long a batch took to compute: ocr, clip-image, clip-text or faces, by lane.",
            ["model", "lane"],
            namespace=_NAMESPACE,
            registry=self.registry,
            buckets=_INFERENCE_BUCKETS,
        )
        self.batch_size = Histogram(
            "batch_size",
            "How many photos or texts were computed at once.",
            ["model"],
            namespace=_NAMESPACE,
            registry=self.registry,
            buckets=_BATCH_BUCKETS,
        )
        self.cache_hits = Counter(
            "cache_hits",
            "Results that were had without computing: somebody had asked for the same picture.",
            namespace=_NAMESPACE,
            registry=self.registry,
        )
        self.failures = Counter(
            "failures",
            "Jobs that failed, each attempt counted, by the kind of reason.",
            ["reason"],
            namespace=_NAMESPACE,
            registry=self.registry,
        )
        for kind in get_args(FailureKind):  # Prometheus doesn't see a rise from nothing to one
            self.failures.labels(kind)
        self.notify_to_done = Histogram(
            "notify_to_done_seconds",
            "From the event that made a job (an upload, a request) to its result being searchable.",
            namespace=_NAMESPACE,
            registry=self.registry,
            buckets=_DONE_BUCKETS,
        )
        self.listener_reconnects = Counter(
            "listener_reconnects",
            "How often the connection that listens for new jobs was lost.",
            namespace=_NAMESPACE,
            registry=self.registry,
        )

    def observe_batch(self, model: str, lane: str, size: int, seconds: float) -> None:
        """Count one batch that was computed; for `indexer.models.batching.BatchThread`."""
        self.inference.labels(model, lane).observe(seconds)
        self.batch_size.labels(model).observe(size)

    def render(self) -> bytes:
        """Everything in Prometheus' text format. Asks the database: not from an event loop."""
        return generate_latest(self.registry)

    def close(self) -> None:
        """Let go of the database."""
        self._database.close()


class _Database(Collector):
    """Queue and index, counted when asked. Says nothing of them while the database is away."""

    def __init__(self, url: str | None) -> None:
        self._pool: ConnectionPool[Connection] | None = None
        if url:
            self._pool = pool(url, min_size=0, max_size=1)
        self._away = False

    def describe(self) -> Iterable[GaugeMetricFamily]:
        """The families, empty."""
        return [
            GaugeMetricFamily(
                f"{_NAMESPACE}_queue_jobs",
                "Jobs in the queue; dead ones have failed for good.",
                labels=["task", "state"],
            ),
            GaugeMetricFamily(
                f"{_NAMESPACE}_oldest_job_seconds",
                "For how long the oldest job that isn't dead has been in the queue; 0: no job.",
                labels=[],
            ),
            GaugeMetricFamily(
                f"{_NAMESPACE}_photos_indexed",
                "Photos that have a result.",
                labels=["task"],
            ),
        ]

    def collect(self) -> Iterable[Metric]:
        """The families as the database has them now."""
        if self._pool is None:
            return []
        queue_jobs, oldest_job, photos_indexed = self.describe()
        complete: list[Metric] = []
        try:
            with self._pool.connection(timeout=_DATABASE_SECONDS) as connection:
                connection.execute(
                    "SELECT set_config('statement_timeout', %s, false)",
                    [f"{_DATABASE_SECONDS:.0f}s"],
                )
                jobs = _jobs(connection)
                for task in _TASKS:
                    for state in _STATES:
                        queue_jobs.add_metric([task, state], jobs.get((task, state), (0, 0.0))[0])
                ages = [age for (_, state), (_, age) in jobs.items() if state != "dead"]
                oldest_job.add_metric([], max(ages, default=0.0))
                complete += [queue_jobs, oldest_job]
                for task, photos in _indexed(connection):
                    photos_indexed.add_metric([task], photos)
                complete.append(photos_indexed)
        except (psycopg.Error, PoolTimeout) as error:
            if not self._away:
                log.warning("metrics of queue and index are away: %s", str(error).strip())
            self._away = True
        else:
            self._away = False
        return complete

    def close(self) -> None:
        if self._pool is not None:
            self._pool.close()


def _jobs(connection: Connection) -> dict[tuple[str, str], tuple[int, float]]:
    """How many and the age of the oldest in seconds, by task and state."""
    rows = connection.execute(
        "SELECT task, state, jobs, extract(epoch FROM clock_timestamp() - oldest)::float8"
        " FROM indexer_v1.queue()"
    ).fetchall()
    return {(task, state): (jobs, age) for task, state, jobs, age in rows}


def _indexed(connection: Connection) -> list[tuple[str, int]]:
    """Photos with a result, by task."""
    rows: list[tuple[str, int]] = connection.execute(
        "SELECT 'ocr', count(*) FROM indexer_v1.ocr"
        " UNION ALL SELECT 'clip', count(*) FROM indexer_v1.clip"
    ).fetchall()
    return rows
