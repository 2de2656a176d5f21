"""Pure: what a proxy in front says about a request. Only the proxies of RESERVOIR_TRUSTED_PROXIES are believed."""

from __future__ import annotations

from collections.abc import MutableMapping, Sequence
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address
from typing import Any

Network = IPv4Network | IPv6Network
Address = IPv4Address | IPv6Address

PREFIX = b"x-forwarded-"
SCHEMES = (b"http", b"https")
PROXIES_SAY = (b"forwarded", b"via", b"x-real-ip")


def received(scope: MutableMapping[str, Any], trusted: Sequence[Network]) -> MutableMapping[str, Any]:
    """The ASGI scope of a request as its client sent it.

    If the request comes from a trusted proxy, its X-Forwarded-For, -Proto and -Host replace the scope's client, scheme
    and Host. Each may be a list to which every proxy on the way has added its own word, so the last one counts; of the
    addresses, the last that is no trusted proxy. All X-Forwarded-* headers are removed, so nothing later believes them
    by mistake, and providers learn no addresses.
    """
    told: dict[bytes, list[bytes]] = {}
    for name, value in scope["headers"]:
        if name.startswith(PREFIX):
            told.setdefault(name.removeprefix(PREFIX), []).extend(value.split(b","))
    if not told:
        return scope
    headers = [(name, value) for name, value in scope["headers"] if not name.startswith(PREFIX)]
    if not _is_trusted(_address((scope.get("client") or ("",))[0]), trusted):
        return {**scope, "headers": headers}
    changed: dict[str, Any] = {"headers": headers}
    if client := _client(told.get(b"for", ()), trusted):
        changed["client"] = (str(client), 0)
    if (scheme := told.get(b"proto", [b""])[-1].strip().lower()) in SCHEMES:
        changed["scheme"] = scheme.decode()
    if host := told.get(b"host", [b""])[-1].strip():
        changed["headers"] = [*((name, value) for name, value in headers if name != b"host"), (b"host", host)]
    return {**scope, **changed}


def is_local(scope: MutableMapping[str, Any]) -> bool:
    """Whether a request comes from a program on this machine, and from no proxy that says that it is one."""
    address = _address((scope.get("client") or ("",))[0])
    if address is None or not address.is_loopback:
        return False
    return not any(name.startswith(PREFIX) or name in PROXIES_SAY for name, _ in scope["headers"])


def _client(hops: Sequence[bytes], trusted: Sequence[Network]) -> Address | None:
    """The nearest of these hops that is no trusted proxy; if there is none, the farthest that can be read."""
    found = None
    for hop in reversed(hops):
        if (address := _address(hop.decode("latin-1").strip())) is None:
            break
        found = address
        if not _is_trusted(address, trusted):
            break
    return found


def _address(text: str) -> Address | None:
    """The address in "192.0.2.1", "192.0.2.1:4711", "2001:db8::1" or "[2001:db8::1]:4711"."""
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    try:
        address = ip_address(text)
    except ValueError:
        return None
    return (address.ipv4_mapped if isinstance(address, IPv6Address) else None) or address


def _is_trusted(address: Address | None, trusted: Sequence[Network]) -> bool:
    return address is not None and any(address in network for network in trusted)
