"""The memory map: its topics, its colours, its time slider and its keys."""

from __future__ import annotations

import re
from typing import Any

import pytest
from playwright.sync_api import Page, expect

# The opacity (0..255) of the picture at each message's dot.
SHOWN = """() => {
  const data = JSON.parse(document.getElementById("map-data").textContent), canvas = document.getElementById("map");
  const box = canvas.getBoundingClientRect(), sharp = devicePixelRatio, pen = canvas.getContext("2d");
  return new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(() => done(data.x.map((x, i) => {
    const at = [36 + x * (box.width - 72), 36 + (1 - data.y[i]) * (box.height - 72)];
    return pen.getImageData(Math.round(at[0] * sharp), Math.round(at[1] * sharp), 1, 1).data[3];
  })))));
}"""

# Labels among random dots: how many, how many pairs of them overlap, and how many dots lie under one.
PLACED = """(count) => {
  let seed = 7;
  const random = () => (seed = seed * 16807 % 2147483647) / 2147483647;
  const dots = Array.from({ length: count }, () => [random() * 1100, random() ** 2 * 600]);
  const forms = (i) => [[`${i} a longer name`, 120], [`${i}`, 20]];
  const wanted = dots.slice(0, 24).map((dot, i) => ({ dots: [dot], forms: forms(i) }));
  const boxes = placeLabels(wanted, dots, 2.5, 1100, 600).map((one) => one.box);
  const meet = (a, b) => a[0] < b[2] && b[0] < a[2] && a[1] < b[3] && b[1] < a[3];
  return {
    labels: boxes.length,
    overlaps: boxes.flatMap((a, i) => boxes.slice(i + 1).filter((b) => meet(a, b))).length,
    hidden: dots.filter(([x, y]) => boxes.some((box) => meet([x, y, x, y], box))).length,
  };
}"""


@pytest.fixture
def drawn(page: Page) -> Page:
    """The map of the story's longest conversation."""
    page.goto("/admin/conversations/instance/?q=kitchen")
    page.get_by_role("link", name="kitchen-assistant").click()
    page.get_by_role("link", name="Memory map").click()
    expect(page.locator(".topic-button").first).to_be_visible()
    return page


def data(page: Page) -> dict[str, Any]:
    found: dict[str, Any] = page.evaluate("JSON.parse(document.getElementById('map-data').textContent)")
    return found


def test_a_chosen_topic_stands_out_and_the_slider_fades_what_is_later(drawn: Page) -> None:
    topic = data(drawn)["topic"]
    before = drawn.evaluate(SHOWN)
    assert min(before) > 150, "every dot is in the picture, and no label hides one"
    button = drawn.locator(".topic-button").first
    button.click()
    expect(button).to_have_attribute("aria-pressed", "true")
    drawn.mouse.move(1, 1)
    chosen = int(button.get_attribute("value") or -1)
    after = drawn.evaluate(SHOWN)
    assert all(alpha > 240 for alpha, of in zip(after, topic, strict=True) if of == chosen)
    assert min(alpha for alpha, of in zip(after, topic, strict=True) if of != chosen) < 100
    drawn.get_by_role("button", name="Show all").click()
    expect(button).to_have_attribute("aria-pressed", "false")

    slider = drawn.get_by_label("Until")
    slider.press("Home")
    expect(drawn.locator("#map-said")).to_have_text(data(drawn)["when"][0])
    faded = drawn.evaluate(SHOWN)
    assert faded[0] > 150 and sorted(faded)[len(faded) // 2] < 100
    slider.press("End")
    expect(drawn.locator("#map-said")).to_have_text("now")
    assert drawn.evaluate(SHOWN) == before


def test_dots_are_coloured_by_time_too(drawn: Page) -> None:
    picture = "document.getElementById('map').toDataURL()"
    drawn.evaluate(SHOWN)
    by_topic = drawn.evaluate(picture)
    drawn.get_by_label("time", exact=True).check()
    expect(drawn.get_by_text("oldest")).to_be_visible()
    drawn.evaluate(SHOWN)
    assert drawn.evaluate(picture) != by_topic
    drawn.get_by_label("topic", exact=True).check()
    drawn.evaluate(SHOWN)
    assert drawn.evaluate(picture) == by_topic


def test_arrows_go_through_messages_and_topics_and_enter_opens(drawn: Page) -> None:
    ids, texts, topics = (data(drawn)[column] for column in ("id", "text", "topic"))
    last = topics.index(max(topics))
    canvas, tip = drawn.locator("#map"), drawn.locator("#map-tip bdi")
    canvas.focus()
    for key, expected in (("ArrowRight", 0), ("ArrowRight", 1), ("ArrowLeft", 0), ("ArrowDown", topics.index(1))):
        canvas.press(key)
        expect(tip).to_have_text(texts[expected])
    canvas.press("Escape")
    expect(tip).to_be_hidden()
    canvas.press("ArrowUp")
    expect(tip).to_have_text(texts[last])
    canvas.press("Enter")
    expect(drawn).to_have_url(re.compile(f"at={ids[last]}#"))
    expect(drawn.locator("article.here")).to_be_visible()


def test_labels_hide_neither_dots_nor_each_other(drawn: Page) -> None:
    for count, least in ((50, 20), (500, 5), (5_000, 0)):
        placed = drawn.evaluate(PLACED, count)
        assert placed["overlaps"] == placed["hidden"] == 0
        assert placed["labels"] >= least
