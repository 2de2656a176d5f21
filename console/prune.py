"""Forgetting, by hand: say what, see what would go, and then let it go for good."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from datetime import datetime, time, timedelta
from typing import Any

from django import forms
from django.contrib import messages
from django.core.exceptions import PermissionDenied
from django.core.signing import BadSignature, dumps, loads
from django.db.models import Sum
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseRedirect
from django.shortcuts import get_object_or_404
from django.urls import reverse
from django.utils import timezone

from console import safe_text
from console.pages import page, to_instance, to_partition
from console.visible import allowed_partitions, require, visible
from conversations.forgetting import Changed, Counts, count, forget
from conversations.models import AuditEntry, Exchange, Instance, Message, Partition
from conversations.numbers import whole_number
from conversations.querysets import LONGEST_SEARCH
from conversations.selection import Selection

MOST_SELECTED = 1000
LATEST = 10
MOST_DAYS = 36_500
LARGEST = 2**31 - 1
SAMPLES = 5

LABELS = {
    "messages": "messages",
    "embeddings": "embeddings",
    "exchanges": "exchanges",
    "ledgers": "ledgers removed, or rid of every mention",
    "cleared": "exchanges that stay, without the texts of their request",
    "instances": "instances",
    "partitions": "partitions",
}


class Criteria(forms.Form):
    """Which messages of a partition, or of one instance in it."""

    partition_name = forms.CharField(label="Partition", strip=False)
    instance_name = forms.CharField(required=False, label="Instance", help_text="empty for all of them", strip=False)
    older_than = forms.IntegerField(required=False, min_value=1, max_value=MOST_DAYS, label="Older than, days")
    since = forms.DateField(required=False, label="Said on or after", widget=forms.DateInput(attrs={"type": "date"}))
    before = forms.DateField(required=False, label="Said before", widget=forms.DateInput(attrs={"type": "date"}))
    role = forms.ChoiceField(
        required=False, choices=[("", "any"), *((role, role) for role in ("user", "assistant", "tool"))]
    )
    larger_than = forms.IntegerField(required=False, min_value=0, max_value=LARGEST, label="Larger than, bytes")
    search = forms.CharField(
        required=False,
        label="With the words",
        max_length=LONGEST_SEARCH,
        help_text='as in the search: "a phrase", -without; in the first 60,000 characters of a text',
    )
    whole = forms.BooleanField(required=False, label="Everything, and the name itself")

    def __init__(self, request: HttpRequest, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.label_suffix = ""
        self._request = request

    def clean_partition_name(self) -> str:
        name: str = self.cleaned_data["partition_name"]
        if not visible(self._request, Partition.objects.filter(name=name)).exists():
            raise forms.ValidationError("There is no such partition.")
        return name

    def selection(self) -> Selection:
        """Raises ValueError, with what to do, where it says too little."""
        given = self.cleaned_data
        before = _midnight(given["before"])
        if given["older_than"]:
            age = timezone.now() - timedelta(days=given["older_than"])
            before = min(before, age) if before else age
        return Selection(
            partition=given["partition_name"],
            instance=given["instance_name"] or None,
            since=_midnight(given["since"]),
            before=before,
            role=given["role"] or None,
            larger_than=given["larger_than"],
            search=given["search"] or None,
            whole=given["whole"],
        )


def prune_page(request: HttpRequest) -> HttpResponse:
    """GET shows what would go, POST lets it go: what was shown, or nothing.

    What criteria select may take seconds to count, and comes with `?counted`, which the page's script asks for.
    """
    require(request, "view_message", "delete_message")
    if request.method == "POST":
        return _forget(request)
    asked = request.GET
    form, problem, selection = Criteria(request), "", None
    trail: list[tuple[str, str]] = []
    if asked.getlist("message") or asked.get("exchange"):
        selection, instance = _chosen(request)
        trail = to_instance(instance) if instance else []
        problem = "" if selection else "These messages are no longer there."
    elif asked:
        form, trail = _form(request)
        if form.is_bound and form.is_valid():
            try:
                selection = form.selection()
            except ValueError as error:
                problem = str(error)
    if selection is None or not form.is_bound or "counted" in asked:
        return _show(request, form=form, selection=selection, problem=problem, trail=trail)
    later = f"?{asked.urlencode()}&counted=1"
    return _page(request, form=form, later=later, among=_among(selection), trail=trail)


def retention(request: HttpRequest, pk: int) -> HttpResponse:
    """Set for how many days a partition keeps what is said."""
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
        kept = f"keeps what is said for {days} days" if days else "keeps everything"
        messages.success(request, f"{safe_text.shown(partition.name)} {kept}; manage.py prune --retention applies it.")
    return HttpResponseRedirect(reverse("admin:conversations_partition_change", args=[pk]))


def _show(
    request: HttpRequest,
    *,
    form: Criteria,
    selection: Selection | None,
    counts: Counts | None = None,
    problem: str = "",
    trail: Sequence[tuple[str, str]] = (),
) -> HttpResponse:
    """What would go: `counts`, or what is counted here."""
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
        counts=[(LABELS[key], n) for key, n in asdict(counts).items() if n and key in LABELS],
        size=counts.bytes,
        samples=samples,
        more=counts.messages - len(samples),
        sealed=_seal(request, selection, counts),
    )


def _page(request: HttpRequest, **context: Any) -> HttpResponse:
    return page(request, "prune", title="Forget", entries=audit(request)[:LATEST], **context)


def _among(selection: Selection) -> int:
    """How many messages are looked through, as their instances count them."""
    concerned = Instance.objects.filter(partition__name=selection.partition)
    if selection.instance is not None:
        concerned = concerned.filter(name=selection.instance)
    total: int = concerned.aggregate(total=Sum("message_count", default=0))["total"]
    return total


def _forget(request: HttpRequest) -> HttpResponse:
    try:
        selection, expected = _unseal(request)
    except BadSignature:
        messages.error(request, "What you confirmed was not what was shown, or long ago. Look at it again.")
        return HttpResponseRedirect(reverse("admin:prune"))
    try:
        gone = forget(selection, by=f"admin: {request.user.get_username()}", expected=expected)
    except Changed as changed:
        problem = "Meanwhile something has been added or removed. This is what would go now."
        return _show(request, form=Criteria(request), selection=selection, counts=changed.counts, problem=problem)
    messages.success(
        request, f"Forgotten: {gone.messages} messages, {gone.embeddings} embeddings, {gone.exchanges} exchanges."
    )
    return HttpResponseRedirect(reverse("admin:prune"))


def _seal(request: HttpRequest, selection: Selection, counts: Counts) -> str:
    """What is confirmed is what was shown, to this user."""
    said = asdict(selection)
    for key in ("since", "before"):
        said[key] = said[key].isoformat() if said[key] else None
    return dumps({"by": request.user.pk, "selection": said, "counts": asdict(counts)}, salt="prune", compress=True)


def _unseal(request: HttpRequest) -> tuple[Selection, Counts]:
    """Raises BadSignature for what this user was not shown within the last hour."""
    sealed = loads(request.POST.get("sealed", ""), salt="prune", max_age=3600)
    if sealed["by"] != request.user.pk:
        raise BadSignature
    said = sealed["selection"]
    for key in ("since", "before"):
        said[key] = datetime.fromisoformat(said[key]) if said[key] else None
    said["ids"] = tuple(said["ids"]) if said["ids"] is not None else None
    selection = Selection(**said)
    if selection.partition is None or not visible(request, Partition.objects.filter(name=selection.partition)).exists():
        raise PermissionDenied  # the limit may be newer than what was shown
    return selection, Counts(**sealed["counts"])


def _chosen(request: HttpRequest) -> tuple[Selection | None, Instance | None]:
    """The messages that the address names, one by one or by their exchange, and their instance."""
    given = [int(pk) for pk in request.GET.getlist("message") if _is_id(pk)][:MOST_SELECTED]
    rows = visible(request, Message.objects.filter(pk__in=given))
    exchange = None
    exchange_id = request.GET.get("exchange", "")
    if _is_id(exchange_id):
        exchanges = visible(request, Exchange.objects.select_related("instance__partition"))
        exchange = get_object_or_404(exchanges, pk=int(exchange_id))
        own = Message.objects.filter(exchange=exchange) | Message.objects.filter(pk=exchange.question_id or 0)
        rows = visible(request, own)
    found = list(rows.order_by("instance_id", "pk").values_list("pk", "instance_id"))
    if found:
        # One conversation at a time: what is forgotten is named by its scope in the audit.
        instance = Instance.objects.select_related("partition").get(pk=found[0][1])
        ids = tuple(pk for pk, of in found if of == instance.pk)
        return Selection(partition=instance.partition.name, instance=instance.name, ids=ids), instance
    if exchange is None:
        return None, None
    # One that holds no message goes with its moment, as a span of time takes such exchanges along.
    instance, moment = exchange.instance, exchange.created
    end = moment + timedelta(microseconds=1)
    return Selection(partition=instance.partition.name, instance=instance.name, since=moment, before=end), instance


def _form(request: HttpRequest) -> tuple[Criteria, list[tuple[str, str]]]:
    """The form as it was filled in. A link from a page names the place only, and asks nothing yet."""
    asked = request.GET
    if "partition_name" in asked:
        return Criteria(request, asked), []
    if _is_id(asked.get("instance", "")):
        rows = visible(request, Instance.objects.select_related("partition"))
        instance = get_object_or_404(rows, pk=int(asked["instance"]))
        place = {"partition_name": instance.partition.name, "instance_name": instance.name}
        return Criteria(request, initial=place | {"search": asked.get("search", "")}), to_instance(instance)
    pk = int(asked["partition"]) if _is_id(asked.get("partition", "")) else 0
    partition = get_object_or_404(visible(request, Partition.objects.all()), pk=pk)
    return Criteria(request, initial={"partition_name": partition.name}), to_partition(partition)


def audit(request: HttpRequest) -> Any:
    """What has been forgotten, where the user may see it."""
    entries = AuditEntry.objects.all()
    allowed = allowed_partitions(request)
    if allowed is None:
        return entries
    return entries.filter(
        criteria__partition__in=list(Partition.objects.filter(pk__in=allowed).values_list("name", flat=True))
    )


def _midnight(day: Any) -> datetime | None:
    return timezone.make_aware(datetime.combine(day, time.min)) if day else None


def _is_id(given: str) -> bool:
    return whole_number(given) is not None
