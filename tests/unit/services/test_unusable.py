"""Every stage puts what it cannot use on `dead`, with reason, origin, stage and attempt, and serves the next; what operators
put back is answered, or dies again and is marked so. All services, on the log in memory."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence

import msgspec
import pytest

from llmos.cli.dead import Filters, choose
from llmos.cli.dead_letters import open_letter, put_back, read_letters
from llmos.client import Client, DeadLettered
from llmos.infra.crypto.rows import sealed_row
from llmos.infra.crypto.secrets import wrap_secret
from llmos.infra.log.port import Out, Place
from llmos.infra.simulation import run
from llmos.schemas import topics
from llmos.schemas.base import encode
from llmos.schemas.catalog import Tenant
from llmos.schemas.dead import DEAD, DeadLetter
from llmos.schemas.ids import epoch_of
from llmos.schemas.job import Origin
from tests.kit.bench import head
from tests.kit.world import World, device_named

# Time is virtual and nothing else runs on the loop: what blocks it delays nobody.
pytestmark = pytest.mark.may_block

SECRET = b"n" * 32
WORK = topics.work_topic(device_named(0))


def told(**fields: object) -> bytes:
    """A message with these fields."""
    return msgspec.msgpack.encode(fields)


TASK = [0, 10**9, 0, epoch_of(3, 2)]
NO_PART = {"type": "outcome/1", "task": [0, 10**9, 7, epoch_of(3, 2)], "head": head(), "device": "d", "incarnation": 0}

UNUSABLE: tuple[tuple[str, bytes | None, str, str, int], ...] = (
    ("requests", b"\xc1", "malformed", "ingest", 0),
    ("requests", None, "malformed", "ingest", 0),
    ("requests.batch", b"", "malformed", "ingest", 0),
    ("requests.interactive", told(type="request/99"), "unknown_version", "ingest", 0),
    ("requests", told(type="request/1", tenant="nobody", request_id="r", kind="echo"), "unknown_tenant", "ingest", 0),
    ("requests", told(type="request/1", tenant="demo", request_id="r", kind="echo", mac=b"x"), "forged", "ingest", 0),
    ("requests", told(type="request/1", tenant="demo", request_id="", kind="echo"), "malformed", "ingest", 0),
    ("admitted", b"\xc1", "malformed", "verify", 0),
    ("admitted", told(type="admitted/1"), "malformed", "verify", 0),
    ("sealed", b"\xc1", "malformed", "scheduler", 0),
    ("sealed", told(type="job/1", head={}), "malformed", "scheduler", 0),
    ("sealed", told(type="request/1"), "unknown_version", "scheduler", 0),
    (WORK, b"\xc1", "malformed", "worker", 0),
    (WORK, told(type="work/1", task=TASK), "malformed", "worker", 2),
    ("partials", b"\xc1", "malformed", "aggregator", 0),
    ("partials", told(type="outcome/1", task=TASK), "malformed", "aggregator", 2),
    ("partials", told(**NO_PART), "malformed", "aggregator", 2),
)
"""Topic, value, code, stage, attempt."""

HINTS = ("telemetry", "control", "catalog", "tenants", "usage", "stream", "results", "epochs")
"""What stands there answers no submission: rubbish is logged and passed over."""


def in_world(body: Callable[[World, Client], Awaitable[None]]) -> None:
    """Runs `body` on a whole system in calm weather; afterwards every process is in its first life."""

    async def main() -> None:
        world = World(7)
        world.weather.calm = True
        world.breaks = 0.0
        await world.begin()
        world.start_all(devices=1)
        async with Client.over(world.broker.connect("client"), now=world.clock.now) as client:
            await served(client, "before")
            await body(world, client)
            await served(client, "after")
        assert not world.unexpected
        assert {name: process.lives for name, process in world.processes.items()} == dict.fromkeys(world.processes, 1)
        await world.end()

    run(main, seed=7)


async def served(client: Client, text: str) -> None:
    """The system answers."""
    submission = await client.submit("echo", {"text": text})
    answer = await client.result(submission, timeout=60.0)
    assert [output.text for output in client.outputs(answer)] == [text]  # type: ignore[union-attr]


async def letters(world: World, count: int) -> list[DeadLetter]:
    """Waits for so many letters on `dead`."""
    log = world.broker.connect("operator")
    reader = log.reader()
    reader.assign({Place(topics.DEAD, 0): 0})
    found: list[DeadLetter] = []
    while len(found) < count:
        for records in (await reader.read(timeout=5.0)).values():
            found += [m for record in records if isinstance(m := DEAD.decode(record.value), DeadLetter)]
    await reader.close()
    return found


def test_every_stage_buries_what_it_cannot_use() -> None:
    """With its reason, origin, stage and attempt, sealed; nobody is answered, no process ends."""

    async def body(world: World, client: Client) -> None:
        log = world.broker.connect("world-stranger")
        sent: dict[Origin, tuple[bytes | None, str, str, int]] = {}
        for topic, *expected in UNUSABLE:
            offset = await log.emit(Place(topic, 0), [Out(b"k", expected[0])])  # type: ignore[arg-type]
            sent[Origin(topic, 0, offset)] = tuple(expected)  # type: ignore[assignment]
        found = await letters(world, len(sent))
        assert {letter.origin for letter in found} == set(sent)
        for letter in found:
            value, *reason = sent[letter.origin]
            assert [letter.error.code, letter.stage, letter.attempt] == reason
            contents = open_letter(world.keyring, letter)
            assert (contents.key, contents.value) == (b"k", value or b"")

    in_world(body)


def test_rubbish_among_hints_is_passed_over() -> None:
    """Nothing on these topics is a submission: every service goes on."""

    async def body(world: World, client: Client) -> None:
        log = world.broker.connect("world-stranger")
        for topic in HINTS:
            for value in (b"\xc1", b"", told(type="nonsense/1"), told(type=5)):
                await log.emit(Place(topic, 0), [Out(b"k", value)])
        await served(client, "between")

    in_world(body)


async def add_newcomer(world: World, client: Client) -> None:
    """A tenant joins, whose requests must be signed; returns when the services know of it."""
    key_id, wrapped = wrap_secret(world.keyring, "newcomer", SECRET)
    row = Tenant(name="newcomer", plaintext="allow", mac="required", wrapped_secret=wrapped, key_id=key_id)
    await world.broker.connect("operator").emit(
        Place(topics.TENANTS, 0), [Out(b"newcomer", encode(sealed_row(world.keyring, row)))]
    )
    await asyncio.sleep(5.0)  # of virtual time
    await served(client, "tenants are followed")


async def replay(world: World, *, again: bool = False) -> Sequence[Origin]:
    """All letters that may be put back are; gives where to."""
    log = world.broker.connect("operator")
    entries = (await read_letters(log, Filters())).entries()
    puts = put_back(log, world.keyring, world.clock, choose(entries, again=again).replay)
    return [put.to async for put in puts if put.to is not None]


def test_a_request_that_came_before_its_tenant_is_answered_when_it_is_put_back() -> None:
    """Its client, which was told that it died, finds the answer by the job's name; nothing is put back twice."""

    async def body(world: World, client: Client) -> None:
        log = world.broker.connect("client-2")
        async with Client.over(log, tenant="newcomer", secret=SECRET, now=world.clock.now) as early:
            submission = await early.submit("echo", {"text": "am I here?"})
            with pytest.raises(DeadLettered):
                await early.result(submission, timeout=60.0)
            await add_newcomer(world, client)
            (to,) = await replay(world)
            answer = await early.result(submission.reference.job_id, timeout=60.0)
            assert (answer.status, answer.origin, answer.request_id) == ("completed", to, submission.request_id)
            assert not await replay(world)
            assert not await replay(world, again=True)

    in_world(body)


def test_an_old_request_is_fresh_when_an_operator_puts_it_back() -> None:
    """It is judged by the time at which the log took the first one."""

    async def body(world: World, client: Client) -> None:
        log = world.broker.connect("client-2")
        async with Client.over(log, tenant="newcomer", secret=SECRET, now=world.clock.now) as early:
            submission = await early.submit("echo", {"text": "am I here?"}, timeout=80_000.0)
            await letters(world, 1)
            await asyncio.sleep(4000.0)  # of virtual time
            await add_newcomer(world, client)
            (to,) = await replay(world)
            answer = await early.result(submission.reference.job_id, timeout=60.0)
            assert (answer.status, answer.origin) == ("completed", to)

    in_world(body)


def test_a_forged_request_dies_again_and_is_marked() -> None:
    """An operator's word makes nothing authentic: it is left out from then on, unless somebody insists."""

    async def body(world: World, client: Client) -> None:
        log = world.broker.connect("world-stranger")
        forged = told(type="request/1", tenant="demo", request_id="r", kind="echo", input={"text": "x"}, mac=b"f" * 32)
        offset = await log.emit(Place("requests", 0), [Out(None, forged)])
        await letters(world, 1)
        first = Origin("requests", 0, offset)
        (to,) = await replay(world)
        again = (await letters(world, 2))[1]
        assert (again.origin, again.error.code, again.replays, again.first) == (to, "forged", 1, first)
        assert not await replay(world)
        (to,) = await replay(world, again=True)
        last = (await letters(world, 3))[2]
        assert (last.origin, last.replays, last.first) == (to, 2, first)

    in_world(body)


def test_a_copy_of_a_replayed_record_is_not_taken_again() -> None:
    """Whoever reads the topic can write the record with its header once more: the word holds at one origin."""

    async def body(world: World, client: Client) -> None:
        log = world.broker.connect("client-2")
        async with Client.over(log, tenant="newcomer", secret=SECRET, now=world.clock.now) as early:
            submission = await early.submit("echo", {"text": "once"})
            await letters(world, 1)
            await add_newcomer(world, client)
            (to,) = await replay(world)
            await early.result(submission.reference.job_id, timeout=60.0)
            back = world.broker.dump(to.topic)[to.partition][to.offset].record
            for partition in range(2):
                await log.emit(Place(to.topic, partition), [Out(back.key, back.value, back.headers)])
            for letter in (await letters(world, 3))[1:]:
                assert (letter.error.code, letter.replays) == ("replayed", 1)

    in_world(body)
