"""Refused requests in the audit, sampled: an attacker fills no table. One row a minute for each reason and origin."""

from __future__ import annotations

import time
from functools import partial

from access import audit
from access.audit import Action, Who
from proxy.admission.keyring import Keyring

SECONDS = 60.0
MOST = 1_000  # origins that are told apart in a minute; then all of them share a row


class Denials:
    """Created once per server process."""

    def __init__(self, keyring: Keyring) -> None:
        self._keyring = keyring
        self._counts: dict[tuple[str, str, str], int] = {}
        self._since = time.monotonic()

    def note(self, reason: str, *, key_id: str, address: str) -> None:
        """Count a refusal. The first of its kind in a minute leaves a row at once, the others one row together."""
        if time.monotonic() - self._since >= SECONDS:
            self._begin_again()
        origin = (reason, key_id, address) if len(self._counts) < MOST else (reason, "", "many")
        self._counts[origin] = self._counts.get(origin, 0) + 1
        if self._counts[origin] == 1:
            self._write(*origin, 1)

    def _begin_again(self) -> None:
        for origin, count in self._counts.items():
            if count > 1:
                self._write(*origin, count - 1)
        self._counts, self._since = {}, time.monotonic()

    def _write(self, reason: str, key_id: str, address: str, count: int) -> None:
        who = Who(address=address, key_id=key_id)
        self._keyring.write(partial(audit.record, Action.DENIED, who, details={"reason": reason, "requests": count}))
