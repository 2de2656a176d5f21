"""The scripts on a fresh machine, in a copy of the project that needs no packages and thus no network."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import tempfile
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent
SCRIPTS = (
    *("script/server", "script/test", "script/test-browser", "script/check", "script/setup", "script/lock"),
    "script/benchmark",
    ".ci/run",
)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project whose .venv has been made."""
    project = tmp_path_factory.mktemp("made")
    shutil.copytree(ROOT / "script", project / "script", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("requirements.txt", "requirements-embedded.txt", "requirements-dev.txt"):
        (project / name).write_text("# nothing\n")
    (project / "manage.py").write_text("import sys\nprint(sys.prefix, sys.argv[1:])\n")
    assert "Installing requirements.txt" in serve(project).stderr
    return project


@pytest.fixture
def project(made: Path, tmp_path: Path) -> Path:
    """A copy of it for one test."""
    return shutil.copytree(made, tmp_path / "a project", symlinks=True)


def environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith(("PIP_", "PYTHON"))}


def serve(project: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return run([str(project / "script" / "server"), *arguments])


def run(command: list[str], **variables: str) -> subprocess.CompletedProcess[str]:
    env = environment() | variables
    return subprocess.run(command, env=env, cwd="/", capture_output=True, text=True, timeout=300, check=False)


def is_new(venv: Path, marker: Path) -> bool:
    return (venv / "bin" / "python").exists() and not marker.exists()


@pytest.mark.parametrize("script", SCRIPTS)
def test_every_script_can_be_run(script: str) -> None:
    path = ROOT / script
    assert os.access(path, os.X_OK)
    assert "set -euo pipefail" in path.read_text()
    assert subprocess.run(["bash", "-n", path], check=False).returncode == 0


def test_the_server_runs_in_the_environment_with_its_arguments(project: Path) -> None:
    done = serve(project, "--flag", "two words")
    assert done.returncode == 0
    assert done.stdout == f"{project}/.venv ['serve', '--flag', 'two words']\n"


def test_a_second_start_installs_nothing(project: Path) -> None:
    pip = next((project / ".venv" / "lib").glob("python*/site-packages/pip"))
    shutil.rmtree(pip)
    done = serve(project)
    assert (done.returncode, done.stderr) == (0, "")


def test_changed_requirements_are_installed_into_the_same_environment(project: Path) -> None:
    (project / "requirements.txt").write_text("# something else\n")
    marker = project / ".venv" / "marker"
    marker.touch()
    assert "Installing requirements.txt" in serve(project).stderr
    assert marker.exists()
    assert serve(project).stderr == ""


def test_a_return_to_older_requirements_reinstalls_them(project: Path) -> None:
    """The development requirements may pin other versions."""
    run([str(project / "script" / "setup"), "--dev"])
    (project / "requirements.txt").write_text("# newer\n")
    (project / "requirements-dev.txt").write_text("# newer\n")
    run([str(project / "script" / "setup"), "--dev"])
    (project / "requirements.txt").write_text("# nothing\n")
    assert "Installing requirements.txt" in serve(project).stderr


def test_pip_shows_its_progress(project: Path) -> None:
    (project / "package").mkdir()
    (project / "package" / "pyproject.toml").write_text("not TOML")
    (project / "requirements.txt").write_text("./package\n")
    done = serve(project)
    assert "Processing ./package" in done.stderr, "progress goes to standard error"
    assert done.stdout == ""


def test_a_killed_installation_starts_again(project: Path) -> None:
    (project / ".venv" / ".reservoir-installing").touch()
    marker = project / ".venv" / "marker"
    marker.touch()
    assert serve(project).returncode == 0
    assert is_new(project / ".venv", marker)


def test_an_environment_without_a_python_is_replaced(project: Path) -> None:
    for link in (project / ".venv" / "bin").glob("python*"):
        link.unlink()
    marker = project / ".venv" / "marker"
    marker.touch()
    assert serve(project).returncode == 0
    assert is_new(project / ".venv", marker)


def test_an_environment_is_rebuilt_after_a_kill_while_it_was_made(project: Path) -> None:
    shutil.rmtree(project / ".venv")
    starting = subprocess.Popen(
        [project / "script" / "server"],
        env=environment(),
        start_new_session=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    deadline = time.monotonic() + 300
    while not (project / ".venv" / "lib").exists():
        assert time.monotonic() < deadline
        time.sleep(0.02)
    os.killpg(starting.pid, signal.SIGKILL)
    starting.wait()
    assert serve(project).stdout == f"{project}/.venv ['serve']\n"


def test_two_setups_at_once_make_one_environment(project: Path) -> None:
    shutil.rmtree(project / ".venv")
    command = [project / "script" / "server"]
    both = [
        subprocess.Popen(command, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    said = [process.communicate(timeout=300) for process in both]
    assert [out for out, _ in said] == [f"{project}/.venv ['serve']\n"] * 2
    assert sorted(len(re.findall("Making", err)) for _, err in said) == [0, 1]


def test_a_missing_python_is_one_sentence(project: Path, tmp_path: Path) -> None:
    tools = tmp_path / "tools"
    tools.mkdir()
    for tool in ("bash", "dirname", "env"):
        (tools / tool).symlink_to(str(shutil.which(tool)))
    done = run([str(project / "script" / "server")], PATH=str(tools))
    assert done.returncode == 1
    assert "needs Python 3.11 or newer, and the PATH has none" in done.stderr


def test_an_unsuitable_python_is_named(project: Path) -> None:
    done = run([str(project / "script" / "setup")], PYTHON="/bin/false")
    assert done.returncode == 1
    assert "PYTHON is set to '/bin/false'" in done.stderr


def test_an_installation_that_fails_starts_nothing_and_is_tried_again(project: Path) -> None:
    (project / "requirements.txt").write_text("./missing\n")
    done = serve(project)
    assert done.returncode == 1
    assert done.stdout == ""
    assert "pip could not install requirements.txt" in done.stderr
    (project / "requirements.txt").write_text("# nothing\n")
    assert serve(project).returncode == 0


def break_python(venv: Path) -> Path:
    """Make the environment unusable; returns a file that shows whether it was deleted."""
    for link in (venv / "bin").glob("python*"):
        link.unlink()
    marker = venv / "marker"
    marker.touch()
    return marker


def assert_refused(done: subprocess.CompletedProcess[str], sentence: str) -> None:
    assert done.returncode == 1
    assert re.search(sentence, done.stderr)
    assert len(done.stderr.splitlines()) == 1 and "Traceback" not in done.stderr


def test_a_linked_environment_is_not_deleted(project: Path, tmp_path: Path) -> None:
    (project / ".venv").rename(tmp_path / "shared")
    (project / ".venv").symlink_to(tmp_path / "shared")
    marker = break_python(tmp_path / "shared")
    assert_refused(
        serve(project), r"\.venv is a link to an unusable environment: repair that one, or remove the link\."
    )
    assert marker.exists() and (project / ".venv").is_symlink()


def test_an_environment_made_by_hand_is_not_deleted(project: Path) -> None:
    (project / ".venv" / ".reservoir-made").unlink()
    marker = break_python(project / ".venv")
    assert_refused(serve(project), "was not made by script/setup: remove it, then run this again")
    assert marker.exists()


def test_an_installation_killed_in_an_environment_made_by_hand_deletes_nothing(project: Path) -> None:
    (project / ".venv" / ".reservoir-made").unlink()
    (project / ".venv" / ".reservoir-installing").touch()
    assert_refused(serve(project), "was not made by script/setup")
    assert (project / ".venv" / "bin" / "python").exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_another_user_s_environment_is_not_deleted(project: Path) -> None:
    marker = break_python(project / ".venv")
    os.chown(project / ".venv", 65534, 65534)
    assert_refused(serve(project), r"belongs to another user \(65534\): run this as its owner")
    assert marker.exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_an_unwritable_folder_is_one_sentence(project: Path) -> None:
    shutil.rmtree(project / ".venv")
    open_folder = Path(tempfile.mkdtemp(prefix="reservoir-test-", dir="/tmp"))
    try:
        copy = shutil.copytree(project, open_folder / "project")
        for folder in (open_folder, copy):
            folder.chmod(0o755)
        done = run(["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", str(copy / "script" / "server")])
    finally:
        shutil.rmtree(open_folder)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].endswith(
        f"project/.venv cannot be written or read (Permission denied): run this as the owner of {copy}."
    )
    assert "Traceback" not in done.stderr
