"""Requests pages of the admin without a browser."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlencode

from django.contrib.auth.models import User
from django.test import Client
from django.urls import reverse

from conversations.models import Exchange
from conversations.querysets import Scope
from tests.integration.admin.data import answer_of

HOME = Scope("home", "kitchen")
WORK = Scope("work", "payments")
BLOCK = '{"role": "system", "content": "<memory>\\nnotes\\n- 08:00 user: I keep bees.\\n</memory>"}'


def browser(user: User) -> Client:
    client = Client(headers={"host": "localhost"})
    client.force_login(user)
    return client


def change(of: Any) -> str:
    return reverse(f"admin:conversations_{of._meta.model_name}_change", args=[of.pk])


def text(response: Any) -> str:
    assert response.status_code == 200, response.status_code
    return str(response.content.decode())


def every_page(one: Exchange) -> list[str]:
    instance = one.instance
    lists = [
        reverse(f"admin:conversations_{name}_changelist") for name in ("partition", "instance", "exchange", "message")
    ]
    return [
        reverse("admin:index"),
        reverse("admin:index") + "?window=month&summed=1",
        *lists,
        reverse("admin:usage") + "?by=day&by=partition&by=provider&by=model",
        f"{lists[2]}?provider=openai&model=gpt-4o&status=5xx&rule=any&partition_name={instance.partition.name}",
        f"{lists[2]}?instance={instance.pk}",
        f"{lists[2]}?partition={instance.partition_id}&ended=answered&memory=on",
        f"{lists[2]}?q={one.trace_id}",
        f"{lists[3]}?q=bees",
        f"{lists[3]}?role=user&instance={instance.pk}",
        change(instance.partition),
        change(instance),
        f"{change(instance)}?date=2026-05-01",
        change(one),
        change(answer_of(one)),
        reverse("admin:map", args=[instance.pk]),
        reverse("admin:map", args=[instance.pk]) + "?drawn=1",
        reverse("admin:search") + f"?q=bees&instance={instance.pk}",
        reverse("admin:search") + f"?q=bees&by=meaning&instance={instance.pk}",
        reverse("admin:prune") + f"?instance={instance.pk}",
        reverse("admin:prune") + f"?exchange={one.pk}",
        reverse("admin:prune")
        + "?"
        + urlencode({"partition_name": instance.partition.name, "whole": "on", "counted": 1}),
    ]
