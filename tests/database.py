"""The database and the environment of the tests: an embedded PostgreSQL of their own, or the server in DATABASE_URL.

Loaded as a pytest plugin (see pyproject.toml), because Django reads its settings before any conftest is imported.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

HOME = Path(tempfile.mkdtemp(prefix="reservoir-tests-"))
os.environ["RESERVOIR_HOME"] = str(HOME)
os.environ["RESERVOIR_RECALL_DEADLINE_MS"] = "60000"  # a busy machine is not a failure


def pytest_unconfigure() -> None:
    shutil.rmtree(HOME, ignore_errors=True)
