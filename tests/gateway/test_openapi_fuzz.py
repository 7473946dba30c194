"""Requests made at random from the gateway's own description: no crash, no undocumented answer."""

from typing import Any

import httpx
import psycopg
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis import Case

from gateway.database import Database

EXAMPLES = 6
KEYS = {"api-key": "mt_photos_key"}


@pytest.fixture
def client(gateway: Any, indexed_database: str, rows: psycopg.Connection[Any]) -> httpx.Client:
    """A gateway in folder mode, where this computer may ask for everything."""
    found: httpx.Client = gateway(database=Database(indexed_database))
    return found


def test_what_is_described_is_what_is_answered(client: httpx.Client) -> None:
    description = client.get("/schema/openapi.json").json()
    operations = [o.ok() for o in schemathesis.openapi.from_dict(description).get_all_operations()]
    assert len(operations) > 15
    tried = {}
    for operation in operations:
        if operation.path != "/events":  # never ends
            tried[operation.label] = statuses_of(operation, str(client.base_url))
    assert len(tried["POST /search"]) > 1  # some made sense, some didn't
    assert client.get("/ping").text == "pong"


def statuses_of(operation: Any, base_url: str) -> set[int]:
    """Ask at random, and return the statuses that were answered."""
    # Litestar says 400 for what doesn't fit its types, whatever the route says of itself.
    documented = {int(status) for status in operation.definition.raw["responses"]} | {
        *(400, 404, 405, 413, 415, 422)
    }
    statuses = set()

    @settings(
        max_examples=EXAMPLES,
        deadline=None,
        database=None,
        derandomize=True,
        phases=[Phase.explicit, Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(case=operation.as_strategy())
    def ask(case: Case) -> None:
        answer = case.call(base_url=base_url, headers=KEYS, timeout=60)
        statuses.add(answer.status_code)
        assert answer.status_code in documented - {500}, (case.as_curl_command(), answer.text)
        if answer.status_code >= 400:
            assert answer.json()["detail"], case.as_curl_command()

    ask()
    return statuses
