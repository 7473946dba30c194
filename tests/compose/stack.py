"""The compose files: where they lie, what is laid over what, and Compose itself to merge them."""

from __future__ import annotations

import functools
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import yaml

from indexer.settings import Settings

ROOT = Path(__file__).parents[2]
COMPOSE = ROOT / "compose"
STOCK = Path(__file__).parent / "immich" / "docker-compose.yml"

SETTINGS = {field.name.upper() for field in msgspec.structs.fields(Settings)}

BASE, ADDON = "docker-compose.yml", "docker-compose.addon.yml"
REMOTE, REMOTE_NFS = "docker-compose.remote-worker.yml", "docker-compose.remote-worker-nfs.yml"
NVIDIA_WORKER = "docker-compose.nvidia-worker.yml"
WORKERS = "docker-compose.workers.yml"
OVERRIDES = [
    "docker-compose.nvidia.yml",
    WORKERS,
    "docker-compose.replica.yml",
    "docker-compose.juicefs.yml",
    "docker-compose.monitoring.yml",
]
FILES = [BASE, ADDON, *OVERRIDES, NVIDIA_WORKER, REMOTE, REMOTE_NFS]
MERGES = [
    [BASE],
    *([BASE, override] for override in OVERRIDES),
    [BASE, WORKERS, NVIDIA_WORKER],
    [BASE, *OVERRIDES, NVIDIA_WORKER],
    [ADDON],
    *([ADDON, override] for override in OVERRIDES),
    [ADDON, *OVERRIDES, NVIDIA_WORKER],
    [REMOTE],
    [REMOTE, NVIDIA_WORKER],
    [REMOTE_NFS],
    [REMOTE_NFS, NVIDIA_WORKER],
]

# What somebody has written into .env beside example.env.
ENV = {
    "PREVIEWS_URL": "http://192.0.2.1:3003",
    "PREVIEWS_KEY": "0123456789abcdef",
    "NFS_SERVER": "192.0.2.1",
    "NFS_THUMBS": "/srv/immich/thumbs",
    "JUICEFS_META_URL": "redis://192.0.2.1:6379/1",
    "JUICEFS_BUCKET": "https://photos.example.com",
    "JUICEFS_ACCESS_KEY": "access",
    "JUICEFS_SECRET_KEY": "secret",
}

Service = dict[str, Any]


class _Loader(yaml.SafeLoader):
    """Reads Compose's own tags as what they are put on."""


def _untagged(loader: yaml.SafeLoader, _: str, node: yaml.Node) -> object:
    if isinstance(node, yaml.MappingNode):
        return loader.construct_mapping(node, deep=True)
    if isinstance(node, yaml.SequenceNode):
        return loader.construct_sequence(node, deep=True)
    return None


_Loader.add_multi_constructor("!", _untagged)


def load(path: Path) -> dict[str, Any]:
    """One compose file, unmerged, variables unreplaced."""
    document: dict[str, Any] = yaml.load(path.read_text("utf-8"), _Loader)  # a SafeLoader
    return document


def variables(text: str) -> set[str]:
    """Names of the variables that Compose replaces in a text."""
    names = re.findall(r"\$(?:\$|\{([A-Za-z_]\w*)|([A-Za-z_]\w*))", text)
    return {braced or plain for braced, plain in names if braced or plain}


@functools.cache
def compose_command() -> list[str] | None:
    """Docker Compose 2.24 or later: Docker's plugin, or a binary beside Python or on the path."""
    beside = shutil.which("docker-compose", path=Path(sys.executable).parent)
    for command in (["docker", "compose"], [beside], [shutil.which("docker-compose")]):
        if not command[0] or not shutil.which(command[0]):
            continue
        run = subprocess.run(
            [*command, "version", "--short"], capture_output=True, text=True, check=False
        )
        numbers = re.findall(r"\d+", run.stdout)
        if run.returncode == 0 and (int(numbers[0]), int(numbers[1])) >= (2, 24):
            return [str(part) for part in command]
    return None


def lay_out(folder: Path) -> Path:
    """A checkout at `folder`/repository, and beside it the folder of somebody's Immich."""
    repository, immich = folder / "repository", folder / "immich"
    repository.mkdir()
    for name in ("Dockerfile", "pg"):
        (repository / name).symlink_to(ROOT / name)
    shutil.copytree(COMPOSE, repository / "compose")
    immich.mkdir()
    shutil.copy(STOCK, immich)
    given = (COMPOSE / "example.env").read_text("utf-8")
    given += "".join(f"{name}={value}\n" for name, value in ENV.items())
    (repository / "compose" / ".env").write_text(given, "utf-8")
    (immich / ".env").write_text(f"{given}IMMICH_INDEXER_DIR={repository}\n", "utf-8")
    return folder


def merge(folder: Path, files: list[str]) -> dict[str, Any]:
    """What Compose makes of the files, as one document; they lie in a folder of `lay_out`'s."""
    compose = folder / "repository" / "compose"
    paths = [compose / name for name in files]
    environment = {"PATH": "/usr/bin:/bin", "HOME": str(folder)}
    if ADDON in files:
        paths.insert(0, folder / "immich" / "docker-compose.yml")
    if REMOTE in files or REMOTE_NFS in files:
        environment["DB_HOSTNAME"] = "192.0.2.1"
    command = compose_command()
    assert command
    run = subprocess.run(
        [
            *command,
            "--profile=*",
            *(f"--file={path}" for path in paths),
            "config",
            "--format=json",
        ],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    assert "variable is not set" not in run.stderr
    document: dict[str, Any] = json.loads(run.stdout)
    return document
