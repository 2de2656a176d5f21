"""Pure: the days that a query names, and how near to them messages were written.

It reads 2023-03-13, 13.3.2023, 3/13/2023, 13 March 2023, March 13, March 2023, in May, in 2023, 2023年3月13日, 5月,
with names of months in four languages; "three days before 13 March"; and in English, days counted from today:
yesterday, last week, two months ago, last Monday. Libraries that find dates in any text take longer than all of recall.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from datetime import UTC, date, datetime, timedelta
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

LONGEST = 1_000  # characters; in a longer text most dates are part of its subject
MOST_SPANS = 8

EARLY, LATE = 1.0, 7.0  # days outside a span after which a message counts 1/e as much: people tell afterwards

NEGLIGIBLE = 0.05

DAY = 86_400.0  # seconds


class Span(NamedTuple):
    """The days from `first` to `last`, inclusive; `yearly` if the text gives no year."""

    first: date
    last: date
    yearly: bool = False


_MONTHS = {
    name: number
    for number, names in enumerate(
        (
            "january jan januar jänner janvier enero",
            "february feb februar février fevrier febrero",
            "march mar märz mars marzo",
            "april apr avril abril",
            "may mai mayo",
            "june jun juni juin junio",
            "july jul juli juillet julio",
            "august aug août agosto",
            "september sep sept septembre septiembre",
            "october oct oktober octobre octubre",
            "november nov novembre noviembre",
            "december dec dezember décembre decembre diciembre",
        ),
        1,
    )
    for name in names.split()
}
_UNITS = {"day": 1, "week": 7, "month": 30}  # in days
_WEEKDAYS = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")
_NUMBERS = {
    "a": 1,
    "an": 1,
    "one": 1,
    "two": 2,
    "couple": 2,
    "three": 3,
    "few": 3,
    "four": 4,
    "five": 5,
    "six": 6,
    "seven": 7,
    "eight": 8,
    "nine": 9,
    "ten": 10,
    "eleven": 11,
    "twelve": 12,
}

_NAME = rf"(?P<name>{'|'.join(sorted(_MONTHS, key=len, reverse=True))})\b\.?"
_YEAR = r"(?P<year>(?:19|20)\d\d)(?!\d)"
_MONTH = r"(?P<month>1[0-2]|0?[1-9])"
_DAY = r"(?P<day>3[01]|[12]\d|0?[1-9])(?!\d)"
_DAY_TH = rf"{_DAY}(?:st|nd|rd|th|er|\.)?"
_DAY_CHINESE = rf"(?:\s?{_DAY}\s?[日号號])?"
_AGO = rf"(?P<count>\d{{1,3}}|{'|'.join(_NUMBERS)}) (?:of )?(?P<unit>{'|'.join(_UNITS)})s?"

# Tried in this order; text that one form has read is not read by another.
_FORMS = [
    re.compile(form, re.IGNORECASE)
    for form in (
        rf"\b{_YEAR}[-/.]{_MONTH}[-/.]{_DAY}",
        rf"{_YEAR}\s?年(?:\s?{_MONTH}\s?月{_DAY_CHINESE})?",
        rf"(?<![\d年]){_MONTH}\s?月(?!\s?[前后後]){_DAY_CHINESE}",
        rf"(?<![\d.]){_DAY}\.\s?{_MONTH}\.(?:\s?{_YEAR}|(?!\s?\d))",
        rf"\b{_MONTH}/{_DAY}/{_YEAR}",
        rf"\b{_DAY_TH}(?: of| de)? {_NAME}(?:,? (?:de )?{_YEAR})?",
        rf"\b{_NAME} {_DAY_TH}(?:,? {_YEAR})?",
        rf"\b{_NAME},?(?: of| de)? {_YEAR}",
        rf"\b(?:in|of|since|during|until|by|last|this|early|late|mid|im|en|seit)[ -]{_NAME}",
        rf"\b(?:in|of|since|during|until|by|im jahr|en|the year)[ -]{_YEAR}",
    )
]
_SHIFT = re.compile(rf"\b{_AGO} (?P<way>before|after|prior to|following) (?:the )?$", re.IGNORECASE)
_PERIOD = f"week|weekend|month|{'|'.join(_WEEKDAYS)}"
_FROM_TODAY = re.compile(
    r"\b(?:(?P<today>today|tonight|this morning)|(?P<yesterday>yesterday|last night)"
    rf"|(?P<before>the day before yesterday)|{_AGO} ago|(?P<which>last|past|this) (?P<period>{_PERIOD}))\b",
    re.IGNORECASE,
)
_ASKS_FOR_TIME = re.compile(
    r"\bwhen (?:is|was|are|were|am|did|do|does|will|has|have|had|can|could|should|would|shall)\b"
    r"|\bhow (?:long|often|recently|old|soon|many (?:days|weeks|months|years|hours|minutes))\b"
    r"|\b(?:what|which) (?:day|date|month|year|time|week)s?\b"
    r"|\b(?:wann|wie lange|wie oft|quand|combien de temps|cuándo|cuánto tiempo)\b"
    r"|什么时候|什麼時候|何时|多久|几月|几号|哪天|哪年|いつ|언제",
    re.IGNORECASE,
)
_TIME_WORDS = {
    "english": "yesterday ago last next week month year",
    "german": "gestern vor letzte nächste Woche Monat Jahr",
    "french": "hier dernier prochain semaine mois an",
    "spanish": "ayer hace pasado próximo semana mes año",
}


def spans(text: str, today: date) -> list[Span]:
    """The days and periods that a text names, at most MOST_SPANS. Empty for a text over LONGEST."""
    if len(text) > LONGEST:
        return []
    found: list[Span] = []
    rest = text
    for form in _FORMS:
        for match in form.finditer(rest):
            if span := _named(match):
                found.append(_shifted(span, text[: match.start()]))
                rest = f"{rest[: match.start()]}{'~' * len(match[0])}{rest[match.end() :]}"
    found += (_counted_from(today, match) for match in _FROM_TODAY.finditer(rest))
    return found[:MOST_SPANS]


def closeness(named: Sequence[Span], seconds: NDArray[np.float64]) -> NDArray[np.float64]:
    """1 for messages written within one of the spans, less the further outside; `seconds` are their times (UTC)."""
    best = np.zeros(len(seconds))
    if not named or not len(seconds):
        return best
    days = seconds / DAY
    for span in named:
        for first, last in _in_years(span, float(seconds.min()), float(seconds.max())):
            outside = np.maximum(first - days, 0) / EARLY + np.maximum(days - last, 0) / LATE
            np.maximum(best, np.exp(-outside), out=best)
    return np.where(best < NEGLIGIBLE, 0.0, best)


def asks_for_time(text: str) -> bool:
    """Whether a text asks when, or how long."""
    return len(text) <= LONGEST and bool(_ASKS_FOR_TIME.search(text))


def time_words(language: str) -> str:
    """Words of turns that tell a time, as a query for PostgreSQL's to_tsquery()."""
    return " | ".join(_TIME_WORDS.get(language, _TIME_WORDS["english"]).split())


def _named(match: re.Match[str]) -> Span | None:
    given = match.groupdict()
    year, month, day = (int(given.get(part) or 0) for part in ("year", "month", "day"))
    if given.get("name"):
        month = _MONTHS[given["name"].lower()]
    try:
        if not month:
            return Span(date(year, 1, 1), date(year, 12, 31))
        first = date(year or 2000, month, day or 1)
    except ValueError:
        return None  # 31 April
    return Span(first, first if day else _month_end(first), yearly=not year)


def _shifted(span: Span, before: str) -> Span:
    """The span of "two days before <span>", if the text before it says so."""
    if not (match := _SHIFT.search(before)):
        return span
    way = -1 if match["way"].lower() in ("before", "prior to") else 1
    shift = timedelta(days=way * _count(match) * _UNITS[match["unit"].lower()])
    return Span(span.first + shift, span.last + shift, span.yearly)


def _counted_from(today: date, match: re.Match[str]) -> Span:
    if match["period"]:
        return _period(match["period"].lower(), int(match["which"].lower() != "this"), today)
    if match["count"]:
        unit = _UNITS[match["unit"].lower()]
        around = timedelta(days=unit // 4)
        day = today - timedelta(days=_count(match) * unit)
        return Span(day - around, day + around)
    day = today - timedelta(days=2 if match["before"] else 1 if match["yesterday"] else 0)
    return Span(day, day)


def _period(name: str, back: int, today: date) -> Span:
    """This (`back` 0) or the last (1) week, weekend, month or weekday."""
    if name in _WEEKDAYS:
        day = today - timedelta(days=(today.weekday() - _WEEKDAYS.index(name) - back) % 7 + back)
        return Span(day, day)
    if name == "month":
        first = today.replace(day=1)
        first = (first - timedelta(days=1)).replace(day=1) if back else first
        return Span(first, _month_end(first))
    monday = today - timedelta(days=today.weekday() + 7 * back)
    return Span(monday + timedelta(days=5 if name == "weekend" else 0), monday + timedelta(days=6))


def _in_years(span: Span, earliest: float, latest: float) -> Iterator[tuple[float, float]]:
    """The span's begin and end in days since 1970, in each of the years between these times if it has none."""
    years = range(_year(earliest) - 1, _year(latest) + 1) if span.yearly else (span.first.year,)
    for year in years:
        try:
            first = span.first.replace(year=year)
        except ValueError:
            continue  # 29 February
        begin = datetime(first.year, first.month, first.day, tzinfo=UTC).timestamp() / DAY
        yield begin, begin + (span.last - span.first).days + 1


def _year(seconds: float) -> int:
    return datetime.fromtimestamp(seconds, UTC).year


def _month_end(first: date) -> date:
    return (first + timedelta(days=31)).replace(day=1) - timedelta(days=1)


def _count(match: re.Match[str]) -> int:
    word = match["count"].lower()
    return _NUMBERS[word] if word in _NUMBERS else int(word)
