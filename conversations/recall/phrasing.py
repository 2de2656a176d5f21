"""Pure: how a query is phrased, which decides how much the parts of the formula count.

A question shares words with its answer. A statement ("I can't sleep lately") or a request ("Write a toast for her")
rather shares meaning with what was said before, and its words mislead.
"""

from __future__ import annotations

import re

KEYWORDS = 4  # words of a query such as "spare key"

_SENTENCE = re.compile(r"[.!,;:]|\bI\b")
_MARKS = re.compile("[?？؟]")  # noqa: RUF001
_VERB = (
    "is|are|was|were|am|do|does|did|has|have|had|can|could|will|would|should|shall|may|might|isn't|aren't|wasn't|don't"
    "|doesn't|didn't|hasn't|haven't|can't|couldn't|won't|wouldn't|shouldn't"
)
# Questions, and requests to look something up, that end without a mark. Without "When I was young" and "What a day".
_BEGINS = re.compile(
    r"^\W*(?:(?:please|so|and|but|ok(?:ay)?|hey|hi|well|now|then|also|kindly|bitte|und)[, ]+)*(?:"
    rf"(?:{_VERB}) (?:i|you|we|he|she|they|it|there|anyone|anybody|someone)"
    rf"|(?:when|where) (?:{_VERB})|what(?! an? )(?:'?s)?|who(?:m|se|'s)?|which|why|how"
    r"|summari[sz]e|describe|list|explain|tell|remind|recall|remember|compare|outline|recap|identify|mention|look up"
    r"|(?:give|show|find) (?:me|us)"
    r"|wer|wem|wen|wessen|was|welche[rsmn]?|wann|wo|woher|wohin|warum|wieso|weshalb|wie|erinnere|nenne|beschreibe|fasse"
    r"|qui|quoi|quel(?:le)?s?|quand|où|pourquoi|comment|combien|est-ce|résume|décris|rappelle"
    r"|quién|qué|cuál|cuándo|dónde|cómo|cuánto|recuerda"
    r")\b",
    re.IGNORECASE,
)
# Scripts without spaces: pairs of characters are better evidence than the local model's vectors, whatever the phrasing.
_UNSPACED = re.compile("[\u3041-\u30ff\u3400-\u4dbf\u4e00-\u9fff\u0e01-\u0e4e]")
_PAST = (
    "said|told|suggested|recommended|mentioned|explained|advised|gave|proposed|wrote|listed|showed|described|answered"
)
_ASSISTANT_SAID = re.compile(
    rf"\byou (?:\w+ )?(?:{_PAST})\b"
    r"|\bdid you (?:\w+ )?(?:say|tell|suggest|recommend|mention|explain|advise|give|propose|write|list|show|describe)\b"
    r"|\byour (?:\w+ )?(?:answer|advice|suggestion|recommendation|explanation|response|reply|proposal)s?\b"
    r"|\bhast du (?:\w+ ){0,4}(?:gesagt|empfohlen|vorgeschlagen|erklärt|geschrieben)\b"
    r"|你(?:说|說|建议|建議|推荐|推薦|告诉)",
    re.IGNORECASE,
)


def is_question(text: str) -> bool:
    """Whether the words of a query are like those of its answer.

    So it is if the query asks something (in some languages shown by its first words, in others by its mark), if it is
    a few keywords, and in scripts without spaces.
    """
    if len(text.split()) <= KEYWORDS and not _SENTENCE.search(text):
        return True
    return bool(_MARKS.search(text) or _BEGINS.match(text) or _UNSPACED.search(text))


def asks_what_the_assistant_said(text: str) -> bool:
    return bool(_ASSISTANT_SAID.search(text))
