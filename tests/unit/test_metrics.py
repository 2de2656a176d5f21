"""proxy/metrics.py: names that clients choose, and kinds of routes."""

from __future__ import annotations

import pytest
from prometheus_client import REGISTRY

from proxy import metrics
from proxy.metrics import MOST_NAMES, OTHER, Ended
from proxy.routes import kind


def test_a_client_cannot_fill_memory_with_the_names_of_models() -> None:
    for number in range(MOST_NAMES + 50):
        metrics.exchange_ended(Ended("names", f"model-{number}", "", "answered", {}, None, {}, 0))
    metrics.exchange_ended(Ended("names", "m" * 1000, "", "answered", {}, None, {}, 0))
    samples = [sample for family in REGISTRY.collect() for sample in family.samples]
    models = {one.labels["model"] for one in samples if one.labels.get("provider") == "names"}
    assert OTHER in models
    assert len(models) <= MOST_NAMES + 1


def test_counts_that_no_provider_can_mean_are_left_out() -> None:
    usage = {"prompt_tokens": -5, "completion_tokens": "many"}
    metrics.exchange_ended(Ended("odd", "gpt-4", "", "cut", usage, None, {"total": 5.0}, 0))
    tokens = ("reservoir_tokens_total", {"provider": "odd", "model": "gpt-4", "partition": "", "direction": "input"})
    assert REGISTRY.get_sample_value(*tokens) is None
    assert REGISTRY.get_sample_value("reservoir_provider_errors_total", {"provider": "odd", "kind": "cut"}) == 1


@pytest.mark.parametrize(
    ("path", "word"),
    [
        ("/v1/partition/a/instance/b/chat/completions", "chat_completions"),
        ("/partition/a/instance/b/v1/chat/completions", "chat_completions"),
        ("/v1/partition/a/instance/b/recall", "recall"),
        ("/v1/partition/a/instance/b/files/secret", "passed_through"),
        ("/v1/memory/messages", "memory"),
        ("/v1/docs", "other"),
        ("/live", "probe"),
        ("/metrics", "metrics"),
        ("/admin/", "admin"),
        ("/any/thing", "admin"),
    ],
)
def test_a_path_is_told_by_its_kind_alone(path: str, word: str) -> None:
    assert kind(path) == word
