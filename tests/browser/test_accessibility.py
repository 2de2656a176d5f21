"""Every page of the admin passes axe-core's rules, in both themes and on a phone."""

from __future__ import annotations

from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page

from tests.browser import story
from tests.browser.conftest import log_in, open_last_exchange
from tests.server import Server

SERIOUS = {"serious", "critical"}
RULES = {"runOnly": {"type": "tag", "values": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "best-practice"]}}


def addresses(page: Page) -> list[str]:
    """One of each kind of page."""
    open_last_exchange(page)
    exchange = page.url
    message = str(page.locator(".recalled").first.get_by_role("link", name="open").get_attribute("href"))
    forget = str(page.locator(".recalled", has_text=story.SECRET).locator("a.bad").get_attribute("href"))
    page.locator(".trail a").last.click()
    conversation = page.url
    graph = str(page.get_by_role("link", name="Memory map").get_attribute("href"))
    partition = str(page.locator(".trail a").nth(1).get_attribute("href"))
    lists = [f"/admin/conversations/{name}/" for name in ("partition", "instance", "exchange", "message")]
    lists += ["/admin/conversations/exchange/?provider=openai&ended__exact=failures&o=7", "/admin/usage/"]
    search = ["/admin/search/", "/admin/search/?q=soup", "/admin/search/?q=soup&by=meaning"]
    users = [
        "/admin/auth/user/",
        "/admin/auth/user/add/",
        "/admin/auth/user/1/change/",
        "/admin/password_change/",
        "/admin/playground/",
    ]
    forms = ["/admin/prune/", forget]
    return ["/admin/", *lists, *search, *forms, *users, exchange, message, conversation, graph, partition]


def findings(page: Page, url: str) -> list[str]:
    page.goto(url)
    page.locator(".later").wait_for(state="detached")
    result: dict[str, Any] = Axe().run(page, options=RULES).response
    return [
        f"{url}: {one['impact']} {one['id']}: {one['help']}: {node['target']} {node['failureSummary']}"
        for one in result["violations"]
        if one["impact"] in SERIOUS
        for node in one["nodes"]
    ]


@pytest.mark.parametrize(("theme", "width"), [("light", 1280), ("dark", 1280), ("light", 390)])
def test_no_page_has_a_serious_finding(
    theme: Any, width: int, browser: Browser, server: Server, login: tuple[str, str]
) -> None:
    with browser.new_context(
        base_url=server.url, color_scheme=theme, viewport={"width": width, "height": 860}
    ) as context:
        page = context.new_page()
        page.goto("/admin/login/")
        found = findings(page, "/admin/login/")
        log_in(page, login)
        for url in addresses(page):
            found += findings(page, url)
    assert not found, "\n".join(found)
