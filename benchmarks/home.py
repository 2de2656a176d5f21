"""The data folder of a benchmark that runs in this process."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def home(kept: Path | None = None) -> Iterator[None]:
    """Set up Django with a temporary RESERVOIR_HOME, or with `kept`, which is not deleted."""
    with tempfile.TemporaryDirectory(prefix="reservoir-benchmark-") as temporary:
        os.environ["RESERVOIR_HOME"] = str(kept or temporary)
        os.environ["DJANGO_SETTINGS_MODULE"] = "reservoir_site.settings"
        import django

        django.setup()
        yield
