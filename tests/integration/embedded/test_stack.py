"""The embedded stack on its real servers: addresses, restarts, durability, one owner, no orphans."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import redis.asyncio
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewTopic

from llmos.infra.embedded import broker
from llmos.infra.embedded.directory import StateDirectory, read_json, run_file
from llmos.infra.embedded.identity import started_at
from llmos.infra.embedded.jars import class_path, default_directory, read_lock
from llmos.infra.embedded.stack import embedded
from llmos.infra.settings import Settings, load
from llmos.schemas.errors import AlreadyRunning, ChecksumMismatch
from llmos.schemas.limits import RECORD_BYTES

TOPIC = "kept"


def own(tmp_path: Path, **overrides: object) -> Settings:
    return load(state_directory=tmp_path / "state", embedded={"kafka_heap": "256m"}, **overrides)


async def produce(bootstrap: str, values: list[bytes]) -> None:
    admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap)
    await admin.start()
    try:
        await admin.create_topics([NewTopic(TOPIC, num_partitions=1, replication_factor=1)])
    finally:
        await admin.close()
    producer = AIOKafkaProducer(bootstrap_servers=bootstrap, acks="all", max_request_size=RECORD_BYTES + 4096)
    await producer.start()
    try:
        for value in values:
            await producer.send_and_wait(TOPIC, value)
    finally:
        await producer.stop()


@asynccontextmanager
async def reading(bootstrap: str) -> AsyncIterator[AIOKafkaConsumer]:
    consumer = AIOKafkaConsumer(bootstrap_servers=bootstrap, auto_offset_reset="earliest")
    await consumer.start()
    try:
        consumer.assign([TopicPartition(TOPIC, 0)])
        yield consumer
    finally:
        await consumer.stop()


async def read(bootstrap: str, count: int) -> list[bytes]:
    async with asyncio.timeout(60), reading(bootstrap) as consumer:
        return [(await consumer.getone()).value for _ in range(count)]


async def pids(settings: Settings) -> dict[str, int]:
    found = {}
    for name in ("kafka", "redis"):
        noted = await asyncio.to_thread(read_json, run_file(settings.state_directory, name))
        assert noted is not None
        found[name] = noted["pid"]
    return found


async def broker_back(settings: Settings, before: int) -> None:
    """Returns when a broker in another process than `before` answers at the address of the settings."""
    port = int(settings.kafka.bootstrap.rpartition(":")[2])
    async with asyncio.timeout(60):
        while True:
            with contextlib.suppress(OSError, EOFError):
                if (await pids(settings))["kafka"] != before and await broker.answers(port):
                    return
            await asyncio.sleep(0.01)


async def test_the_largest_record_fits(settings: Settings) -> None:
    """A record of the size that the schema allows passes the broker."""
    values = [b"x" * RECORD_BYTES]
    await produce(settings.kafka.bootstrap, values)
    assert await read(settings.kafka.bootstrap, 1) == values


async def test_topics_are_not_made_by_accident(settings: Settings) -> None:
    """Naming a topic that does not exist does not make it."""
    admin = AIOKafkaAdminClient(bootstrap_servers=settings.kafka.bootstrap)
    await admin.start()
    try:
        (described,) = await admin.describe_topics(["nobody.made.this"])
        assert described["error_code"] == 3
        assert "nobody.made.this" not in await admin.list_topics()
    finally:
        await admin.close()


async def test_data_survives_restarts_on_the_same_ports(tmp_path: Path) -> None:
    """What was acknowledged is there after a clean stop and after a SIGKILL of both servers, at the same addresses.

    The killed servers are started again by the supervisor, without anybody's help.
    """
    settings = own(tmp_path)
    async with embedded(settings) as first:
        await produce(first.kafka.bootstrap, [b"1", b"2"])
        async with asyncio.timeout(60), redis.asyncio.from_url(first.redis.url) as client:
            await client.set("key", "value")
        stopped = await pids(settings)
    assert all(started_at(pid) is None for pid in stopped.values())
    async with embedded(settings) as second:
        assert (second.kafka.bootstrap, second.redis.url) == (first.kafka.bootstrap, first.redis.url)
        assert await read(second.kafka.bootstrap, 2) == [b"1", b"2"]
        async with asyncio.timeout(60), redis.asyncio.from_url(second.redis.url) as client:
            assert await client.get("key") == b"value"
        before = await pids(settings)
        for pid in before.values():
            os.kill(pid, signal.SIGKILL)
        await broker_back(second, before["kafka"])
        async with asyncio.timeout(60), redis.asyncio.from_url(second.redis.url) as client:
            assert await client.get("key") == b"value"
        assert await read(second.kafka.bootstrap, 2) == [b"1", b"2"]


async def test_what_the_settings_name_is_not_started(settings: Settings) -> None:
    """With both addresses given nothing is started and the settings come out as they went in."""
    async with embedded(settings) as filled:
        assert filled == settings
        assert not run_file(settings.state_directory, "kafka").exists()


async def test_a_second_start_on_the_same_directory_is_refused(settings: Settings) -> None:
    """Two stacks never share a state directory."""
    held = await asyncio.to_thread(StateDirectory.take, settings.state_directory)
    try:
        with pytest.raises(AlreadyRunning, match=str(os.getpid())):
            async with embedded(settings):
                pytest.fail("it started")
    finally:
        held.release()


def damaged_cache(cache: Path) -> Path:
    """A cache of all jars, one of them with another last byte; gives that one."""
    class_path()
    cache.mkdir()
    jars = read_lock()
    for jar in jars:
        (cache / jar.file).symlink_to(default_directory() / jar.file)
    damaged = cache / jars[0].file
    content = damaged.read_bytes()
    damaged.unlink()
    damaged.write_bytes(content[:-1] + b"!")
    return damaged


async def test_a_changed_jar_stops_the_start(tmp_path: Path) -> None:
    """The check stands before the real start: a cache with one changed jar runs nothing, and the directory is free."""
    damaged = await asyncio.to_thread(damaged_cache, tmp_path / "jars")
    settings = load(
        state_directory=tmp_path / "state",
        embedded={"jars_directory": damaged.parent},
        redis={"url": "redis://127.0.0.1:1/0"},
    )
    with pytest.raises(ChecksumMismatch, match=damaged.name):
        async with embedded(settings):
            pytest.fail("it started")
    assert not run_file(settings.state_directory, "kafka").exists()
    (await asyncio.to_thread(StateDirectory.take, settings.state_directory)).release()


OWNER = """
import asyncio, sys
from pathlib import Path
from llmos.infra.embedded.stack import embedded
from llmos.infra.settings import load

async def main():
    async with embedded(load()) as settings:
        print(settings.kafka.bootstrap, flush=True)
        await asyncio.sleep(600)

asyncio.run(main())
"""


async def test_a_killed_owner_leaves_no_orphan_and_no_lock(tmp_path: Path) -> None:
    """After SIGKILL of the owner broker and Redis are gone, and the next owner starts on the same data at once."""
    settings = own(tmp_path)
    environment = os.environ | {
        "LLMOS_STATE_DIRECTORY": str(settings.state_directory),
        "LLMOS_EMBEDDED__KAFKA_HEAP": "256m",
    }
    owner = await asyncio.create_subprocess_exec(
        sys.executable, "-c", OWNER, env=environment, stdout=asyncio.subprocess.PIPE
    )
    assert owner.stdout is not None
    try:
        async with asyncio.timeout(90):
            line = b""
            while not line.startswith(b"127.0.0.1:"):  # events are logged there too
                line = await owner.stdout.readline()
                assert line, "the owner ended"
        bootstrap = line.decode().strip()
        await produce(bootstrap, [b"kept"])
        orphans = await pids(settings)
    finally:
        owner.kill()
        await owner.wait()
    async with embedded(settings) as filled:
        assert all(started_at(pid) is None for pid in orphans.values())
        assert filled.kafka.bootstrap == bootstrap
        assert await read(bootstrap, 1) == [b"kept"]
