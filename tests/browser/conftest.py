"""Chromium in front of the real server, which holds conversations.

page       a browser window, logged in as the admin; the test fails when a page violates its own content security
           policy or one of our scripts throws
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, ConsoleMessage, Page, expect, sync_playwright

from tests.browser import story
from tests.fake_provider.provider import FakeProvider
from tests.server import PATIENCE, PATIENT, Server

expect.set_options(timeout=PATIENCE * 1000)

# No sandbox: containers and root cannot provide one. The browser visits only our own server.
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
    """A server that holds the story's conversations."""
    with Server(tmp_path_factory.mktemp("browser"), provider.base_url, settings=PATIENT) as server:
        story.tell(server, provider)
        yield server


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    chromium = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")
    assert chromium, "Chromium is missing: run script/test-browser, which installs it."
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=ARGUMENTS)
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def login(server: Server) -> tuple[str, str]:
    """The first admin's name and password, from the file that the server writes."""
    lines = dict(line.split(" ", 1) for line in (server.home / "admin_login").read_text().splitlines())
    return lines["user"], lines["password"]


def log_in(page: Page, login: tuple[str, str]) -> None:
    page.goto("/admin/")
    page.get_by_label("Username").fill(login[0])
    page.get_by_label("Password").fill(login[1])
    page.get_by_role("button", name="Log in").click()
    page.get_by_role("navigation", name="Pages").wait_for()


def open_last_exchange(page: Page) -> None:
    """Open the story's last exchange, from the dashboard by the list: other tests' exchanges may be later."""
    page.goto("/admin/")
    page.get_by_role("navigation", name="Pages").get_by_role("link", name="Exchanges").click()
    page.get_by_role("link", name="Which restaurant should I book").first.click()


@pytest.fixture
def page(browser: Browser, server: Server, login: tuple[str, str]) -> Iterator[Page]:
    with browser.new_context(base_url=server.url, viewport={"width": 1280, "height": 860}) as context:
        context.set_default_timeout(PATIENCE * 1000)
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
