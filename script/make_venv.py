"""Make .venv match the pinned requirements. Called by script/setup; standard library only.

The folder may be missing, made by hand, made for a Python that is gone, or left unfinished by a killed installation;
and two starts may run this at once. A stamp records what was installed, so that a second start neither runs pip nor
touches the network. A .venv that this script did not make, a link, or another user's .venv is never deleted.
"""

from __future__ import annotations

import argparse
import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
PYTHON = VENV / "bin" / "python"
STAMP = VENV / ".reservoir-installed"
MADE_HERE = VENV / ".reservoir-made"
UNFINISHED = VENV / ".reservoir-installing"
RUNTIME = ROOT / "requirements.txt"
EMBEDDED = ROOT / "requirements-embedded.txt"
DEVELOPMENT = ROOT / "requirements-dev.txt"


class SetupError(Exception):
    """The environment cannot be made; the message is one sentence with the remedy."""


def main() -> int:
    parser = argparse.ArgumentParser(prog="script/setup", description="Make .venv match the pinned requirements.")
    parser.add_argument("--dev", action="store_true", help="also install the packages for working on the code")
    wanted = [RUNTIME, EMBEDDED, *([DEVELOPMENT] if parser.parse_args().dev else [])]
    try:
        with Path(__file__).open() as lock:
            # The system drops this lock with the last process that holds it, even a killed one. pip inherits it, so
            # a pip that outlives us still keeps others out.
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not is_ready(wanted):
                make(wanted, lock.fileno())
    except SetupError as error:
        say(str(error))
        return 1
    except OSError as error:
        say(f"{error.filename or VENV} cannot be written or read ({error.strerror}): run this as the owner of {ROOT}.")
        return 1
    return 0


def digest(requirements: Path) -> str:
    return f"{requirements.name} {hashlib.sha256(requirements.read_bytes()).hexdigest()}"


def is_ready(wanted: list[Path]) -> bool:
    """Whether the last installation was of these very files and finished, and its Python still runs."""
    if UNFINISHED.exists() or not STAMP.exists():
        return False
    installed = STAMP.read_text().splitlines()
    return all(digest(requirements) in installed for requirements in wanted) and runs("-c", "")


def runs(*arguments: str) -> bool:
    try:
        return subprocess.run([PYTHON, *arguments], capture_output=True, check=False).returncode == 0  # noqa: S603
    except OSError:
        return False


def make(wanted: list[Path], lock: int) -> None:
    """Install the requirements, into a new .venv unless the present one is usable. Raises SetupError, OSError."""
    usable = runs("-c", "import sys; sys.exit(sys.version_info < (3, 11))") and runs("-m", "pip", "--version")
    if UNFINISHED.exists() or not usable:
        # A killed pip may leave a package that looks installed and is not, so the whole folder is made again.
        refuse_what_is_not_ours()
        say("Making .venv ...")
        if VENV.exists():
            shutil.rmtree(VENV)
        VENV.mkdir()
        MADE_HERE.touch()
        UNFINISHED.touch()
        if exit_code([sys.executable, "-m", "venv", VENV], lock) != 0:
            raise SetupError("Python could not make .venv. On Debian and Ubuntu this needs the package python3-venv.")
    elif not os.access(VENV, os.W_OK):
        raise SetupError(f"{VENV} is outdated and cannot be written: run this as its owner.")
    install(wanted, lock)


def refuse_what_is_not_ours() -> None:
    """Keep a .venv that is not ours to delete. Raises SetupError."""
    if VENV.is_symlink():
        raise SetupError(f"{VENV} is a link to an unusable environment: repair that one, or remove the link.")
    if not VENV.exists():
        return
    if (owner := VENV.stat().st_uid) != os.geteuid():
        raise SetupError(f"{VENV} is unusable and belongs to another user ({owner}): run this as its owner.")
    if not MADE_HERE.exists() and (not VENV.is_dir() or any(VENV.iterdir())):
        raise SetupError(f"{VENV} is unusable and was not made by script/setup: remove it, then run this again.")


def install(wanted: list[Path], lock: int) -> None:
    """Run pip, with its progress on the screen. Raises SetupError, OSError."""
    names = " and ".join(requirements.name for requirements in wanted)
    say(f"Installing {names} into .venv; the first time, this takes a minute or two ...")
    STAMP.unlink(missing_ok=True)
    UNFINISHED.touch()
    pip: list[str | Path] = [PYTHON, "-m", "pip", "install", "--disable-pip-version-check", "--no-input"]
    for requirements in wanted:
        pip += ["--requirement", requirements]
    code = exit_code(pip, lock)
    if code > 0:  # pip gave up and cleaned up; a negative code means that it was killed
        UNFINISHED.unlink()
    if code != 0:
        raise SetupError(f"pip could not install {names}: see its messages above. Nothing was started.")
    STAMP.write_text("".join(digest(requirements) + "\n" for requirements in wanted))
    UNFINISHED.unlink()


def exit_code(command: list[str | Path], lock: int) -> int:
    """Run a program, its output on our standard error: standard output belongs to the command that follows."""
    return subprocess.run(command, cwd=ROOT, pass_fds=[lock], stdout=sys.stderr, check=False).returncode  # noqa: S603


def say(text: str) -> None:
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()


if __name__ == "__main__":
    sys.exit(main())
