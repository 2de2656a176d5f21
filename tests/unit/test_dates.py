"""Which days a query names, and which messages are near them."""

from __future__ import annotations

from datetime import UTC, date, datetime

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from conversations.recall.dates import Span, asks_for_time, closeness, spans

TODAY = date(2026, 11, 25)  # a Wednesday


def day(year: int, month: int, number: int) -> Span:
    return Span(date(year, month, number), date(year, month, number))


@pytest.mark.parametrize(
    ("text", "span"),
    [
        ("What happened on 2023-03-13?", day(2023, 3, 13)),
        ("What happened on 13 March 2023?", day(2023, 3, 13)),
        ("What happened on the 13th of March, 2023?", day(2023, 3, 13)),
        ("What happened on March 13th, 2023?", day(2023, 3, 13)),
        ("Was geschah am 13. März 2023?", day(2023, 3, 13)),
        ("Was geschah am 13.3.2023?", day(2023, 3, 13)),
        ("Seen on 3/13/2023", day(2023, 3, 13)),
        ("2023年3月13日发生了什么", day(2023, 3, 13)),
        ("What happened on 13 March?", day(2000, 3, 13)._replace(yearly=True)),
        ("Where was I in May 2023?", Span(date(2023, 5, 1), date(2023, 5, 31))),
        ("Where was I in May?", Span(date(2000, 5, 1), date(2000, 5, 31), yearly=True)),
        ("5月去了哪里", Span(date(2000, 5, 1), date(2000, 5, 31), yearly=True)),
        ("Where was I in 2022?", Span(date(2022, 1, 1), date(2022, 12, 31))),
        ("What did I do two days before 13 March 2023?", day(2023, 3, 11)),
        ("What did I do a week after 2023-03-13?", day(2023, 3, 20)),
        ("What did I eat yesterday?", day(2026, 11, 24)),
        ("What did I eat the day before yesterday?", day(2026, 11, 23)),
        ("What did I eat three days ago?", day(2026, 11, 22)),
        ("What did I tell you last Monday?", day(2026, 11, 23)),
        ("What did I tell you last Wednesday?", day(2026, 11, 18)),
        ("What did I plan last week?", Span(date(2026, 11, 16), date(2026, 11, 22))),
        ("What did I plan this month?", Span(date(2026, 11, 1), date(2026, 11, 30))),
        ("What did I plan last month?", Span(date(2026, 10, 1), date(2026, 10, 31))),
    ],
)
def test_days_that_a_text_names(text: str, span: Span) -> None:
    assert spans(text, TODAY) == [span]


@pytest.mark.parametrize(
    "text", ["May I go?", "March on!", "Version 1.2.3", "on 31 April", "It costs 2023 euros", "", "in May " * 1_000]
)
def test_texts_without_a_day(text: str) -> None:
    assert spans(text, TODAY) == []


@given(st.text(max_size=60), st.dates())
def test_no_text_is_too_odd(text: str, today: date) -> None:
    assert all(span.first <= span.last for span in spans(text, max(today, date(1, 3, 1))))


def test_messages_within_a_span_and_soon_after_it_are_close() -> None:
    written = [datetime(2023, 3, number, 12, tzinfo=UTC).timestamp() for number in (11, 13, 15, 31)]
    close = closeness([day(2023, 3, 13)], np.array(written))
    assert close[1] == 1
    assert 0.5 < close[2] < 1
    assert close[0] < close[2]
    assert close[3] < 0.1
    assert closeness([day(1999, 3, 13)], np.array(written)).tolist() == [0, 0, 0, 0]


def test_a_day_without_a_year_is_that_of_each_year() -> None:
    written = [datetime(year, 5, 20, tzinfo=UTC).timestamp() for year in (2021, 2022, 2023)]
    assert list(closeness(spans("in May", TODAY), np.array(written))) == [1, 1, 1]


@pytest.mark.parametrize(
    ("text", "asks"),
    [
        ("When did we meet?", True),
        ("How long did it take?", True),
        ("Wann war das?", True),
        ("我什么时候去的", True),
        ("What did I say when we met?", False),
        ("Who came?", False),
    ],
)
def test_questions_for_a_time(text: str, asks: bool) -> None:
    assert asks_for_time(text) == asks
