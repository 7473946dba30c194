"""The Kubernetes manifests: whole, and naming only what exists."""

from __future__ import annotations

import re
import shutil
import subprocess
import tomllib
from collections.abc import Iterator
from typing import Any

import pytest
import stack
import yaml

from gateway import health
from immich_indexer.cli import cli

FOLDER = stack.COMPOSE / "kubernetes"
OVERLAYS = ["base", "gpu"]
PROXY_CONFIG = (stack.COMPOSE / "proxy" / "default.conf.template").read_text("utf-8")
PROXY_VARIABLES = {"GATEWAY_ADDRESS", "IMMICH_ADDRESS"}

Manifest = dict[str, Any]


def manifests() -> list[Manifest]:
    """Every document of the base, as it is written."""
    return [
        document
        for path in sorted((FOLDER / "base").glob("*.yaml"))
        for document in yaml.safe_load_all(path.read_text("utf-8"))
    ]


def settings() -> dict[str, str]:
    kustomization = yaml.safe_load((FOLDER / "base" / "kustomization.yaml").read_text("utf-8"))
    (generator,) = kustomization["configMapGenerator"]
    return dict(literal.split("=", 1) for literal in generator["literals"])


def containers(documents: list[Manifest]) -> Iterator[tuple[Manifest, Manifest]]:
    """(pod spec, container), those that run first included."""
    for document in documents:
        if document["kind"] == "Deployment":
            pod = document["spec"]["template"]["spec"]
            for container in [*pod.get("initContainers", []), *pod["containers"]]:
                yield pod, container


@pytest.fixture(scope="module", params=OVERLAYS)
def rendered(request: pytest.FixtureRequest) -> list[Manifest]:
    for command in (["kubectl", "kustomize"], ["kustomize", "build"]):
        if shutil.which(command[0]):
            run = subprocess.run(
                [*command, str(FOLDER / request.param)], capture_output=True, text=True, check=False
            )
            assert run.returncode == 0, run.stderr
            return list(yaml.safe_load_all(run.stdout))
    pytest.skip("neither kubectl nor kustomize is installed")


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_every_file_is_used(overlay: str) -> None:
    folder = FOLDER / overlay
    kustomization = yaml.safe_load((folder / "kustomization.yaml").read_text("utf-8"))
    named = [*kustomization["resources"], *(p["path"] for p in kustomization.get("patches", []))]
    for name in named:
        assert (folder / name).exists(), name
    written = {path.name for path in folder.glob("*.yaml")} - {"kustomization.yaml"}
    assert written <= set(named)


def test_settings_are_settings() -> None:
    assert settings().keys() <= stack.SETTINGS
    # What Compose gives the container, Kubernetes does.
    compose = stack.load(stack.COMPOSE / stack.BASE)["services"]["immich-indexer"]["environment"]
    assert compose.keys() <= settings().keys()
    for name in ("HOST", "PORT", "MEDIA_MAP", "CLIP_DOWNLOAD_ROOT", "IMMICH_URL", "IMMICH_API"):
        assert settings()[name] == compose[name], name


def test_containers_are_given_settings_and_commands() -> None:
    for _, container in containers(manifests()):
        names = {variable["name"] for variable in container.get("env", [])}
        if container["image"] == "immich-indexer":
            assert names <= stack.SETTINGS
            assert container["args"][0] in cli.commands
            for variable in re.findall(r"\$\((\w+)\)", " ".join(container["args"])):
                assert variable in settings()
            sources = [list(source) for source in container["envFrom"]]
            assert sources == [["configMapRef"], ["secretRef"]]
        else:
            assert container["image"] == "immich-indexer-proxy"
            assert names - {"NAMESPACE"} == PROXY_VARIABLES


def test_probes_ask_for_what_is_served() -> None:
    (live,), (ready,) = health.live.paths, health.ready.paths
    probes = {
        (container["name"], kind): container[kind]["httpGet"]["path"]
        for _, container in containers(manifests())
        for kind in ("startupProbe", "livenessProbe", "readinessProbe")
        if kind in container
    }
    assert probes == {
        ("gateway", "startupProbe"): live,
        ("gateway", "livenessProbe"): live,
        ("gateway", "readinessProbe"): ready,
        ("nginx", "livenessProbe"): "/.proxy/live",
        ("nginx", "readinessProbe"): "/.proxy/live",
    }
    assert "location = /.proxy/live {" in PROXY_CONFIG


def test_ports_meet() -> None:
    ports = {
        container["name"]: [port["containerPort"] for port in container.get("ports", [])]
        for _, container in containers(manifests())
    }
    assert ports["gateway"] == [int(settings()["PORT"])]
    assert f"listen {ports['nginx'][0]};" in PROXY_CONFIG
    (worker,) = (found for _, found in containers(manifests()) if found["name"] == "worker")
    given = {variable["name"]: variable.get("value") for variable in worker["env"]}
    assert ports["worker"] == [int(given["METRICS_PORT"])]


def test_pods_are_confined() -> None:
    for pod, container in containers(manifests()):
        assert pod["securityContext"]["runAsNonRoot"]
        assert pod["automountServiceAccountToken"] is False
        # Else a Service called e.g. `host` would set HOST_PORT and the like.
        assert pod["enableServiceLinks"] is False
        context = container["securityContext"]
        assert context["readOnlyRootFilesystem"]
        assert context["allowPrivilegeEscalation"] is False
        assert context["capabilities"] == {"drop": ["ALL"]}
        mounted = {mount["mountPath"] for mount in container["volumeMounts"]}
        assert "/tmp" in mounted
        assert {mount["name"] for mount in container["volumeMounts"]} <= {
            volume["name"] for volume in pod["volumes"]
        }


def test_media_is_read_only_and_nobody_changes_its_owner() -> None:
    (found,) = [(p, c) for p, c in containers(manifests()) if c["name"] == "worker"]
    pod, worker = found
    (mount,) = [mount for mount in worker["volumeMounts"] if mount["name"] == "library"]
    assert mount["readOnly"]
    assert settings()["MEDIA_MAP"].partition("=")[2] == mount["mountPath"]
    assert "fsGroup" not in pod["securityContext"]


def test_rendered_names_meet(rendered: list[Manifest]) -> None:
    names = {(document["kind"], document["metadata"]["name"]) for document in rendered}
    for pod, container in containers(rendered):
        for source in container.get("envFrom", []):
            if "configMapRef" in source:
                assert ("ConfigMap", source["configMapRef"]["name"]) in names
        claims = {
            volume["persistentVolumeClaim"]["claimName"]
            for volume in pod["volumes"]
            if "persistentVolumeClaim" in volume
        }
        assert claims <= {"immich-indexer-models", "immich-library"}
    for document in rendered:
        if document["kind"] == "Service":
            selector = document["spec"]["selector"].items()
            chosen = [
                other
                for other in rendered
                if other["kind"] == "Deployment"
                and selector <= other["spec"]["template"]["metadata"]["labels"].items()
            ]
            assert len(chosen) == 1, document["metadata"]["name"]


def test_rendered_images_are_pinned(rendered: list[Manifest]) -> None:
    project = tomllib.loads((stack.ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    for _, container in containers(rendered):
        name, _, tag = container["image"].partition(":")
        assert name in ("immich-indexer", "immich-indexer-proxy")
        assert tag.removesuffix("-cuda") == project["version"]


def test_gpu_goes_to_the_worker_alone(
    rendered: list[Manifest], request: pytest.FixtureRequest
) -> None:
    gpus = {
        container["name"]: container["resources"]["limits"].get("nvidia.com/gpu")
        for _, container in containers(rendered)
        if "resources" in container
    }
    overlay = request.node.callspec.params["rendered"]
    assert gpus == {"gateway": None, "worker": 1 if overlay == "gpu" else None, "nginx": None}
    (worker,) = [c for _, c in containers(rendered) if c["name"] == "worker"]
    assert worker["image"].endswith("-cuda") == (overlay == "gpu")
