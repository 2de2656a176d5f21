"""How large the copy of an answer may grow. Pure."""

from __future__ import annotations

COPY_LIMIT = 32 * 1024 * 1024  # bytes of an answer's text

COST_OF_AN_ENTRY = 256  # bytes that an entry of a dict or a list takes beside its text


class Room:
    """How much the sum may still grow; shared by all its parts."""

    def __init__(self) -> None:
        self._left = COPY_LIMIT
        self.exhausted = False

    def take(self, size: int) -> bool:
        """Whether there is room for `size` bytes. After the first refusal there never is: texts must have no holes."""
        if size > self._left:
            self.exhausted = True
        if not self.exhausted:
            self._left -= size
        return not self.exhausted
