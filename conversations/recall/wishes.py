"""Pure: recognises standing wishes, which say what a user wants from now on.

"Always show the units", "I prefer short answers", "Call me Ada": they hold for later requests that share no word with
them. Word patterns recognise them when a message is stored; no language model reads it.
"""

from __future__ import annotations

import re

LOOKED_AT = 2_000  # characters from the start of a message; what follows is mostly pasted

_START = r"(?:^|[.!?;\n]\s*|[-*]\s+)(?:(?:and|also|please|but|so|then|ok(?:ay)?|hi|hey|thanks)[, ]+)*"
_IMPERATIVE = r"(?:please|always|never|do|don't|use|write|answer|reply|call|give|keep|include|show|avoid|stop)"
_NO_WISH = "fun|good|nice|great|here|up|full|mind|again|ever|been|had|seen|saw|say|give up"  # "Always fun"
_ENGLISH = [
    rf"{_START}(?:always|never) (?!(?:{_NO_WISH})\b|\w+ed\b)\w+",
    r"\b(?:please|you should|you must|can you|could you|will you|i want you to|i'd like you to) (?:always|never)\b",
    r"\bfrom (?:now|here|today|this point) on(?:wards?)?\b(?!\?)",
    rf"{_START}(?:going|moving) forward,? {_IMPERATIVE}\b",
    rf"{_START}in (?:the )?future,? {_IMPERATIVE}\b",
    r"\b(?:when|whenever|every time|each time|any time|if) i (?:ask|request|want you)\b",
    r"\bi(?:'d| would)? (?:\w+ly |always |much |kinda |also )?prefer\b(?! not\b)",
    r"\bmy (?:\w+ )?preferences? (?:is|are|for)\b",
    r"\bi (?:don't|do not|never) (?:like|want) (?:you|it when you|answers|responses)\b",
    r"\bi (?:really )?(?:like|love|hate|dislike) (?:it )?when (?:your )?(?:answers|responses|replies)\b",
    r"\b(?:call|address) me (?!back|when|if|at|on|crazy|in|tomorrow|later)\w+",
    r"\bkeep (?:your |the |all )?(?:answers?|responses?|repl(?:y|ies)|explanations?) \w+",
]
_OTHERS = {
    "german": [
        r"\b(?:ab (?:jetzt|sofort|heute)|von (?:nun|jetzt) an|in zukunft|künftig)\b",
        r"\bich (?:bevorzuge|ziehe es vor|möchte (?:immer|nie|lieber)|will (?:immer|nie|lieber))\b",
        r"\bnenn(?:e|en sie)? mich\b",
        r"(?:^|[.!?\n]\s*)(?:bitte )?\w+ (?:mir |bitte )*(?:immer|niemals|stets)\b",
    ],
    "french": [
        r"\b(?:dorénavant|désormais|à l'avenir|à partir de maintenant)\b",
        r"\bje préfère\b",
        r"\bappelle[zs]?-moi\b",
        r"(?:^|[.!?\n]\s*)(?:ne )?\w+(?:-moi)? (?:toujours|jamais)\b",
    ],
    "spanish": [
        r"\b(?:a partir de ahora|de ahora en adelante)\b",
        r"\bprefiero\b",
        r"\bllámame\b",
        r"(?:^|[.!?\n]\s*)(?:por favor,? )?(?:siempre|nunca)\b",
    ],
    "italian": [r"\b(?:d'ora in poi|da ora in poi)\b", r"\bpreferisco\b", r"\bchiamami\b"],
    "portuguese": [r"\b(?:a partir de agora|de agora em diante)\b", r"\bprefiro\b", r"\bme chame\b"],
    "dutch": [r"\b(?:vanaf nu|voortaan)\b", r"\bik (?:heb liever|geef de voorkeur)\b", r"\bnoem me\b"],
}
_CHINESE = [
    r"从现在(?:起|开始)|以后(?:请|都|不要|别)|今后|请(?:始终|总是|永远)|不要再|我(?:更|比较)喜欢你?用|我偏好|(?:请|就)叫我|称呼我"
]


def is_wish(text: str, language: str) -> bool:
    """Whether a user's message holds a standing wish, in English, Chinese or `language` (RESERVOIR_LANGUAGE)."""
    return bool(_PATTERNS.get(language, _PATTERNS["english"]).search(text[:LOOKED_AT].replace("\u2019", "'")))


_PATTERNS = {
    language: re.compile("|".join([*_ENGLISH, *_CHINESE, *others]), re.IGNORECASE)
    for language, others in {"english": [], **_OTHERS}.items()
}
