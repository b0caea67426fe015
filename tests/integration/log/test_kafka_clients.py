"""What clients may do to a log on Kafka: odd header names, topics deleted under our hands."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from aiokafka import AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.consumer import fetcher
from aiokafka.producer import message_accumulator
from aiokafka.record.default_records import _DefaultRecordBatchBuilderPy

from llmos.infra.log.kafka import KafkaLog
from llmos.infra.log.port import Out, Record
from llmos.infra.settings import Settings
from tests.kit.log_bench import A0, collect, everything, outs, spec, values


class _Odd(str):
    """A header name whose bytes are not UTF-8; aiokafka's producer asks it for its bytes."""

    __slots__ = ()

    def encode(self, *_: Any, **__: Any) -> bytes:
        return b"\xff\xfeab"


async def _produce_odd(settings: Settings, topic: str, count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """One batch of which every second record has an odd header name."""
    # The fast builder takes nothing but strings; the one in Python asks a string for its bytes.
    monkeypatch.setattr(message_accumulator, "DefaultRecordBatchBuilder", _DefaultRecordBatchBuilderPy)
    producer = AIOKafkaProducer(bootstrap_servers=settings.kafka.bootstrap)
    await producer.start()
    try:
        batch = producer.create_batch()
        for i in range(count):
            headers = [(_Odd("abcd") if i % 2 else "name", b"v")]
            batch.append(key=None, value=f"odd {i}".encode(), timestamp=None, headers=headers)
        await (await producer.send_batch(batch, topic, partition=0))
    finally:
        await producer.stop()


async def test_header_names_that_are_not_utf8_stop_nothing(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """All records of the batch are read, in order and once, and those behind it; the odd names are told as good as may be."""
    monkeypatch.setattr(fetcher, "MemoryRecords", fetcher.MemoryRecords)  # this test leaves the fast decoder in place
    log = await KafkaLog.connect(settings.kafka, "one")
    try:
        await log.ensure([spec()])
        await log.emit(A0, outs("before"))
        await _produce_odd(settings, f"{settings.kafka.topic_prefix}{A0.topic}", 4, monkeypatch)
        await log.emit(A0, [Out(b"k", b"behind", (("h", b"x"),))])
        reader = log.reader()
        reader.assign({A0: 0})
        found: list[Record] = await collect(reader, 6)
        assert values(found) == ["before", "odd 0", "odd 1", "odd 2", "odd 3", "behind"]
        assert [record.offset for record in found] == list(range(6))
        assert found[2].headers == (("\ufffd\ufffdab", b"v"),)
        assert found[5].headers == (("h", b"x"),)
    finally:
        await log.close()


async def test_a_deleted_topic_costs_an_offer_and_nothing_else(settings: Settings) -> None:
    """What is offered to it is dropped within seconds; other topics are written as before, offers too."""
    log = await KafkaLog.connect(settings.kafka, "one")
    try:
        await log.ensure([spec(), spec("reply.gone", 1)])
        gone = A0._replace(topic="reply.gone")
        assert await log.offer(gone, outs("a"))
        admin = AIOKafkaAdminClient(bootstrap_servers=settings.kafka.bootstrap)
        await admin.start()
        await admin.delete_topics([f"{settings.kafka.topic_prefix}reply.gone"])
        await admin.close()
        assert not await log.offer(gone, outs("b"))
        assert await log.emit(A0, outs("c")) == 0
        assert await log.offer(A0, outs("d"))
    finally:
        await log.close()


async def test_offers_beside_one_that_hangs_are_written(settings: Settings) -> None:
    """Also those on their way at the moment when it is given up, and those after it."""
    log = await KafkaLog.connect(settings.kafka, "one")
    try:
        await log.ensure([spec(), spec("reply.gone", 1)])
        gone = A0._replace(topic="reply.gone")
        assert await log.offer(gone, outs("a"))
        admin = AIOKafkaAdminClient(bootstrap_servers=settings.kafka.bootstrap)
        await admin.start()
        await admin.delete_topics([f"{settings.kafka.topic_prefix}reply.gone"])
        await admin.close()
        hanging = asyncio.create_task(log.offer(gone, outs("b")))
        taken = 0
        while not hanging.done():
            assert await log.offer(A0, outs(str(taken)))
            taken += 1
        assert not await hanging
        assert await log.offer(A0, outs("after"))
        assert taken > 1
        assert values(await everything(log, A0)) == [*map(str, range(taken)), "after"]
    finally:
        await log.close()
