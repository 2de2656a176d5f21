"""Pure: conversations of other programs -> the items of an import.

A message's uid is made of its ids at the program. If it has none, the uid is made of those before it in the
conversation and of what it says. So the next export of an account adds only what has been said since.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import count
from typing import Any

from conversations.archive.fields import NAMESPACE
from conversations.archive.foreign import chatgpt, claude, librechat, open_webui, plain
from conversations.archive.foreign.conversation import Conversation
from conversations.archive.reading import CONTROLS, BadLine, Item, Said
from conversations.querysets import Scope
from conversations.turns import NAME_LENGTH, Turn, storable

READERS = (chatgpt, claude, open_webui, librechat, plain)  # the first that reads a value
SHORT_ID = 8  # characters of a conversation's id in its instance's name


@dataclass(frozen=True, slots=True)
class Foreign:
    """Reads what other programs export, into the given partition and instance.

    By default the partition has the program's name, and each conversation is an instance of its own.
    """

    partition: str | None = None
    instance: str | None = None
    _numbers: Iterator[int] = field(default_factory=lambda: count(1))  # ids of messages within the file

    def reads(self, value: Any) -> bool:
        """Whether a value is another program's; with a partition given, nothing else is imported."""
        known = isinstance(value, dict) and any(reader.reads(value) for reader in READERS)
        return known or self.partition is not None

    def read(self, line: int, value: Any) -> Iterator[Item | BadLine]:
        """The messages of a conversation that begins on this line."""
        readers = (reader for reader in READERS if isinstance(value, dict) and reader.reads(value))
        reader = next(readers, None)
        if reader is None:
            yield BadLine(line, "it is no conversation of a known program; exports of Reservoir take no --partition")
            return
        try:
            conversation = reader.read(value)
        except (ValueError, RecursionError) as error:
            yield BadLine(line, str(error))
            return
        for reason in conversation.bad:
            yield BadLine(line, reason)
        yield from self._items(line, conversation)

    def _items(self, line: int, conversation: Conversation) -> Iterator[Item]:
        partition = self.partition or conversation.source
        root = _uid(conversation.source, partition, self.instance, conversation.id)
        scope = Scope(partition, self.instance or _name(conversation))
        parent, before = None, root
        created = conversation.created or datetime.now(UTC)
        for one in conversation.said:
            created = one.created or created
            turn = Turn.from_payload(json.dumps(one.payload), one.payload)
            who = _uid(str(root), one.id) if one.id else _uid(str(before), turn.role, turn.name, turn.digest.hex())
            source = next(self._numbers)
            said = Said(who, source, parent, turn, {"created": created})
            yield Item(line, scope, root, None, said=said, follows=self.instance is None)
            parent, before = source, who


def _uid(*parts: str | None) -> uuid.UUID:
    return uuid.uuid5(NAMESPACE, json.dumps(["foreign", *parts]))


def _name(conversation: Conversation) -> str:
    """The instance of a conversation: its title and the beginning of its id, as titles are often the same."""
    title = "".join(" " if character in CONTROLS else character for character in storable(conversation.title)).strip()
    about = storable(conversation.id)
    about = "".join(character for character in about if character not in CONTROLS).strip()
    if title and about:
        return f"{title[: NAME_LENGTH - SHORT_ID - 3].strip()} ({about[:SHORT_ID]})"
    if title or about:
        return (title or about)[:NAME_LENGTH]
    first = conversation.said[0].payload if conversation.said else {}
    return f"conversation {_uid(json.dumps(first, sort_keys=True)).hex[:SHORT_ID]}"
