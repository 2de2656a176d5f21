"""What an operator does in the admin, in a real browser."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect

from tests.browser import story
from tests.browser.conftest import log_in, open_last_exchange
from tests.fake_provider.provider import FakeProvider
from tests.server import Server

HOSTILE = (
    "<script>window.hacked = 1</script><img src=x onerror='window.hacked = 2'> [click](javascript:window.hacked=3) "
    "![p](http://127.0.0.1:9/p.png) \x1b[31mred\x1b[0m \u202egnp.exe </script></textarea><svg onload=window.hacked=4>"
)


def test_why_an_answer_mentions_something_is_found_from_the_first_page(page: Page) -> None:
    open_last_exchange(page)
    expect(page.get_by_role("heading", name="Why did the model say that?")).to_be_visible()
    answer = page.locator("article.turn.assistant").first
    expect(answer.locator("mark", has_text="shellfish")).to_be_visible()
    memory = page.locator(".recalled", has_text=story.SECRET).first
    expect(memory.locator("mark", has_text="shellfish")).to_be_visible()

    row = page.locator(".ledger tr.kept", has_text=story.SECRET)
    expect(row.locator(".verdict")).to_contain_text("relevant")
    expect(row.locator("meter")).to_be_visible()
    expect(page.locator(".ledger tr.dropped").first).to_contain_text("left out")
    expect(page.locator(".request .added", has_text="<memory>")).to_contain_text("added by Reservoir")
    expect(page.locator("svg.waterfall")).to_be_visible()

    memory.get_by_role("link", name="open").click()
    expect(page.get_by_role("heading", name="Shown again in")).to_be_visible()
    expect(page.get_by_role("link", name="Which restaurant should I book")).to_be_visible()


def test_a_conversation_is_found_and_searched_by_words_and_by_meaning(page: Page) -> None:
    page.get_by_role("link", name="Conversations").click()
    page.get_by_role("searchbox").fill("kitchen")
    page.get_by_role("button", name="Search").click()
    page.get_by_role("link", name="kitchen-assistant").click()
    expect(page.locator(".session")).not_to_have_count(0)
    expect(page.locator(".topic-title").first).to_be_visible()
    expect(page.locator("article.said.user", has_text=story.SECRET)).to_be_visible()
    expect(page.locator("summary", has_text="calls get_weather").first).to_be_visible()

    page.get_by_role("searchbox", name="Search this conversation").fill("hospital soup")
    page.get_by_role("button", name="Search").click()
    hit = page.locator(".hit")
    expect(hit).to_have_count(1)
    expect(hit.locator("mark")).to_have_text(["soup", "hospital"])

    page.get_by_role("searchbox").fill("Which food is dangerous for us?")
    page.get_by_label("Search by").select_option("meaning")
    page.get_by_role("button", name="Search").click()
    about_food = page.locator(".hit", has_text=story.SECRET)
    expect(about_food).to_contain_text("alike")
    about_food.get_by_role("link").first.click()
    expect(page.locator("article.here")).to_be_in_viewport()


def test_forgetting_shows_a_dry_run_first_and_then_deletes(page: Page, server: Server, provider: FakeProvider) -> None:
    party = story.Teller(server, provider, ("party", "planning"))
    party.say("The surprise party is for Ann, on the ninth.", "My lips are sealed.")
    party.say("Order forty sausages.", "Noted.")
    page.goto("/admin/conversations/instance/?q=planning")
    page.get_by_role("link", name="planning").click()
    for said in ("surprise party", "lips are sealed"):
        page.locator("article.said", has_text=said).get_by_role("checkbox").check()
    expect(page.locator("#picks")).to_contain_text("2 messages")
    page.get_by_role("button", name="Forget them").click()

    expect(page.get_by_role("heading", name="This would go, for good")).to_be_visible()
    expect(page.locator(".goes")).to_contain_text("2 messages")
    expect(page.locator(".sample")).to_have_count(2)
    page.get_by_role("link", name="Keep everything").click()
    page.go_back()
    page.get_by_role("button", name="Forget for good").click()
    expect(page.locator(".messagelist")).to_contain_text("Forgotten: 2 messages")
    audit = page.locator("tbody tr").first
    expect(audit).to_contain_text("admin: admin")
    expect(audit).not_to_contain_text("party is for Ann")

    page.goto("/admin/search/?q=surprise+party")
    expect(page.get_by_text("Nothing found.")).to_be_visible()
    page.goto("/admin/search/?q=sausages")
    expect(page.locator(".hit")).to_have_count(1)


@pytest.mark.parametrize("scripts", [True, False])
def test_the_count_of_a_selection_loads_after_its_page_even_without_scripts(
    scripts: bool, browser: Browser, server: Server, provider: FakeProvider, login: tuple[str, str]
) -> None:
    garden = story.Teller(server, provider, ("garden", f"scripts-{scripts}"))
    garden.say("Where are the tulips?", "Under the pear tree.")
    garden.say("And the spade?", "In the shed.")
    with browser.new_context(base_url=server.url, java_script_enabled=scripts) as context:
        page = context.new_page()
        log_in(page, login)
        page.goto("/admin/prune/")
        page.get_by_label("Partition").fill("garden")
        page.get_by_label("Conversation").fill(f"scripts-{scripts}")
        page.get_by_label("Role").select_option("assistant")
        page.get_by_role("button", name="See what would go").click()
        if not scripts:
            expect(page.get_by_text("Looking for")).not_to_be_visible()
            page.get_by_role("link", name="Count what would go").click()
        expect(page.get_by_role("heading", name="This would go, for good")).to_be_visible()
        expect(page.locator(".goes")).to_contain_text("2 messages")
        page.get_by_role("button", name="Forget for good").click()
        expect(page.locator(".messagelist")).to_contain_text("Forgotten: 2 messages")


def test_a_failed_count_says_so_and_can_be_retried(page: Page) -> None:
    page.route("**/*counted=1", lambda route: route.fulfill(body="<p>not that page</p>", content_type="text/html"))
    page.goto("/admin/prune/?partition_name=home&whole=on")
    again = page.get_by_role("link", name="That did not work. Try again")
    expect(again).to_be_visible()
    page.unroute_all()
    again.click()
    expect(page.get_by_role("heading", name="This would go, for good")).to_be_visible()


def test_the_copied_curl_runs_and_adds_no_memory(page: Page, provider: FakeProvider) -> None:
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    open_last_exchange(page)
    page.get_by_role("button", name="Copy curl without memory").click()
    expect(page.get_by_role("button", name="Copied")).to_be_visible()
    command: str = page.evaluate("navigator.clipboard.readText()")
    ran = subprocess.run(
        ["bash", "-c", command], env=os.environ | {"OPENAI_API_KEY": "sk-again"}, capture_output=True, check=True
    )
    assert b'"choices"' in ran.stdout
    assert provider.last.header("authorization") == "Bearer sk-again"
    assert [message["role"] for message in provider.last.messages] == ["system", "user"]
    assert provider.last.messages[1]["content"] == story.QUESTION


def test_the_map_shows_a_message_and_opens_it(page: Page) -> None:
    page.goto("/admin/conversations/instance/?q=kitchen")
    page.get_by_role("link", name="kitchen-assistant").click()
    page.get_by_role("link", name="Memory map").click()
    expect(page.locator(".topic-button").first).to_be_visible()
    canvas = page.locator("#map")
    canvas.focus()
    canvas.press("ArrowRight")
    expect(page.locator("#map-tip")).to_contain_text("We are going to Lisbon in spring")
    box = canvas.bounding_box()
    data = page.evaluate("JSON.parse(document.getElementById('map-data').textContent)")
    assert box
    x = box["x"] + 36 + data["x"][0] * (box["width"] - 72)
    y = box["y"] + 36 + (1 - data["y"][0]) * (box["height"] - 72)
    page.mouse.move(x, y)
    expect(page.locator("#map-tip")).to_be_visible()
    page.mouse.click(x, y)
    expect(page.locator("article.here")).to_be_visible()


def test_hostile_text_runs_nothing_and_fetches_nothing_from_other_hosts(
    page: Page, server: Server, provider: FakeProvider
) -> None:
    foreign: list[str] = []
    page.on("request", lambda asked: foreign.append(asked.url) if not asked.url.startswith(server.url) else None)
    page.on("dialog", lambda dialog: pytest.fail(f"a text opened a dialog: {dialog.message}"))
    teller = story.Teller(server, provider, ("<img src=x onerror=window.hacked=5>", "<script>window.hacked=6</script>"))
    teller.say(HOSTILE, HOSTILE)
    teller.say(f"Again {HOSTILE}", HOSTILE)
    page.goto("/admin/conversations/exchange/")
    page.get_by_role("link", name=re.compile("^Again")).first.click()
    seen = [page.url]
    page.locator(".trail a").last.click()
    seen.append(page.url)
    page.get_by_role("link", name="Memory map").click()
    seen.append(page.url)
    page.goto("/admin/search/?q=click")
    page.locator(".hit").first.get_by_role("link", name="details").click()
    seen.append(page.url)
    for url in [*seen, "/admin/", "/admin/conversations/message/", "/admin/conversations/partition/"]:
        page.goto(url)
        assert page.evaluate("window.hacked") is None, url
        expect(page.locator("a[href^='javascript']")).to_have_count(0)
    page.goto(seen[1])
    expect(page.locator("article.said.user .text").first).to_contain_text("<script>window.hacked = 1</script>")
    expect(page.locator("article.said.user .text").first).to_contain_text("⟦U+202E⟧gnp.exe")
    assert foreign == []


PAGES = {
    "dashboard": "Dashboard",
    "conversation": "kitchen-assistant",
    "exchange": "Why did the model say that?",
    "map": "Memory map",
    "forget": "Forget",
    "exchanges": "Exchanges",
}


@pytest.mark.parametrize(
    ("theme", "width", "height"), [("light", 1280, 860), ("dark", 1280, 860), ("light", 390, 844), ("dark", 390, 844)]
)
def test_pages_fit_the_window_in_light_and_dark(  # and have their picture taken
    theme: str, width: int, height: int, browser: Browser, server: Server, login: tuple[str, str], tmp_path: Path
) -> None:
    folder = Path(os.environ.get("PICTURES") or tmp_path).resolve()
    folder.mkdir(parents=True, exist_ok=True)
    with browser.new_context(
        base_url=server.url,
        color_scheme="dark" if theme == "dark" else "light",
        viewport={"width": width, "height": height},
    ) as context:
        page = context.new_page()
        log_in(page, login)
        addresses = {"dashboard": "/admin/", "exchanges": "/admin/conversations/exchange/"}
        open_last_exchange(page)
        addresses["exchange"] = page.url
        addresses["forget"] = str(
            page.locator(".recalled", has_text=story.SECRET).locator("a.bad").get_attribute("href")
        )
        page.locator(".trail a").last.click()
        addresses["conversation"] = page.url
        addresses["map"] = str(page.get_by_role("link", name="Memory map").get_attribute("href"))
        for name, title in PAGES.items():
            page.goto(addresses[name])
            expect(page.get_by_role("heading", name=title).first).to_be_visible()
            expect(page.locator(".later")).to_have_count(0)
            assert page.evaluate("document.documentElement.scrollWidth") <= width, f"{name} is wider than the window"
            background = page.evaluate("getComputedStyle(document.body).backgroundColor")
            assert (background == "rgb(14, 19, 26)") == (theme == "dark"), (name, background)
            size = "" if width > 1000 else "-phone"
            page.screenshot(path=folder / f"{name}-{theme}{size}.png")
            if name == "exchange" and width > 1000:
                page.locator(".ledger").evaluate("table => table.closest('section').scrollIntoView()")
                page.screenshot(path=folder / f"ledger-{theme}.png")
