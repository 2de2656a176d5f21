"""The real server in front of the fake provider, for client libraries in environments of their own.

`script/test-clients` runs these tests. The provider lives in the test process, the server runs with the project's
interpreter.
"""

from __future__ import annotations

import os
import subprocess
import uuid
from collections.abc import Iterator

import pytest

from tests.clients.scope import ROOT, Scope
from tests.fake_provider.provider import FakeProvider

for variable in ("OPENAI_API_KEY", "OPENAI_BASE_URL", "OPENAI_ORG_ID", "OPENAI_PROJECT_ID"):
    os.environ.pop(variable, None)
# Nothing but the server on loopback is asked: no telemetry, no price lists, no proxy.
os.environ |= {
    "HAYSTACK_TELEMETRY_ENABLED": "False",
    "LITELLM_LOCAL_MODEL_COST_MAP": "True",
    "LANGSMITH_TRACING": "false",
    "NO_PROXY": "127.0.0.1,localhost",
    "no_proxy": "127.0.0.1,localhost",
}


@pytest.fixture(scope="session")
def session_provider() -> Iterator[FakeProvider]:
    with FakeProvider() as provider:
        yield provider


@pytest.fixture
def provider(session_provider: FakeProvider) -> Iterator[FakeProvider]:
    """The provider, with nothing scripted and nothing received."""
    session_provider.reset()
    yield session_provider
    assert not session_provider.errors, session_provider.errors


@pytest.fixture(scope="session")
def server_url(session_provider: FakeProvider, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of the server that all tests share."""
    home = tmp_path_factory.mktemp("reservoir")
    python = os.environ.get("RESERVOIR_PYTHON") or str(ROOT / ".venv" / "bin" / "python")
    with subprocess.Popen(
        [python, "-m", "tests.clients.run_server", str(home), session_provider.base_url],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdin and process.stdout
        url = process.stdout.readline().strip()
        assert url, "the server did not start"
        yield url
        process.stdin.close()
        process.wait(300)


@pytest.fixture
def scope(server_url: str) -> Scope:
    """A scope that no other test uses."""
    return Scope(server_url, f"partition-{uuid.uuid4().hex[:12]}", "my-application")
