"""Types of command line arguments: spans and times to come."""

from __future__ import annotations

import re
from argparse import ArgumentParser, ArgumentTypeError
from collections.abc import Mapping
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any

from django.utils import timezone

from access.limits import Limits
from conversations.management.terminal import moment
from conversations.numbers import whole_number

_SPAN = re.compile(r"(\d{1,5})([mhdw])")
_UNITS = {"m": "minutes", "h": "hours", "d": "days", "w": "weeks"}


def add_limits(parser: ArgumentParser) -> None:
    """Add the options that limits_of() reads."""
    parser.add_argument("--requests", type=whole, metavar="N", help="at most N requests a minute")
    parser.add_argument("--tokens", type=whole, metavar="N", help="at most N tokens a minute, with the answers'")
    parser.add_argument("--parallel", type=whole, metavar="N", help="at most N requests at the same time")
    parser.add_argument("--dollars", type=dollars, metavar="N", help="at most N dollars a calendar month (UTC)")


def limits_of(options: Mapping[str, Any]) -> Limits:
    return Limits(options["requests"], options["tokens"], options["parallel"], options["dollars"])


def whole(text: str) -> int:
    """A number from 1 to 2,147,483,647."""
    number = whole_number(text, most=2**31 - 1)
    if not number:
        raise ArgumentTypeError(f"{text!r} is not a whole number of at least 1")
    return number


def dollars(text: str) -> Decimal:
    """An amount such as 20 or 0.50."""
    if not re.fullmatch(r"\d{1,9}(\.\d{1,2})?", text):
        raise ArgumentTypeError(f"{text!r} is not an amount of dollars: write 20 or 0.50")
    return Decimal(text)


def span(text: str) -> timedelta:
    """A span such as 0m, 12h, 30d or 8w."""
    given = _SPAN.fullmatch(text)
    if given is None:
        raise ArgumentTypeError(f"{text!r} is not a span: write minutes, hours, days or weeks, such as 30m, 24h or 90d")
    return timedelta(**{_UNITS[given[2]]: int(given[1])})


def ahead(text: str) -> datetime:
    """A date or time (UTC unless it has a zone), or a span from now."""
    return timezone.now() + span(text) if _SPAN.fullmatch(text) else moment(text)
