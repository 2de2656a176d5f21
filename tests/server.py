"""The real server as a process of its own, `manage.py serve`: start, ask, kill and stop it, and read its log."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Self
from urllib.parse import quote

import httpx

from reservoir_site.postgres import EmbeddedPostgres

ROOT = Path(__file__).resolve().parent.parent
OURS = ("RESERVOIR_", "RSV_", "DATABASE_", "DJANGO_")
KEYS = ("OPENAI_API_KEY", "MISTRAL_API_KEY", "GEMINI_API_KEY", "OLLAMA_API_KEY", "ANTHROPIC_API_KEY")

PATIENCE = 300.0  # seconds: ample on a machine ten times slower, and still a bound
# Recall may take as long as a busy machine needs. Tests of the deadline set their own.
PATIENT = {"RESERVOIR_RECALL_DEADLINE_MS": "60000"}

_never_ready: dict[frozenset[tuple[str, str]], str] = {}  # settings of servers that were not ready in time -> log


def free_port() -> int:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        port: int = bound.getsockname()[1]
        return port


def clean_environment() -> dict[str, str]:
    """The environment without Reservoir's settings and without keys."""
    return {name: value for name, value in os.environ.items() if not name.startswith(OURS) and name not in KEYS}


class ServerDied(AssertionError):
    """The server exited, or was not ready in time. The message includes its log."""


def is_taken(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


class Server:
    """One server on a port of its own. `home` is its RESERVOIR_HOME; several servers may share one.

    As a context manager it starts the server and always stops it. The embedded PostgreSQL stops with the last
    server that uses its home.
    """

    def __init__(
        self,
        home: Path,
        provider_url: str,
        *,
        database_url: str | None = None,
        settings: Mapping[str, str] | None = None,
    ) -> None:
        self.home = home
        self.port = free_port()
        self.settings = {
            "RESERVOIR_HOME": str(home),
            "RESERVOIR_PORT": str(self.port),
            "RSV_OPENAI_BASE_URL": provider_url,
            **({"DATABASE_URL": database_url} if database_url else {}),
            **(settings or {}),
        }
        self.log_file = home / f"server-{self.port}.log"
        self.process: subprocess.Popen[bytes] | None = None
        self._embedded = database_url is None
        self._kind = frozenset((settings or {}).items())

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def base_url(self, partition: str, instance: str) -> str:
        """The base URL that an app sets for this scope."""
        return f"{self.url}/v1/partition/{quote(partition, safe='')}/instance/{quote(instance, safe='')}"

    @property
    def log(self) -> str:
        """Everything that the server has printed since its first start."""
        return self.log_file.read_text(errors="replace") if self.log_file.exists() else ""

    def __enter__(self) -> Self:
        try:
            return self.start()
        except BaseException:
            self.__exit__()
            raise

    def __exit__(self, *_: object) -> None:
        try:
            self.stop()
        finally:
            if self._embedded and self.exit_code != 0:
                # A killed server could not stop PostgreSQL; the last holder that releases it does.
                postgres = EmbeddedPostgres(self.home)
                postgres.hold()
                postgres.release()

    def start(self, *, ready: bool = True, seconds: float = PATIENCE) -> Self:
        """Start the server and, if `ready`, wait until /ready answers 200.

        Raises ServerDied when it exits or is not ready after `seconds`. Later servers with the same settings then
        fail at once: a suite of tests need not find out one by one.
        """
        assert not self.is_running, "it runs already"
        if earlier := _never_ready.get(self._kind):
            raise ServerDied(f"Not started: an earlier server with these settings was not ready in time.\n{earlier}")
        self._wait_for_its_port()
        self.home.mkdir(parents=True, exist_ok=True)
        with self.log_file.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "manage.py", "serve"],
                cwd=ROOT,
                env=clean_environment() | {"PYTHONUNBUFFERED": "1"} | self.settings,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        if ready:
            self.wait_until_ready(seconds)
        return self

    def _wait_for_its_port(self, seconds: float = PATIENCE) -> None:
        """Wait until nothing listens there: a killed server's worker would be mistaken for the new server."""
        deadline = time.monotonic() + seconds
        while is_taken(self.port):
            if time.monotonic() > deadline:
                raise ServerDied(f"Port {self.port} is still taken after {seconds} s.\n{self.log}")
            time.sleep(0.05)

    def wait_until_ready(self, seconds: float = PATIENCE) -> None:
        """Wait until /ready answers 200. Raises ServerDied, and kills the server, after `seconds`."""
        deadline = time.monotonic() + seconds
        with httpx.Client(trust_env=False, timeout=30) as client:
            while not self._is_ready(client):
                if not self.is_running:
                    raise ServerDied(f"The server exited with {self.exit_code}.\n{self.log}")
                if time.monotonic() > deadline:
                    self.kill()
                    _never_ready[self._kind] = self.log or "Its log is empty."
                    raise ServerDied(f"The server was not ready within {seconds} s.\n{self.log}")
                time.sleep(0.05)

    def _is_ready(self, client: httpx.Client) -> bool:
        try:
            return client.get(f"{self.url}/ready").status_code == 200
        except httpx.TransportError:
            return False

    @property
    def is_running(self) -> bool:
        return self.process is not None and self.process.poll() is None

    @property
    def exit_code(self) -> int | None:
        return self.process.poll() if self.process else None

    def kill(self) -> None:
        """kill -9: the server cleans up nothing."""
        if self.process and self.is_running:
            self.process.kill()
            self.process.wait(PATIENCE)

    def terminate(self) -> None:
        """Send SIGTERM and return at once."""
        assert self.process
        self.process.send_signal(signal.SIGTERM)

    def stop(self, seconds: float = PATIENCE) -> int | None:
        """Send SIGTERM, wait for the exit and return its code. Raises ServerDied after `seconds`."""
        if self.process and self.is_running:
            self.terminate()
            try:
                self.process.wait(seconds)
            except subprocess.TimeoutExpired:
                self.kill()
                raise ServerDied(f"The server did not stop within {seconds} s.\n{self.log}") from None
        return self.exit_code

    def restart(self) -> Self:
        """Kill it (kill -9) and start it again, as after a crash."""
        self.kill()
        return self.start()
