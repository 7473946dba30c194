"""The metrics that are really served, for whatever names them: dashboard, alerts, documents."""

from dataclasses import dataclass
from typing import Any

from indexer.metrics import Metrics

PREFIX = "immich_indexer_"


@dataclass(frozen=True)
class Family:
    """A metric: Prometheus' type and the labels of its time series."""

    type: str
    labels: set[str]


def families() -> dict[str, Family]:
    """Every metric of the registry by its name in queries, without the prefix."""
    found = {}
    # prometheus_client has no public way to ask for the labels of what hasn't been counted yet.
    for collector in list(Metrics().registry._collector_to_names):
        for family in collector.describe():
            source: Any = collector if hasattr(collector, "_labelnames") else family
            name = family.name + ("_total" if family.type == "counter" else "")
            assert name.startswith(PREFIX)
            found[name.removeprefix(PREFIX)] = Family(family.type, set(source._labelnames))
    return found
