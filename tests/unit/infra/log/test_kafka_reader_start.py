"""A reader that is cancelled while it connects leaves no connection half made."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from llmos.infra.log.kafka.names import Names
from llmos.infra.log.kafka.reader import KafkaReader
from llmos.infra.log.port import Place
from llmos.infra.settings.tree import Kafka


async def test_cancelled_while_connecting_it_stops_what_has_started() -> None:
    """The start under way comes to its end first, then the consumer is stopped."""
    calls: list[str] = []
    began, go_on = asyncio.Event(), asyncio.Event()

    class Consumer:
        async def start(self) -> None:
            began.set()
            try:
                await go_on.wait()
            except asyncio.CancelledError:
                calls.append("cancelled")
                raise
            calls.append("started")

        async def stop(self) -> None:
            calls.append("stopped")

    class Clients:
        settings = Kafka.model_validate({"bootstrap": "x:1"})

        def consumer(self, group: str | None, *, committed: bool) -> Any:
            return Consumer()

    reader = KafkaReader(Clients(), Names(""), None, lambda reader: None)  # type: ignore[arg-type]
    reader.assign({Place("t", 0): 0})
    reading = asyncio.create_task(reader.read(timeout=1.0))
    await began.wait()
    reading.cancel()
    asyncio.get_running_loop().call_soon(go_on.set)
    with pytest.raises(asyncio.CancelledError):
        await reading
    assert calls == ["started", "stopped"]
