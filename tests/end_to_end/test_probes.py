"""What /ready says of a server that has been running for a while."""

from __future__ import annotations

import time

import httpx

from conversations.embedding import NOTICED_WITHIN
from tests.server import Server


def test_ready_also_answers_when_the_embedding_model_is_due_to_be_read_again(server: Server) -> None:
    time.sleep(NOTICED_WITHIN)  # then the next use of the embedder asks the database, which the event loop must not do
    answer = httpx.get(f"{server.url}/ready", timeout=300, trust_env=False)
    assert (answer.status_code, answer.json()["embedder"]) == (200, "ready")
