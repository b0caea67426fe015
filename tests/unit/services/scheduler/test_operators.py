"""Commands and queries on `control`: in order, answered after what they did is written, old ones let go."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from llmos.infra.crypto.keyring import Keyring
from llmos.infra.crypto.macs import mac
from llmos.infra.log.port import Place, TopicSpec
from llmos.infra.log.topics import spec_for
from llmos.infra.runtime.beside import run_beside
from llmos.infra.stages.control_macs import as_operator, by_scheduler
from llmos.infra.stages.follower import Table
from llmos.infra.stages.tenants import TenantTable
from llmos.schemas import topics
from llmos.schemas.base import encode
from llmos.schemas.catalog import CATALOG, Alias, NodeModels, Pin, Tenant
from llmos.schemas.control import CONTROL, REPLY, Drain, ModelCommand, ModelOrder, Query, Reply, signed_control
from llmos.schemas.job import Task, Usage
from llmos.schemas.telemetry import Heartbeat, LiveCounts, Progress, Residency, TasksStopped
from llmos.services.scheduler.desk import Desk
from llmos.services.scheduler.effects import Effects
from llmos.services.scheduler.handler import SchedulerHandler
from llmos.services.scheduler.jobs import Heard
from llmos.services.scheduler.replies import Replies
from llmos.services.scheduler.turn import Turn
from tests.kit.bench import KEYS, NOW, SECRET, HandClock, configured, context, head, record, tenant
from tests.unit.services.scheduler.making import MODEL, TERM, job_of

REPLY_TO = "reply.ops"


class Counter:
    """A scheduler's handler, to which records of `control` come, and what it sends."""

    def __init__(self) -> None:
        self.clock = HandClock()
        settings = configured(scheduler={"adopt_seconds": 2.0})
        self.ctx = context(self.clock, settings, service="scheduler")
        self.desk = Desk(settings.scheduler, TERM, Effects(self.ctx), self.clock.at)
        self.catalog = Table(topics.CATALOG, CATALOG)
        self.tenants = TenantTable(self.ctx.keyring)
        self.know(tenant(reply_prefixes=["reply."]))
        self.know(tenant("acme", mac="required", reply_prefixes=["reply."]))
        self.turn = Turn(self.desk, self.catalog.rows)
        self.replies = Replies(self.ctx, self.desk, self.turn, self.catalog, self.tenants)
        self.handler = SchedulerHandler(self.ctx, self.desk, self.turn, self.tenants, self.catalog, self.replies)
        self._seen: dict[str, int] = {}

    async def begin(self) -> None:
        """Topics, a model, a device; the fleet is known."""
        await self.ctx.log.ensure(
            [TopicSpec(REPLY_TO, 1, 60.0, append_time=False, record_bytes=10**6), spec_for(self.ctx.settings, "work.d")]
        )
        self.catalog.take(record(encode(MODEL), topics.CATALOG, key=b"m"))
        self.beat()
        self.clock.at += 2.0
        self.beat()

    def beat(self) -> None:
        resident = Residency(model="m", name="model", state="resident")
        self.desk.heartbeat(
            Heartbeat(
                device="d", node="n", pid=11, incarnation=3, sequence=1, at=self.clock.at, kinds=["echo", "generate"],
                models=["m"], budget_bytes=100, residents=[resident],
            ),
            self.clock.at,
        )  # fmt: skip

    def know(self, row: Tenant) -> None:
        """A row of `tenants` is read."""
        self.tenants.table.take(record(encode(row), topics.TENANTS, key=row.name.encode()))

    def hear(self, message: Any, *, at: float | None = None, restored: bool = False, by: Keyring | None = KEYS) -> None:
        """A record of `control` is read, appended at `at`. What is for operators is signed; `by` None: it is not."""
        if by is not None and not message.mac and getattr(message, "tenant", None) is None:
            message = as_operator(by, message)
        found = record(encode(message), topics.CONTROL, at=self.clock.at if at is None else at)
        (self.handler.restored_control if restored else self.handler.other)(found)

    async def take_turn(self) -> None:
        """A turn, and the replies that are due after it."""
        await self.handler.turn()
        await run_beside(self.replies.settled(), self.replies.run())

    async def sent(self, topic: str, codec: Any) -> list[Any]:
        """What came to a topic since the last look, by key where a row was taken away."""
        place = Place(topic, 0)
        end = (await self.ctx.log.ends([place]))[place]
        seen, self._seen[topic] = self._seen.get(topic, 0), end
        if end == seen:
            return []
        reader = self.ctx.log.reader()
        reader.assign({place: seen})
        (records,) = (await reader.read(1.0)).values()
        await reader.close()
        found = [codec.decode(r.value) if r.value is not None else r.key for r in records]
        if topic != topics.CONTROL:
            return found
        assert all(by_scheduler(KEYS, message) for message in found)
        return [msgspec.structs.replace(message, mac=b"") for message in found]

    async def told(self) -> list[Any]:
        """The replies: (id, error's code or body)."""
        replies: list[Reply] = await self.sent(REPLY_TO, REPLY)
        return [
            (reply.id, reply.error.code if reply.error else msgspec.msgpack.decode(reply.body)) for reply in replies
        ]


@pytest.fixture
async def counter() -> Counter:
    found = Counter()
    await found.begin()
    return found


def command(what: Any, id_: str = "c", **fields: Any) -> ModelCommand:
    """A command that wants a reply."""
    return ModelCommand(id=id_, what=what, at=NOW, reply_to=REPLY_TO, **fields)


async def test_commands_are_carried_out_in_their_order(counter: Counter) -> None:
    """Each sees what those before it did, also in the same turn: rows, orders and replies."""
    counter.hear(command("alias", "1", model="model", alias="chat"))
    counter.hear(command("pin", "2", model="chat", device="d"))
    counter.hear(command("unload", "3", model="model"))
    counter.hear(command("unpin", "4", model="model"))
    counter.hear(command("unload", "5", model="model"))
    await counter.take_turn()
    assert await counter.sent(topics.CATALOG, CATALOG) == [
        Alias(name="chat", identity="m"), Pin(identity="m", device="d"), b"pin:m:d",
    ]  # fmt: skip
    assert await counter.sent(topics.CONTROL, CONTROL) == [
        ModelOrder(what="unload", identity="m", device="", at=counter.clock.at)
    ]
    told = dict(await counter.told())
    assert told["1"] == {"what": "alias", "model": "model", "identity": "m", "device": "", "alias": "chat"}
    assert told["3"] == "model_pinned"
    assert told["4"]["unpinned"] == ["d"]
    assert told["5"]["what"] == "unload"


async def test_a_drain_is_replied_to(counter: Counter) -> None:
    """With what is in hand; a device that nobody knows is an error; the last word counts, with or without a reply."""
    counter.hear(Drain(device="d", at=NOW, id="1", reply_to=REPLY_TO))
    counter.hear(Drain(device="x", at=NOW, id="2", reply_to=REPLY_TO))
    counter.hear(Drain(device="d", at=NOW, undo=True))
    await counter.take_turn()
    assert await counter.told() == [
        ("1", {"what": "drain", "device": "d", "draining": True, "in_flight": 0}),
        ("2", "unknown_device"),
    ]
    assert counter.desk.drains.names() == []


async def test_after_a_start_commands_wait_for_the_fleet(counter: Counter) -> None:
    """A device that is only unheard of is not unknown."""
    fresh = Counter()
    fresh.hear(command("load", model="m", device="d"))
    fresh.catalog.take(record(encode(MODEL), topics.CATALOG, key=b"m"))
    await fresh.take_turn()
    assert await fresh.sent(topics.CONTROL, CONTROL) == []
    await fresh.begin()
    await fresh.take_turn()
    assert [order.what for order in await fresh.sent(topics.CONTROL, CONTROL)] == ["load"]


@pytest.mark.parametrize(("age", "restored", "done"), [(1.0, True, True), (31.0, True, False), (31.0, False, False)])
async def test_old_commands_are_let_go(counter: Counter, age: float, restored: bool, done: bool) -> None:
    """Those that came while no scheduler was there are carried out, if somebody may still wait for it."""
    counter.hear(command("load", model="m"), at=counter.clock.at - age, restored=restored)
    await counter.take_turn()
    assert len(await counter.sent(topics.CONTROL, CONTROL)) == done


async def test_what_lasts_is_restored_whatever_its_age(counter: Counter) -> None:
    """Drains and fences of before the start; queries are asked again by their askers."""
    counter.hear(Drain(device="e", at=NOW - 9e4, id="1", reply_to=REPLY_TO), at=NOW - 9e4, restored=True)
    counter.hear(Query(id="q", what="devices", reply_to=REPLY_TO), restored=True)
    await counter.take_turn()
    assert ("e" in counter.desk.drains, await counter.told()) == (True, [])


async def test_replies_go_to_allowed_topics_that_exist(counter: Counter) -> None:
    """What was asked for is done all the same."""
    for topic in ("results", "reply.nobody"):
        counter.hear(ModelCommand(id="c", what="load", model="m", at=NOW, reply_to=topic))
    await counter.take_turn()
    assert len(await counter.sent(topics.CONTROL, CONTROL)) == 2


async def test_a_tenant_sees_its_own_jobs(counter: Counter) -> None:
    """An operator sees all; a query that is not authentic is not answered."""
    for s, name in ((0, "demo"), (1, "acme")):
        job = job_of(head(f"k{s}", s, tenant=name, kind="embed"))
        counter.desk.submission(0, s, job, counter.clock.at, False)
    asks = {
        "all": Query(id="all", what="jobs", reply_to=REPLY_TO),
        "demo": Query(id="demo", what="jobs", reply_to=REPLY_TO, tenant="demo"),
        "acme": Query(id="acme", what="jobs", reply_to=REPLY_TO, tenant="acme"),
        "of another": Query(
            id="of another", what="explain", reply_to=REPLY_TO, tenant="demo", job_id=head("k1").job_id
        ),
        "forged": Query(id="forged", what="jobs", reply_to=REPLY_TO, tenant="acme", mac=b"x"),
    }
    asks["acme"] = msgspec.structs.replace(asks["acme"], mac=mac(SECRET, signed_control(asks["acme"])))
    for query in asks.values():
        counter.hear(query)
    await counter.take_turn()
    told = dict(await counter.told())
    seen = {id_: [job["tenant"] for job in body.get("jobs", body.get("submissions"))] for id_, body in told.items()}
    assert seen == {"all": ["demo", "acme"], "demo": ["demo"], "acme": ["acme"], "of another": []}


async def test_a_job_is_explained(counter: Counter) -> None:
    """Per part: state, place, rule with need and have; one that names no job is an error."""
    job = job_of(head("k0", 0, kind="embed"), parts=2)
    counter.desk.submission(0, 0, job, counter.clock.at, False)
    await counter.take_turn()
    counter.hear(Query(id="1", what="explain", reply_to=REPLY_TO, job_id=job.head.job_id))
    counter.hear(Query(id="2", what="explain", reply_to=REPLY_TO))
    await counter.take_turn()
    told = dict(await counter.told())
    parts = told["1"]["submissions"][0]["parts"]
    assert [(part["part"], part["position"], part["rule"], part["need"]) for part in parts] == [
        (0, 1, "kind", 1), (1, 2, "kind", 1),
    ]  # fmt: skip
    assert told["2"] == "invalid_request"


async def test_models_are_shown_with_where_they_are(counter: Counter) -> None:
    """The catalog's rows by their kinds, and the devices that have a model resident."""
    counter.catalog.take(record(encode(NodeModels(node="n", at=1.0, models=["m"])), topics.CATALOG, key=b"node:n"))
    counter.hear(command("pin", model="m"))
    counter.hear(Query(id="q", what="models", reply_to=REPLY_TO))
    counter.hear(Query(id="r", what="devices", reply_to=REPLY_TO))
    await counter.take_turn()
    told = dict(await counter.told())
    body = told["q"]
    assert [model["identity"] for model in body["models"]] == ["m"]
    assert [pin["identity"] for pin in body["pins"]] == ["m"]
    assert [node["node"] for node in body["nodes"]] == ["n"]
    assert (body["aliases"], body["resident"]) == ({}, {"m": ["d"]})
    assert [device["device"] for device in told["r"]["devices"]] == ["d"]


async def test_its_own_word_on_telemetry_shows_that_the_log_works(counter: Counter) -> None:
    """Of its own term; another scheduler's says nothing."""
    for term, lost in ((TERM - 1, False), (TERM, True)):
        counts = LiveCounts(at=counter.clock.at + 9.0, term=term, lanes={}, tenants={})
        counter.handler.other(record(encode(counts), topics.TELEMETRY))
        counter.desk.lose_silent(counter.clock.at + 10.0)
        assert (counter.desk.fleet.get("d") is None) == lost


async def test_a_last_word_on_telemetry_reaches_its_task(counter: Counter) -> None:
    """What an attempt had used when its worker stopped it."""
    counter.desk.submission(0, 0, job_of(head("k")), counter.clock.at, False)
    message = TasksStopped(device="d", incarnation=3, used=[Progress(Task(0, 0, 0, 1), 5, 6, 0.5)])
    counter.handler.other(record(encode(message), topics.TELEMETRY))
    task = counter.desk.jobs.task((0, 0, 0))
    assert task is not None
    assert task.heard == Heard(1, "d", Usage(tokens_in=5, tokens_out=6, device_seconds=0.5))
