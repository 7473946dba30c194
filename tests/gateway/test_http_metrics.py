"""`/metrics` over HTTP, and the count of requests in it."""

from __future__ import annotations

from collections.abc import Callable

import httpx
from prometheus_client.parser import text_string_to_metric_families

Gateway = Callable[..., httpx.Client]


def requests(client: httpx.Client) -> dict[tuple[str, str], float]:
    answer = client.get("/metrics")
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/plain; version=")
    return {
        (sample.labels["route"], sample.labels["status"]): sample.value
        for family in text_string_to_metric_families(answer.text)
        for sample in family.samples
        if sample.name == "immich_indexer_requests_total"
    }


def test_requests_are_counted_by_route_and_status(gateway: Gateway) -> None:
    client = gateway(log_level="info")
    for path in ("/ping", "/ping", "/secret/path", "/secret/other?q=query"):
        client.get(path)
    client.post("/predict", data={"entries": "nonsense"})
    client.get("/reprocess/7")
    client.get("/search", params={"q": "发票"})  # there is no database
    assert requests(client) == {
        ("/ping", "200"): 2,
        ("none", "404"): 2,
        ("/predict", "422"): 1,
        ("/reprocess/{request_id}", "503"): 1,
        ("/search", "503"): 1,
    }
    assert requests(client)["/metrics", "200"] == 1


def test_two_gateways_in_one_process_count_for_themselves(
    gateway: Gateway,
) -> None:
    first, second = gateway(log_level="info"), gateway(log_level="warning")
    first.get("/ping")
    assert requests(first) == {("/ping", "200"): 1}
    assert requests(second) == {}
