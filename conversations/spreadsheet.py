"""Rows of CSV files that are harmless to spreadsheets. Pure."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable

_FORMULA = ("=", "+", "-", "@", "\t", "\r")  # a spreadsheet would run a text that begins so


def row(values: Iterable[object]) -> str:
    """One line, as RFC 4180 has it. A text that would be a formula begins with an apostrophe; None is empty."""
    line = io.StringIO()
    csv.writer(line).writerow([_harmless(value) for value in values])
    return line.getvalue()


def _harmless(value: object) -> object:
    return f"'{value}" if isinstance(value, str) and value.startswith(_FORMULA) else value
