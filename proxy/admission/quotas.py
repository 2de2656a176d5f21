"""Limits and budgets: whether a request may run now, by its key and by its partition.

Requests are counted exactly, through PostgreSQL: a process takes a twentieth of a minute's requests at once, so each
may leave that many unused. Tokens and dollars are known after an answer, and exchanged with the other processes every
SYNC_SECONDS: a limit is exceeded by what runs, and what others have used, in that time. Slots of parallel requests are
leases; a process keeps an idle one until the next exchange. While the database does not answer, each process holds to
the limits by itself.
"""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Callable, Mapping
from contextlib import AsyncExitStack, suppress
from decimal import Decimal
from functools import partial
from typing import Any, Protocol, TypeVar

from access import metering
from access.limits import Kind, Limits, batch
from proxy.admission.caller import Caller
from proxy.admission.keyring import Keyring
from proxy.admission.meter import Meter, headers
from proxy.errors import RateLimited, Unavailable
from proxy.prompt.chat import Reply
from proxy.upstream import Headers

T = TypeVar("T")

SYNC_SECONDS = 1.0
TIDY_SECONDS = 60.0
LIMITS_SECONDS = 4.0  # for which the limits of partitions are used as last read
IDLE_SECONDS = 120.0  # after which a process forgets a subject
SHARE = 0.5  # of a server process's slots that one key may hold

TOKENS = (("prompt_tokens", "input_tokens"), ("completion_tokens", "output_tokens"))
BYTES_A_TOKEN = 4  # roughly, where a provider does not count


class Answered(Protocol):
    """The part of an exchange's result that is charged."""

    @property
    def reply(self) -> Reply: ...


class Quotas:
    """Created once per server process. `slots` is how many requests the process runs at once."""

    def __init__(self, keyring: Keyring, *, slots: int) -> None:
        self._keyring = keyring
        self._share = max(1, int(slots * SHARE))
        self._holder = uuid.uuid4()
        self._meters: dict[str, Meter] = {}
        self._partitions: dict[str, Limits] = {}
        self._partitions_read = float("-inf")
        self._tidied = time.monotonic()
        self._syncing: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to exchange figures with the other processes."""
        self._syncing = asyncio.create_task(self._sync())

    async def stop(self) -> None:
        """Tell the others what was used, and give all slots back."""
        if self._syncing:
            self._syncing.cancel()
            await asyncio.gather(self._syncing, return_exceptions=True)
        for meter in self._meters.values():
            meter.busy = 0
        with suppress(Unavailable):
            await self._exchange()

    async def admit(self, caller: Caller, partition: str | None, closing: AsyncExitStack) -> None:
        """Count a request, until `closing` ends. Raises RateLimited."""
        if caller.key_id:
            await self._run(f"key:{caller.key_id}", caller.limits, closing, self._share)
        if partition is not None and (limits := self._limits_of(partition)):
            await self._run(f"partition:{partition}", limits, closing, None)

    def charge(
        self,
        caller: Caller,
        partition: str,
        cost: Callable[[Mapping[str, Any]], Decimal | None],
        size: int,
        result: Answered,
    ) -> None:
        """Charge an answer to its key and its partition. `size` is that of the request in bytes.

        Where the provider does not say how many tokens it counted, as in many streams, they are estimated.
        """
        if self._limited(caller, partition):
            self.spend(caller, partition, cost, _usage(result.reply, size))

    def spend(
        self,
        caller: Caller,
        partition: str,
        cost: Callable[[Mapping[str, Any]], Decimal | None],
        usage: Mapping[str, Any],
    ) -> None:
        """Charge what an answer states, in OpenAI's words, to its key and its partition."""
        for meter in self._limited(caller, partition):
            meter.new_tokens += _tokens(usage)
            meter.new_dollars += cost(usage) or 0

    def counts(self, caller: Caller, partition: str) -> bool:
        """Whether it matters what this caller uses in this partition."""
        return any(
            meter.limits.tokens is not None or meter.limits.dollars is not None
            for meter in self._limited(caller, partition)
        )

    def headers(self, caller: Caller, partition: str | None) -> Headers:
        """What the answer to an admitted or refused request tells of its limits; nothing without any."""
        return headers(self._limited(caller, partition))

    def _limited(self, caller: Caller, partition: str | None) -> list[Meter]:
        subjects = [f"key:{caller.key_id}"] if caller.key_id else []
        if partition in self._partitions:
            subjects.append(f"partition:{partition}")
        found = (self._meters.get(subject) for subject in subjects)
        return [meter for meter in found if meter and not meter.limits.is_none]

    def _limits_of(self, partition: str) -> Limits | None:
        """The limits of a partition, as read a few seconds ago: reading them delays no request."""
        if time.monotonic() - self._partitions_read >= LIMITS_SECONDS:
            self._partitions_read = time.monotonic()
            self._keyring.write(self._read_partitions)
        return self._partitions.get(partition)

    def _read_partitions(self) -> None:
        self._partitions = metering.partition_limits()

    async def _run(self, subject: str, limits: Limits, closing: AsyncExitStack, share: int | None) -> None:
        meter = self._meters.setdefault(subject, Meter())
        meter.limits, meter.seen = limits, time.monotonic()
        if share is not None and meter.busy >= share:
            raise RateLimited("This key runs as many requests as one key may on this server.", Kind.REQUESTS, seconds=1)
        meter.check_spending()
        if limits.parallel is not None and meter.busy >= meter.leased:
            async with meter.turn:
                await self._lease(subject, meter, limits.parallel)
        meter.begin()
        closing.callback(meter.end)
        if limits.requests is not None:
            if not meter.left or time.monotonic() >= meter.minute_ends:
                async with meter.turn:
                    await self._take(subject, meter, limits.requests)
            meter.left -= 1

    async def _lease(self, subject: str, meter: Meter, limit: int) -> None:
        """Have a slot free for one more request. Raises RateLimited."""
        wanted = meter.busy + 1
        if wanted <= meter.leased:
            return
        granted = wanted <= limit
        if granted:
            ask = partial(metering.lease, subject, self._holder, slots=wanted, limit=limit)
            granted = await self._ask(ask, otherwise=True)
        if not granted:
            raise RateLimited(f"At most {limit} requests may run at the same time.", Kind.REQUESTS, seconds=1)
        meter.leased = wanted

    async def _take(self, subject: str, meter: Meter, limit: int) -> None:
        """Have one of this minute's requests left. Raises RateLimited."""
        if time.monotonic() >= meter.minute_ends:
            meter.left, meter.used_up = 0, False
        if not meter.left and not meter.used_up:
            wanted = batch(limit)
            alone = metering.Taken(wanted, 60 * wanted / limit, 0)  # without a database: at an even pace
            taken = await self._ask(
                partial(metering.take_requests, subject, limit=limit, wanted=wanted), otherwise=alone
            )
            meter.left, meter.used_up = taken.granted, taken is alone or taken.granted < wanted
            meter.not_taken = taken.left
            meter.minute_ends = time.monotonic() + taken.seconds
        if not meter.left:
            seconds = meter.minute_ends - time.monotonic()
            sentence = f"The limit of {limit} requests a minute is reached."
            raise RateLimited(sentence, Kind.REQUESTS, seconds=seconds)

    async def _ask(self, work: Callable[[], T], *, otherwise: T) -> T:
        try:
            return await self._keyring.ask(work)
        except Unavailable:
            return otherwise

    async def _sync(self) -> None:
        while True:
            await asyncio.sleep(SYNC_SECONDS)
            with suppress(Unavailable):
                await self._exchange()

    async def _exchange(self) -> None:
        """Tell what was used here, read what was used everywhere, renew leases of slots and give idle ones back."""
        now = time.monotonic()
        self._meters = {
            subject: meter for subject, meter in self._meters.items() if meter.busy or now - meter.seen < IDLE_SECONDS
        }
        for subject, meter in list(self._meters.items()):
            if meter.limits.tokens is not None or meter.limits.dollars is not None:
                await self._tell(subject, meter)
            if meter.leased:
                async with meter.turn:
                    meter.leased = meter.busy
                    await self._keyring.ask(partial(metering.keep, self._holder, {subject: meter.leased}))
        if now - self._tidied >= TIDY_SECONDS:
            self._tidied = now
            await self._keyring.ask(metering.tidy)

    async def _tell(self, subject: str, meter: Meter) -> None:
        tokens, dollars = meter.new_tokens, meter.new_dollars
        used = await self._keyring.ask(partial(metering.spend, subject, tokens, dollars))
        now = time.monotonic()
        meter.new_tokens -= tokens
        meter.new_dollars -= dollars
        meter.tokens, meter.dollars = used.tokens, used.dollars
        meter.tokens_end, meter.month_ends = now + used.minute_seconds, now + used.month_seconds


def _tokens(usage: Mapping[str, Any]) -> int:
    """Those of the request and of the answer; APIs name them differently, and some name them twice."""
    return sum(max((_count(usage.get(name)) for name in names), default=0) for names in TOKENS)


def _count(number: Any) -> int:
    return number if type(number) is int and 0 <= number < 2**31 else 0


def _usage(reply: Reply, size: int) -> dict[str, Any]:
    """The usage of an answer; its tokens are estimated where the provider does not count them."""
    stated = reply.usage or {}
    if _tokens(stated):
        return dict(stated)
    answer = sum(len(message.raw) for message in reply.messages)
    if not answer:  # the provider refused, or gave no answer
        return dict(stated)
    return stated | {"prompt_tokens": size // BYTES_A_TOKEN, "completion_tokens": answer // BYTES_A_TOKEN}
