"""A client that speaks JSON: sends a request with the header `content-type: application/json`, reads the answer.

    python examples/bare_json.py HOST:PORT

Answers are MessagePack, whatever the request was. LLMOS_KAFKA__TOPIC_PREFIX is put before every topic name.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import uuid

import msgpack
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer

PREFIX = os.environ.get("LLMOS_KAFKA__TOPIC_PREFIX", "")
RESULTS = PREFIX + "results"
SECONDS = 120


async def main(bootstrap: str) -> None:
    consumer = AIOKafkaConsumer(
        RESULTS, bootstrap_servers=bootstrap, isolation_level="read_committed", enable_auto_commit=False
    )
    producer = AIOKafkaProducer(bootstrap_servers=bootstrap, acks="all", enable_idempotence=True)
    await consumer.start()
    await producer.start()
    try:
        await consumer.seek_to_end()  # before the request is sent, so that its answer cannot be missed

        request = {
            "type": "request/1",
            "request_id": uuid.uuid4().hex,
            "tenant": "demo",
            "kind": "echo",
            "input": {"text": ["hello", "wörld"]},
        }
        sent = await producer.send_and_wait(
            PREFIX + "requests.interactive",
            json.dumps(request).encode(),
            headers=[("content-type", b"application/json")],
        )
        origin = ["requests.interactive", sent.partition, sent.offset]

        async with asyncio.timeout(SECONDS):
            while True:
                for records in (await consumer.getmany(timeout_ms=500)).values():
                    for record in records:
                        answer = msgpack.unpackb(record.value)
                        if answer["origin"] == origin:
                            show(answer)
                            return
    finally:
        await producer.stop()
        await consumer.stop()


def show(answer: dict) -> None:
    print("status:", answer["status"])
    if answer["status"] != "completed":
        sys.exit(answer["error"]["message"])
    for item in answer["items"]:
        print("text:", msgpack.unpackb(item["output"])["text"])


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
