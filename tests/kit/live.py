"""What tests on a running stack share: waits for what its services say, processes put to sleep, topics of a test's own."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterator
from pathlib import Path
from typing import TypeVar

import pytest
from aiokafka.admin import AIOKafkaAdminClient, NewTopic

from llmos.client import Client, Submission
from llmos.infra.runtime.deadline import Deadline
from tests.kit.counter import Origin
from tests.stack import Stack

SECONDS = 60.0
_LOOK_SECONDS = 0.05
T = TypeVar("T")


@contextlib.contextmanager
def clean_environment() -> Iterator[None]:
    """For a stack that serves a whole module, which starts before any test's own clean environment is there."""
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith("LLMOS_")]:
            patch.delenv(name)
        patch.setattr("llmos.infra.settings.tree.config_file", lambda: Path(os.devnull))
        yield


def origin(submission: Submission) -> Origin:
    """A submission's origin as the independent reader has it."""
    return submission.origin.topic, submission.origin.partition, submission.origin.offset


async def make_topic(bootstrap: str, name: str, settings: dict[str, str] | None = None) -> None:
    """Makes a topic of one partition, as its owner would."""
    admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap)
    await admin.start()
    try:
        await admin.create_topics([NewTopic(name, 1, 1, topic_configs=settings)])
    finally:
        await admin.close()


async def until(ask: Callable[[], Awaitable[T]], good: Callable[[T], bool], timeout: float = SECONDS) -> T:
    """Asks again and again until the reply is good; gives it. Fails with the last one after `timeout` seconds."""
    deadline = Deadline(timeout)
    while not good(reply := await ask()):
        assert deadline.left(), f"after {timeout:g} s it is still {reply!r}"
        await asyncio.sleep(_LOOK_SECONDS)
    return reply


async def devices_alive(client: Client, wanted: Collection[str]) -> None:
    """Waits until the scheduler takes just these devices for alive."""

    async def ask() -> set[str]:
        report = await client.query("devices", timeout=SECONDS)
        return {device["device"] for device in report["devices"] if device["alive"]}

    await until(ask, lambda alive: alive == set(wanted))


@contextlib.asynccontextmanager
async def asleep(stack: Stack, name: str) -> AsyncIterator[int]:
    """SIGSTOP, and SIGCONT at the end if it still sleeps; gives the process id."""
    pid = await stack.pause(name)
    try:
        yield pid
    finally:
        if await stack.pid(name) == pid:
            await stack.resume(name)
