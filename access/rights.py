"""Pure: the rights that a key can have."""

from __future__ import annotations

from enum import StrEnum


class Right(StrEnum):
    """What a key may do in the partitions and instances that it reaches."""

    COMPLETE = "complete"  # ask a model, by a route of which the provider keeps nothing that others could list
    RELAY = "relay"  # use every other route of the provider: files, batches, stored answers of all who share its key
    RECALL = "recall"  # see what would be recalled for a text
    READ = "read"  # read stored conversations
    FORGET = "forget"  # have them forgotten
    EXPORT = "export"  # take them out as a whole
    MANAGE = "manage"  # see how the server itself does: figures of all keys, but no text


ALL = frozenset(Right)
APP = (Right.COMPLETE, Right.RECALL)  # what most apps need
