"""Containers of the database images, for tests: our own, built, and the one of a stock Immich."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal, get_args

import yaml

ROOT = Path(__file__).parents[1]

Image = Literal["built", "immich"]
IMAGES: tuple[Image, ...] = get_args(Image)


def engine_answers() -> bool:
    """Whether there is a Docker engine."""
    import docker  # slow to import

    try:
        return bool(docker.from_env().ping())
    except docker.errors.DockerException:
        return False


@contextmanager
def container(image: Image) -> Iterator[str]:
    """A server in a container of its own; yields the URL of a superuser.

    Args:
        image: `built` from pg/Dockerfile as compose/docker-compose.yml has it built (with
            zhparser; kept for the next time), or `immich`, which a stock Immich 3 runs.
    """
    from testcontainers.community.postgres import PostgresContainer  # slow to import
    from testcontainers.core.image import DockerImage

    if image == "built":
        name, target = _built()
        DockerImage(ROOT / "pg", tag=name, clean_up=False, target=target).build()
    else:
        name = _database("tests/compose/immich/docker-compose.yml")["image"]
    # As the compose files have it: Docker's own 64 MB are too little to build a vector index.
    with PostgresContainer(name, driver=None).with_kwargs(shm_size="128m") as server:
        yield server.get_connection_url()


def _built() -> tuple[str, str]:
    service = _database("compose/docker-compose.yml")
    return service["image"], service["build"]["target"]


def _database(path: str) -> dict:  # type: ignore[type-arg]
    """The service `database` of a compose file."""
    document = yaml.safe_load((ROOT / path).read_text("utf-8"))
    return dict(document["services"]["database"])
