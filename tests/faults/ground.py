"""What the faults happen to: a server of our own, a network to it, an Immich, and our processes."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Collection
from contextlib import ExitStack
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from uuid import UUID

import psycopg

from faults.auditor import SETTLED, audit, audit_write_back
from faults.load import Load
from faults.pictures import hash_of, picture
from faults.proxy import Proxy
from immich.base import load_schema
from immich.events import FakeImmich
from immich_indexer.runtime import prepare
from indexer.settings import Settings
from pg.connect import Connection, connect
from pg.embedded import Server
from pg.query import fetch_value

# On a machine that does much else besides. Counted anew whenever anything happens, to a limit.
PATIENCE_SECONDS = 60.0
_MOST_PATIENCE = 5
_PROGRESS = """
    SELECT (SELECT row(count(*), sum(revision), sum(attempts), max(lease_until))::text
            FROM indexer_v1.job)
        || (SELECT row(count(*), sum(done), sum(failed))::text FROM indexer_v1.worker)
"""
STAND_IN = "cn-clip/stand-in__openai"


class Ground:
    """One database on a server that may be killed; workers reach it through `proxy`.

    Args:
        server: started.
        folder: for files of this case.
        attached: our schema is there before the first event.
    """

    def __init__(self, server: Server, folder: Path, *, attached: bool = True) -> None:
        self.server = server
        self.folder = folder
        self.url = make_database(server, template(server, attached))
        self.db: Connection = connect(self.url)
        self.immich = FakeImmich(self.url, folder / "media")
        self.proxy = Proxy(self.url)
        self.processes: list[subprocess.Popen[bytes]] = []
        self._stack = ExitStack()
        (folder / "wrong").mkdir()

    # Processes of ours

    def start(
        self,
        *command: str,
        fault: str = "",
        module: str = "faults.process",
        **settings: object,
    ) -> subprocess.Popen[bytes]:
        """Start a worker, or another command of `immich-indexer`; see `process` for faults."""
        environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join(sys.path),
            "DB_URL": self.proxy.url,
            "MEDIA_MAP": f"{self.immich.location}={self.immich.media_dir}",
            "CLIP_DOWNLOAD": "off",
            "LEASE_SECONDS": "2",
            "POLL_SECONDS": "0.5",
            "BATCH_SIZE": "4",
            "RECONCILE_SECONDS": "1",
            "OUTAGE_SECONDS": "0.5",
            "FAULT": fault,
            "FAULT_DIR": str(self.folder / "wrong"),
            "PRELOAD": "none",
            "LOG_LEVEL": "warning",
            **{name.upper(): str(value) for name, value in settings.items()},
        }
        arguments = [sys.executable, "-m", module, *(command or ("worker",))]
        process = subprocess.Popen(arguments, env=environment)
        self.processes.append(process)
        return process

    def kill(self, process: subprocess.Popen[bytes]) -> None:
        process.kill()
        process.wait()

    def end(self, process: subprocess.Popen[bytes]) -> None:
        """SIGTERM: it ends by itself, and well."""
        process.terminate()
        assert process.wait(2 * PATIENCE_SECONDS) == 0

    def wait_until_stopped(self, process: subprocess.Popen[bytes]) -> None:
        """It has stopped itself (SIGSTOP)."""
        os.waitid(os.P_PID, process.pid, os.WSTOPPED | os.WNOWAIT)

    def wake(self, process: subprocess.Popen[bytes]) -> None:
        process.send_signal(signal.SIGCONT)

    # The server

    def postmaster(self) -> int:
        return int((self.server.cluster / "postmaster.pid").read_text().split()[0])

    def restart_server(self, how: int = signal.SIGKILL) -> None:
        """SIGINT ends sessions, SIGQUIT and SIGKILL are crashes.

        SIGTERM takes no new sessions and waits for those there are: for a while, as whoever runs it
        does, then they are ended.
        """
        pid = self.postmaster()
        os.kill(pid, how)
        if how == signal.SIGTERM:
            time.sleep(2)
            os.kill(pid, signal.SIGINT)
        deadline = time.monotonic() + PATIENCE_SECONDS
        while Path(f"/proc/{pid}").exists() and how != signal.SIGKILL:
            assert time.monotonic() < deadline, "the server doesn't end"
            time.sleep(0.02)
        self.server.start()
        self.reconnect()

    def reconnect(self, url: str | None = None) -> None:
        """Our own connections, after the server was away; to another one where `url` is."""
        self.url = url or self.url
        self.db.close()
        self.db = connect(self.url)
        self.immich.url = self.url
        self.immich.reconnect()

    def recover(self) -> None:
        """As `reconnect`, once the server answers again."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while True:
            try:
                self.reconnect()
                return
            except psycopg.OperationalError:
                assert time.monotonic() < deadline, "the server doesn't come back"
                time.sleep(0.05)

    # Photos

    def load(self, seed: int = 1, **options: Any) -> Load:
        """Events meanwhile, by an Immich of their own."""
        self.loads = FakeImmich(self.url, self.immich.media_dir)
        return Load(self.loads, seed, **options)

    def upload(self, count: int = 1, name: str = "") -> list[UUID]:
        """Photos, each another one."""
        return [self.immich.upload(picture(f"{name}{n} {time.time_ns()}")) for n in range(count)]

    @property
    def media(self) -> Path:
        return self.immich.media_dir

    def misbehave(self, asset: UUID, how: str) -> None:
        """Whoever looks at this photo: raises, hangs, eats memory, or crashes."""
        data = self.immich.preview_path(asset).read_bytes()
        (self.folder / "wrong" / hash_of(data).hex()).write_text(how)

    # Looking

    def ask(self, statement: str, *values: Any) -> Any:
        return fetch_value(self.db, statement, values)

    def wait_for(
        self,
        condition: str | Callable[[], object],
        *values: Any,
        patience: float = PATIENCE_SECONDS,
    ) -> None:
        began = since = time.monotonic()
        seen = ""
        while not (self.ask(condition, *values) if isinstance(condition, str) else condition()):
            now = time.monotonic()
            if now > since + patience and (state := self._state()) != seen:
                seen, since = state, now
            assert now < min(since + patience + 1, began + _MOST_PATIENCE * patience), (
                f"never came true: {condition}\n{self.report()}"
            )
            time.sleep(0.02)

    def _state(self) -> str:
        """Changes whenever a worker does anything; empty where there is no schema."""
        if not self.ask("SELECT to_regclass('indexer_v1.worker') IS NOT NULL"):
            return ""
        return str(self.ask(_PROGRESS))

    def report(self) -> str:
        """What there is still to do."""
        rows = [
            self.db.execute(f"SELECT to_jsonb(t) FROM {what} LIMIT 5".encode()).fetchall()
            for what in (
                "indexer_v1.job t",
                "indexer_v1.missed t",
                "indexer_v1.write_back t",
                "indexer_v1.reprocess t WHERE finished_at IS NULL OR tag_id IS NOT NULL",
            )
        ]
        return "\n".join(str(row) for found in rows for (row,) in found)

    def hurry(self) -> None:
        """Settle, without the pauses between a photo's attempts."""

        def settled() -> bool:
            self.db.execute("UPDATE indexer_v1.job SET next_at = now() WHERE next_at > now()")
            return bool(self.ask(SETTLED))

        self.wait_for(settled)

    def settle(self, patience: float = PATIENCE_SECONDS) -> None:
        """Wait until nothing is left to do."""
        self.wait_for(SETTLED, patience=patience)

    def verify(self, failed: Collection[UUID] = ()) -> None:
        """Settle, then compare everything; have some photos redone and compare Immich's tables."""
        self.settle()
        found = audit(self.db, self.immich._here, failed)
        assert not found, "\n".join(found)
        redone = [
            asset
            for (asset,) in self.db.execute(
                "SELECT asset_id FROM indexer_v1.ocr WHERE NOT indexer_v1.is_edited(asset_id)"
                " AND asset_id <> ALL (%s) ORDER BY asset_id LIMIT 5",
                [list(failed)],
            )
        ]
        for asset in redone:
            self.db.execute("INSERT INTO indexer_v1.reprocess (asset_id) VALUES (%s)", [asset])
        self.settle()
        found = audit_write_back(self.db, redone)
        assert not found, "\n".join(found)

    def on_close(self, undo: Callable[[], object]) -> None:
        """Called when everything else has ended."""
        self._stack.callback(undo)

    def close(self) -> None:
        for process in self.processes:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            process.wait()
        self.proxy.close()
        self.immich.close()
        self.db.close()
        self._stack.close()


@cache
def template(server: Server, attached: bool) -> str:
    """Name of a database with Immich's tables, and ours where asked for."""
    url = make_database(server, "template1")
    with connect(url) as connection:
        load_schema(connection)
    immich = FakeImmich(url, Path())
    immich.change_clip_model(STAND_IN, 64)
    immich.close()
    if attached:
        prepare(url, Settings(db_url=url), choose_clip_model=True)
    return urlsplit(url).path[1:]


def make_database(server: Server, copied: str) -> str:
    """URL of a new database on the server, a copy of another one."""
    url = server.start()
    name = f"case_{time.time_ns()}"
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name} TEMPLATE {copied}".encode())
    return urlsplit(url)._replace(path=f"/{name}").geturl()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
