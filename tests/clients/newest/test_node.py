"""Node's `openai`, and the Vercel AI SDK with `@ai-sdk/openai-compatible`. Each action runs in a process of its own."""

from __future__ import annotations

import json
import shutil
import subprocess
from typing import Any

import pytest

from tests.clients.behaviour import Behaviour
from tests.clients.scope import PATIENCE, ROOT, Scope

FOLDER = ROOT / "tests" / "clients" / "node"
pytestmark = pytest.mark.skipif(
    not (shutil.which("node") and (FOLDER / "node_modules").is_dir()), reason="needs node, and npm's packages"
)


class NodeError(Exception):
    """What the library raised, with its class in front."""

    def __init__(self, error: dict[str, Any]) -> None:
        super().__init__(f"{error['error']}: {error['message']}")
        self.status_code = error.get("status")


class Conversation:
    library: str

    def __init__(self, scope: Scope) -> None:
        self._scope = scope
        self._messages: list[dict[str, str]] = []

    def _run(self, action: str, text: str) -> str:
        self._messages.append({"role": "user", "content": text})
        done = subprocess.run(
            ["node", "clients.mjs", self.library, action, self._scope.base_url, json.dumps(self._messages)],
            cwd=FOLDER,
            capture_output=True,
            text=True,
            timeout=PATIENCE,
        )
        assert done.returncode == 0 and done.stdout, done.stderr
        said = json.loads(done.stdout.splitlines()[-1])
        if "error" in said:
            raise NodeError(said)
        self._messages.append({"role": "assistant", "content": said["text"]})
        return str(said["text"])

    def ask(self, text: str) -> str:
        return self._run("ask", text)

    def stream(self, text: str) -> str:
        return self._run("stream", text)

    def leave(self, text: str) -> None:
        self._run("leave", text)

    def use_tools(self, text: str) -> str:
        return self._run("tools", text)


class OpenAIConversation(Conversation):
    library = "openai"


class AISDKConversation(Conversation):
    library = "ai-sdk"


class TestOpenAI(Behaviour):
    errors = dict.fromkeys((401, 429, 500), NodeError)

    def make(self, scope: Scope) -> Conversation:
        return OpenAIConversation(scope)


class TestAISDK(Behaviour):
    errors = dict.fromkeys((401, 429, 500), NodeError)

    def make(self, scope: Scope) -> Conversation:
        return AISDKConversation(scope)
