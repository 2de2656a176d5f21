"""What to forget, according to the form or the address."""

from __future__ import annotations

from datetime import datetime, time, timedelta
from typing import Any

from django import forms
from django.http import HttpRequest
from django.shortcuts import get_object_or_404
from django.utils import timezone

from console.forgetting.retention import MOST_DAYS
from console.pages import to_instance, to_partition
from console.visible import visible
from conversations.models import Exchange, Instance, Message, Partition
from conversations.numbers import whole_number
from conversations.querysets import LONGEST_SEARCH
from conversations.selection import Selection

MOST_SELECTED = 1_000
LARGEST = 2**31 - 1


class Criteria(forms.Form):
    """Which messages of a partition, or of one instance in it."""

    partition_name = forms.CharField(
        label="Partition",
        strip=False,
        widget=forms.TextInput(attrs={"list": "partitions", "autocomplete": "off", "placeholder": "pick or type"}),
    )
    instance_name = forms.CharField(required=False, label="Conversation", help_text="empty for all", strip=False)
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
    whole = forms.BooleanField(required=False, label="Everything in it, also its name")

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
        """Raises ValueError, with advice, if the criteria are too vague."""
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


def chosen(request: HttpRequest) -> tuple[Selection | None, Instance | None]:
    """The messages that the address names by id or by exchange, and their instance; None if none is left."""
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
        # One conversation at a time, because the audit names the scope.
        instance = Instance.objects.select_related("partition").get(pk=found[0][1])
        ids = tuple(pk for pk, of in found if of == instance.pk)
        return Selection(partition=instance.partition.name, instance=instance.name, ids=ids), instance
    if exchange is None:
        return None, None
    # An exchange without messages is selected by its time: a span of time includes such exchanges.
    instance, moment = exchange.instance, exchange.created
    end = moment + timedelta(microseconds=1)
    return Selection(partition=instance.partition.name, instance=instance.name, since=moment, before=end), instance


def asked_form(request: HttpRequest) -> tuple[Criteria, list[tuple[str, str]]]:
    """The form as submitted, or prefilled by a link that names only a place; and the trail to that place."""
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


def _midnight(day: Any) -> datetime | None:
    return timezone.make_aware(datetime.combine(day, time.min)) if day else None


def _is_id(given: str) -> bool:
    return whole_number(given) is not None
