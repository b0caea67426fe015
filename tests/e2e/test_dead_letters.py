"""Dead letters on a whole system: an operator finds out why a request died, mends it, puts it back, and it is answered."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import msgpack
import pytest
from aiokafka import AIOKafkaProducer

from llmos.client import Client, DeadLettered, Submission
from llmos.infra.crypto.credentials import load_credentials
from llmos.schemas.job import Origin
from llmos.schemas.tasks import EchoOutput
from tests.e2e.test_cli import llmos
from tests.kit.counter import Reader
from tests.kit.live import SECONDS
from tests.stack import Stack

TEXT = "am I here?"
FORGED = msgpack.packb(
    {"type": "request/1", "request_id": "f", "tenant": "demo", "kind": "echo", "input": {"text": "x"}, "mac": b"f" * 32}
)

pytestmark = pytest.mark.timeout(300)


@pytest.fixture
async def stack(tmp_path: Path) -> AsyncIterator[Stack]:
    """A whole system with one worker."""
    async with Stack.start(tmp_path, node={"cpu_devices": 1}, embedded={"kafka_heap": "256m"}) as stack:
        yield stack


async def test_what_died_is_mended_and_put_back(stack: Stack, tmp_path: Path) -> None:
    """A sealed request of a tenant whose record was lost is answered after it is back; a forged one dies again."""
    said = await llmos(stack, "tenants", "add", "newcomer", "--out", str(tmp_path / "newcomer.json"))
    assert said.code == 0, said
    row = await row_of(stack, "newcomer")
    credentials = await asyncio.to_thread(load_credentials, tmp_path / "newcomer.json")
    async with producing(stack) as producer, Client(stack.settings, credentials=credentials) as client:
        await producer.send_and_wait("tenants", key=b"newcomer", value=None)
        submission = await died(client)
        sent = await producer.send_and_wait("requests", FORGED)
        first, second = name(submission.origin), f"requests:{sent.partition}:{sent.offset}"
        dead = Reader(stack.settings.kafka.bootstrap, "dead")
        await dead.one(("requests", sent.partition, sent.offset), SECONDS)

        said = await llmos(stack, "dead", "list", "--json")
        codes = {found["origin"]: found["code"] for found in said.lines}
        assert (codes[first], codes[second]) == ("unknown_tenant", "forged"), said
        said = await llmos(stack, "dead", "show", first)
        assert '"tenant": "newcomer"' in said.out, said
        assert TEXT not in said.out, "the client sealed it for verify, not for readers of dead letters"

        await producer.send_and_wait("tenants", key=b"newcomer", value=row)
        await served(client)
        said = await llmos(stack, "dead", "replay", first, second, "--dry-run")
        assert said.out.count("would put back") == 2, said
        said = await llmos(stack, "dead", "replay", first, second, "--yes", "--json")
        to = {line["origin"]: line["to"] for line in said.lines if "to" in line}
        assert (set(to), said.lines[-1]["replayed"]) == ({first, second}, 2), said

        answer = await client.result(submission.job_id, SECONDS)
        assert (name(answer.origin), client.outputs(answer)) == (to[first], [EchoOutput(text=TEXT)])
        topic, partition, offset = to[second].split(":")
        again = await dead.one((topic, int(partition), int(offset)), SECONDS)
        assert (again["error"]["code"], again["replays"], again["first"]) == (
            "forged",
            1,
            ["requests", sent.partition, sent.offset],
        )
        said = await llmos(stack, "dead", "replay", "--code", "forged", "--yes", "--json")
        assert said.lines[-1]["would_replay"] == [], said


async def row_of(stack: Stack, tenant: str) -> bytes:
    """A tenant's record."""
    found = Reader(stack.settings.kafka.bootstrap, "tenants")
    await found.advance()
    (row,) = [row for row in found.messages if row["name"] == tenant]
    packed: bytes = msgpack.packb(row)
    return packed


async def died(client: Client) -> Submission:
    """A submission that was told to have died; those that come before ingest knows that the tenant is gone are answered."""
    while True:
        submission = await client.submit("echo", {"text": TEXT})
        try:
            await client.result(submission, SECONDS)
        except DeadLettered:
            return submission


async def served(client: Client) -> None:
    """Returns when ingest knows that the tenant is back."""
    while True:
        try:
            await client.result(await client.submit("echo", {"text": "now?"}), SECONDS)
        except DeadLettered:
            continue
        return


def name(origin: Origin) -> str:
    """As people write it."""
    return f"{origin.topic}:{origin.partition}:{origin.offset}"


@asynccontextmanager
async def producing(stack: Stack) -> AsyncIterator[AIOKafkaProducer]:
    """A stranger's producer."""
    producer = AIOKafkaProducer(bootstrap_servers=stack.settings.kafka.bootstrap)
    await producer.start()
    try:
        yield producer
    finally:
        await producer.stop()
