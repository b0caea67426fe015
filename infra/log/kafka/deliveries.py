"""The deliveries of one transaction: all are awaited, but topics of other owners hold up `results` and `usage` for a moment only.

A topic that was deleted a moment ago takes nothing and refuses nothing, and while a transaction names it the broker lets
no other place into it either. So who is late is asked for, and when a copy has had its time it is told as refused.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from llmos.infra.log.kafka.batches import fill
from llmos.infra.log.kafka.errors import FENCED, UNWRITABLE, UNWRITABLE_RECORDS, describe
from llmos.infra.log.kafka.queries import Queries
from llmos.infra.log.port import COPY_SECONDS, Out, Place, Refusal
from llmos.schemas.errors import Ambiguous
from llmos.schemas.topics import of_others

LOOK_SECONDS = 0.25
"""How often it is asked whether the topics that are late are still there."""
_PATIENCE = 3
"""When `results` and `usage` are late, too, the broker is: only after this part of a request's time the copies are blamed."""
_SUSPECTS = 4
"""So many late copies are tried again, each place by itself; more of them would take too long."""

Wire = Callable[[str], str]
"""A topic's name as Kafka knows it."""


async def deliver(
    producer: Any, wire: Wire, queries: Queries, batches: Mapping[Place, Sequence[Out]], seconds: float
) -> tuple[dict[Place, int], dict[Place, Refusal]]:
    """Sends and awaits every delivery: a commit or abort sent earlier would wait 100 ms for them.

    Gives the offset of the first record per place, and who refused; with a refusal the transaction can only be aborted.
    Raises what aiokafka raises, and `Ambiguous`.
    """
    copies: dict[asyncio.Task[int], Place] = {}
    own: list[tuple[Place, asyncio.Future[Any]]] = []
    try:
        for place, outs in batches.items():
            if not of_others(place.topic):
                own += [(place, delivery) for delivery in await _send(producer, wire(place.topic), place, outs)]
        for place, outs in batches.items():
            if of_others(place.topic):
                copies[asyncio.create_task(_copy(producer, wire(place.topic), place, outs), name="copy")] = place
        if copies and (hung := await _hung([delivery for _, delivery in own], copies, queries, seconds)):
            return {}, hung
        results = await asyncio.gather(*(delivery for _, delivery in own), return_exceptions=True)
        firsts: dict[Place, int] = {}
        refusals: dict[Place, Refusal] = {}
        for (place, _), result in zip(own, results, strict=True):
            if not isinstance(result, BaseException):
                firsts.setdefault(place, _offset(place, result))
            elif type(result) in UNWRITABLE:
                refusals[place] = _refusal(result)
            else:
                raise result
        for task, place in copies.items():
            error = task.exception()
            if error is None:
                firsts[place] = task.result()
            elif type(error) in FENCED:
                raise error
            else:
                refusals[place] = _refusal(error)
        return firsts, refusals
    finally:
        for task in copies:
            task.cancel()
        _hear([*copies, *(delivery for _, delivery in own)])


async def _send(producer: Any, topic: str, place: Place, outs: Sequence[Out]) -> list[asyncio.Future[Any]]:
    deliveries = []
    sent = 0
    while sent < len(outs):
        batch, sent = fill(producer, outs, sent)
        deliveries.append(await producer.send_batch(batch, topic, partition=place.partition))
    return deliveries


async def _copy(producer: Any, topic: str, place: Place, outs: Sequence[Out]) -> int:
    deliveries = await _send(producer, topic, place, outs)
    try:
        return min([_offset(place, await delivery) for delivery in deliveries])
    finally:
        _hear(deliveries)


def _offset(place: Place, delivered: Any) -> int:
    if delivered is None or delivered.offset < 0:
        raise Ambiguous(operation=f"delivery to {place.topic}", problem="it has no offset")
    offset: int = delivered.offset
    return offset


def _refusal(error: BaseException) -> Refusal:
    return Refusal(describe(error), whole=type(error) not in UNWRITABLE_RECORDS)


async def _hung(
    own: Sequence[asyncio.Future[Any]], copies: Mapping[asyncio.Task[int], Place], queries: Queries, seconds: float
) -> dict[Place, Refusal]:
    """Waits until everything is delivered, or it is known which copies never will be; none where something else failed."""
    loop = asyncio.get_running_loop()
    began = loop.time()
    own_in: float | None = None
    waiting: set[asyncio.Future[Any]] = {*own, *copies}
    while True:
        _, waiting = await asyncio.wait(waiting, timeout=LOOK_SECONDS)
        late = [place for task, place in copies.items() if task in waiting]
        if not late or any(one.done() and not one.cancelled() and one.exception() for one in own):
            return {}
        missing = await _missing(late, queries)
        if missing:
            return dict.fromkeys(missing, Refusal("there is no such topic", whole=True))
        now = loop.time()
        if own_in is None and waiting.isdisjoint(own):
            own_in = now
        if (own_in is not None and now - own_in >= COPY_SECONDS) or now - began >= seconds / _PATIENCE:
            # One of a few may have held up the others: each is to be tried by itself.
            whole = not 1 < len(late) <= _SUSPECTS
            return dict.fromkeys(late, Refusal(f"it took nothing for {now - began:.1f} s", whole=whole))


async def _missing(places: Iterable[Place], queries: Queries) -> list[Place]:
    """Those whose topic or partition does not exist, as far as a broker says so in time."""
    missing: list[Place] = []
    try:
        async with asyncio.timeout(COPY_SECONDS):
            for place in places:
                partitions = await queries.partitions(place.topic)
                if partitions is None or place.partition >= partitions:
                    missing.append(place)
    except (TimeoutError, Ambiguous):
        # The broker is late, not the topic: who waits goes on waiting, as long as a request may take.
        return missing
    return missing


def _hear(deliveries: Iterable[asyncio.Future[Any]]) -> None:
    """Errors that nobody asks for any more, once the transaction is lost; else each is logged as never heard of."""
    for delivery in deliveries:
        delivery.add_done_callback(lambda done: None if done.cancelled() else done.exception())
