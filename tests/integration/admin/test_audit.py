"""What users of the admin do leaves a row in the audit, without a text."""

from __future__ import annotations

import re

import pytest
from django.test import Client
from django.urls import reverse

from access.models import AuditRecord
from tests.integration.admin.data import exchange, question_of
from tests.integration.admin.pages import HOME, text

pytestmark = pytest.mark.django_db


def rows() -> list[tuple[str, str, str, str]]:
    return list(AuditRecord.objects.order_by("pk").values_list("action", "actor", "partition", "instance"))


def test_an_export_is_audited_without_its_words(root: Client) -> None:
    one = exchange(HOME, "I keep bees.", "Lovely.")
    root.get(reverse("admin:export"), {"instance": str(one.instance_id), "q": "bees", "format": "markdown"})
    assert rows() == [("exported", "root", "home", "kitchen")]
    assert AuditRecord.objects.get().details == {"format": "markdown", "found by words": True}


def test_changes_of_what_a_partition_keeps_are_audited(root: Client) -> None:
    partition = exchange(HOME, "I keep bees.", "Lovely.").instance.partition
    root.post(reverse("admin:retention", args=[partition.pk]), {"keep_days": "30"})
    root.post(reverse("admin:retention", args=[partition.pk]), {"keep_days": "no number"})
    root.post(reverse("admin:remember", args=[partition.pk]), {"remember": "nothing"})
    details = AuditRecord.objects.order_by("pk").values_list("action", "details")
    assert list(details) == [("settings changed", {"keep_days": 30}), ("settings changed", {"remember": "nothing"})]


def test_forgetting_is_audited_with_its_figures(root: Client) -> None:
    one = exchange(HOME, "I keep bees.", "Lovely.")
    page = text(root.get(reverse("admin:prune"), {"message": question_of(one)}))
    sealed = re.search(r'name="sealed" value="([^"]+)"', page)
    assert sealed
    root.post(reverse("admin:prune"), {"sealed": sealed[1]})
    row = AuditRecord.objects.get(action="forgotten")
    assert (row.actor, row.partition, row.instance, row.details["messages"]) == ("root", "home", "kitchen", 1)
    assert "bees" not in str(row.details)
