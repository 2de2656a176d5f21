"""Columns that several lists show."""

from __future__ import annotations

import re

from django.urls import reverse
from django.utils.html import format_html
from django.utils.safestring import SafeString

from console import tags
from conversations.models import Exchange, Instance

SNIPPET = 200  # characters of a text that a list fetches
CALLS = 2_000  # characters of the JSON of a message without text, to name the tools it calls

_NAME = re.compile(r'"name"\s*:\s*"([\w.:/-]{1,80})"')


def scope_link(instance: Instance) -> SafeString:
    """partition / instance, as a link to the conversation."""
    url = reverse("admin:conversations_instance_change", args=[instance.pk])
    names = tags.bdi(instance.partition.name), tags.bdi(instance.name)
    return format_html('<a href="{}">{} <span class="quiet">/</span> {}</a>', url, *names)


def without_words(payload: str) -> str:
    """What a message without text holds, by the beginning of its JSON."""
    if '"tool_calls"' in payload or '"function_call"' in payload or '"tool_use"' in payload:
        return f"calls {', '.join(_NAME.findall(payload)) or 'a tool'}"
    for kind in ("image", "audio", "file"):
        if f'"{kind}' in payload or f'"input_{kind}' in payload:
            return f"{kind} without text"
    return "(no text)"


def ended_badge(exchange: Exchange) -> SafeString:
    """How an exchange ended, in a word and a colour."""
    return format_html('<span class="badge {}">{}</span>', exchange.ended, exchange.get_ended_display())
