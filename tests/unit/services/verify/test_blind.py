"""Blind mode: the client seals the parts for the workers' pool itself, and nobody between the two can open anything.

One stage is another one for it, the handler of verify, a few lines long, which holds no key and passes parts on; ingest,
scheduler, worker and aggregator are the services' own code, each with the keys of its role.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import msgspec
import pytest

from llmos.infra.crypto.channels import digest_key, request_bound
from llmos.infra.crypto.credentials import ReplyKey, ReplyKeys
from llmos.infra.crypto.keyring import KeyEntry, Keyring, fresh_key
from llmos.infra.crypto.roles import for_service
from llmos.infra.log.port import Out, Place, Record
from llmos.infra.runtime.context import Context
from llmos.infra.simulation import run
from llmos.infra.stages.one_in_one_out import Emitted, OneInOneOut, Repeated, Settlement
from llmos.infra.stages.origins import Origins
from llmos.infra.stages.ownership import owned, partitions_of
from llmos.pipelines.kinds import kind_named
from llmos.pipelines.kinds.parts import job_record, open_part, seal_parts
from llmos.schemas import topics
from llmos.schemas.admitted import ADMITTED, Admitted
from llmos.schemas.base import encode
from llmos.schemas.errors import EnvelopeRejected
from llmos.schemas.job import Part
from llmos.schemas.requests import Request
from llmos.schemas.results import RESULTS, Answer
from llmos.schemas.sealed import SEALED, Job
from llmos.schemas.tasks import EchoInput
from tests.kit.bench import head
from tests.kit.sealing import opened_texts, signed
from tests.kit.world import World

# Time is virtual and nothing else runs on the loop: what blocks it delays nobody.
pytestmark = pytest.mark.may_block

TEXTS = ["a canary", "another canary", "the third canary"]
SERVICES = ("ingest", "scheduler", "aggregator", "worker")


class BlindHandler:
    """Verify that can open nothing: what came is the parts, sealed, with their counts."""

    def __init__(self, ctx: Context) -> None:
        self._ctx = ctx

    async def settle(self, place: Place, records: Sequence[Record], origins: Origins) -> Sequence[Settlement]:
        """One settlement per record."""
        return [self._settle(place, record, origins) for record in records]

    async def may_resume(self, places: Sequence[Place]) -> bool:
        """It never waits."""
        return True

    def _settle(self, place: Place, record: Record, origins: Origins) -> Settlement:
        message = ADMITTED.decode(record.value)
        if not origins.accept(message.head.origin):
            return Repeated()
        value = record.value or b""
        if isinstance(message, Admitted):
            parts = msgspec.msgpack.decode(message.payload, type=list[Part])
            items, now = sum(part.items for part in parts), self._ctx.clock.now()
            about = msgspec.structs.replace(message.head, parts=len(parts), items=items, sealed_at=now)
            value = job_record(about, parts)
        return Emitted(Place(topics.SEALED, place.partition), Out(message.head.job_id, value))


async def blind(ctx: Context) -> None:
    """The stage, with that handler."""
    partitions = await partitions_of(ctx, topics.ADMITTED)
    places = [Place(topics.ADMITTED, p) for p in owned(ctx.settings.instance, partitions)]
    await OneInOneOut(ctx, "verify", places, BlindHandler(ctx), 1.0).run()


def blind_request(pool: KeyEntry, secret: bytes, reply_key: bytes, now: float) -> Request:
    """A request whose payload is its parts, sealed with nothing but what a client has: the pool's public key."""
    request = Request(
        request_id="r", tenant="demo", kind="echo", sealed=True, reply_key=reply_key, submitted_at=now, nonce=bytes(16)
    )
    bound = request_bound(request, "standard")
    plans = kind_named("echo").plan(EchoInput(text=TEXTS), lambda texts: [0] * len(texts), 2)
    items = sum(plan.items for plan in plans)
    about = head("r", job_id=bound.job_id, reply_key=reply_key, parts=len(plans), items=items)
    half = Keyring([msgspec.structs.replace(pool, key=b"")])
    parts = seal_parts(half, about, plans, digest_key(secret, about.job_id), ["pool"])
    return signed(msgspec.structs.replace(request, payload=msgspec.msgpack.encode(parts)), secret)


async def answered(world: World) -> Answer:
    """The one answer there is."""
    async with asyncio.timeout(60):
        while True:
            found = [entry.record.value for lane in world.broker.dump(topics.RESULTS).values() for entry in lane]
            if found:
                (answer,) = [RESULTS.decode(value) for value in found if value]
                return answer  # type: ignore[no-any-return]
            await asyncio.sleep(0.5)


def test_an_echo_ends_although_nobody_between_could_open_it() -> None:
    """The client reads its answer; verify had no key at all; no other keyring but the workers' opens a part, none the
    answer, and the texts stand in no record of any topic."""

    async def main() -> None:
        world = World(7)
        world.breaks = 0.0
        keys = Keyring(
            [e for e in world.keyring.entries if e.purpose != "pool"] + [fresh_key("pool", algorithm="x25519")]
        )
        world.keyring = keys
        rings = {service: for_service(keys, service) for service in SERVICES} | {"verify": Keyring([])}
        world.keys_of = rings.__getitem__
        await world.begin()
        world.start_all(verify_body=blind)
        reply = ReplyKey.fresh()
        request = blind_request(keys.active("pool"), world.secrets["demo"], reply.public, world.clock.now())
        await world.broker.connect("client").emit(Place("requests", 0), [Out(None, encode(request))])
        answer = await answered(world)
        assert (answer.status, len(answer.epochs)) == ("completed", 2)
        assert opened_texts(answer, ReplyKeys([reply])) == TEXTS
        with pytest.raises(EnvelopeRejected):
            opened_texts(answer, ReplyKeys([ReplyKey.fresh()]))
        assert_closed(world, rings, answer)
        assert not world.unexpected
        await world.end()

    run(main)


def assert_closed(world: World, rings: dict[str, Keyring], answer: Answer) -> None:
    """What lies in the log is readable to nobody but the workers and the asker."""
    values = {
        topic: [entry.record.value or b"" for entries in world.broker.dump(topic).values() for entry in entries]
        for topic in (*topics.REQUESTS.values(), topics.ADMITTED, topics.SEALED, topics.work_topic("node-0.cpu0"),
                      topics.work_topic("node-0.cpu1"), topics.PARTIALS, topics.STREAM, topics.RESULTS, topics.USAGE,
                      topics.CONTROL, topics.TELEMETRY)
    }  # fmt: skip
    assert all(values[topic] for topic in ("requests", topics.ADMITTED, topics.SEALED, topics.PARTIALS, topics.USAGE))
    assert not [topic for topic, found in values.items() if b"canary" in b"".join(found)]
    (job,) = [SEALED.decode(value) for value in values[topics.SEALED]]
    assert isinstance(job, Job)
    for service, ring in rings.items():
        for part in job.parts:
            if service == "worker":
                assert b"canary" in open_part(ring, job.head, part).input
            else:
                with pytest.raises(EnvelopeRejected):
                    open_part(ring, job.head, part)
        with pytest.raises(EnvelopeRejected):
            opened_texts(answer, ring)  # type: ignore[arg-type]
