"""Pure: the part of all scopes that a caller may reach, as patterns of names."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

EVERY = "*"
BELOW = "/*"


class Pattern(NamedTuple):
    """A name, or the beginning of names up to a slash: `team/*` matches `team/a` and `team/a/b`, not `team`."""

    text: str
    is_prefix: bool

    @classmethod
    def of(cls, written: str) -> Pattern:
        """`*`, `name` or `beginning/*`. Raises ValueError, with advice, for a star at any other place."""
        if written == EVERY:
            return cls("", is_prefix=True)
        if written.endswith(BELOW) and EVERY not in written[:-1]:
            return cls(written[:-1], is_prefix=True)
        if not written.strip() or EVERY in written or not written.isprintable():
            raise ValueError(f"{written!r} is no pattern: write a name, team/* for all that begin with team/, or *.")
        return cls(written, is_prefix=False)

    def matches(self, name: str) -> bool:
        return name.startswith(self.text) if self.is_prefix else name == self.text


@dataclass(frozen=True, slots=True)
class Reach:
    """All scopes whose partition matches one of `partitions`, and whose instance matches one of `instances`."""

    partitions: tuple[Pattern, ...]
    instances: tuple[Pattern, ...]

    @classmethod
    def of(cls, partitions: list[str], instances: list[str]) -> Reach:
        """From patterns as they are written. Raises ValueError. Without patterns, nothing is reached."""
        return cls(tuple(map(Pattern.of, partitions)), tuple(map(Pattern.of, instances)))

    @property
    def is_everything(self) -> bool:
        return self.has_every_partition and self.has_every_instance

    @property
    def has_every_partition(self) -> bool:
        return EVERYTHING in self.partitions

    @property
    def has_every_instance(self) -> bool:
        return EVERYTHING in self.instances

    def covers_partition(self, name: str) -> bool:
        """Whether some instances of the partition are reached."""
        return bool(self.instances) and any(pattern.matches(name) for pattern in self.partitions)

    def covers(self, partition: str, instance: str) -> bool:
        return self.covers_partition(partition) and any(pattern.matches(instance) for pattern in self.instances)


EVERYTHING = Pattern.of(EVERY)
ALL = Reach((EVERYTHING,), (EVERYTHING,))
