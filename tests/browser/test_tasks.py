"""What operators do most, by clicks from the dashboard; and the keys that spare them."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta

import pytest
from playwright.sync_api import Browser, Locator, Page, expect

from tests.browser import story
from tests.browser.conftest import log_in, open_last_exchange
from tests.fake_provider.provider import FakeProvider
from tests.server import Server


class Clicks:
    """Counts an operator's clicks; typing costs none."""

    def __init__(self, page: Page) -> None:
        self.count = 0
        page.goto("/admin/")

    def on(self, place: Locator) -> None:
        self.count += 1
        place.click()


def test_why_an_answer_said_something_and_forgetting_it_takes_three_clicks(
    page: Page, server: Server, provider: FakeProvider
) -> None:
    gift = story.Teller(server, provider, ("gifts", "ann"))
    gift.say("Ann collects old maps of Lisbon.", "What a nice hobby.")
    for number in range(10):  # the latest messages are added whole
        gift.say(f"The parcel with number {number} has arrived.", "Noted.")
    gift.say("Which present would Ann like, who collects old maps?", "An old map of Lisbon.")
    clicks = Clicks(page)
    clicks.on(page.get_by_role("link", name="Which present would Ann like"))
    clicks.on(page.locator(".recalled", has_text="Ann collects old maps").get_by_role("link", name="forget"))
    clicks.on(page.get_by_role("button", name="Forget for good"))
    expect(page.locator(".messagelist")).to_contain_text("Forgotten: 1 message")
    assert clicks.count == 3


def test_last_weeks_messages_on_a_topic_are_found_by_meaning_in_three_clicks(page: Page) -> None:
    clicks = Clicks(page)
    clicks.on(page.get_by_role("link", name="Search", exact=True))
    page.get_by_label("Search for").fill("what is dangerous to eat for us")
    page.get_by_label("Search by").select_option("meaning")
    page.get_by_label("Search for").press("Enter")
    clicks.on(page.get_by_role("link", name="Last 7 days"))
    expect(page.locator(".hit", has_text=story.SECRET)).to_be_visible()
    assert "by=meaning" in page.url and "first=" in page.url
    assert clicks.count <= 3


def test_what_cost_most_yesterday_by_model_takes_one_click(page: Page, server: Server, provider: FakeProvider) -> None:
    shop = story.Teller(server, provider, ("shop", "till"))
    shop.say("What did the lamp cost yesterday?", "Nine euros.")
    shop.date(datetime.now(UTC) - timedelta(days=1))
    clicks = Clicks(page)
    clicks.on(page.get_by_role("link", name="Yesterday", exact=True))
    models = page.locator("section", has=page.get_by_role("heading", name="Models"))
    expect(models.locator("tbody tr").first).to_contain_text("gpt-4o-mini")
    expect(models.locator("tbody tr").first).to_contain_text("$")
    assert clicks.count == 1


def test_the_failures_of_one_provider_take_two_clicks_at_most(page: Page) -> None:
    clicks = Clicks(page)
    clicks.on(page.locator("#health").get_by_role("link", name=re.compile(r"\d+ failed")))
    row = page.locator("#result_list tbody tr", has_text="Is there a discount for schools?")
    expect(row).to_contain_text("429 rate_limit: Rate limit reached")
    expect(page.locator("#result_list tbody tr", has_text="answered")).to_have_count(0)
    expect(page.locator(".filter.on")).to_have_count(3)
    assert clicks.count <= 2


def test_filters_are_picked_and_what_is_listed_is_downloaded(page: Page) -> None:
    page.goto("/admin/conversations/exchange/")
    page.locator(".filter summary", has_text="Ended").click()
    page.get_by_role("link", name=re.compile("^provider failed")).click()
    expect(page.locator("#result_list tbody tr").first).to_contain_text("provider failed")
    page.locator(".filter summary", has_text="Days").click()
    page.get_by_role("link", name="Last 30 days").click()
    page.locator("#toolbar .export summary").click()
    with page.expect_download() as download:
        page.get_by_role("link", name="CSV").click()
    lines = download.value.path().read_text().splitlines()
    assert lines[0].startswith("trace_id,") and all(",failed," in line for line in lines[1:]) and len(lines) > 1


def test_the_steps_of_a_tool_loop_are_one_row_that_opens(page: Page) -> None:
    page.goto("/admin/conversations/exchange/")
    rows = page.locator("#result_list tbody tr:visible", has_text="Will it rain in Lisbon")
    expect(rows).to_have_count(1)
    rows.get_by_role("button", name=re.compile("2 steps")).click()
    expect(rows).to_have_count(2)
    page.get_by_role("button", name=re.compile("2 steps")).click()
    expect(rows).to_have_count(1)


def test_a_colleague_gets_read_access_to_one_partition_in_five_clicks(
    page: Page, browser: Browser, server: Server
) -> None:
    clicks = Clicks(page)
    clicks.on(page.get_by_role("link", name="Users"))
    clicks.on(page.get_by_role("link", name=re.compile("Add user", re.IGNORECASE)))
    page.get_by_label("Username").fill("colleague")
    for field in page.locator("input[type=password]").all():
        field.fill("a long enough phrase")
    page.locator("#id_limit-0-partitions").select_option(label="home")
    clicks.count += 1
    clicks.on(page.get_by_role("button", name="Save", exact=True))
    assert clicks.count <= 5
    page.goto("/admin/auth/user/")
    row = page.locator("#result_list tr", has_text="colleague")
    expect(row).to_contain_text("Viewer")
    expect(row).to_contain_text("home")
    with browser.new_context(base_url=server.url) as context:
        theirs = context.new_page()
        log_in(theirs, ("colleague", "a long enough phrase"))
        theirs.goto("/admin/conversations/partition/")
        expect(theirs.locator("#result_list tbody tr")).to_have_count(1)


def test_a_conversation_is_exported_in_two_clicks_from_its_page(page: Page) -> None:
    page.goto("/admin/conversations/instance/?q=kitchen")
    page.get_by_role("link", name="kitchen-assistant").click()
    page.locator(".export summary").click()
    with page.expect_download() as download:
        page.get_by_role("link", name="Markdown").click()
    assert download.value.suggested_filename.endswith(".md")
    assert story.SECRET in download.value.path().read_text()


def test_keys_search_move_open_and_explain_themselves(page: Page) -> None:
    page.goto("/admin/conversations/exchange/")
    page.keyboard.press("?")
    expect(page.get_by_role("dialog")).to_contain_text("next and previous")
    page.keyboard.press("Escape")
    expect(page.get_by_role("dialog")).not_to_be_visible()
    page.keyboard.press("j")
    page.keyboard.press("j")
    expect(page.locator("#result_list tbody tr").nth(1)).to_have_class(re.compile("chosen"))
    page.keyboard.press("k")
    page.keyboard.press("o")
    expect(page.get_by_role("heading", name="Why did the model say that?")).to_be_visible()
    page.goto("/admin/conversations/message/")
    page.keyboard.press("/")
    expect(page.locator("#searchbar")).to_be_focused()


@pytest.mark.parametrize("model", ["exchange", "message", "instance", "partition"])
def test_on_a_phone_lists_are_cards_that_name_their_figures(
    model: str, browser: Browser, server: Server, login: tuple[str, str]
) -> None:
    with browser.new_context(base_url=server.url, viewport={"width": 390, "height": 844}) as context:
        page = context.new_page()
        log_in(page, login)
        page.goto(f"/admin/conversations/{model}/")
        row = page.locator("#result_list tbody tr").first
        cells = row.locator("th, td")
        for cell in cells.all():
            box = cell.bounding_box()
            assert box and box["x"] >= 0 and box["x"] + box["width"] <= 390
            assert cell.get_attribute("data-label")


def test_the_page_of_an_exchange_with_many_candidates_stays_short(page: Page) -> None:
    open_last_exchange(page)
    expect(page.locator(".ledger tbody tr").nth(20)).to_be_attached()
    assert page.evaluate("document.documentElement.scrollHeight") <= 2500
