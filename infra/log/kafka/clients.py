"""aiokafka's clients with our options, started and stopped within a time."""

from __future__ import annotations

import asyncio
from typing import Any

import structlog
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka.client import AIOKafkaClient
from aiokafka.errors import ProducerClosed

from llmos.infra.log.kafka.errors import RAISED, describe
from llmos.infra.log.sizes import BATCH_BYTES, SLACK_BYTES
from llmos.infra.settings.tree import Kafka
from llmos.schemas.limits import RECORD_BYTES

log = structlog.get_logger()

STOP_SECONDS = 5.0
"""`stop` of aiokafka waits through an outage of the broker; we do not."""
CUT_SECONDS = 1.0
"""What requests on their way get to come back, when nothing more is to be sent."""
RETRY_SECONDS = 0.05
"""Between two tries of a question."""
_PRODUCER: dict[str, Any] = {
    "acks": "all",
    "enable_idempotence": True,
    "linger_ms": 0,  # more makes it slower: batches form by themselves while one is on its way
    "max_batch_size": BATCH_BYTES,
    "max_request_size": RECORD_BYTES + SLACK_BYTES,
}


class Clients:
    """Makes clients of one name for one set of settings."""

    def __init__(self, settings: Kafka, client: str) -> None:
        self.settings = settings
        self._common: dict[str, Any] = {
            "bootstrap_servers": settings.bootstrap,
            "client_id": client,
            "request_timeout_ms": round(settings.request_seconds * 1000),
        }

    def client(self) -> Any:
        """A bare client, for questions."""
        return AIOKafkaClient(**self._common)

    def producer(self) -> Any:
        """An idempotent producer."""
        return AIOKafkaProducer(**self._common, **_PRODUCER)

    def transactional(self, wire_name: str) -> Any:
        """A transactional producer.

        Its transactions outlive an unanswered request, so that we, not the broker, say that one is ambiguous.
        """
        return AIOKafkaProducer(
            **self._common,
            **_PRODUCER,
            transactional_id=wire_name,
            transaction_timeout_ms=round(self.settings.request_seconds * 2000),
            retry_backoff_ms=5,  # the default, 100, is what a start after a crash would wait for the old one's end
        )

    def consumer(self, group: str | None, *, committed: bool) -> Any:
        """A reader's consumer: places by hand, nothing reset by itself.

        `committed`: it stops at the first open transaction and leaves out aborted ones; else it reads all that lies there.
        """
        return AIOKafkaConsumer(
            **self._common,
            group_id=group,
            enable_auto_commit=False,
            auto_offset_reset="none",
            isolation_level="read_committed" if committed else "read_uncommitted",
            max_partition_fetch_bytes=RECORD_BYTES + SLACK_BYTES,
        )

    def oracle(self) -> Any:
        """A consumer that is asked for offsets only: its ends are those of the log, open transactions included."""
        return AIOKafkaConsumer(
            **self._common,
            group_id=None,
            enable_auto_commit=False,
            isolation_level="read_uncommitted",
            retry_backoff_ms=20,
        )


async def stop_consumer(consumer: Any) -> None:
    """Ends a consumer within `STOP_SECONDS`."""
    await _bounded("consumer", consumer.stop())


async def stop_client(client: Any) -> None:
    """Ends a bare client within `STOP_SECONDS`."""
    await _bounded("client", client.close())


async def stop_producer(producer: Any) -> None:
    """Ends a producer within twice `STOP_SECONDS`; what it could not send by then is not sent."""
    if not await _bounded("producer", producer.stop()):
        sender = producer._sender.sender_task
        if sender is not None:
            # `stop` was waiting for deliveries; without this the sender would try for ever.
            sender.cancel()
        await _bounded("producer's connections", producer.client.close())
    _hear(producer)


async def cut_producer(producer: Any) -> None:
    """Ends a producer's sending at once: what has not left it is never sent. `stop_producer` is still to be called."""
    sender = producer._sender.sender_task
    for _ in range(2):  # at the first it waits for requests on their way, at the second it lets go of them
        sender.cancel()
        await asyncio.wait([sender], timeout=CUT_SECONDS)
    accumulator = producer._message_accumulator
    unsent = [*(batch for batches in accumulator._batches.values() for batch in batches), *accumulator._pending_batches]
    accumulator.fail_all(ProducerClosed())
    for batch in unsent:
        batch.future.exception()  # whoever waited for it may have gone


def _hear(producer: Any) -> None:
    """Asks for the errors that a failed producer left in futures of its own, else each is logged as never heard of."""
    futures = [batch._drain_waiter for batches in producer._message_accumulator._batches.values() for batch in batches]
    if producer._txn_manager is not None:
        futures.append(producer._txn_manager._transaction_waiter)
    for future in futures:
        if future is not None and future.done() and not future.cancelled():
            future.exception()


async def _bounded(what: str, stopping: Any) -> bool:
    try:
        async with asyncio.timeout(STOP_SECONDS):
            await stopping
    except RAISED as error:
        log.warning("kafka_stop_failed", what=what, problem=describe(error))
        return False
    return True
