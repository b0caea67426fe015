"""Records for topics of other owners: each topic by itself, in order, bounded, and never waited for."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from llmos.infra.log.memory import MemoryBroker, MemoryLog
from llmos.infra.log.port import Out, Place, TopicSpec
from llmos.infra.stages import offering as module
from llmos.infra.stages.offering import Offering
from llmos.infra.stages.reply_topics import MISSING_SECONDS, REFUSED_SECONDS
from tests.kit.bench import HandClock, configured, context
from tests.kit.beside import beside


class Owned:
    """An offering over a log in which chosen topics hang until they are let go; then they refuse."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *hanging: str, room: int = 1000) -> None:
        self.clock = HandClock()
        self.broker = MemoryBroker(self.clock)
        self.broker.create([TopicSpec(f"reply.{name}", 2, 3600.0, False, 1000) for name in "abc"])
        self.offering = Offering(context(self.clock, configured(), self.broker), room)
        self.go_on = asyncio.Event()
        self.tries: list[str] = []
        original = MemoryLog.offer

        async def offer(log: MemoryLog, place: Place, records: Sequence[Out]) -> bool:
            self.tries.append(place.topic)
            if place.topic in hanging:
                await self.go_on.wait()
                return False
            return await original(log, place, records)

        monkeypatch.setattr(MemoryLog, "offer", offer)

    def put(self, topic: str, *values: str, job_id: bytes | None = None) -> None:
        for value in values:
            self.offering.put(topic, Out(None, value.encode()), job_id)

    def parts(self, topic: str) -> list[list[str]]:
        dumps = self.broker.dump(topic).values()
        return [[(entry.record.value or b"").decode() for entry in dump] for dump in dumps]

    def there(self, topic: str) -> list[str]:
        return [value for part in self.parts(topic) for value in part]


async def test_a_topic_that_hangs_holds_up_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    """Others are written meanwhile, in order; what came for the one that hangs is dropped, and for a while what comes."""
    o = Owned(monkeypatch, "reply.a")
    async with beside(o.offering.run()):
        o.put("reply.a", "lost")
        o.put("reply.b", "0", "1", "2")
        await asyncio.sleep(0.01)
        assert o.there("reply.b") == ["0", "1", "2"]
        assert not o.offering.idle.is_set()
        o.go_on.set()
        await o.offering.idle.wait()
        o.put("reply.a", "soon")
        await o.offering.idle.wait()
        assert o.tries.count("reply.a") == 1
        o.clock.at += REFUSED_SECONDS
        o.put("reply.a", "later")
        await o.offering.idle.wait()
        assert o.tries.count("reply.a") == 2
    assert o.there("reply.a") == []


async def test_jobs_keep_to_their_partition(monkeypatch: pytest.MonkeyPatch) -> None:
    """A job's events stay together; what belongs to no job goes to the first partition."""
    o = Owned(monkeypatch)
    async with beside(o.offering.run()):
        for i in range(20):
            o.put("reply.a", f"{i % 5}", job_id=bytes([i % 5] * 16))
        o.put("reply.b", "x", "y")
        await o.offering.idle.wait()
    first, second = map(set, o.parts("reply.a"))
    assert first.isdisjoint(second)
    assert first
    assert second
    assert o.parts("reply.b") == [["x", "y"], []]


async def test_a_topic_that_is_not_there_takes_nothing_until_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is not tried; made a moment later, it is found."""
    o = Owned(monkeypatch)
    async with beside(o.offering.run()):
        o.put("reply.new", "lost")
        await o.offering.idle.wait()
        assert o.tries == []
        o.broker.create([TopicSpec("reply.new", 1, 3600.0, False, 1000)])
        o.clock.at += MISSING_SECONDS
        o.put("reply.new", "there")
        await o.offering.idle.wait()
    assert o.there("reply.new") == ["there"]


async def test_one_topic_takes_a_share_of_the_room_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """What hangs is kept in bounds, and leaves room for others; all of it is there again afterwards."""
    o = Owned(monkeypatch, "reply.a", room=400)
    async with beside(o.offering.run()):
        o.put("reply.a", *["x" * 50] * 10)
        o.put("reply.b", "y" * 100)
        await asyncio.sleep(0.01)
        assert o.there("reply.b") == ["y" * 100]
        o.go_on.set()
        await o.offering.idle.wait()
        assert o.there("reply.a") == []
        o.put("reply.b", "z" * 100)
        await o.offering.idle.wait()
        assert o.there("reply.b") == ["y" * 100, "z" * 100]


async def test_so_many_topics_at_once_and_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    """Further ones wait for a place, and are served then."""
    monkeypatch.setattr(module, "TOPICS_AT_ONCE", 1)
    o = Owned(monkeypatch, "reply.a")
    async with beside(o.offering.run()):
        o.put("reply.a", "lost")
        o.put("reply.b", "0")
        await asyncio.sleep(0.01)
        assert o.there("reply.b") == []
        o.go_on.set()
        await o.offering.idle.wait()
        assert o.there("reply.b") == ["0"]
