"""The database of the tests: an embedded PostgreSQL of their own, or the server that DATABASE_URL names.

Loaded as a pytest plugin (see pyproject.toml), since it must be known before Django reads its settings.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

HOME = Path(tempfile.mkdtemp(prefix="reservoir-tests-"))
os.environ["RESERVOIR_HOME"] = str(HOME)


def pytest_unconfigure() -> None:
    shutil.rmtree(HOME, ignore_errors=True)
