"""The objects of one server process, from start to stop: providers, their HTTP client, memory, history, keys."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping
from dataclasses import dataclass, field

from django.conf import settings

from proxy.admission.denials import Denials
from proxy.admission.gate import Gate
from proxy.admission.keyring import Keyring
from proxy.admission.quotas import Quotas
from proxy.memory.history import History
from proxy.memory.service import STOP_SECONDS, MemoryService
from proxy.providers import configuration, tokens
from proxy.providers.registry import Providers
from proxy.rules import rules_file
from proxy.rules.rules_file import Rules
from proxy.tracing import end_traces, start_traces
from proxy.upstream import Upstream


@dataclass(frozen=True, slots=True)
class Runtime:
    """One server process's objects."""

    providers: Providers
    upstream: Upstream
    memory: MemoryService
    history: History
    keyring: Keyring
    denials: Denials
    gate: Gate
    quotas: Quotas
    rules: Rules = field(default_factory=Rules)
    tasks: list[asyncio.Task[None]] = field(default_factory=list)  # they run until the process stops

    async def stop(self) -> None:
        """Store the exchanges under way, then close everything."""
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)
        await asyncio.to_thread(self.history.stop, STOP_SECONDS)
        await self.quotas.stop()
        await asyncio.to_thread(self.keyring.stop, STOP_SECONDS)
        await self.memory.stop()
        await self.upstream.close()
        await asyncio.to_thread(end_traces)


_current: Runtime | None = None


async def start(environment: Mapping[str, str] = os.environ) -> Runtime:
    """Start the runtime of this process. Called once, on the event loop, before the first request.

    `environment` names the providers and their keys. Raises ValueError for an invalid configuration.
    """
    global _current
    start_traces(environment)
    tokens.prepare(settings.RESERVOIR_HOME / "tiktoken")
    for model in ("gpt-4o", "gpt-4"):
        tokens.counter(model).count("")  # loads the encodings, so that no request waits for them
    memory, keyring = MemoryService(), Keyring()
    denials = Denials(keyring)
    _current = Runtime(
        providers=configuration.from_environment(environment),
        upstream=Upstream(
            connect_seconds=settings.RESERVOIR_CONNECT_SECONDS, read_seconds=settings.RESERVOIR_READ_SECONDS
        ),
        memory=memory,
        history=History(memory.embedder),
        keyring=keyring,
        denials=denials,
        gate=Gate(keyring, denials, open_to_all=settings.RESERVOIR_OPEN_WITHOUT_KEYS),
        quotas=Quotas(keyring, slots=settings.RESERVOIR_MAX_REQUESTS),
        rules=rules_file.from_environment(environment),
    )
    await _current.memory.start()
    await keyring.start()
    _current.quotas.start()
    return _current


def current() -> Runtime:
    """The runtime of this process. Raises RuntimeError before `start`."""
    if _current is None:
        raise RuntimeError("The server has not been started: run `manage.py serve`.")
    return _current
