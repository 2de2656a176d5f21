"""Where a benchmark that runs in this process keeps its database."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def home(kept: Path | None = None) -> Iterator[None]:
    """Django, set up over a RESERVOIR_HOME that is thrown away at the end, unless one to be kept is given."""
    with tempfile.TemporaryDirectory(prefix="reservoir-benchmark-") as temporary:
        os.environ["RESERVOIR_HOME"] = str(kept or temporary)
        os.environ["DJANGO_SETTINGS_MODULE"] = "reservoir_site.settings"
        import django

        django.setup()
        yield
