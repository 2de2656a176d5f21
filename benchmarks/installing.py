"""Puts other gateways and other versions of Reservoir below .venv-benchmark/, each in an environment of its own."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks import progress

ROOT = Path(__file__).resolve().parent.parent
BELOW = ROOT / ".venv-benchmark"
LITELLM = "1.108.7"
PORTKEY = "1.15.2"
NODE_SERVER = "1.13.8"  # with newer releases of this dependency, that version of Portkey answers no stream (Node 20)


class NotInstalled(RuntimeError):
    """A gateway cannot be installed here; the message says why in one sentence."""


def litellm() -> Path:
    """The program of LiteLLM's proxy. Raises NotInstalled."""
    folder = BELOW / f"litellm-{LITELLM}"
    program = folder / "bin" / "litellm"
    if not program.exists():
        progress.done(f"Installing LiteLLM {LITELLM} below {folder} ...")
        _run("LiteLLM", [sys.executable, "-m", "uv", "venv", "-q", "--clear", "--python", sys.executable, str(folder)])
        install = [sys.executable, "-m", "uv", "pip", "install", "-q", "--python", str(folder / "bin" / "python")]
        _run("LiteLLM", [*install, f"litellm[proxy]=={LITELLM}"])
    return program


def portkey() -> Path:
    """The script of Portkey's gateway, for node. Raises NotInstalled."""
    folder = BELOW / f"portkey-{PORTKEY}"
    script = folder / "node_modules" / "@portkey-ai" / "gateway" / "build" / "start-server.js"
    if not (shutil.which("npm") and shutil.which("node")):
        raise NotInstalled("Portkey is left out: it needs node and npm.")
    if not script.exists():
        progress.done(f"Installing Portkey's gateway {PORTKEY} below {folder} ...")
        folder.mkdir(parents=True, exist_ok=True)
        package = {
            "private": True,
            "dependencies": {"@portkey-ai/gateway": PORTKEY},
            "overrides": {"@hono/node-server": NODE_SERVER},
        }
        (folder / "package.json").write_text(json.dumps(package))
        _run("Portkey", ["npm", "install", "--no-audit", "--no-fund", "--ignore-scripts", "--prefix", str(folder)])
    return script


def version(commit: str) -> Path:
    """A folder with the code of another commit, and its packages in its .venv. Raises NotInstalled."""
    folder = BELOW / f"reservoir-{commit}"
    if not folder.exists():
        progress.done(f"Installing Reservoir {commit} below {folder} ...")
        archive = folder.with_suffix(".tar")
        BELOW.mkdir(exist_ok=True)
        _run(f"Commit {commit}", ["git", "-C", str(ROOT), "archive", "-o", str(archive), commit])
        shutil.unpack_archive(archive, folder, filter="data")
        archive.unlink()
    _run(f"Commit {commit}", [str(folder / "script" / "setup")])
    return folder


def _run(what: str, command: Sequence[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        last = (done.stderr.strip() or done.stdout.strip() or "no output").splitlines()[-1]
        raise NotInstalled(f"{what} is left out: it could not be installed ({last}).")
