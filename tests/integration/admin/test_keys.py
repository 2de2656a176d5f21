"""Access keys and the audit in the admin."""

from __future__ import annotations

import re

import pytest
from django.contrib.auth.models import Permission
from django.test import Client
from django.urls import reverse

from access.audit import Action
from access.key_format import PATTERN, parse
from access.models import AccessKey, AuditRecord, PartitionLimit
from access.verifying import look_up
from conversations.models import StaffLimit
from tests.integration.admin.data import exchange, staff
from tests.integration.admin.pages import HOME, browser, change, text

pytestmark = pytest.mark.django_db

FORM = {
    "name": "shop",
    "owner": "team",
    "rights": ["complete", "recall"],
    "partitions": "shop\nhelp/*",
    "instances": "*",
}
LIST = "admin:access_accesskey_changelist"
MODELS = ("accesskey", "partitionlimit", "credential", "auditrecord")


def made(page: str) -> str:
    (key,) = re.findall(PATTERN, page)
    return str(key)


def works(key: str) -> bool:
    parsed = parse(key)
    known = look_up(parsed.public_id) if parsed else None
    return known is not None and known.accepts(key)


def test_a_key_is_made_shown_once_rotated_and_revoked(root: Client) -> None:
    answer = root.post(reverse("admin:access_accesskey_add"), FORM | {"requests_a_minute": "60"})
    key = made(text(answer))
    assert works(key)
    assert "rsv_" not in str(answer.cookies)
    row = AccessKey.objects.get()
    assert (row.partitions, row.requests_a_minute) == (["shop", "help/*"], 60)
    pages = [reverse(LIST), reverse("admin:access_accesskey_change", args=[row.pk]), reverse("admin:index")]
    for url in [*pages, reverse("admin:access_auditrecord_changelist")]:
        assert not re.search(PATTERN, text(root.get(url)))
    other = made(text(root.post(reverse(LIST), {"action": "rotate", "_selected_action": [row.pk]})))
    assert works(key) and works(other) and other != key
    root.post(reverse(LIST), {"action": "revoke", "_selected_action": [row.pk]})
    assert not works(key) and not works(other)
    actions = list(AuditRecord.objects.order_by("id").values_list("action", "actor"))
    assert actions == [(each, "root") for each in (Action.KEY_CREATED, Action.KEY_ROTATED, Action.KEY_REVOKED)]


@pytest.mark.parametrize("wrong", [{"partitions": "a*"}, {"partitions": ""}, {"rights": []}, {"name": ""}])
def test_a_key_that_makes_no_sense_is_explained(root: Client, wrong: dict[str, object]) -> None:
    page = text(root.post(reverse("admin:access_accesskey_add"), FORM | wrong))
    assert "errorlist" in page and not AccessKey.objects.exists()


def test_limits_of_a_partition_are_set_and_audited(root: Client) -> None:
    root.post(reverse("admin:access_partitionlimit_add"), {"partition": "shop", "dollars_a_month": "20"})
    assert str(PartitionLimit.objects.get().dollars_a_month) == "20.00"
    assert AuditRecord.objects.get().action == Action.LIMITS_CHANGED


def test_reading_a_conversation_is_audited_once_in_a_while(root: Client) -> None:
    one = exchange(HOME, "I keep bees.", "Lovely.")
    for url in (change(one.instance), change(one), change(one)):
        text(root.get(url))
    record = AuditRecord.objects.get()
    assert (record.action, record.actor, record.partition, record.instance) == (Action.READ, "root", *HOME)
    assert "bees" not in str(vars(record))


@pytest.mark.parametrize("group", ["Viewer", "Pruner"])
def test_other_users_see_no_keys_and_no_audit(group: str) -> None:
    user = browser(staff("vera", group))
    for name in MODELS:
        assert user.get(reverse(f"admin:access_{name}_changelist")).status_code == 403
    assert user.post(reverse("admin:access_accesskey_add"), FORM).status_code == 403
    assert user.post(reverse(LIST), {"action": "rotate", "_selected_action": [1]}).status_code == 403
    page = text(user.get(reverse("admin:index")))
    assert "accesskey" not in page and "auditrecord" not in page


def test_a_limited_user_sees_no_keys_and_no_audit_whatever_the_permissions() -> None:
    user = staff("lena", "Viewer")
    user.user_permissions.set(Permission.objects.filter(content_type__app_label="access"))
    client = browser(user)
    lists = [reverse(f"admin:access_{name}_changelist") for name in MODELS]
    assert {client.get(url).status_code for url in lists} == {200}
    StaffLimit.objects.create(user=user)
    row = AuditRecord.objects.create(action="denied")
    single = reverse("admin:access_auditrecord_change", args=[row.pk])
    adding = [reverse(f"admin:access_{name}_add") for name in ("accesskey", "partitionlimit")]
    assert {client.get(url).status_code for url in [*lists, single, *adding]} == {403}
    assert {client.post(url, FORM).status_code for url in [*lists, *adding]} == {403}
    page = text(client.get(reverse("admin:index")))
    assert "accesskey" not in page and "auditrecord" not in page
    assert not AccessKey.objects.exists()
