"""Chromium in front of the real server, with conversations in it.

page       a browser window, logged in as the admin; it fails the test when a page breaks the rules of its own
           content security policy, or a script of ours fails
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, ConsoleMessage, Page, sync_playwright

from tests.browser import story
from tests.fake_provider import FakeProvider
from tests.server import Server

# No sandbox: it needs what containers and root do not have. Nothing but our own server is looked at.
ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
]


@pytest.fixture(scope="session")
def provider() -> Iterator[FakeProvider]:
    with FakeProvider() as provider:
        yield provider


@pytest.fixture(scope="session")
def server(provider: FakeProvider, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server of its own, with the story told."""
    with Server(tmp_path_factory.mktemp("browser"), provider.base_url) as server:
        story.tell(server, provider)
        yield server


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    chromium = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")
    assert chromium, "There is no Chromium: run script/test-browser, which installs it."
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=ARGUMENTS)
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def login(server: Server) -> tuple[str, str]:
    """The first admin's name and password, as the server wrote them down."""
    lines = dict(line.split(" ", 1) for line in (server.home / "admin_login").read_text().splitlines())
    return lines["user"], lines["password"]


def log_in(page: Page, login: tuple[str, str]) -> None:
    page.goto("/admin/")
    page.get_by_label("Username").fill(login[0])
    page.get_by_label("Password").fill(login[1])
    page.get_by_role("button", name="Log in").click()
    page.get_by_role("navigation", name="Pages").wait_for()


@pytest.fixture
def page(browser: Browser, server: Server, login: tuple[str, str]) -> Iterator[Page]:
    with browser.new_context(base_url=server.url, viewport={"width": 1280, "height": 860}) as context:
        page = context.new_page()
        complaints: list[str] = []

        def heard(message: ConsoleMessage) -> None:
            if message.type == "error":
                complaints.append(message.text)

        page.on("console", heard)
        page.on("pageerror", lambda error: complaints.append(str(error)))
        log_in(page, login)
        yield page
        assert not complaints, complaints
