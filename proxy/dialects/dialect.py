"""What a dialect is: what one API calls a request, its turns, the place for a block, its stream and its errors.

The pipeline tells one story in every dialect. Each dialect is a package with the same few parts: request.py (bytes ->
Chat), reply.py (the body of an answer -> Reply), deltas.py (a stream's events -> Reply), and dialect.py, which names
them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from proxy.answer.stream_copy import StreamCopy
from proxy.errors import ReservoirError
from proxy.prompt.chat import Chat, Json, MemoryRole, Reply


class Dialect(Protocol):
    """One API. Has no state."""

    @property
    def name(self) -> str:
        """As it is stored with an exchange."""

    @property
    def title(self) -> str:
        """As people call it."""

    @property
    def path(self) -> str:
        """The route below a base URL, without a slash at its beginning."""

    @property
    def names(self) -> bool:
        """Whether a message may have the name of its speaker."""

    @property
    def key_header(self) -> bytes:
        """The header of a provider's key."""

    @property
    def headers(self) -> Mapping[str, str]:
        """Headers that each request needs besides its key."""

    @property
    def messages_field(self) -> str:
        """The field of a request that holds its messages."""

    @property
    def in_parts(self) -> bool:
        """See Chat."""

    def instructions(self, fields: Json) -> tuple[str, ...]:
        """The texts that a request shows to the model besides its messages."""

    def decode(self, body: bytes) -> Chat:
        """A request's body -> its Chat. Raises BadRequest for a body that is no request of this API."""

    def place(self, role: MemoryRole) -> MemoryRole:
        """Where the memories stand, for a provider or a model that prefers `role`."""

    def copy(self) -> StreamCopy:
        """For one streamed answer."""

    def reply(self, body: bytes) -> Reply:
        """The body of an answer that was not streamed -> its Reply; an empty Reply for anything else."""

    def error(self, error: ReservoirError) -> bytes:
        """The body of one of our refusals."""
