"""The bell, and the listener that rings it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator

import psycopg
import pytest

from faults.proxy import Proxy
from indexer import listener as module
from indexer.listener import CHANNEL, Listener, Wake
from pg.connect import connect
from pg.query import fetch_value

PATIENCE_SECONDS = 60.0
OURS = "application_name = 'immich-indexer listener' AND datname = current_database()"


def wait_for(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not condition():
        assert time.monotonic() < deadline, "never came true"
        time.sleep(0.01)


# The bell


def test_a_ring_between_looking_and_waiting_is_heard() -> None:
    wake = Wake()
    heard = wake.rings
    wake.ring()
    wake.wait(heard, PATIENCE_SECONDS)  # returns at once
    assert wake.rings == heard + 1


def test_everybody_hears_a_ring() -> None:
    wake = Wake()
    heard = wake.rings
    threads = [threading.Thread(target=wake.wait, args=(heard, PATIENCE_SECONDS)) for _ in range(3)]
    for thread in threads:
        thread.start()
    wake.ring()
    for thread in threads:
        thread.join(PATIENCE_SECONDS)
    assert not any(thread.is_alive() for thread in threads)


def test_waiting_ends_by_itself() -> None:
    wake = Wake()
    wake.wait(wake.rings, 0.01)
    assert wake.rings == 0


# The listener


@pytest.fixture
def db(empty_database: str) -> Iterator[psycopg.Connection[tuple[object, ...]]]:
    with connect(empty_database) as connection:
        yield connection


@pytest.fixture
def wake() -> Wake:
    return Wake()


@pytest.fixture
def listener(empty_database: str, wake: Wake) -> Iterator[Listener]:
    made = Listener(empty_database, wake)
    made.start()
    assert made.listening.wait(PATIENCE_SECONDS)
    yield made
    made.stop()


def backends(db: psycopg.Connection[tuple[object, ...]]) -> int:
    count: int = fetch_value(db, f"SELECT count(*) FROM pg_stat_activity WHERE {OURS}")
    return count


def test_it_rings_when_it_begins(listener: Listener, wake: Wake) -> None:
    """For whatever was announced before."""
    wait_for(lambda: wake.rings == 1)


def test_it_rings_at_every_notification(
    db: psycopg.Connection[tuple[object, ...]], listener: Listener, wake: Wake
) -> None:
    wait_for(lambda: wake.rings == 1)
    for number in range(2, 5):
        db.execute("SELECT pg_notify(%s, '')", [CHANNEL])
        wait_for(lambda number=number: wake.rings == number)  # type: ignore[misc]
    db.execute("NOTIFY somebody_else")
    db.execute("SELECT pg_notify(%s, '')", [CHANNEL])
    wait_for(lambda: wake.rings >= 5)
    assert wake.rings == 5


def test_it_comes_back_after_its_connection_is_ended(
    db: psycopg.Connection[tuple[object, ...]], listener: Listener, wake: Wake
) -> None:
    for times in range(1, 3):
        rings = wake.rings
        db.execute(f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE {OURS}".encode())
        wait_for(lambda times=times: listener.reconnects == times)  # type: ignore[misc]
        wait_for(listener.listening.is_set)
        assert wake.rings > rings  # what was announced meanwhile
    rings = wake.rings
    db.execute("SELECT pg_notify(%s, '')", [CHANNEL])
    wait_for(lambda: wake.rings > rings)


def test_it_notices_at_once_that_its_connection_is_ended(
    db: psycopg.Connection[tuple[object, ...]],
    empty_database: str,
    wake: Wake,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Not only when it would have asked."""
    monkeypatch.setattr(module, "_PROBE_SECONDS", 3600.0)
    listener = Listener(empty_database, wake)
    listener.start()
    try:
        assert listener.listening.wait(PATIENCE_SECONDS)
        db.execute(f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE {OURS}".encode())
        wait_for(lambda: listener.reconnects == 1)
        assert listener.listening.wait(PATIENCE_SECONDS)
    finally:
        listener.stop()


def test_it_finds_out_that_it_is_deaf(
    empty_database: str, wake: Wake, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The connection is open, and nothing comes through it any more."""
    monkeypatch.setattr(module, "_PROBE_SECONDS", 0.05)
    monkeypatch.setattr(module, "_ANSWER_SECONDS", 1.0)
    proxy = Proxy(empty_database)
    listener = Listener(proxy.url, wake)
    listener.start()
    try:
        assert listener.listening.wait(PATIENCE_SECONDS)
        proxy.go_deaf()
        wait_for(lambda: listener.reconnects > 0)
        proxy.hear_again()
        wait_for(listener.listening.is_set)
    finally:
        listener.stop()
        proxy.close()


def test_probes_ring_no_bell(
    db: psycopg.Connection[tuple[object, ...]],
    empty_database: str,
    wake: Wake,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "_PROBE_SECONDS", 0.01)
    others = Wake()
    listeners = [Listener(empty_database, wake), Listener(empty_database, others)]
    for listener in listeners:
        listener.start()
    notified = (
        f"SELECT count(*) = 2 FROM pg_stat_activity WHERE {OURS} AND query LIKE '%%pg_notify%%'"
    )
    wait_for(lambda: fetch_value(db, notified))
    for listener in listeners:
        listener.stop()
    assert (wake.rings, others.rings) == (1, 1)
    assert [listener.reconnects for listener in listeners] == [0, 0]


def test_a_database_that_is_away_is_waited_for(
    empty_database: str, wake: Wake, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_MAX_BACKOFF_SECONDS", 0.1)
    proxy = Proxy(empty_database)
    listener = Listener(proxy.url, wake)
    try:
        with proxy.away():
            listener.start()
            wait_for(lambda: listener.reconnects >= 3)
            assert not listener.listening.is_set()
        assert listener.listening.wait(PATIENCE_SECONDS)
    finally:
        listener.stop()
        proxy.close()


def test_stopping(listener: Listener, db: psycopg.Connection[tuple[object, ...]]) -> None:
    listener.stop()
    listener.stop()
    wait_for(lambda: backends(db) == 0)


def test_stopping_what_never_began(empty_database: str, wake: Wake) -> None:
    Listener(empty_database, wake).stop()
