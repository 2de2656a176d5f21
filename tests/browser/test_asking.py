"""Asking from the console, in a real browser: the playground, and an exchange asked again."""

from __future__ import annotations

from typing import Any

import httpx
import pytest
from playwright.sync_api import Page, expect

from tests.browser import story
from tests.browser.conftest import open_last_exchange
from tests.fake_provider.provider import FakeProvider
from tests.faults.stored import rows
from tests.server import Server

SING = {"role": "user", "content": "Sing."}


@pytest.fixture
def stored(server: Server) -> int:
    return count(server)


def count(server: Server) -> int:
    ((number,),) = rows(server.home, "SELECT count(*) FROM conversations_message")
    return int(number)


def test_the_playground_shows_what_was_recalled_and_stores_nothing_unless_asked_to(
    page: Page, server: Server, stored: int
) -> None:
    page.goto("/admin/conversations/instance/?q=kitchen")
    page.get_by_role("link", name="kitchen-assistant").click()
    page.get_by_role("link", name="Ask here").click()
    page.get_by_label("Your message").fill(story.QUESTION)
    page.get_by_role("button", name="Send").click()
    expect(page.locator("#memories .recalled", has_text="shellfish").first).to_contain_text("relevant")
    expect(page.locator("#talk .said.assistant .text")).not_to_have_text("…")
    expect(page.locator("#talk .said.assistant")).not_to_have_class("failed")
    assert count(server) == stored

    page.get_by_label("store what is said here").check()
    page.get_by_label("Conversation").fill("tried-out")
    page.get_by_label("Your message").fill("A brand-new sentence.")
    page.get_by_label("Your message").press("Enter")
    expect(page.locator("#talk .said.assistant")).to_have_count(2)
    expect(page.get_by_role("button", name="Send")).to_be_enabled()
    assert count(server) > stored


def test_an_exchange_is_asked_again_with_and_without_memory_side_by_side(
    page: Page, server: Server, provider: FakeProvider, stored: int
) -> None:
    open_last_exchange(page)
    before = len(provider.requests)
    page.get_by_label("Key for").fill("sk-of-the-page")
    page.get_by_role("button", name="Ask with and without memory").click()
    for place in page.locator("#again [data-recall]").all():
        expect(place).not_to_have_text("…")
        expect(place).not_to_be_empty()
    expect(page.get_by_role("button", name="Ask with and without memory")).to_be_enabled()
    bodies = [request.body.decode() for request in provider.requests[before:]]
    assert len(bodies) == 2 and sum("<memory>" in body and "shellfish" in body for body in bodies) == 1
    assert {request.header("authorization") for request in provider.requests[before:]} == {"Bearer sk-of-the-page"}
    assert count(server) == stored


@pytest.mark.parametrize(
    ("path", "body", "header"),
    [
        ("responses", {"model": "gpt-4", "input": "Sing.", "stream": True}, "authorization"),
        ("responses", {"model": "gpt-4", "input": "Sing."}, "authorization"),
        ("messages", {"model": "c", "max_tokens": 9, "messages": [SING], "stream": True}, "x-api-key"),
        ("messages", {"model": "c", "max_tokens": 9, "messages": [SING]}, "x-api-key"),
    ],
)
def test_an_exchange_of_each_api_is_asked_again(
    page: Page, server: Server, provider: FakeProvider, path: str, body: dict[str, Any], header: str
) -> None:
    url = f"{server.base_url('asked-again', path)}/{path}"
    assert httpx.post(url, json=body, timeout=300, trust_env=False).status_code == 200
    ((latest,),) = rows(server.home, "SELECT max(id) FROM conversations_exchange")
    before = len(provider.requests)
    page.goto(f"/admin/conversations/exchange/{latest}/change/")
    page.get_by_label("Key for").fill("sk-of-the-page")
    page.get_by_role("button", name="Ask with and without memory").click()
    expect(page.locator("#again [data-recall=off]")).to_have_text("You said: Sing.")
    expect(page.locator("#again [data-recall=on]")).to_contain_text("Sing.")
    keys = {(request.header(header) or "").removeprefix("Bearer ") for request in provider.requests[before:]}
    assert keys == {"sk-of-the-page"}
