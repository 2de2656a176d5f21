"""Probes: /live touches nothing, /ready says which part is not ready."""

from __future__ import annotations

import json

from django.conf import settings
from django.http import HttpRequest, HttpResponse

from proxy import runtime


async def live(request: HttpRequest) -> HttpResponse:
    body = {"status": "live", "version": settings.RESERVOIR_VERSION}
    return HttpResponse(json.dumps(body), content_type="application/json")


async def ready(request: HttpRequest) -> HttpResponse:
    parts = await runtime.current().memory.health()
    ok = all(problem is None for problem in parts.values())
    body = {"status": "ready" if ok else "not ready"} | {k: v or "ready" for k, v in parts.items()}
    return HttpResponse(json.dumps(body), status=200 if ok else 503, content_type="application/json")
