"""PostgreSQL crashes, restarts, fills up and refuses; its connections are cut, slow and deaf."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psycopg
import pytest

from faults.conftest import SETTINGS
from faults.ground import Ground
from faults.proxy import LISTENER
from pg import _host
from pg.connect import connect
from pg.embedded import Server

long = pytest.mark.faults
WORKING = "SELECT count(*) > %s FROM indexer_v1.clip"


def test_postgresql_is_killed(ground: Ground) -> None:
    with ground.load():
        ground.start()
        ground.start()
        ground.wait_for(WORKING, 5)
        ground.restart_server()
    ground.verify()


@long
@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT, signal.SIGQUIT, signal.SIGKILL])
def test_postgresql_ends(ground: Ground, how: int) -> None:
    """Smart, fast and immediate shutdown, kill -9: again and again."""
    with ground.load():
        ground.start(max_attempts=2)
        for photos in (5, 15, 25, 35):
            ground.wait_for(WORKING, photos)
            ground.restart_server(how)
    ground.verify()


@long
def test_a_backend_is_killed(ground: Ground) -> None:
    """One of a worker's: PostgreSQL then ends all sessions and recovers."""
    with ground.load():
        ground.start()
        for photos in (5, 15):
            ground.wait_for(WORKING, photos)
            pid = ground.ask(
                "SELECT pid FROM pg_stat_activity WHERE application_name = 'immich-indexer'"
                " AND datname = current_database() AND pid <> pg_backend_pid() LIMIT 1"
            )
            os.kill(pid, signal.SIGKILL)
            ground.recover()
    ground.verify()


def test_connections_are_cut(ground: Ground) -> None:
    with ground.load():
        ground.start(max_attempts=2)
        ground.proxy.delay = 0.002  # so that more of them are cut in the middle of something
        for photos in (3, 6):
            ground.wait_for(WORKING, photos)
            ground.proxy.cut()
        ground.proxy.delay = 0
    ground.verify()


@long
def test_a_slow_network(ground: Ground) -> None:
    ground.proxy.delay = 0.05
    with ground.load(pause=0.1):
        ground.start()
        ground.start()
        ground.wait_for(WORKING, 20)
    ground.verify()


def test_listen_is_deaf(ground: Ground) -> None:
    """Its connection stays open and says nothing; nobody polls. The probe finds out."""
    ground.start(poll_seconds=3600, reconcile_seconds=3600, probe_seconds=0.5)
    ground.upload()
    ground.settle()
    assert ground.proxy.deafen(LISTENER) == 1
    ground.upload(3)
    ground.settle()
    ground.verify()


@long
def test_everything_is_deaf(ground: Ground) -> None:
    """For longer than a lease: another worker, elsewhere, takes over, and the first goes on."""
    with ground.load():
        deaf = ground.start()
        ground.wait_for(WORKING, 5)
        ground.proxy.go_deaf()
        ground.start(db_url=ground.url)
        ground.wait_for(WORKING, 40)
        ground.wait_for("SELECT count(*) = 0 FROM indexer_v1.job WHERE lease_until < now()")
        ground.proxy.hear_again()
        ground.wait_for(WORKING, 60)
    ground.verify()
    ground.end(deaf)


# Fail-over


@contextmanager
def copy_of(ground: Ground, *, following: bool) -> Iterator[Server]:
    """A physical copy of the server, made now and not started; it follows, or stays as it is."""
    folder = Path(tempfile.mkdtemp(prefix="immich-indexer-faults-copy-"))
    folder, account = _host.settle(folder)
    backup = _host.binaries(account, None) / "pg_basebackup"
    if not backup.exists():
        pytest.skip("the PostgreSQL in use comes without pg_basebackup")
    done = _host.run(
        account,
        *(backup, "-D", folder / "cluster", "-d", ground.server.start(), "-X", "stream"),
        *("-c", "fast", *(["-R"] if following else [])),
    )
    assert done.returncode == 0, done.stdout
    copy = Server(folder, settings=SETTINGS)
    try:
        yield copy
        os.kill(int((copy.cluster / "postmaster.pid").read_text().split()[0]), signal.SIGQUIT)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@long
def test_fail_over_to_a_promoted_replica(ground: Ground) -> None:
    """The last that was written is lost, results as well as jobs; the files are newer."""
    with copy_of(ground, following=True) as replica:
        url = replica.start().rpartition("/")[0] + "/" + ground.url.rpartition("/")[2]
        with ground.load():
            ground.start()
            ground.wait_for(WORKING, 20)
        wal = ground.ask("SELECT pg_current_wal_lsn()")
        with psycopg.connect(url, autocommit=True) as there:
            replayed = "SELECT pg_last_wal_replay_lsn() >= %s::pg_lsn"
            ground.wait_for(lambda: there.execute(replayed, [wal]).fetchone() == (True,))
            os.kill(ground.postmaster(), signal.SIGKILL)
            there.execute("SELECT pg_promote()")
        ground.proxy.lead_to(url)
        ground.reconnect(url)
        with ground.load(seed=2):
            ground.wait_for(WORKING, 40)
        ground.verify()


@long
def test_fail_over_to_an_empty_copy(ground_before_us: Ground) -> None:
    """A copy from before we were installed is promoted: everything is made again, by itself."""
    ground = ground_before_us
    ground.upload(5)
    with copy_of(ground, following=False) as copy:
        ground.start()
        ground.wait_for("SELECT to_regclass('indexer_v1.clip') IS NOT NULL")
        with ground.load():
            ground.wait_for(WORKING, 10)
        url = copy.start().rpartition("/")[0] + "/" + ground.url.rpartition("/")[2]
        os.kill(ground.postmaster(), signal.SIGKILL)
        ground.proxy.lead_to(url)
        ground.reconnect(url)
        assert ground.ask("SELECT count(*) FROM asset") == 5
        with ground.load(seed=2, without=["reprocess"]):  # there is no such table yet
            ground.wait_for("SELECT to_regclass('indexer_v1.clip') IS NOT NULL")
            ground.wait_for(WORKING, 20)
        ground.verify()


# PostgreSQL refuses


@contextmanager
def small_disk(ground: Ground, megabytes: int) -> Iterator[Path]:
    """A disk of its own for some of our tables; a file on it, for whoever fills it up."""
    folder = Path(tempfile.mkdtemp(prefix="immich-indexer-faults-disk-"))
    mount = ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs", str(folder)]
    done = subprocess.run(mount, capture_output=True, check=False)
    if done.returncode:
        folder.rmdir()
        pytest.skip("only root may mount a small disk: run as root, where mounting is allowed")
    tables = ("ocr", "job")
    try:
        owner = ground.server.cluster.stat()
        os.chown(folder, owner.st_uid, owner.st_gid)
        ground.db.execute(f"CREATE TABLESPACE small LOCATION '{folder}'".encode())
        for table in tables:
            ground.db.execute(f"ALTER TABLE indexer_v1.{table} SET TABLESPACE small".encode())
        try:
            yield folder / "ballast"
        finally:  # the server wouldn't start again without its tablespace
            (folder / "ballast").unlink(missing_ok=True)
            for table in tables:
                back = f"ALTER TABLE indexer_v1.{table} SET TABLESPACE pg_default"
                ground.db.execute(back.encode())
            ground.db.execute("DROP TABLESPACE small")
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)
        folder.rmdir()


@long
def test_the_disk_is_full(ground: Ground) -> None:
    """Results can't be written, nor jobs: Immich goes on, and nobody is charged."""
    with small_disk(ground, 4) as ballast:
        with ground.load(pause=0.02, without=["reprocess"]):  # a person hears that it is full
            ground.start(max_attempts=2)
            ground.wait_for(WORKING, 5)
            with suppress(OSError), ballast.open("wb", buffering=0) as file:
                while True:
                    file.write(bytes(4096))
            # Missed events can still be noted.
            ground.wait_for("SELECT EXISTS (SELECT FROM indexer_v1.missed)")
            time.sleep(5)
            ballast.unlink()
        ground.verify()


@long
def test_statement_timeout(ground: Ground) -> None:
    """The administrator's is shorter than writing results takes: ours counts."""
    ground.db.execute(
        """
        CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql
        AS $$ BEGIN PERFORM pg_sleep(0.2); RETURN NEW; END $$;
        CREATE TRIGGER slow BEFORE INSERT ON indexer_v1.ocr FOR EACH ROW EXECUTE FUNCTION slow()
        """
    )
    with ground.load(pause=0.3):
        ground.start(db_url=f"{ground.proxy.url}?options=-c%20statement_timeout%3D150")
        ground.wait_for(WORKING, 10)
    ground.verify()


CANCELS = "RAISE 'cancelled' USING ERRCODE = '57014'"
CRASHES = "COPY (SELECT 1) TO PROGRAM 'kill -9 $PPID'"


@long
@pytest.mark.parametrize("how", [CANCELS, CRASHES])
def test_a_result_ends_the_session(ground: Ground, how: str) -> None:
    """As an extension might on one text: tried alone, three times, and no neighbour suffers."""
    *good, bad = ground.upload(9)
    ground.db.execute(
        f"""
        CREATE FUNCTION bad() RETURNS trigger LANGUAGE plpgsql
        AS $$ BEGIN IF NEW.asset_id = '{bad}' THEN {how}; END IF; RETURN NEW; END $$;
        CREATE TRIGGER bad BEFORE INSERT ON indexer_v1.ocr FOR EACH ROW EXECUTE FUNCTION bad();
        """.encode()
    )
    ground.start()

    def ended() -> bool:
        try:
            ground.db.execute("UPDATE indexer_v1.job SET next_at = now() WHERE next_at > now()")
            return bool(ground.ask("SELECT count(dead_at) > 0 FROM indexer_v1.job"))
        except psycopg.OperationalError:
            ground.recover()
            return False

    ground.wait_for(ended)
    ground.hurry()
    dead = ground.db.execute("SELECT DISTINCT asset_id, attempts, last_error FROM indexer_v1.job")
    assert [(asset, attempts) for asset, attempts, _ in dead] == [(bad, 3)]
    assert ground.ask("SELECT count(*) FROM indexer_v1.ocr") == len(good)
    ground.db.execute("DROP TRIGGER bad ON indexer_v1.ocr; SELECT indexer_v1.requeue()")
    ground.verify()


@long
@pytest.mark.parametrize("level", ["serializable", "repeatable%20read"])
def test_serialization_errors(ground: Ground, level: str) -> None:
    url = f"{ground.proxy.url}?options=-c%20default_transaction_isolation%3D{level}"
    url = url.replace("repeatable%20read", "repeatable%5C%20read")
    with ground.load():
        for _ in range(3):
            ground.start(db_url=url)
        ground.wait_for(WORKING, 20)
    ground.verify()


@long
def test_a_deadlock(ground: Ground) -> None:
    """Somebody locks our rows the other way round; ours gives way, and tries again."""
    (asset,) = ground.upload()
    first = ground.start()
    ground.settle()
    ground.end(first)
    ground.db.execute(
        "INSERT INTO indexer_v1.reprocess (asset_id, task) VALUES (%s, 'ocr')", [asset]
    )
    held = ground.start(fault="held:stop", lease_seconds=60)
    ground.wait_until_stopped(held)
    with connect(ground.url) as other, other.transaction():
        other.execute("SELECT FROM indexer_v1.ocr WHERE asset_id = %s FOR UPDATE", [asset])
        locking = threading.Thread(
            target=lambda: other.execute(
                "SELECT FROM indexer_v1.job WHERE asset_id = %s FOR UPDATE", [asset]
            )
        )
        locking.start()
        time.sleep(2)  # its own look for deadlocks, after a second, finds none yet
        ground.wake(held)
        locking.join()
    ground.wait_for("SELECT deadlocks > 0 FROM pg_stat_database WHERE datname = current_database()")
    ground.verify()
