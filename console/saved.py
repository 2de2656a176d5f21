"""What a user saved of lists and searches: a page as its address narrows and sorts it, under a name."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from django.http import Http404, HttpRequest, HttpResponseRedirect
from django.urls import reverse

from conversations.models import SavedFilter
from conversations.numbers import whole_number

PAGES = {
    "exchange": "admin:conversations_exchange_changelist",
    "message": "admin:conversations_message_changelist",
    "instance": "admin:conversations_instance_changelist",
    "search": "admin:search",
}
MOST = 50  # of a user on one page
LONGEST = 2_000  # characters of an address
NAME = 100  # characters


@dataclass(frozen=True, slots=True)
class Saved:
    """What the menu of a page shows: names, addresses and ids; and the address that can be saved now."""

    page: str
    query: str
    found: list[tuple[str, str, int]]


def saved(request: HttpRequest, page: str) -> Saved | None:
    """What the user saved of this page; None if its views cannot be saved."""
    if page not in PAGES:
        return None
    rows = SavedFilter.objects.filter(user=request.user.pk, page=page).order_by("name")
    asked = request.GET.copy()
    for passing in ("p", "before", "compared"):
        asked.pop(passing, None)
    found = [(one.name, f"{reverse(PAGES[page])}?{one.query}", one.pk) for one in rows[:MOST]]
    return Saved(page, asked.urlencode(), found)


def save(request: HttpRequest) -> HttpResponseRedirect:
    """POST saves `query` of `page` under `name`, in place of what has it; or removes the one with the id `remove`."""
    page = request.POST.get("page", "")
    if request.method != "POST" or page not in PAGES:
        raise Http404
    query = request.POST.get("query", "").replace("\x00", "")[:LONGEST]
    name = request.POST.get("name", "").replace("\x00", "").strip()[:NAME]
    user: Any = request.user
    mine = SavedFilter.objects.filter(user=user, page=page)
    if (remove := whole_number(request.POST.get("remove", ""))) is not None:
        mine.filter(pk=remove).delete()
    elif name and (mine.count() < MOST or mine.filter(name=name).exists()):
        SavedFilter.objects.update_or_create(user=user, page=page, name=name, defaults={"query": query})
    return HttpResponseRedirect(f"{reverse(PAGES[page])}?{query}")
