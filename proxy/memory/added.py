"""What was added to the request of an exchange, from its ledger. Blocks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from conversations.recall.unranked import stored_texts
from proxy.memory.rendering import Added, Stored, rebuilt


class HasAdded(Protocol):
    """A ledger, or what a tool loop reads of one."""

    @property
    def injected(self) -> Sequence[str]: ...
    @property
    def rendering(self) -> bytes | memoryview: ...
    @property
    def message_ids(self) -> Sequence[int]: ...
    @property
    def instance_id(self) -> int | None: ...


def added_by(ledger: HasAdded) -> Added:
    """The JSON texts of what was added; none if nothing was, or if a message of it has been forgotten."""
    if not ledger.rendering:
        return Added(tuple(ledger.injected))
    stored = stored_texts(ledger.message_ids, instance_id=ledger.instance_id)
    return rebuilt(bytes(ledger.rendering), ledger.message_ids, {row[0]: Stored(*row) for row in stored})
