"""Types of command line arguments: spans and times to come."""

from __future__ import annotations

import re
from argparse import ArgumentTypeError
from datetime import datetime, timedelta

from django.utils import timezone

from conversations.management.terminal import moment

_SPAN = re.compile(r"(\d{1,5})([mhdw])")
_UNITS = {"m": "minutes", "h": "hours", "d": "days", "w": "weeks"}


def span(text: str) -> timedelta:
    """A span such as 0m, 12h, 30d or 8w."""
    given = _SPAN.fullmatch(text)
    if given is None:
        raise ArgumentTypeError(f"{text!r} is not a span: write minutes, hours, days or weeks, such as 30m, 24h or 90d")
    return timedelta(**{_UNITS[given[2]]: int(given[1])})


def ahead(text: str) -> datetime:
    """A date or time (UTC unless it has a zone), or a span from now."""
    return timezone.now() + span(text) if _SPAN.fullmatch(text) else moment(text)
