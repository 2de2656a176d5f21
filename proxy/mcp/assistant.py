"""Pure: who calls a tool."""

from __future__ import annotations

from dataclasses import dataclass

from proxy.admission.caller import EVERYBODY, Caller
from proxy.memory.service import Scope


@dataclass(frozen=True, slots=True)
class Assistant:
    """The scope whose memory an assistant uses, and what it may do there: each tool asks for its own right."""

    scope: Scope
    caller: Caller = EVERYBODY
