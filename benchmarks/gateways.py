"""The gateways that are compared: how each is started on a core of its own, and asked."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path

import psycopg

from benchmarks import processes
from benchmarks.clients import KEY
from benchmarks.installing import ROOT, litellm, portkey
from benchmarks.results import PROVIDER
from benchmarks.texts import history
from reservoir_site.postgres_folder import embedded_location
from tests.server import clean_environment, free_port

PATIENCE = 300.0  # seconds until a gateway answers
PARTITION = "benchmark"
FILLED = "full"  # the beginning of the names of instances that have a history


class Process:
    """A program on one core, with its output in a file."""

    def __init__(
        self, command: Sequence[str], *, core: int, log: Path, environment: Mapping[str, str], folder: Path = ROOT
    ) -> None:
        self._log = log
        with log.open("ab") as output:
            self._process = subprocess.Popen(
                command,
                cwd=folder,
                env={**clean_environment(), **environment},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                preexec_fn=lambda: os.sched_setaffinity(0, {core}),  # its children inherit it
            )
        self.pid = self._process.pid

    def wait_for(self, url: str) -> None:
        """Wait until the address answers with anything but a server error. Raises RuntimeError with the log."""
        deadline = time.monotonic() + PATIENCE
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        while time.monotonic() < deadline and self._process.poll() is None:
            try:
                opener.open(url, timeout=10).close()
                return
            except urllib.error.HTTPError as error:
                if error.code < 500:
                    return
            except OSError:
                pass
            time.sleep(0.2)
        self.stop()
        raise RuntimeError(f"{url} did not answer. The end of {self._log}:\n{self._log.read_text()[-2000:]}")

    def stop(self) -> None:
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
            try:
                self._process.wait(60)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()


class Gateway(ABC):
    """One gateway in front of the provider. `folder` is empty, and its own."""

    name = ""

    def __init__(self, provider: str, folder: Path, core: int) -> None:
        self.provider, self.folder, self.core, self.port = provider, folder, core, free_port()
        self.process: Process | None = None

    @property
    def root(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @abstractmethod
    def start(self) -> None:
        """Start it and wait until it answers. Raises RuntimeError."""

    def stop(self) -> None:
        if self.process:
            self.process.stop()

    def url(self, instance: str) -> str:
        """Where the clients of this instance ask."""
        return f"{self.root}/v1/chat/completions"

    @property
    def headers(self) -> dict[str, str]:
        return {}

    def trees(self) -> dict[str, set[int]]:
        """Its processes: those of the gateway, and those of its PostgreSQL."""
        return {"gateway": processes.tree(self.process.pid) if self.process else set()}

    def waits(self) -> int:
        """Work that is still to do when no request is running."""
        return 0

    def run(self, command: Sequence[str], ready: str, folder: Path = ROOT, **environment: str) -> None:
        self.folder.mkdir(parents=True)
        self.process = Process(command, core=self.core, log=self.folder / "log", environment=environment, folder=folder)
        self.process.wait_for(self.root + ready)


class Alone(Gateway):
    """No gateway: the provider itself, which runs already."""

    name = PROVIDER

    def __init__(self, provider: str) -> None:
        super().__init__(provider, Path(), 0)

    def start(self) -> None:
        pass

    @property
    def root(self) -> str:
        return self.provider

    def trees(self) -> dict[str, set[int]]:
        return {}


class Bare(Gateway):
    name = "bare pass-through"

    def start(self) -> None:
        options = ["--port", str(self.port), "--no-access-log", "--lifespan", "on", "--log-level", "warning"]
        command = [sys.executable, "-m", "uvicorn", "benchmarks.bare:application", *options]
        self.run(command, "/v1/models", PROVIDER=self.provider)


class LiteLLM(Gateway):
    name = "LiteLLM"

    def start(self) -> None:
        config = self.folder.with_suffix(".yaml")
        config.write_text(
            "model_list:\n"
            "  - model_name: gpt-4o\n"
            f"    litellm_params: {{model: openai/gpt-4o, api_base: {self.provider}/v1, api_key: key}}\n"
            "litellm_settings: {telemetry: false}\n"
        )
        command = [str(litellm()), "--config", str(config), "--host", "127.0.0.1", "--port", str(self.port)]
        environment = {"LITELLM_MASTER_KEY": KEY, "LITELLM_LOCAL_MODEL_COST_MAP": "True"}
        self.run([*command, "--num_workers", "1"], "/health/liveliness", ROOT, **environment)


class Portkey(Gateway):
    name = "Portkey"

    def start(self) -> None:
        command = ["node", str(portkey()), f"--port={self.port}", "--headless"]
        self.run(command, "/", NODE_ENV="production")

    @property
    def headers(self) -> dict[str, str]:
        return {"x-portkey-provider": "openai", "x-portkey-custom-host": f"{self.provider}/v1"}


class Reservoir(Gateway):
    """Reservoir as users run it, with the embedded PostgreSQL; `code` is the folder of its version."""

    name = "Reservoir"

    def __init__(self, provider: str, folder: Path, core: int, *, code: Path = ROOT, version: str = "") -> None:
        super().__init__(provider, folder, core)
        self._code = code
        self.name = f"Reservoir {version}".strip()
        self._python = sys.executable if code == ROOT else str(code / ".venv" / "bin" / "python")
        self._home = folder / "home"
        self._environment = {
            "RESERVOIR_HOME": str(self._home),
            "RESERVOIR_PORT": str(self.port),
            "RSV_OPENAI_BASE_URL": f"{self.provider}/v1",
        }

    def start(self) -> None:
        self.run([self._python, "manage.py", "serve"], "/ready", self._code, **self._environment)

    def url(self, instance: str) -> str:
        return f"{self.root}/v1/partition/{PARTITION}/instance/{instance}/chat/completions"

    def fill(self, scopes: int, messages: int) -> None:
        """Give each of the scopes a history with vectors. Raises RuntimeError."""
        with tempfile.NamedTemporaryFile("w", suffix=".jsonl") as archive:
            for scope in range(scopes):
                archive.writelines(history(PARTITION, f"{FILLED}-{scope}", messages, seed=scope))
            archive.flush()
            done = subprocess.run(
                [self._python, "manage.py", "import", archive.name],
                cwd=self._code,
                env=clean_environment() | self._environment,
                capture_output=True,
                text=True,
                check=False,
            )
        if done.returncode:
            raise RuntimeError(f"The histories could not be imported: {done.stderr[-500:]}")

    def trees(self) -> dict[str, set[int]]:
        postmaster = self._home / "postgres" / "data" / "postmaster.pid"
        database = processes.tree(int(postmaster.read_text().split("\n", 1)[0]))
        return {"gateway": super().trees()["gateway"] - database, "postgres": database}

    def waits(self) -> int:
        where = embedded_location(self._home)
        with psycopg.connect(host=where.host, port=where.port, user=where.user, dbname=where.dbname) as connection:
            row = connection.execute(
                "SELECT count(*) FROM conversations_message WHERE embed_due IS NOT NULL"
            ).fetchone()
        return int(row[0]) if row else 0
