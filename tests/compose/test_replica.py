"""The replica's entry point, with two real servers where the container has one each.

In the container it runs as root, and the server as `postgres`; so it does here.
"""

from __future__ import annotations

import os
import pwd
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from stack import COMPOSE

SCRIPT = COMPOSE / "replica" / "replica.sh"
PG_HBA = COMPOSE / "replica" / "pg_hba.conf"

INSTALLED = sorted(Path("/usr/lib/postgresql").glob("*/bin/pg_basebackup"))


def _has_postgres_user() -> bool:
    try:
        pwd.getpwnam("postgres")
    except KeyError:
        return False
    return True


pytestmark = pytest.mark.skipif(
    not INSTALLED or os.geteuid() != 0 or not _has_postgres_user(),
    reason="needs to run as root, with Debian's PostgreSQL: apt-get install postgresql",
)

PASSWORD = "secret'word"

# What the image has, as far as the script uses it.
STAND_INS = {
    "gosu": '#!/bin/bash\nuser=$1; shift\nexec setpriv --reuid "$user" --regid "$user"'
    ' --clear-groups -- "$@"\n',
    "immich-docker-entrypoint.sh": '#!/bin/bash\nexec gosu postgres "$@"\n',
}


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture
def folder() -> Iterator[Path]:
    """One that `postgres` may enter: pytest's own are closed to it."""
    path = Path(tempfile.mkdtemp(prefix="immich-indexer-replica-"))
    path.chmod(0o755)
    yield path
    shutil.rmtree(path)


@pytest.fixture
def environment(folder: Path) -> dict[str, str]:
    (folder / "bin").mkdir()
    for name, text in STAND_INS.items():
        path = folder / "bin" / name
        path.write_text(text)
        path.chmod(0o755)
    return {"PATH": f"{folder / 'bin'}:{INSTALLED[-1].parent}:/usr/bin:/bin", "LANG": "C.UTF-8"}


@pytest.fixture
def primary(folder: Path, environment: dict[str, str]) -> Iterator[int]:
    """Port of a server that takes connections as the override's pg_hba.conf says."""
    data, port = folder / "primary", free_port()
    data.mkdir()
    shutil.chown(data, "postgres", "postgres")
    password = folder / "password"
    password.write_text(PASSWORD)
    password.chmod(0o644)

    def as_postgres(*command: str) -> None:
        subprocess.run(["gosu", "postgres", *command], env=environment, check=True, cwd="/")

    # 127.0.0.1 is trusted there, as in the official image: the rest of the file is what counts.
    rules = [line for line in PG_HBA.read_text().splitlines() if line.startswith("host ")]
    strict = [rule.replace("all           scram", "127.0.0.1/32  scram") for rule in rules]
    strict = [rule for rule in strict if rule.endswith("scram-sha-256")]
    assert len(strict) == 2
    hba = folder / "pg_hba.conf"
    hba.write_text("local all all trust\n" + "\n".join(strict) + "\n")
    as_postgres("initdb", "-U", "postgres", f"--pwfile={password}", "-D", str(data), "-N")
    options = f"-p {port} -k '' -h 127.0.0.1 -c hba_file={hba} -c max_slot_wal_keep_size=1GB"
    as_postgres("pg_ctl", "-w", "-D", str(data), "-o", options, "-l", str(data / "log"), "start")
    yield port
    as_postgres("pg_ctl", "-D", str(data), "-m", "immediate", "stop")


def connect(port: int) -> psycopg.Connection[tuple[object, ...]]:
    return psycopg.connect(
        host="127.0.0.1", port=port, user="postgres", password=PASSWORD, autocommit=True
    )


def wait_for(port: int, query: str, value: object) -> None:
    for _ in range(300):
        try:
            with connect(port) as connection:
                row = connection.execute(query).fetchone()
                if row and row[0] == value:
                    return
        except psycopg.Error:
            pass
        time.sleep(0.1)
    pytest.fail(f"{query} didn't become {value}")


def test_pg_hba_is_valid(primary: int, folder: Path) -> None:
    shutil.copy(PG_HBA, folder / "pg_hba.conf")
    with connect(primary) as connection:
        connection.execute("SELECT pg_reload_conf()")
        errors = connection.execute("SELECT error FROM pg_hba_file_rules WHERE error IS NOT NULL")
        assert errors.fetchall() == []


def test_replica_clones_follows_and_starts_again(
    primary: int, folder: Path, environment: dict[str, str]
) -> None:
    port = free_port()
    with connect(primary) as connection:
        connection.execute("CREATE TABLE photo AS SELECT 1 AS id")

    options = ["-p", str(port), "-k", "", "-h", "127.0.0.1", "-c", "hot_standby_feedback=on"]
    clone = str(folder / "replica" / "clone")

    def start() -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            ["bash", SCRIPT, "postgres", *options, "-D", clone],
            env=environment
            | {
                "PRIMARY_HOST": "127.0.0.1",
                "PGPORT": str(primary),  # in the container both have 5432
                "POSTGRES_USER": "postgres",
                "POSTGRES_PASSWORD": PASSWORD,
                "PGDATA": clone,
            },
            cwd="/",
        )

    (folder / "replica").mkdir()
    # Left by one that was interrupted.
    (folder / "replica" / "clone.new").mkdir()
    (folder / "replica" / "clone.new" / "half").touch()

    with start() as process:
        try:
            wait_for(port, "SELECT count(*) FROM photo", 1)
            wait_for(port, "SELECT pg_is_in_recovery()", True)
            with connect(primary) as connection:
                connection.execute("INSERT INTO photo VALUES (2)")
            wait_for(port, "SELECT count(*) FROM photo", 2)
        finally:
            process.terminate()
    assert not (folder / "replica" / "clone.new").exists()

    with connect(primary) as connection:
        connection.execute("INSERT INTO photo VALUES (3)")
    with start() as process:
        try:
            wait_for(port, "SELECT count(*) FROM photo", 3)
            with connect(primary) as connection:
                slots = connection.execute("SELECT slot_name, active FROM pg_replication_slots")
                assert slots.fetchall() == [("immich_indexer_replica", True)]
        finally:
            process.terminate()
