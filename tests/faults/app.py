"""An app that resends no history: it asks, reads the state of its memory, and looks up its stored turns."""

from __future__ import annotations

import time
import uuid
from pathlib import Path

import httpx

from tests.faults.stored import rows
from tests.server import Server

KEY = "sk-never-to-be-written-down"


class App:
    """An app that resends no history, in a scope of its own."""

    def __init__(self, server: Server, *, database: Path | None = None) -> None:
        """`database` is the home of the PostgreSQL that stores the turns, if it is not the server's own."""
        self.server = server
        self._database = database or server.home
        self.scope = (f"partition-{uuid.uuid4().hex[:12]}", "app")
        self.ask("warm")

    def ask(self, text: str, *, stream: bool = False) -> httpx.Response:
        body = {"model": "some-model", "stream": stream, "messages": [{"role": "user", "content": text}]}
        url = f"{self.server.base_url(*self.scope)}/chat/completions"
        answer = httpx.post(url, json=body, headers={"Authorization": f"Bearer {KEY}"}, trust_env=False, timeout=300)
        assert answer.status_code == 200, answer.text
        assert "You" in answer.text
        return answer

    def memory(self, text: str) -> str:
        """Ask, and return the answer's `x-reservoir-memory`: on, off or degraded."""
        state: str = self.ask(text).headers["x-reservoir-memory"]
        return state

    def timed(self, text: str, *, stream: bool = False) -> float:
        """Ask, and return the milliseconds until the answer is complete."""
        begun = time.perf_counter()
        self.ask(text, stream=stream)
        return (time.perf_counter() - begun) * 1000

    def said(self) -> list[str]:
        """The user's turns of this scope, in the order in which they were stored."""
        found = rows(
            self._database,
            """SELECT m.content FROM conversations_message m JOIN conversations_instance i ON i.id = m.instance_id
               JOIN conversations_partition p ON p.id = i.partition_id
               WHERE p.name = %s AND i.name = %s AND m.role = 'user' ORDER BY m.id""",
            *self.scope,
        )
        return [content for (content,) in found]
