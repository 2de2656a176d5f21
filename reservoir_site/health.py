"""The probes: /live depends on nothing, /ready names the parts that are not ready; and /metrics, for Prometheus."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from typing import Any, cast

from django.conf import settings
from django.http import HttpRequest, HttpResponse
from prometheus_client import CONTENT_TYPE_LATEST

from access.rights import Right
from proxy import metrics, runtime
from proxy.admission.gate import caller_of
from proxy.errors import Forbidden
from proxy.handler import ApiRequest, WholeResponse
from reservoir_site.slots import slots


async def live(request: HttpRequest) -> HttpResponse:
    """200 while the process serves, with the version."""
    body = {"status": "live", "version": settings.RESERVOIR_VERSION}
    return HttpResponse(json.dumps(body), content_type="application/json")


async def ready(request: HttpRequest) -> HttpResponse:
    """200 if every part is ready, otherwise 503; each part is "ready" or says its problem. Names the versions."""
    parts, versions = await runtime.current().memory.health()
    parts |= {"slots": slots.problem}
    ok = all(problem is None for problem in parts.values())
    body = {
        "status": "ready" if ok else "not ready",
        **{part: problem or "ready" for part, problem in parts.items()},
        "versions": {"reservoir": settings.RESERVOIR_VERSION, **versions},
    }
    return HttpResponse(json.dumps(body), status=200 if ok else 503, content_type="application/json")


async def figures(request: HttpRequest) -> HttpResponse:
    """The figures of all workers, for programs on this machine, and for keys with the right to manage."""
    scope = cast(ApiRequest, request).scope
    if not scope.get("reservoir.local") and not _manages(scope):
        error = Forbidden("Metrics take a key with the right to manage, or a program on this machine without a proxy.")
        return WholeResponse(error.status, error.headers, error.body())
    await runtime.current().memory.tell_what_waits()
    text = await asyncio.to_thread(metrics.exposition)
    return HttpResponse(text, content_type=CONTENT_TYPE_LATEST)


figures.needs = Right.MANAGE  # type: ignore[attr-defined]


def _manages(scope: Mapping[str, Any]) -> bool:
    """Whether the request has a key with that right: where no key is needed, it still is for figures."""
    caller = caller_of(scope)
    return bool(caller.key_id) and Right.MANAGE in caller.rights
