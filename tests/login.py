"""The admin's first login, without a browser."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx


@contextmanager
def logged_in(url: str, home: Path) -> Iterator[httpx.Client]:
    """The first admin, whose login is in this home."""
    login = dict(line.split(" ", 1) for line in (home / "admin_login").read_text().splitlines())
    with httpx.Client(base_url=url, trust_env=False, timeout=300) as client:
        token = re.search(r'name="csrfmiddlewaretoken" value="([^"]+)"', client.get("/admin/login/").text)
        assert token
        form = {"username": login["user"], "password": login["password"], "csrfmiddlewaretoken": token[1]}
        answer = client.post("/admin/login/?next=/admin/", data=form, headers={"Origin": url})
        assert (answer.status_code, answer.headers["location"]) == (302, "/admin/")
        yield client
