"""Where this code runs from, a checkout or an installed package; hence its version and its default data folder."""

from __future__ import annotations

import os
import tomllib
from importlib import metadata
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def is_checkout(root: Path = ROOT) -> bool:
    """Whether this code lies in a clone of the repository (or in its image) rather than in site-packages."""
    return (root / "manage.py").is_file() and (root / "pyproject.toml").is_file()


def version(root: Path = ROOT) -> str:
    """The release, such as "0.1.0": pyproject.toml's, which the wheel's metadata repeats."""
    if is_checkout(root):
        project = tomllib.loads((root / "pyproject.toml").read_text())["project"]
        return str(project["version"])
    return metadata.version("reservoir")


def data_folder(root: Path = ROOT) -> Path:
    """The default of RESERVOIR_HOME: inside the checkout, otherwise the user's data folder (XDG_DATA_HOME)."""
    if is_checkout(root):
        return root / ".reservoir"
    shared = Path(os.environ.get("XDG_DATA_HOME", ""))
    if not shared.is_absolute():  # XDG tells programs to ignore relative paths
        shared = Path("~/.local/share").expanduser()
    return shared / "reservoir"
