"""A client with nothing but a Kafka library and msgpack: sends a request, shows its stream and its answer.

    python examples/bare_msgpack.py HOST:PORT

The environment variable LLMOS_KAFKA__TOPIC_PREFIX is put before every topic name, as in the services.
"""

from __future__ import annotations

import asyncio
import os
import sys
import uuid

import msgpack
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer

PREFIX = os.environ.get("LLMOS_KAFKA__TOPIC_PREFIX", "")
SECONDS = 120


async def main(bootstrap: str) -> None:
    # 1. Read from the ends of `stream` and `results` as they are BEFORE the request is sent: nothing can be missed.
    consumer = AIOKafkaConsumer(
        PREFIX + "stream",
        PREFIX + "results",
        bootstrap_servers=bootstrap,
        isolation_level="read_committed",  # answers are written in transactions
        enable_auto_commit=False,
    )
    producer = AIOKafkaProducer(bootstrap_servers=bootstrap, acks="all", enable_idempotence=True)
    await consumer.start()
    await producer.start()
    try:
        await consumer.seek_to_end()

        # 2. A request is one MessagePack map. The acknowledgement names its origin: topic, partition, offset.
        request = {
            "type": "request/1",
            "request_id": uuid.uuid4().hex,
            "tenant": "demo",
            "kind": "generate",
            "model": "shakespeare-decoder",
            "input": {"prompt": "ROMEO:\n", "max_tokens": 24},
            "events": "tokens",
        }
        sent = await producer.send_and_wait(PREFIX + "requests", msgpack.packb(request))
        origin = ["requests", sent.partition, sent.offset]  # names inside messages have no prefix

        # 3. Everything about this request carries that origin; the answer comes exactly once.
        async with asyncio.timeout(SECONDS):
            while True:
                for place, records in (await consumer.getmany(timeout_ms=500)).items():
                    for record in records:
                        message = msgpack.unpackb(record.value)
                        if message["origin"] != origin:
                            continue
                        if place.topic == PREFIX + "results":
                            show(message)
                            return
                        print("event:", message.get("state") or repr(message.get("text", "")))
    finally:
        await producer.stop()
        await consumer.stop()


def show(answer: dict) -> None:
    print("status:", answer["status"])
    if answer["status"] != "completed":
        sys.exit(answer["error"]["message"])
    for item in answer["items"]:
        # Fields that have their default value are left out of a message.
        print("text:", repr(msgpack.unpackb(item["output"])["text"]))


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
