"""The real server as a process of its own: `manage.py serve`, started, asked, killed, stopped and looked at."""

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
OURS = ("RESERVOIR_", "RSV_", "DATABASE_URL", "DJANGO_")
KEYS = ("OPENAI_API_KEY", "MISTRAL_API_KEY", "GEMINI_API_KEY", "OLLAMA_API_KEY")


def free_port() -> int:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        port: int = bound.getsockname()[1]
        return port


def clean_environment() -> dict[str, str]:
    """The environment without anything that configures Reservoir, and without keys."""
    return {name: value for name, value in os.environ.items() if not name.startswith(OURS) and name not in KEYS}


class ServerDied(AssertionError):
    """The server ended, or did not get ready; with its log."""


def is_taken(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


class Server:
    """One server on a port of its own. `home` is its RESERVOIR_HOME; several servers may share one.

    With `with`, it is started and, at the end, whatever was done to it, stopped; its embedded PostgreSQL
    stops when the last of those who share the home has been stopped.
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

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def base_url(self, partition: str, instance: str) -> str:
        """What an app sets as its base URL."""
        return f"{self.url}/v1/partition/{quote(partition, safe='')}/instance/{quote(instance, safe='')}"

    @property
    def log(self) -> str:
        """Everything that the server has printed since it was first started."""
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
                # One that was killed could not stop PostgreSQL; the last one who leaves does.
                postgres = EmbeddedPostgres(self.home)
                postgres.hold()
                postgres.release()

    def start(self, *, ready: bool = True, seconds: float = 90) -> Self:
        """Start, and wait until /ready says yes."""
        assert not self.is_running, "it runs already"
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

    def _wait_for_its_port(self, seconds: float = 30) -> None:
        """Who still has it, such as a worker of a killed server, would be taken for the one that is started."""
        deadline = time.monotonic() + seconds
        while is_taken(self.port):
            if time.monotonic() > deadline:
                raise ServerDied(f"Port {self.port} is still taken after {seconds} s.\n{self.log}")
            time.sleep(0.05)

    def wait_until_ready(self, seconds: float = 90) -> None:
        deadline = time.monotonic() + seconds
        with httpx.Client(trust_env=False, timeout=5) as client:
            while not self._is_ready(client):
                if not self.is_running:
                    raise ServerDied(f"The server ended with {self.exit_code}.\n{self.log}")
                if time.monotonic() > deadline:
                    self.kill()
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
        """kill -9: nothing is said goodbye to."""
        if self.process and self.is_running:
            self.process.kill()
            self.process.wait(10)

    def terminate(self) -> None:
        """Ask it to stop (SIGTERM) and return at once."""
        assert self.process
        self.process.send_signal(signal.SIGTERM)

    def stop(self, seconds: float = 60) -> int | None:
        """Ask it to stop and wait until it has; its exit code."""
        if self.process and self.is_running:
            self.terminate()
            try:
                self.process.wait(seconds)
            except subprocess.TimeoutExpired:
                self.kill()
                raise ServerDied(f"The server did not stop within {seconds} s.\n{self.log}") from None
        return self.exit_code

    def restart(self) -> Self:
        """As after a crash: kill -9, then start."""
        self.kill()
        return self.start()
