"""Where a request names its model: in its JSON, in a field of its form, or in its path. Pure."""

from __future__ import annotations

import json
import re
from urllib.parse import quote, unquote

# The field of a form (RFC 7578), where a file before it is not too long to look behind.
_FIELD = re.compile(
    rb'Content-Disposition: *form-data; *name="model"[^\r\n]*\r\n(?:[^\r\n]+\r\n)*\r\n([^\r\n]{1,500})\r\n--',
    re.IGNORECASE,
)
LOOKED_AT = 2**16  # bytes of each end of a form
_MODELS = "models/"


def in_json(body: bytes) -> str:
    """The model that a JSON body names; empty where there is none."""
    try:
        fields = json.loads(body)
    except (ValueError, RecursionError):
        return ""
    model = fields.get("model") if isinstance(fields, dict) else None
    return model if isinstance(model, str) else ""


def in_form(part: bytes) -> str:
    """The model that this part of a form names; empty where there is none."""
    found = _FIELD.search(part)
    return found.group(1).decode(errors="replace") if found else ""


def in_path(rest: str) -> str:
    """The model that is asked about: models/{model}."""
    return unquote(rest.removeprefix(_MODELS)) if rest.startswith(_MODELS) else ""


def renamed_in_form(body: bytes, model: str) -> bytes:
    """The same form with another model."""
    found = _FIELD.search(body)
    return body[: found.start(1)] + model.encode() + body[found.end(1) :] if found else body


def renamed_in_path(model: str) -> str:
    """models/{model}."""
    return _MODELS + quote(model, safe="/:")
