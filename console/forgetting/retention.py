"""What a partition remembers, and how long it keeps messages."""

from __future__ import annotations

from typing import Any

from django.contrib import messages
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseRedirect
from django.shortcuts import get_object_or_404
from django.urls import reverse

from access import audit
from access.audit import Action
from console import safe_text
from console.access.who import who
from console.visible import require, visible
from conversations.models import Partition
from conversations.numbers import whole_number
from conversations.states import Remember

MOST_DAYS = 36_500


def retention(request: HttpRequest, pk: int) -> HttpResponse:
    """Set for how many days a partition keeps messages."""
    require(request, "view_partition", "delete_message")
    if request.method != "POST":
        raise Http404
    partition = get_object_or_404(visible(request, Partition.objects.all()), pk=pk)
    days = request.POST.get("keep_days", "").strip()
    if days and not whole_number(days, most=MOST_DAYS):
        messages.error(request, "Write a number of days from 1 to 36500, or nothing to keep everything.")
    else:
        partition.keep_days = int(days) if days else None
        partition.save(update_fields=["keep_days"])
        _note(request, partition, {"keep_days": partition.keep_days})
        kept = f"keeps messages for {days} days" if days else "keeps everything"
        messages.success(request, f"{safe_text.shown(partition.name)} {kept}; manage.py prune --retention applies it.")
    return HttpResponseRedirect(reverse("admin:conversations_partition_change", args=[pk]))


def remember(request: HttpRequest, pk: int) -> HttpResponse:
    """Set what a partition remembers of its requests."""
    require(request, "view_partition", "delete_message")
    if request.method != "POST":
        raise Http404
    partition = get_object_or_404(visible(request, Partition.objects.all()), pk=pk)
    chosen = request.POST.get("remember", "")
    if chosen not in Remember:
        messages.error(request, "Choose what is remembered.")
    else:
        partition.remember = chosen
        partition.save(update_fields=["remember"])
        _note(request, partition, {"remember": chosen})
        what = Remember(chosen).label
        messages.success(request, f"{safe_text.shown(partition.name)} remembers {what}, within some seconds.")
    return HttpResponseRedirect(reverse("admin:conversations_partition_change", args=[pk]))


def _note(request: HttpRequest, partition: Partition, setting: dict[str, Any]) -> None:
    audit.record(Action.SETTINGS_CHANGED, who(request), partition=partition.name, details=setting)
