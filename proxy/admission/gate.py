"""The gate: no request reaches a route of the API without a caller. The one place that asks for access keys.

It takes the key out of the request, so that no provider sees it, and says who calls. What that caller may do is
declared at each route, see authorization.py.
"""

from __future__ import annotations

from collections.abc import Mapping, MutableMapping
from dataclasses import replace
from typing import Any

from access.key_format import holds_key, parse
from proxy.admission.caller import EVERYBODY, Caller
from proxy.admission.denials import Denials
from proxy.admission.keyring import Keyring
from proxy.admission.presented import take_out
from proxy.errors import BadRequest, Unauthorized

CALLER = "reservoir.caller"  # the caller's place in the ASGI scope

NEEDED = "This server needs a valid access key: send it as `Authorization: Bearer rsv_...`."


class Gate:
    """Created once per server process. `open_to_all`: everyone is let in while no key was ever made."""

    def __init__(self, keyring: Keyring, denials: Denials, *, open_to_all: bool) -> None:
        self._keyring = keyring
        self._denials = denials
        self._open_to_all = open_to_all

    async def admit(self, scope: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
        """The same request without its key, and with its caller.

        Raises Unauthorized, always the same one; BadRequest for two different keys, or one in the URL; Unavailable.
        """
        if holds_key(scope.get("query_string", b"")):
            raise BadRequest("An access key does not belong into a URL: send it as a header.", code="key_in_url")
        headers, keys = take_out(scope["headers"])
        if len(keys) > 1:
            raise BadRequest("This request has two different access keys: send one.", code="ambiguous_key")
        address = (scope.get("client") or ("",))[0]
        presented = next(iter(keys), None)
        try:
            caller = await self._caller(presented)
        except Unauthorized:
            key = parse(presented or "")
            self._denials.note("no valid key", key_id=key.public_id if key else "", address=address)
            raise
        return {**scope, "headers": headers, CALLER: replace(caller, address=address)}

    async def _caller(self, presented: str | None) -> Caller:
        if presented is None:
            if self._open_to_all and not self._keyring.any_exist():
                return EVERYBODY
            raise Unauthorized(NEEDED)
        key = parse(presented)
        known = await self._keyring.key(key.public_id) if key else None
        if key is None or known is None or not known.accepts(key.text):
            raise Unauthorized(NEEDED)
        self._keyring.used(known.public_id)
        return Caller(
            key_id=known.public_id,
            name=known.name,
            rights=known.rights,
            reach=known.reach,
            limits=known.limits,
            credentials=known.credentials,
        )


def caller_of(scope: Mapping[str, Any]) -> Caller:
    """Who sends the request. Raises KeyError for one that did not come through the gate."""
    caller: Caller = scope[CALLER]
    return caller
