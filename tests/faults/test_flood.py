"""One tenant sends a hundred times its quota, a stranger floods in another's name: the others' work goes on, and costs them nothing."""

from __future__ import annotations

import asyncio
import statistics
import time
import uuid
from collections.abc import AsyncIterator, Iterable
from typing import NamedTuple

import msgpack
import pytest
import pytest_asyncio
from aiokafka import AIOKafkaProducer

from llmos.infra.crypto.credentials import Credentials, PublicKey, ReplyKey
from llmos.infra.crypto.keyfile import load_keyring
from llmos.infra.crypto.rows import sealed_row
from llmos.infra.crypto.secrets import fingerprint, new_secret, wrap_secret
from llmos.infra.log.kafka import KafkaLog
from llmos.infra.log.port import Out, Place
from llmos.schemas import topics
from llmos.schemas.base import encode
from llmos.schemas.catalog import Quotas, Tenant
from tests.kit.asker import Asker
from tests.kit.counter import Origin, Reader, tally
from tests.kit.live import clean_environment, until
from tests.kit.load import TENANTS
from tests.stack import Stack

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(300)]

FLOODER, VICTIM = "flooder", "victim"
QUOTA = 4.0
"""Requests per second of either, with bursts of a second."""
TIMES = 100
SECONDS = 6.0
RATE = 10.0
"""Requests per second of each of the others."""
PATIENCE_SECONDS = 120.0


class Sent(NamedTuple):
    """A request that was acknowledged."""

    at: float
    origin: Origin


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def stack(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Stack]:
    """One system with one worker."""
    with clean_environment():
        directory = tmp_path_factory.mktemp("flood")
        async with Stack.start(directory, node={"cpu_devices": 1}, embedded={"kafka_heap": "256m"}) as stack:
            yield stack


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def askers(stack: Stack) -> dict[str, Asker]:
    """Those of two more tenants, with quotas; both must sign."""
    keyring = await asyncio.to_thread(load_keyring, stack.settings.keyring)
    ingress, records, made = keyring.active("ingress"), [], {}
    public = PublicKey(id=ingress.id, purpose="ingress", key=ingress.public)
    for name in (FLOODER, VICTIM):
        secret, reply = new_secret(), ReplyKey.fresh()
        key_id, wrapped = wrap_secret(keyring, name, secret)
        tenant = Tenant(
            name=name,
            wrapped_secret=wrapped,
            key_id=key_id,
            fingerprint=fingerprint(secret),
            reply_key=reply.public,
            quotas=Quotas(requests_per_second=QUOTA, burst_seconds=1.0),
        )
        records.append(Out(name.encode(), encode(sealed_row(keyring, tenant))))
        made[name] = Asker(Credentials(tenant=name, secret=secret, reply_keys=[reply], system_keys=[public]))
    log = await KafkaLog.connect(stack.settings.kafka, client="flood")
    try:
        await log.emit(Place(topics.TENANTS, 0), records)
    finally:
        await log.close()
    await known(stack, made)
    return made


@pytest_asyncio.fixture(loop_scope="module")
async def producer(stack: Stack) -> AsyncIterator[AIOKafkaProducer]:
    """A stranger's producer."""
    producer = AIOKafkaProducer(bootstrap_servers=stack.settings.kafka.bootstrap, acks="all", enable_idempotence=True)
    await producer.start()
    try:
        yield producer
    finally:
        await producer.stop()


async def known(stack: Stack, askers: dict[str, Asker]) -> None:
    """Waits until the tenants, who were just made, are known to all services: one request of each is completed."""
    producer = AIOKafkaProducer(bootstrap_servers=stack.settings.kafka.bootstrap)
    await producer.start()
    try:
        for asker in askers.values():
            await until(lambda asker=asker: completes(stack, producer, asker), bool, PATIENCE_SECONDS)
    finally:
        await producer.stop()


async def completes(stack: Stack, producer: AIOKafkaProducer, asker: Asker) -> bool:
    """Whether a request of this tenant is completed; until it is known, it is a dead letter."""
    sent = await producer.send_and_wait("requests", asker.request("echo", {"text": "known?"}))
    place = ("requests", sent.partition, sent.offset)
    results, dead = (Reader(stack.settings.kafka.bootstrap, topic) for topic in ("results", "dead"))
    async with asyncio.timeout(PATIENCE_SECONDS):
        while True:
            await results.advance()
            await dead.advance()
            if results.of(place) or dead.of(place):
                return any(answer["status"] == "completed" for answer in results.of(place))


async def test_a_flood_is_the_flooders_own(stack: Stack, askers: dict[str, Asker], producer: AIOKafkaProducer) -> None:
    """Others ask at the same pace without and with one that sends a hundred times its quota. All that they asked is done; of
    the flooder's what is above its quota is refused, with the numbers and when to try again. How long the others waited is
    told, not judged: machines differ."""
    results = Reader(stack.settings.kafka.bootstrap, "results")
    await results.advance()
    calm = await paced(producer)
    await results.until([sent.origin for sent in calm], PATIENCE_SECONDS)
    stop = asyncio.Event()
    began = time.time()
    flood = asyncio.create_task(flooded(producer, askers[FLOODER], stop))
    beside = await paced(producer)
    stop.set()
    flooding = await flood
    lasted = time.time() - began
    await results.until([*(sent.origin for sent in beside), *flooding], PATIENCE_SECONDS)

    for sent in (calm, beside):
        found = tally([one.origin for one in sent], results.messages)
        assert not found.lost
        assert {answer["status"] for one in sent for answer in results.of(one.origin)} == {"completed"}
    by_origin = {(*answer["origin"],): answer for answer in results.messages}
    own = [by_origin[place] for place in flooding]
    refused = [answer for answer in own if answer["status"] == "refused"]
    assert len(flooding) > TIMES * QUOTA, "that was no flood"
    assert 0 < len(own) - len(refused) <= QUOTA * (lasted + 2.0), "the quota was not kept"
    for answer in refused:
        error = answer["error"]
        assert error["code"] == "quota_exceeded"
        assert error["retryable"]
        assert error["retry_after"] > 0
        assert f"of {QUOTA:g}" in error["message"] or "4" in error["message"], error
    print(report(calm, beside, by_origin, len(flooding), len(refused)))


async def test_a_flood_in_anothers_name_costs_it_nothing(
    stack: Stack, askers: dict[str, Asker], producer: AIOKafkaProducer
) -> None:
    """Requests with a wrong code, and replays of a true one, are dead letters; all that its quota allows is still done."""
    victim = askers[VICTIM]
    true = victim.request("echo", {"text": "once"})
    first = await producer.send_and_wait("requests", true)
    dead, results, usage = (Reader(stack.settings.kafka.bootstrap, topic) for topic in ("dead", "results", "usage"))
    await results.until([("requests", first.partition, first.offset)], PATIENCE_SECONDS)
    values = [victim.request("echo", {"text": "forged"}, secret=b"f" * 32) for _ in range(400)]
    forged = await sent_all(producer, values)
    replayed = await sent_all(producer, [true] * 50)
    await dead.until([*forged, *replayed], PATIENCE_SECONDS)
    own = await sent_all(producer, [victim.request("echo", {"text": f"{i}"}) for i in range(int(QUOTA) - 1)])
    await results.until(own, PATIENCE_SECONDS)
    await usage.until(own, PATIENCE_SECONDS)
    assert [answer["status"] for place in own for answer in results.of(place)] == ["completed"] * len(own)
    for places, code in ((forged, "forged"), (replayed, "replayed")):
        assert {letter["error"]["code"] for place in places for letter in dead.of(place)} == {code}
    strangers = {*forged, *replayed}
    for reader in (results, usage):
        assert not strangers & {(*message["origin"],) for message in reader.messages}


async def paced(producer: AIOKafkaProducer) -> list[Sent]:
    """Echo jobs of the demo's tenants, one each every 1/RATE seconds, whatever comes back."""
    began, sends = time.monotonic(), []
    for i in range(int(RATE * SECONDS)):
        await asyncio.sleep(max(began + i / RATE - time.monotonic(), 0.0))  # the load's own pace
        sends += [asyncio.create_task(sent_one(producer, tenant)) for tenant in TENANTS]
    return list(await asyncio.gather(*sends))


async def sent_one(producer: AIOKafkaProducer, tenant: str) -> Sent:
    """One echo job in the clear, and when it was sent."""
    request = {"type": "request/1", "request_id": uuid.uuid4().hex, "tenant": tenant, "kind": "echo", "events": "none"}
    value = msgpack.packb(request | {"input": {"text": "hello"}, "submitted_at": (at := time.time())})
    sent = await producer.send_and_wait("requests", value)
    return Sent(at, ("requests", sent.partition, sent.offset))


async def flooded(producer: AIOKafkaProducer, asker: Asker, stop: asyncio.Event) -> list[Origin]:
    """A hundred times the quota, until `stop` is set."""
    places: list[Origin] = []
    began, sent = time.monotonic(), 0
    while not stop.is_set():
        due = int((time.monotonic() - began) * QUOTA * TIMES) - sent
        values = [asker.request("echo", {"text": "more"}, events="none") for _ in range(due)]
        places += await sent_all(producer, values)
        sent += due
        await asyncio.sleep(0.05)  # the flood's own pace
    return places


async def sent_all(producer: AIOKafkaProducer, values: Iterable[bytes]) -> list[Origin]:
    """Sends records to all partitions, in batches."""
    deliveries = [await producer.send("requests", value) for value in values]
    return [("requests", sent.partition, sent.offset) for sent in await asyncio.gather(*deliveries)]


def report(
    calm: list[Sent],
    beside: list[Sent],
    answers: dict[tuple[str, int, int], dict[str, object]],
    flood: int,
    refused: int,
) -> str:
    """What the others waited, from before the send to the answer written."""
    rows = [f"the flooder sent {flood} requests, {refused} were refused"]
    for what, sent in (("without a flood", calm), ("beside it", beside)):
        waits = sorted(answers[one.origin]["stages"]["answered_at"] - one.at for one in sent)  # type: ignore[index]
        p99 = waits[min(int(len(waits) * 0.99), len(waits) - 1)]
        rows.append(
            f"others {what}: p50 {statistics.median(waits) * 1000:.1f} ms, p99 {p99 * 1000:.1f} ms of {len(waits)}"
        )
    return "\n".join(rows)
