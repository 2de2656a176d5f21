"""The page of forgetting: choose messages, see what would be removed, then confirm."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from django.contrib import messages
from django.core.signing import BadSignature
from django.db.models import Sum
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.urls import reverse

from access.audit import Action, record
from console.access.who import who
from console.forgetting.audit import audit
from console.forgetting.criteria import Criteria, asked_form, chosen
from console.forgetting.seal import seal, unseal
from console.pages import page, to_instance
from console.search.place import offered
from console.visible import require
from conversations.forgetting import Changed, Counts, count, forget
from conversations.models import Instance
from conversations.selection import Selection

LATEST = 10
SAMPLES = 5

LABELS = {  # for one, and for several
    "messages": ("message", "messages"),
    "embeddings": ("embedding", "embeddings"),
    "exchanges": ("exchange", "exchanges"),
    "ledgers": ("ledger removed, or rid of every mention", "ledgers removed, or rid of every mention"),
    "cleared": (
        "exchange that stays, without the texts of its request",
        "exchanges that stay, without the texts of their request",
    ),
    "instances": ("conversation", "conversations"),
    "partitions": ("partition", "partitions"),
}


def prune_page(request: HttpRequest) -> HttpResponse:
    """GET is the dry run; POST removes exactly what it showed, or nothing.

    Counting by criteria may take seconds, so it happens with `?counted`, which the page's script requests.
    """
    require(request, "view_message", "delete_message")
    if request.method == "POST":
        return _forget(request)
    asked = request.GET
    form, problem, selection = Criteria(request), "", None
    trail: list[tuple[str, str]] = []
    if asked.getlist("message") or asked.get("exchange"):
        selection, instance = chosen(request)
        trail = to_instance(instance) if instance else []
        problem = "" if selection else "These messages are no longer there."
    elif asked:
        form, trail = asked_form(request)
        if form.is_bound and form.is_valid():
            try:
                selection = form.selection()
            except ValueError as error:
                problem = str(error)
    if selection is None or not form.is_bound or "counted" in asked:
        return _show(request, form=form, selection=selection, problem=problem, trail=trail)
    later = f"?{asked.urlencode()}&counted=1"
    return _page(request, form=form, later=later, among=_among(selection), trail=trail)


def _show(
    request: HttpRequest,
    *,
    form: Criteria,
    selection: Selection | None,
    counts: Counts | None = None,
    problem: str = "",
    trail: Sequence[tuple[str, str]] = (),
) -> HttpResponse:
    """The dry run: shows `counts`, or counts now."""
    if selection is None:
        return _page(request, form=form, problem=problem, trail=trail)
    counts = count(selection) if counts is None else counts
    rows = selection.messages().order_by("created", "id").select_related("instance__partition")
    shown = rows.only("created", "role", "name", "content", "instance__name", "instance__partition__name")
    samples = list(shown[:SAMPLES])
    return _page(
        request,
        form=form,
        problem=problem,
        trail=trail,
        by_ids=not form.is_bound,
        nothing=not counts,
        counts=[(_label(key, n), n) for key, n in asdict(counts).items() if n and key in LABELS],
        size=counts.bytes,
        samples=samples,
        more=counts.messages - len(samples),
        sealed=seal(request, selection, counts),
    )


def _label(key: str, count: int) -> str:
    one, several = LABELS[key]
    return one if count == 1 else several


def _page(request: HttpRequest, **context: Any) -> HttpResponse:
    entries = audit(request)[:LATEST]
    return page(request, "prune", title="Forget", entries=entries, partitions=offered(request), **context)


def _among(selection: Selection) -> int:
    """The number of messages to search, from the counters of their instances."""
    concerned = Instance.objects.filter(partition__name=selection.partition)
    if selection.instance is not None:
        concerned = concerned.filter(name=selection.instance)
    total: int = concerned.aggregate(total=Sum("message_count", default=0))["total"]
    return total


def _forget(request: HttpRequest) -> HttpResponse:
    try:
        selection, expected = unseal(request)
    except BadSignature:
        messages.error(request, "This confirmation is invalid or has expired. Check the selection again.")
        return HttpResponseRedirect(reverse("admin:prune"))
    try:
        gone = forget(selection, by=f"admin: {request.user.get_username()}", expected=expected)
    except Changed as changed:
        problem = "Meanwhile something has been added or removed. This would be removed now."
        return _show(request, form=Criteria(request), selection=selection, counts=changed.counts, problem=problem)
    counted = asdict(gone)
    scope = {"partition": selection.partition or "", "instance": selection.instance or ""}
    record(Action.FORGOTTEN, who(request), **scope, details={"messages": gone.messages, "exchanges": gone.exchanges})
    told = ", ".join(f"{counted[key]} {_label(key, counted[key])}" for key in ("messages", "embeddings", "exchanges"))
    messages.success(request, f"Forgotten: {told}.")
    return HttpResponseRedirect(reverse("admin:prune"))
