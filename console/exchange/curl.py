"""The command that repeats a request without memory."""

from __future__ import annotations

import os
import shlex
from urllib.parse import quote

from django.http import HttpRequest
from django.utils.safestring import SafeString

from console import safe_text
from console.exchange.sent import Sent
from conversations.models import Exchange, Instance
from proxy.dialects.dialect import Dialect
from proxy.providers import configuration


def curl(request: HttpRequest, exchange: Exchange, sent: Sent) -> SafeString | str:
    """The command that repeats the request without recalling or storing; empty if part of the request is missing."""
    if not sent.exact:
        return ""
    url = f"{request.scheme}://{request.get_host()}{address(exchange.instance, sent.dialect)}"
    key = _key_variable(exchange.provider)
    return " \\\n    ".join(
        [
            f"curl {shlex.quote(url)}",
            '-H "Content-Type: application/json"',
            *(f'-H "{name}: {value}"' for name, value in sent.dialect.headers.items()),
            *([f'-H "{_key_header(sent.dialect)}${key}"'] if key else []),
            '-H "X-Reservoir-Recall: off" -H "X-Reservoir-Store: off"',
            f"-d {shlex.quote(safe_text.escaped(sent.body(exchange.parameters)))}",
        ]
    )


def address(instance: Instance, dialect: Dialect) -> str:
    """The path below which a conversation is asked through this API."""
    names = (quote(name, safe="") for name in (instance.partition.name, instance.name))
    return "/v1/partition/{}/instance/{}/{}".format(*names, dialect.path)


def _key_header(dialect: Dialect) -> str:
    """The header of a provider's key, up to the key."""
    return "Authorization: Bearer " if dialect.key_header == b"authorization" else f"{dialect.key_header.decode()}: "


def _key_variable(provider: str) -> str:
    """The environment variable that holds the provider's key; empty for a provider that is unknown or needs none."""
    try:
        return configuration.from_environment(os.environ).key_variable(provider)
    except ValueError:  # the providers' file has become invalid since the server started
        return ""
