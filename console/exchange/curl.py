"""The command that repeats a request without memory."""

from __future__ import annotations

import os
import shlex
from urllib.parse import quote

from django.http import HttpRequest
from django.utils.safestring import SafeString

from console import safe_text
from console.exchange.request_body import body
from console.exchange.sent import Sent
from conversations.models import Exchange, Instance
from proxy.providers import configuration


def curl(request: HttpRequest, exchange: Exchange, sent: Sent) -> SafeString | str:
    """The command that repeats the request without recalling or storing; empty if part of the request is missing."""
    if not sent.complete or any(turn.large for turn in sent.turns):
        return ""
    url = f"{request.scheme}://{request.get_host()}{base_url(exchange.instance)}/chat/completions"
    key = _key_variable(exchange.provider)
    return " \\\n    ".join(
        [
            f"curl {shlex.quote(url)}",
            '-H "Content-Type: application/json"',
            *([f'-H "Authorization: Bearer ${key}"'] if key else []),
            '-H "X-Reservoir-Recall: off" -H "X-Reservoir-Store: off"',
            f"-d {shlex.quote(safe_text.escaped(body(exchange.parameters, [turn.raw for turn in sent.turns])))}",
        ]
    )


def base_url(instance: Instance) -> str:
    """The path of a conversation's base URL."""
    names = (quote(name, safe="") for name in (instance.partition.name, instance.name))
    return "/v1/partition/{}/instance/{}".format(*names)


def _key_variable(provider: str) -> str:
    """The environment variable that holds the provider's key; empty for a provider that is unknown or needs none."""
    try:
        return configuration.from_environment(os.environ).key_variable(provider)
    except ValueError:  # the providers' file has become invalid since the server started
        return ""
