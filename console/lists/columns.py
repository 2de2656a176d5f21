"""Columns that several lists show."""

from __future__ import annotations

from django.urls import reverse
from django.utils.html import format_html
from django.utils.safestring import SafeString

from console import tags
from conversations.models import Exchange, Instance

SNIPPET = 200  # characters of a text that a list fetches


def scope_link(instance: Instance) -> SafeString:
    """partition / instance, as a link to the conversation."""
    url = reverse("admin:conversations_instance_change", args=[instance.pk])
    names = tags.bdi(instance.partition.name), tags.bdi(instance.name)
    return format_html('<a href="{}">{} <span class="quiet">/</span> {}</a>', url, *names)


def ended_badge(exchange: Exchange) -> SafeString:
    """How an exchange ended, in a word and a colour."""
    return format_html('<span class="badge {}">{}</span>', exchange.ended, exchange.get_ended_display())
