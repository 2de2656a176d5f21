"""Bring .venv to what the pinned requirements say. Called by script/setup; standard library only.

The directory may be missing, made by hand, of a Python that is gone, or left half made by an installation
that was killed; and two starts may come here at once. What was installed is noted in a stamp, so that a
second start neither runs pip nor touches the network.
"""

from __future__ import annotations

import argparse
import fcntl
import hashlib
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
PYTHON = VENV / "bin" / "python"
STAMP = VENV / ".reservoir-installed"
UNFINISHED = VENV / ".reservoir-installing"
RUNTIME = ROOT / "requirements.txt"
DEVELOPMENT = ROOT / "requirements-dev.txt"


def main() -> int:
    parser = argparse.ArgumentParser(prog="script/setup", description="Make .venv as the requirements say.")
    parser.add_argument("--dev", action="store_true", help="also install what working on the code needs")
    wanted = [RUNTIME, DEVELOPMENT] if parser.parse_args().dev else [RUNTIME]
    with Path(__file__).open() as lock:
        # The system drops this lock with the last process that holds it, however that one ends; pip inherits
        # it, so that one that outlives us is waited for too.
        fcntl.flock(lock, fcntl.LOCK_EX)
        return 0 if is_ready(wanted) else make(wanted, lock.fileno())


def digest(requirements: Path) -> str:
    return f"{requirements.name} {hashlib.sha256(requirements.read_bytes()).hexdigest()}"


def is_ready(wanted: list[Path]) -> bool:
    """Whether the last installation was of these very files, finished, and its Python still runs."""
    if UNFINISHED.exists() or not STAMP.exists():
        return False
    installed = STAMP.read_text().splitlines()
    return all(digest(requirements) in installed for requirements in wanted) and runs("-c", "")


def runs(*arguments: str) -> bool:
    try:
        return subprocess.run([PYTHON, *arguments], capture_output=True, check=False).returncode == 0  # noqa: S603
    except OSError:
        return False


def make(wanted: list[Path], lock: int) -> int:
    usable = runs("-c", "import sys; sys.exit(sys.version_info < (3, 11))") and runs("-m", "pip", "--version")
    if UNFINISHED.exists() or not usable:
        # A killed pip may leave a package that looks installed and is not, so nothing of it is trusted.
        say("Making .venv ...")
        if VENV.exists():
            shutil.rmtree(VENV)
        VENV.mkdir()
        UNFINISHED.touch()
        if exit_code([sys.executable, "-m", "venv", VENV], lock) != 0:
            say("Python could not make .venv. On Debian and Ubuntu that needs the package python3-venv.")
            return 1
    # The last file names everything in the ones before it.
    requirements = wanted[-1]
    say(f"Installing {requirements.name} into .venv; the first time that takes a minute or two ...")
    STAMP.unlink(missing_ok=True)
    UNFINISHED.touch()
    pip: list[str | Path] = [PYTHON, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-input"]
    code = exit_code([*pip, "--requirement", requirements], lock)
    if code > 0:  # pip gave up of itself, and cleaned up; below 0 it was killed
        UNFINISHED.unlink()
    if code != 0:
        say(f"pip could not install {requirements.name}: what it says above is why. Nothing was started.")
        return 1
    STAMP.write_text("".join(digest(requirements) + "\n" for requirements in wanted))
    UNFINISHED.unlink()
    return 0


def exit_code(command: list[str | Path], lock: int) -> int:
    return subprocess.run(command, cwd=ROOT, pass_fds=[lock], check=False).returncode  # noqa: S603


def say(text: str) -> None:
    sys.stderr.write(f"{text}\n")


if __name__ == "__main__":
    sys.exit(main())
