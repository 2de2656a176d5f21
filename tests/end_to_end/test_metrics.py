"""/metrics, of one worker and of several, and the log as JSON."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.end_to_end.conftest import StartServer
from tests.end_to_end.store import exchanges
from tests.fake_provider import responses
from tests.fake_provider.answers import Answer, error_body
from tests.fake_provider.provider import FakeProvider
from tests.faults.watching import eventually
from tests.server import Server

SECRET = "a-partition-with-a-telling-name"


def figures(server: Server, *, headers: dict[str, str] | None = None) -> dict[tuple[str, ...], float]:
    """(name, label value, ...) -> value; the labels in the order of their names, empty ones left out."""
    answer = httpx.get(f"{server.url}/metrics", headers=headers, trust_env=False)
    assert answer.status_code == 200, answer.text
    assert SECRET not in answer.text or "PARTITIONS" in str(server.settings)
    return {
        (sample.name, *(value for _, value in sorted(sample.labels.items()) if value)): sample.value
        for family in text_string_to_metric_families(answer.text)
        for sample in family.samples
    }


def ask(server: Server, text: str = "Which tea?", **more: object) -> int:
    body = {"model": "gpt-4", "messages": [{"role": "user", "content": text}], **more}
    url = f"{server.base_url(SECRET, 'app')}/chat/completions"
    return httpx.post(url, json=body, trust_env=False, timeout=300).status_code


@pytest.mark.parametrize("workers", ["1", "3"])
def test_figures_add_up_over_all_workers(start_beside: StartServer, provider: FakeProvider, workers: str) -> None:
    server = start_beside({"RESERVOIR_WORKERS": workers})
    with ThreadPoolExecutor(8) as threads:
        found = threads.map(lambda number: ask(server, f"Tea {number}?", stream=number % 2 == 0), range(24))
        assert set(found) == {200}
    provider.answer(Answer(429, body=error_body("Slow down.")))
    assert ask(server) == 429
    sums = figures(server)
    assert sums["reservoir_exchanges_total", "answered", "gpt-4", "openai"] == 24
    assert sums["reservoir_exchanges_total", "failed", "gpt-4", "openai"] == 1
    assert sums["reservoir_provider_errors_total", "429", "openai"] == 1
    assert sums["reservoir_http_requests_total", "chat_completions", "200"] == 24
    assert sums["reservoir_tokens_total", "input", "gpt-4", "openai"] > 0
    assert sums["reservoir_cost_dollars_total", "gpt-4", "openai"] > 0
    assert sums["reservoir_phase_seconds_count", "recall"] == 25
    assert sums[("reservoir_slots_taken",)] == 0
    assert sums[("reservoir_slots",)] == 1000 * int(workers)
    assert sums[("reservoir_spool_bytes",)] == 0
    assert sums[("reservoir_queue_messages",)] >= 0


def test_memories_and_degraded_requests_are_counted(start_beside: StartServer) -> None:
    server = start_beside({"RESERVOIR_METRICS_PARTITIONS": "yes"})
    ask(server, "My cat is called Minka.")
    ask(server, "How is my cat called?")
    found = figures(server)
    assert found[("reservoir_memories_total",)] > 0
    assert found["reservoir_exchanges_total", "answered", "gpt-4", SECRET, "openai"] == 2
    late = start_beside({"RESERVOIR_RECALL_DEADLINE_MS": "1"})
    for _ in range(5):
        ask(late, "How is my cat called? " * 50)
    eventually(lambda: figures(late).get(("reservoir_degraded_total", "recall late"), 0) > 0)


def test_an_answer_made_in_the_background_is_counted_when_it_is_fetched(
    start_beside: StartServer, provider: FakeProvider
) -> None:
    server = start_beside()
    url = f"{server.base_url(SECRET, 'background')}/responses"
    body = {"model": "gpt-4o", "input": "Think long about pears.", "background": True}
    id_ = httpx.post(url, json=body, trust_env=False, timeout=300).json()["id"]
    assert ("reservoir_exchanges_total", "answered", "gpt-4o", "openai") not in figures(server)
    done = responses.response([responses.message("Pears are best in May.")], id=id_, background=True)
    for _ in range(2):
        provider.answer(Answer(200, body=json.dumps(done).encode()))
        assert httpx.get(f"{url}/{id_}", trust_env=False, timeout=300).json()["status"] == "completed"
    found = figures(server)
    assert found["reservoir_exchanges_total", "answered", "gpt-4o", "openai"] == 1
    assert found["reservoir_tokens_total", "input", "gpt-4o", "openai"] == done["usage"]["input_tokens"]
    assert found["reservoir_cost_dollars_total", "gpt-4o", "openai"] > 0
    (kept,) = exchanges(server, (SECRET, "background"))
    assert (kept["input_tokens"], kept["output_tokens"]) == (9, 3)
    assert kept["cost"] > 0


@pytest.mark.parametrize("header", ["X-Forwarded-For", "Forwarded", "Via", "X-Real-IP"])
def test_metrics_are_not_for_those_who_come_through_a_proxy(server: Server, header: str) -> None:
    answer = httpx.get(f"{server.url}/metrics", headers={header: "192.0.2.1"}, trust_env=False)
    assert (answer.status_code, answer.json()["error"]["code"]) == (403, "forbidden")


def test_the_log_can_be_json(start_beside: StartServer) -> None:
    server = start_beside({"RESERVOIR_LOG_FORMAT": "json"})
    ask(server, "Never logged")

    def access_lines() -> list[dict[str, Any]]:
        lines = [json.loads(line) for line in server.log.splitlines() if line.startswith("{")]
        return [line for line in lines if line["logger"] == "reservoir.access" and "chat" in line["path"]]

    eventually(lambda: bool(access_lines()))  # it is written after the answer
    access = access_lines()
    assert [(line["method"], line["status"], line["level"]) for line in access] == [("POST", 200, "INFO")]
    assert "Never logged" not in server.log
