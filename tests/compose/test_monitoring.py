"""Prometheus' configuration, its alerts, and Grafana's dashboard."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import served_metrics
import stack
import yaml

FOLDER = stack.COMPOSE / "monitoring"
DASHBOARD = FOLDER / "grafana" / "dashboards" / "immich-indexer.json"

FAMILIES = served_metrics.families()
METRICS = {name: family.labels for name, family in FAMILIES.items()}
HISTOGRAMS = {name for name, family in FAMILIES.items() if family.type == "histogram"}
STATES = {"waiting", "retrying", "running", "dead"}

needs_promtool = pytest.mark.skipif(
    shutil.which("promtool") is None, reason="no promtool: apt-get install prometheus"
)


def panels() -> list[dict[str, Any]]:
    dashboard = json.loads(DASHBOARD.read_text("utf-8"))
    return [panel for panel in dashboard["panels"] if panel["type"] != "row"]


def expressions() -> dict[str, str]:
    """Every query, by the panel's or the alert's name."""
    found = {
        f"{panel['title']} {target['refId']}": target["expr"]
        for panel in panels()
        for target in panel["targets"]
    }
    alerts = yaml.safe_load((FOLDER / "alerts.yml").read_text("utf-8"))
    return found | {rule["alert"]: rule["expr"] for g in alerts["groups"] for rule in g["rules"]}


@pytest.mark.parametrize("name", expressions())
def test_queries_name_metrics_and_labels_that_exist(name: str) -> None:
    expression = expressions()[name]
    allowed = {"le", "job"}
    for metric in re.findall(r"immich_indexer_(\w+)", expression):
        base = re.sub(r"_(bucket|sum|count)$", "", metric)
        assert (base in HISTOGRAMS) == (base != metric), metric
        allowed |= METRICS[base]
    grouped = re.findall(r"\b(?:by|without|on|ignoring) \(([^)]*)\)", expression)
    matched = re.findall(r"(\w+)\s*(?:=~|!~|!=|=)\s*\"", expression)
    labels = {label.strip() for group in grouped for label in group.split(",")} | set(matched)
    assert labels <= allowed
    for states in re.findall(r'state=~?"([^"]*)"', expression):
        assert set(states.split("|")) <= STATES


def test_dashboard_shows_every_metric() -> None:
    shown = " ".join(target["expr"] for panel in panels() for target in panel["targets"])
    for metric in METRICS:
        assert f"immich_indexer_{metric}" in shown, metric


def test_dashboard_is_laid_out_without_overlap_and_explained() -> None:
    dashboard = json.loads(DASHBOARD.read_text("utf-8"))
    taken: set[tuple[int, int]] = set()
    for panel in dashboard["panels"]:
        grid = panel["gridPos"]
        assert grid["x"] + grid["w"] <= 24
        cells = {
            (x, y)
            for x in range(grid["x"], grid["x"] + grid["w"])
            for y in range(grid["y"], grid["y"] + grid["h"])
        }
        assert not cells & taken, panel["title"]
        taken |= cells
    ids = [panel["id"] for panel in dashboard["panels"]]
    assert len(ids) == len(set(ids))
    assert all(panel["description"] for panel in panels())


def test_dashboard_asks_the_provisioned_source() -> None:
    path = FOLDER / "grafana" / "provisioning" / "datasources" / "prometheus.yml"
    (source,) = yaml.safe_load(path.read_text("utf-8"))["datasources"]
    for panel in panels():
        assert panel["datasource"] == {"type": source["type"], "uid": source["uid"]}
    services = stack.load(stack.COMPOSE / "docker-compose.monitoring.yml")["services"]
    assert re.fullmatch(r"http://(\w+):9090", source["url"])[1] in services  # type: ignore[index]


def test_folders_are_where_grafana_is_told() -> None:
    path = FOLDER / "grafana" / "provisioning" / "dashboards" / "immich-indexer.yml"
    (provider,) = yaml.safe_load(path.read_text("utf-8"))["providers"]
    grafana = stack.load(stack.COMPOSE / "docker-compose.monitoring.yml")["services"]["grafana"]
    inside = provider["options"]["path"]
    assert any(f"/dashboards:{inside}:" in volume for volume in grafana["volumes"])
    home = grafana["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"]
    assert home == f"{inside}/{DASHBOARD.name}"


def test_prometheus_asks_the_gateway_and_the_workers() -> None:
    configuration = yaml.safe_load((FOLDER / "prometheus.yml").read_text("utf-8"))
    gateway, worker = configuration["scrape_configs"]
    (found,) = gateway["dns_sd_configs"]
    indexer = stack.load(stack.COMPOSE / stack.BASE)["services"][found["names"][0]]
    assert int(indexer["environment"]["PORT"]) == found["port"]
    assert f'job="{gateway["job_name"]}"' in (FOLDER / "alerts.yml").read_text("utf-8")
    # A worker that answers is no gateway that does.
    assert worker["job_name"] != gateway["job_name"]
    (found,) = worker["dns_sd_configs"]
    workers = stack.load(stack.COMPOSE / stack.WORKERS)["services"][found["names"][0]]
    assert int(workers["environment"]["METRICS_PORT"]) == found["port"]


def promtool(*arguments: str | Path) -> None:
    run = subprocess.run(["promtool", *arguments], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout + run.stderr


@needs_promtool
def test_promtool_takes_the_configuration_and_the_alerts() -> None:
    promtool("check", "config", FOLDER / "prometheus.yml")


@needs_promtool
def test_promtool_takes_the_queries_of_the_dashboard(tmp_path: Path) -> None:
    rules = [
        {"record": f"panel:{number}", "expr": expression.replace("$__rate_interval", "5m")}
        for number, expression in enumerate(expressions().values())
    ]
    path = tmp_path / "rules.yml"
    path.write_text(yaml.safe_dump({"groups": [{"name": "panels", "rules": rules}]}), "utf-8")
    promtool("check", "rules", path)


@needs_promtool
def test_alerts_fire_when_they_should_and_not_before(tmp_path: Path) -> None:
    shutil.copy(FOLDER / "alerts.yml", tmp_path)
    shutil.copy(Path(__file__).parent / "alerts_test.yml", tmp_path)
    promtool("test", "rules", tmp_path / "alerts_test.yml")
