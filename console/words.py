"""Significant words: those that two texts share, those that label a topic. Pure."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Sequence

LONGEST = 24  # characters of a word in a label

_WORDS = re.compile(r"[^\W_][\w'\u2019-]*[^\W_]|[^\W_]")

# English words that do not characterise a topic.
_COMMON = """
    able about above actually after again already also although always another answer anything around assistant away
    back because been before being below best better between both bring called came cannot come conversation could
    course does doing don't done down during each earlier either else enough even ever every everything exactly feel
    find first four from gave give given going gone good great had happen happy hard has have having he'd he'll he's
    hello help here hers high himself hope i'd i'll i'm i've idea instead instructions into isn't it's itself just
    keep kind knew know last later least less let's like likely little long look looking lots made make makes making
    many maybe mean means memory might more most much must near nearly need needed needs never next nice none notes
    nothing often okay once only other others our ours out over own part people perhaps place please point possible
    pretty probably put quite rather read read-only really remember right said same say says second see seem seems
    sense set shall she should show since some something soon sound sounds start still such sure take taken talk tell
    than thank thanks that that's the their them then there there's these they they'd they'll they're thing things
    think this those though thought three through time times today together told took toward tried true try trying
    turn two under until upon use used user using very wait want wanted wants was wasn't way we'd we'll we're we've
    well went were what what's when where which while who whole whose why will with within without won't wonder work
    would wouldn't year years yes yet you you'd you'll you're you've your yours yourself
"""
COMMON = frozenset(_COMMON.split())


def words(text: str) -> list[str]:
    """The words of a text in lower case."""
    return [word.casefold().replace("\u2019", "'").removesuffix("'s") for word in _WORDS.findall(text)]


def tells_something(word: str) -> bool:
    """Whether a word is more than grammar."""
    return len(word) > 3 and word not in COMMON and not word.isdigit()


def labels(texts: Sequence[str], count: int = 3) -> list[str]:
    """For each text, the few words that set it apart from the others, joined by dots; may be empty."""
    counts = [Counter(word for word in words(text) if tells_something(word)) for text in texts]
    spread = Counter(word for one in counts for word in one)
    found = []
    for one in counts:
        weight = {word: (1 + math.log(n)) * math.log(1 + len(texts) / spread[word]) for word, n in one.items()}
        best = sorted(weight, key=lambda word: (-weight[word], -len(word), word))
        found.append(" · ".join(word if len(word) <= LONGEST else f"{word[:LONGEST]}…" for word in best[:count]))
    return found
