"""The wheel, built and installed into an environment that has none of the project's files."""

from __future__ import annotations

import shutil
import subprocess
import sys
import sysconfig
import time
import tomllib
import venv
import zipfile
from collections.abc import Iterator
from email.parser import Parser
from pathlib import Path

import httpx
import pytest

from tests.integration.embedded.processes import stop_everything_below
from tests.server import ROOT, clean_environment, free_port

PACKAGES = ("reservoir_site", "console", "proxy", "access", "conversations")
VERSION = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
BUILD = (
    *("pyproject.toml", "README.md", "LICENSE", "requirements.in", "requirements-embedded.in"),
    *PACKAGES,
)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from a copy, as building leaves files behind; without isolation, as that needs a network."""
    source, target = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for name in BUILD:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / name, source)
    pip = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", f"--wheel-dir={target}"]
    done = subprocess.run([*pip, "."], cwd=source, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    (built,) = target.iterdir()
    return built


@pytest.fixture(scope="module")
def reservoir(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The installed command. The dependencies come from the running environment through a .pth file, as downloading
    them again would take minutes; the wheel itself is installed by pip.
    """
    folder = tmp_path_factory.mktemp("bare")
    venv.create(folder, with_pip=False)
    python = folder / "bin" / "python"
    pip = [sys.executable, "-m", "pip", f"--python={python}", "install", "--no-deps", "--no-index", str(wheel)]
    done = subprocess.run(pip, cwd=folder, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    (site_packages,) = (folder / "lib").glob("python*/site-packages")
    (site_packages / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return folder / "bin" / "reservoir"


@pytest.fixture
def data(tmp_path: Path) -> Iterator[Path]:
    """XDG_DATA_HOME of one test."""
    yield tmp_path / "data"
    stop_everything_below(tmp_path)


def environment(data: Path, **settings: str) -> dict[str, str]:
    names = clean_environment() | {"XDG_DATA_HOME": str(data), "no_proxy": "*"} | settings
    return {name: value for name, value in names.items() if name != "PYTHONPATH"}


def run(reservoir: Path, data: Path, *arguments: str) -> str:
    command = [str(reservoir), *arguments]
    env = environment(data)
    done = subprocess.run(command, cwd="/", env=env, capture_output=True, text=True, timeout=300, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def test_the_wheel_holds_every_file_of_the_packages_and_nothing_else(wheel: Path) -> None:
    packed = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", *PACKAGES],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    if listed.returncode != 0:
        pytest.skip("not a git repository")
    assert packed == {name for name in listed.stdout.splitlines() if (ROOT / name).exists()}


def test_the_wheel_requires_the_direct_dependencies(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        metadata = Parser().parsestr(archive.read(name).decode())
    assert metadata["Version"] == VERSION
    assert metadata["License-Expression"] == "Apache-2.0"

    def plain(requirement: str) -> str:
        return requirement.replace(" ", "").replace('"', "'").lower()

    lines = "\n".join(
        (ROOT / name).read_text() for name in ("requirements.in", "requirements-embedded.in")
    ).splitlines()
    wanted = {plain(line) for line in lines if line and not line.startswith("#")}
    required = {plain(requirement) for requirement in metadata.get_all("Requires-Dist", [])}
    assert {requirement for requirement in required if ";extra==" not in requirement} == wanted


def test_version_and_help(reservoir: Path, data: Path) -> None:
    assert run(reservoir, data, "version") == run(reservoir, data, "--version") == f"{VERSION}\n"
    text = run(reservoir, data, "help")
    assert "Type 'reservoir help <command>'" in text
    assert text.index("  serve ") < text.index("  prune ") < text.index("Django's")
    assert run(reservoir, data, "help", "serve").startswith("usage: reservoir serve")


def test_the_installed_server_uses_the_users_data_folder(reservoir: Path, data: Path) -> None:
    port = free_port()
    env = environment(data, RESERVOIR_PORT=str(port))
    serving = subprocess.Popen([reservoir, "serve"], cwd="/", env=env, stdout=subprocess.DEVNULL)
    try:
        assert live(port, serving) == {"status": "live", "version": VERSION}
        page = httpx.get(f"http://127.0.0.1:{port}/admin/login/", trust_env=False)
        style = httpx.get(f"http://127.0.0.1:{port}/static/reservoir/admin.css", trust_env=False)
        schema = httpx.get(f"http://127.0.0.1:{port}/v1/openapi.json", trust_env=False)
        assert (page.status_code, style.status_code) == (200, 200)
        assert schema.json()["info"]["version"] == VERSION
        assert (data / "reservoir" / "postgres").is_dir()
        assert not list(reservoir.parent.parent.rglob(".reservoir"))
    finally:
        serving.terminate()
        assert serving.wait(timeout=300) == 143  # as shells report SIGTERM


def live(port: int, serving: subprocess.Popen[bytes]) -> object:
    """Wait for /live and return its answer."""
    deadline = time.monotonic() + 300
    while time.monotonic() < deadline and serving.poll() is None:
        try:
            return httpx.get(f"http://127.0.0.1:{port}/live", trust_env=False, timeout=300).json()
        except httpx.TransportError:
            time.sleep(0.1)
    raise AssertionError(f"no answer; exit code {serving.poll()}")


@pytest.mark.parametrize(
    ("shared", "expected"),
    [("/srv/data", "/srv/data/reservoir"), ("", "~/.local/share/reservoir"), ("here", "~/.local/share/reservoir")],
)
def test_the_data_folder_follows_xdg(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shared: str, expected: str
) -> None:
    from reservoir_site import installation

    monkeypatch.setenv("XDG_DATA_HOME", shared)
    assert installation.data_folder(tmp_path) == Path(expected).expanduser()
    assert installation.data_folder(ROOT) == ROOT / ".reservoir"
