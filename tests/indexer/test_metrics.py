"""Prometheus is told what happens: counted by the process, or asked of the database."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from io import BytesIO

import httpx
import pytest
from PIL import Image
from prometheus_client.parser import text_string_to_metric_families

from gateway.server import BindError
from immich.events import FakeImmich
from immich_indexer.runtime import serve_metrics
from indexer import results
from indexer.metrics import Metrics
from indexer.settings import Settings
from indexer.shared import SharedEngine
from indexer.worker import Worker
from pg.connect import connect

Values = dict[tuple[str, frozenset[tuple[str, str]]], float]


@pytest.fixture
def metrics(indexed_immich: FakeImmich) -> Iterator[Metrics]:
    made = Metrics(indexed_immich.url)
    yield made
    made.close()


def read(metrics: Metrics, name: str, **labels: str) -> float | None:
    return metrics.registry.get_sample_value(f"immich_indexer_{name}", labels)


def picture(width: int) -> bytes:
    out = BytesIO()
    Image.new("RGB", (width, 32), "orange").save(out, "PNG")
    return out.getvalue()


def test_a_worker_counts_what_it_does(indexed_immich: FakeImmich, metrics: Metrics) -> None:
    settings = Settings(
        db_url=indexed_immich.url,
        media_map=f"{indexed_immich.location}={indexed_immich.media_dir}",
        clip_model="stand-in",
        clip_download="off",
        poll_seconds=0.1,
    )
    with connect(indexed_immich.url) as connection:
        results.use_clip_model(connection, "stand-in", 64)
    _, second, copy, broken = (indexed_immich.upload(picture(width)) for width in range(40, 44))
    indexed_immich.change_on_disk(copy, indexed_immich.preview_path(second).read_bytes())
    indexed_immich.change_on_disk(broken, b"no picture")
    assert read(metrics, "queue_jobs", task="ocr", state="waiting") == 4
    assert read(metrics, "queue_jobs", task="ocr", state="dead") == 0
    assert read(metrics, "photos_indexed", task="clip") == 0
    waited = read(metrics, "oldest_job_seconds")
    assert waited
    assert waited > 0

    engine = SharedEngine(settings, indexed_immich.url, metrics)
    worker = Worker(settings, indexed_immich.url, engine, metrics=metrics)
    worker.start()
    try:
        with connect(indexed_immich.url) as connection:
            for _ in range(600):
                if connection.execute(
                    "SELECT NOT EXISTS (SELECT FROM indexer_v1.job WHERE dead_at IS NULL)"
                ).fetchone() == (True,):
                    break
                worker.wait(0.05)
    finally:
        worker.stop()
        engine.close()

    assert read(metrics, "photos_indexed", task="ocr") == 3
    assert read(metrics, "photos_indexed", task="clip") == 3
    assert read(metrics, "queue_jobs", task="clip", state="dead") == 1
    assert read(metrics, "oldest_job_seconds") == 0  # the dead don't wait
    assert read(metrics, "failures_total", reason="unreadable image") == 2
    assert read(metrics, "notify_to_done_seconds_count") == 6
    # The copy, for both models.
    assert read(metrics, "cache_hits_total") == 2
    for model in ("ocr", "clip-image"):
        assert read(metrics, "batch_size_sum", model=model) == 2
        batches = read(metrics, "batch_size_count", model=model)
        assert batches == read(metrics, "inference_seconds_count", model=model, lane="bulk")
        assert (read(metrics, "inference_seconds_sum", model=model, lane="bulk") or 0) > 0


def test_dead_jobs_that_come_back_are_new(indexed_immich: FakeImmich, metrics: Metrics) -> None:
    indexed_immich.upload(picture(40))
    db = indexed_immich.db
    buried = "UPDATE indexer_v1.job SET dead_at = now(), created_at = now() - interval '1 year'"
    for revive in (
        "SELECT indexer_v1.requeue()",
        "SELECT indexer_v1.enqueue(array[id]) FROM asset",
    ):
        db.execute(buried)
        assert read(metrics, "oldest_job_seconds") == 0
        db.execute(revive)
        assert 0 < (read(metrics, "oldest_job_seconds") or 0) < 3600


def test_without_a_database_the_rest_is_there(
    empty_database: str, caplog: pytest.LogCaptureFixture
) -> None:
    metrics = Metrics(empty_database)
    metrics.cache_hits.inc()
    for _ in range(2):
        assert b"immich_indexer_cache_hits_total 1.0" in metrics.render()
        assert read(metrics, "oldest_job_seconds") is None
    metrics.close()
    assert caplog.text.count("metrics of queue and index are away") == 1


def test_registries_are_their_owners() -> None:
    first, second = Metrics(), Metrics()
    first.cache_hits.inc()
    assert read(second, "cache_hits_total") == 0


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def test_a_worker_serves_them_where_it_is_told(metrics: Metrics) -> None:
    settings = Settings(metrics_port=free_port())
    url = f"http://127.0.0.1:{settings.metrics_port}/metrics"
    with serve_metrics(settings, metrics):
        answer = httpx.get(url, trust_env=False)
        names = {family.name for family in text_string_to_metric_families(answer.text)}
        assert {"immich_indexer_queue_jobs", "immich_indexer_failures"} <= names
        with pytest.raises(BindError, match="METRICS_PORT"), serve_metrics(settings, metrics):
            pass
    with pytest.raises(httpx.ConnectError):
        httpx.get(url, trust_env=False)


def test_a_worker_serves_nothing_unless_told(
    metrics: Metrics, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("immich_indexer.runtime.start_http_server", None)
    with serve_metrics(Settings(), metrics):
        pass
