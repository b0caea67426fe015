"""One process of the bare chain: reads a topic, writes each record on, as fast as aiokafka can.

Batches form as they do in llmos: what was read together is sent together, one awaited batch per partition.
"""

from __future__ import annotations

import argparse
import asyncio
import signal
from typing import Any

import uvloop
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition


async def main(bootstrap: str, source: str, target: str, second: str, partitions: int) -> None:
    """Runs until SIGTERM."""
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    consumer = AIOKafkaConsumer(
        bootstrap_servers=bootstrap,
        enable_auto_commit=False,
        auto_offset_reset="earliest",
        isolation_level="read_committed",
    )
    producers = [
        AIOKafkaProducer(
            bootstrap_servers=bootstrap,
            acks="all",
            enable_idempotence=True,
            transactional_id=f"bare-{letter}" if second else None,
            retry_backoff_ms=5 if second else 100,
        )
        for letter in ("ab" if second else "a")
    ]
    for client in (consumer, *producers):
        await client.start()
    consumer.assign([TopicPartition(source, p) for p in range(partitions)])
    print("ready", flush=True)
    turn = 0
    try:
        while not stop.is_set():
            batches = await consumer.getmany(timeout_ms=200, max_records=2000)
            if batches:
                producer = producers[turn % len(producers)]
                turn += 1
                await (_transact(producer, batches, target, second) if second else _send(producer, batches, [target]))
    finally:
        for client in (consumer, *producers):
            await client.stop()


async def _send(producer: AIOKafkaProducer, batches: dict[TopicPartition, list[Any]], targets: list[str]) -> None:
    deliveries = []
    for place, records in batches.items():
        for target in targets:
            batch = producer.create_batch()
            for record in records:
                if batch.append(key=record.key, value=record.value, timestamp=None) is None:
                    deliveries.append(await producer.send_batch(batch, target, partition=place.partition))
                    batch = producer.create_batch()
                    batch.append(key=record.key, value=record.value, timestamp=None)
            deliveries.append(await producer.send_batch(batch, target, partition=place.partition))
    await asyncio.gather(*deliveries)


async def _transact(
    producer: AIOKafkaProducer, batches: dict[TopicPartition, list[Any]], target: str, second: str
) -> None:
    await producer.begin_transaction()
    await _send(producer, batches, [target, second])
    await producer.commit_transaction()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("--bootstrap", "--source", "--target"):
        parser.add_argument(name, required=True)
    parser.add_argument("--second", default="", help="a second target: the hop is transactional then")
    parser.add_argument("--partitions", type=int, required=True)
    given = parser.parse_args()
    uvloop.run(main(given.bootstrap, given.source, given.target, given.second, given.partitions))
