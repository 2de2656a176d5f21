"""What a route needs: each declares a right, as `auth=needs(Right.RECALL)`. A test fails for a route that does not."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial, wraps
from typing import Any, cast

from django.http import HttpRequest, HttpResponseBase

from access import audit
from access.audit import Action, Who
from access.rights import Right
from proxy import runtime
from proxy.admission.caller import Caller
from proxy.admission.gate import caller_of
from proxy.call import scope_name
from proxy.errors import Forbidden
from proxy.handler import ApiRequest
from proxy.routes import leaves_nothing
from proxy.upstream import Headers

View = Callable[..., HttpResponseBase]


class Needs:
    """Admits callers with a right and, where the path names a scope, only those that reach it.

    Without a right, it admits all that reach the scope: the route's parts ask for rights of their own, see `require`.
    ninja calls it before the route. Raises Forbidden, BadRequest for a scope whose name is none, and RateLimited.
    """

    def __init__(self, right: Right | None) -> None:
        self.right = right

    async def __call__(self, request: HttpRequest) -> Caller:
        request = cast(ApiRequest, request)
        caller = caller_of(request.scope)
        partition, quotas = None, runtime.current().quotas
        request.limits = partial(quotas.headers, caller, None)
        named = request.resolver_match.kwargs if request.resolver_match else {}
        try:
            if self.right:
                caller.require(self.right)
            if "partition" in named:
                partition, instance = (scope_name(named[what], what) for what in ("partition", "instance"))
                caller.require_scope(partition, instance)
        except Forbidden as refusal:
            _denied(caller, refusal)
            raise
        # Only now: what is out of reach has no limits to be learned of.
        request.limits = partial(quotas.headers, caller, partition)
        await quotas.admit(caller, partition, request.closing)
        return caller


def needs(right: Right) -> Needs:
    return Needs(right)


def needs_scope() -> Needs:
    """For a route whose parts ask for rights of their own."""
    return Needs(None)


def require(who: Caller, right: Right) -> None:
    """For a part of a route that needs a right of its own. Raises Forbidden."""
    try:
        who.require(right)
    except Forbidden as refusal:
        _denied(who, refusal)
        raise


def require_relay(who: Caller, method: str, path: str, headers: Headers) -> None:
    """For a passed-through route, `path` as `spelled` has it. What a provider keeps (files, batches, stored answers)
    is listed to all who use its key: an app needs a right for that, unless it brings a key of its own to the provider.
    Raises Forbidden.
    """
    own = not who.credentials and any(name.lower() in (b"authorization", b"api-key") for name, _ in headers)
    if not own and not leaves_nothing(method, path):
        require(who, Right.RELAY)


def note(who: Caller, action: Action, partition: str | None, instance: str | None, **details: int) -> None:
    """Leave a row in the audit, in the background."""
    where = {"partition": partition or "", "instance": instance or "", "details": details}
    record = partial(audit.record, action, Who(address=who.address, key_id=who.key_id), **where)  # type: ignore[arg-type]
    runtime.current().keyring.write(record)


def _denied(who: Caller, refusal: Forbidden) -> None:
    runtime.current().denials.note(refusal.code or "", key_id=who.key_id, address=who.address)


def needs_any(view: View) -> View:
    """For pages that show nothing stored: any valid key opens them."""

    @wraps(view, assigned=(), updated=())
    def checked(request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponseBase:
        caller_of(cast(ApiRequest, request).scope)
        return view(request, *args, **kwargs)

    checked.needs = "any right"  # type: ignore[attr-defined]
    return checked


def caller(request: HttpRequest) -> Caller:
    """Who sends the request, after the route's needs were met."""
    return caller_of(cast(ApiRequest, request).scope)
