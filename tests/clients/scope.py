"""One scope of the running server: its base URL, and what is stored there."""

from __future__ import annotations

import json
import time
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
PATIENCE = 300.0  # seconds
_direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))


@dataclass(frozen=True)
class Scope:
    server_url: str
    partition: str
    instance: str

    @property
    def base_url(self) -> str:
        """What a client sets instead of https://api.openai.com/v1."""
        return f"{self.server_url}/v1/partition/{self.partition}/instance/{self.instance}"

    def stored(self) -> list[dict[str, Any]]:
        """The scope's messages, oldest first, as the memory API gives them."""
        query = f"partition={self.partition}&instance={self.instance}&limit=100"
        found = self._get(f"/v1/memory/messages?{query}")
        items: list[dict[str, Any]] = found["data"]
        return items[::-1]

    def turns(self) -> list[tuple[str, str]]:
        """Role and text of each stored message, oldest first."""
        return [(message["role"], message["content"]) for message in self.stored()]

    def wait_for(self, count: int) -> list[dict[str, Any]]:
        """Wait until `count` messages are stored."""
        deadline = time.monotonic() + PATIENCE
        while len(found := self.stored()) < count:
            assert time.monotonic() < deadline, f"wanted {count} messages: {found}"
            time.sleep(0.05)
        return found

    def exchange(self, trace_id: str) -> dict[str, Any]:
        whole: dict[str, Any] = self._get(f"/v1/memory/exchanges/{trace_id}")
        return whole

    def wait_for_end(self, trace_id: str) -> str:
        """How the exchange ended, once it has."""
        deadline = time.monotonic() + PATIENCE
        while (ended := self.exchange(trace_id)["ended"]) == "open":
            assert time.monotonic() < deadline, "the exchange did not end"
            time.sleep(0.05)
        return str(ended)

    def _get(self, path: str) -> Any:
        with _direct.open(self.server_url + path, timeout=PATIENCE) as answer:
            return json.load(answer)
