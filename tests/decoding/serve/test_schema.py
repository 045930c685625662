"""The server's own schema, read by schemathesis: of what it allows and what it forbids nothing is a failure."""

from typing import Any

import pytest

from tests.decoding.serve.harness import SECONDS, Served, until

pytestmark = pytest.mark.slow
schemathesis = pytest.importorskip("schemathesis")
BODIES = 100
"""Of each operation and kind."""


def requests_of(server: Served, mode: str, count: int = BODIES) -> list[tuple[Any, Any]]:
    """Return requests that the schema allows or forbids, of each operation, and how they were answered."""
    from hypothesis import HealthCheck, Phase, given, settings

    found: list[tuple[Any, Any]] = []
    schema = schemathesis.openapi.from_url(f"{server.url}/openapi.json")
    for operation in (each.ok() for each in schema.get_all_operations()):
        if mode == "negative" and not operation.body:
            continue  # nothing is forbidden
        cases = operation.as_strategy(generation_mode=schemathesis.GenerationMode(mode))

        @settings(
            max_examples=count,
            database=None,
            deadline=None,
            derandomize=True,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        @given(case=cases)
        def ask(case: Any) -> None:
            found.append((case, case.call(base_url=server.url, timeout=SECONDS)))

        ask()
    return found


@pytest.mark.parametrize("mode", ["positive", "negative"])
def test_what_the_schema_says_is_no_failure_of_the_server(server: Served, mode: str) -> None:
    answers = requests_of(server, mode)
    writing = [(case, answer) for case, answer in answers if case.path.endswith("completions")]
    assert len(writing) >= BODIES and (mode == "negative") != any(answer.status_code == 200 for _, answer in writing)
    for case, answer in answers:
        assert (400 if mode == "negative" else 200) <= answer.status_code < 500, (case.path, case.body, answer.text)
        if answer.status_code >= 400:
            assert set(answer.json()) == {"error"}, (case.path, case.body, answer.text)
    until(server.idle)
    assert server.post(server.body(max_tokens=1)).status_code == 200
