"""What a process keeps of the scopes that are asked often. Thread-safe; knows no database.

What is kept of a scope follows the scope: news.py reads what is new and passes it on.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import NamedTuple

from django.conf import settings

from conversations.recall.corpus import Added, Corpus

OFTEN = 3  # questions, after which a scope is kept
LONG_AGO = datetime.min.replace(tzinfo=UTC)
ASKED = 1_000  # scopes whose questions are counted


class Key(NamedTuple):
    """A scope under an embedding model."""

    instance_id: int
    model: str  # its name


@dataclass(frozen=True, slots=True)
class Known:
    """A scope up to its latest message when it was read."""

    corpus: Corpus | None = None
    model_id: int = 0
    revision: int = 0
    messages: int = 0  # the scope's `message_count`
    created: datetime = LONG_AGO  # of the latest message, whether it can be recalled or not
    last: int = 0  # its id


@dataclass(frozen=True, slots=True)
class News:
    """A scope's messages from the latest one known on. `added` are those after it that can be recalled."""

    revision: int
    messages: int
    model_id: int
    found: int  # how many were read, with the latest one known
    first: int  # the id of the first of them: that of the latest one known, unless this is gone
    created: datetime  # of the last of them
    last: int
    added: Added

    def follow(self, known: Known) -> bool:
        """Whether this is all that is new, and nothing has changed of what is known."""
        return (
            self.revision == known.revision
            and self.model_id == known.model_id
            and self.first == known.last
            and self.found - 1 == self.messages - known.messages
        )

    def after(self, known: Known) -> Known:
        """What is known with the news. To be called once for what is known, see Corpus.plus()."""
        corpus = known.corpus.plus(self.added) if known.corpus else Corpus.of(self.added)
        return Known(corpus, self.model_id, self.revision, self.messages, self.created, self.last)


def limit() -> int:
    """Bytes that may be kept."""
    return int(settings.RESERVOIR_CACHE_MB) * 2**20


class Cache:
    """The scopes that are kept, those asked last at the end, within the limit."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._kept: OrderedDict[Key, Known] = OrderedDict()
        self._asked: OrderedDict[Key, int] = OrderedDict()  # how often, for scopes that are not kept
        self._wanted: OrderedDict[Key, None] = OrderedDict()
        self.wanting = threading.Event()  # set when there is a scope to load, see next_wanted()

    def ask(self, key: Key) -> Known | None:
        """What is known of a scope, perhaps no longer all. A scope that is asked often without being kept is wanted."""
        with self._lock:
            if known := self._kept.get(key):
                self._kept.move_to_end(key)
                return known
            self._asked[key] = self._asked.pop(key, 0) + 1
            if self._asked[key] >= OFTEN:
                self._want(key)
            if len(self._asked) > ASKED:
                self._asked.popitem(last=False)
            return None

    def follow(self, key: Key, known: Known, news: News | None) -> Known | None:
        """What is known with the news.

        None if the news do not follow from it: then it is not kept any longer, and wanted anew. Also None if another
        thread was faster.
        """
        with self._lock:
            if self._kept.get(key) is not known:
                return None
            if news is None or not news.follow(known):
                del self._kept[key]
                self._want(key)
                return None
            if news.found > 1 or len(news.added.of):
                self._kept[key] = known = news.after(known)
                self._make_room()
            return known

    def keep(self, key: Key, known: Known) -> None:
        """Keep a scope that has been loaded. If it is too large, it is let go, with those asked longer ago."""
        with self._lock:
            self._kept[key] = known
            self._make_room()

    def next_wanted(self) -> Key | None:
        """A scope to load."""
        with self._lock:
            if self._wanted:
                return self._wanted.popitem(last=False)[0]
            self.wanting.clear()
            return None

    def clear(self) -> None:
        """Forget everything."""
        with self._lock:
            for part in (self._kept, self._asked, self._wanted):
                part.clear()

    @property
    def size(self) -> int:
        """Bytes that are kept."""
        with self._lock:
            return sum(map(_size, self._kept.values()))

    def _want(self, key: Key) -> None:
        self._asked.pop(key, None)
        self._wanted[key] = None
        if len(self._wanted) > ASKED:  # there is no loader
            self._wanted.popitem(last=False)
        self.wanting.set()

    def _make_room(self) -> None:
        size = sum(map(_size, self._kept.values()))
        while size > limit():
            _, known = self._kept.popitem(last=False)
            size -= _size(known)


def _size(known: Known) -> int:
    return known.corpus.size if known.corpus else 0


cache = Cache()
"""The scopes that this process keeps."""
