"""What a tenant sees and changes does not depend on whether another tenant is there, whatever it guesses."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmos.client.queries import OPERATOR
from llmos.infra.crypto.keyring import Keyring
from llmos.infra.crypto.macs import mac
from llmos.infra.crypto.secrets import wrap_secret
from llmos.infra.log.memory import MemoryBroker
from llmos.infra.log.port import Place, TopicSpec
from llmos.infra.log.topics import specs
from llmos.infra.runtime.beside import run_beside
from llmos.infra.stages.control_macs import FRESH_SECONDS, as_operator, as_scheduler
from llmos.infra.stages.follower import Table
from llmos.infra.stages.tenants import TenantTable
from llmos.schemas import topics
from llmos.schemas.base import encode
from llmos.schemas.catalog import CATALOG, Alias, NodeModels, Pin, Quarantined, Tenant
from llmos.schemas.control import REPLY, Cancel, Drain, Fence, ModelCommand, Query, signed_control
from llmos.schemas.ids import job_id
from llmos.schemas.job import ErrorInfo
from llmos.schemas.telemetry import Heartbeat, Residency
from llmos.services.scheduler.desk import Desk
from llmos.services.scheduler.effects import Effects
from llmos.services.scheduler.handler import SchedulerHandler
from llmos.services.scheduler.replies import Replies
from llmos.services.scheduler.turn import Turn
from tests.kit.bench import KEYS, NOW, SECRET, HandClock, configured, context, head, on_bench, record, tenant
from tests.unit.services.scheduler.making import MODEL, TERM, job_of

GUESSER, OTHER = "globex", "acme"
OWN_TOPIC = f"reply.{GUESSER}.queries"
OTHER_TOPIC = f"reply.{OTHER}.queries"
TENANTS_TOPICS = (OWN_TOPIC, OTHER_TOPIC, "reply.operators", "reply.operator")
OPERATORS_TOPIC = f"reply.{OPERATOR}.queries"
LOAD = {"position", "predicted_start_at", "predicted_done_at", "at"}
"""What tells how much there is to do altogether, by everybody: how long one waits is no secret."""
SECRET_MODEL = msgspec.structs.replace(MODEL, identity="x" * 64, name="acme-tuned")


class Desks:
    """A scheduler's handler with the guesser, and perhaps with another tenant that has jobs and models of its own."""

    def __init__(self, *others: Tenant, **rights: Any) -> None:
        self.clock = HandClock()
        configured_ = configured(scheduler={"adopt_seconds": 1e-6})
        broker = MemoryBroker(self.clock)
        broker.create(
            [
                TopicSpec(name, 1, 60.0, append_time=False, record_bytes=10**6)
                for name in (*TENANTS_TOPICS, OPERATORS_TOPIC)
            ]
        )
        broker.create(specs(configured_))
        self.ctx = context(self.clock, configured_, broker, service="scheduler")
        self.desk = Desk(configured_.scheduler, TERM, Effects(self.ctx), self.clock.at)
        self.clock.at += 1.0  # the fleet is known
        self.catalog = Table(topics.CATALOG, CATALOG)
        self.tenants = TenantTable(self.ctx.keyring)
        for row in (tenant(GUESSER, mac="required", **rights), *others):
            self.know(row)
        self.turn = Turn(self.desk, self.catalog.rows, lambda: self.tenants.weights)
        self.replies = Replies(self.ctx, self.desk, self.turn, self.catalog, self.tenants)
        self.handler = SchedulerHandler(self.ctx, self.desk, self.turn, self.tenants, self.catalog, self.replies)

    def know(self, row: Tenant) -> None:
        self.tenants.table.take(record(encode(row), topics.TENANTS, key=row.name.encode()))

    def submit(self, name: str, key: str, kind: str) -> None:
        """A job of a tenant, which waits for a device that can do it."""
        place = len(self.desk.jobs.live)
        found = head(
            key, place, tenant=name, kind=kind, job_id=job_id(name, key), model="m" if kind == "generate" else ""
        )
        self.desk.submission(0, place, job_of(found), self.clock.at, False)

    def hear(self, message: Any, at: float | None = None) -> None:
        self.handler.other(record(encode(message), topics.CONTROL, at=self.clock.at if at is None else at))

    def rows(self, *rows: tuple[bytes, Any]) -> None:
        for key, row in rows:
            self.catalog.take(record(encode(row), topics.CATALOG, key=key))

    async def answered(self, topic: str = OWN_TOPIC) -> dict[str, Any]:
        """Replies on a topic after a turn: by id, the error's code or the body without what tells of load."""
        await self.handler.turn()
        await run_beside(self.replies.settled(), self.replies.run())
        place = Place(topic, 0)
        if not (await self.ctx.log.ends([place]))[place]:
            return {}
        reader = self.ctx.log.reader()
        reader.assign({place: 0})
        (records,) = (await reader.read(1.0)).values()
        await reader.close()
        replies = [REPLY.decode(found.value) for found in records]
        return {r.id: r.error.code if r.error else _without_load(msgspec.msgpack.decode(r.body)) for r in replies}


def _without_load(body: Any) -> Any:
    if isinstance(body, dict):
        return {name: _without_load(value) for name, value in body.items() if name not in LOAD}
    return [_without_load(entry) for entry in body] if isinstance(body, list) else body


def signed(message: Any, secret: bytes = SECRET) -> Any:
    return msgspec.structs.replace(message, mac=mac(secret, signed_control(message)))


KINDS = st.sampled_from(["embed", "echo", "generate"])
WORDS = st.sampled_from(["k0", "k1", "k2", "k3"])
WHATS = st.sampled_from(["status", "job", "jobs", "explain", "models"])
NAMES = st.sampled_from([GUESSER, OTHER])


@settings(max_examples=60, deadline=None)
@given(
    own=st.lists(st.tuples(WORDS, KINDS), unique_by=lambda pair: pair[0], max_size=3),
    others=st.lists(st.tuples(WORDS, KINDS), unique_by=lambda pair: pair[0], min_size=1, max_size=4),
    asked=st.lists(st.tuples(WHATS, NAMES, NAMES, WORDS, st.sampled_from([OWN_TOPIC, OTHER_TOPIC])), min_size=1, max_size=8),
    cancelled=st.lists(st.tuples(NAMES, NAMES, WORDS), max_size=4),
)  # fmt: skip
def test_whatever_it_asks_the_answers_are_those_of_a_world_without_the_other(
    own: list[tuple[str, str]],
    others: list[tuple[str, str]],
    asked: list[tuple[Any, str, str, str, str]],
    cancelled: list[tuple[str, str, str]],
) -> None:
    """Jobs, explanations, counts, models; in its own name and in the other's, for its ids and for the other's, with its
    secret. And the other's jobs go on, whatever it cancels."""

    async def main(_: Any) -> None:
        worlds = [Desks(), Desks(tenant(OTHER, mac="required", wrapped_secret=_secret(OTHER), key_id=KEYS.active("system").id))]  # fmt: skip
        seen = []
        for alone, world in zip((True, False), worlds, strict=True):
            for key, kind in own:
                world.submit(GUESSER, key, kind)
            if not alone:
                for key, kind in others:
                    world.submit(OTHER, key, kind)
            for i, (what, name, of, key, topic) in enumerate(asked):
                query = Query(id=str(i), what=what, reply_to=topic, tenant=name, job_id=job_id(of, key))
                world.hear(signed(query))
            for name, of, key in cancelled:
                world.hear(signed(Cancel(tenant=name, job_id=job_id(of, key), at=world.clock.at)))
            replies = await world.answered()
            seen.append((replies, _verdicts(world, GUESSER)))
            assert await world.answered(OTHER_TOPIC) == {}
        assert seen[0] == seen[1]
        assert not any(_verdicts(worlds[1], OTHER))

    on_bench(main)


def _secret(name: str) -> bytes:
    """Another secret than the guesser's, wrapped."""
    return wrap_secret(KEYS, name, b"another secret of another tenant")[1]


def _verdicts(world: Desks, name: str) -> list[str]:
    return [job.verdict for job in world.desk.jobs.live.values() if job.head.tenant == name]


def catalog_of(world: Desks, *, alone: bool) -> None:
    """A public model; where the other is, one of its own, resident, pinned, aliased, one in quarantine."""
    hidden = "x" * 64
    world.rows((b"m", MODEL))
    error = ErrorInfo(code="model_damaged", message="no")
    node = NodeModels(node="n", at=1.0, models=["m"] if alone else ["m", hidden], quarantined=[] if alone else [Quarantined(name="acme-broken", directory="d", error=error)])  # fmt: skip
    world.rows((b"node:n", node))
    residents = [Residency(model="m", name="model", state="resident")]
    if not alone:
        world.rows((hidden.encode(), SECRET_MODEL))
        world.rows((b"alias:theirs", Alias(name="theirs", identity=hidden)), (b"pin:x:", Pin(identity=hidden)))
        residents.append(Residency(model=hidden, name="acme-tuned", state="resident"))
    beat = Heartbeat(
        device="d", node="n", pid=11, incarnation=3, sequence=1, at=world.clock.at, kinds=["generate"], models=node.models,
        budget_bytes=100, residents=residents,
    )  # fmt: skip
    world.desk.heartbeat(beat, world.clock.at)


@pytest.mark.parametrize("what", ["models", "status", "devices"])
async def test_models_that_it_may_not_use_are_not_there(what: Any) -> None:
    """By name, alias, identity, pin, node, quarantine and residence."""
    seen = []
    for alone in (True, False):
        world = Desks(models=["model*"])
        catalog_of(world, alone=alone)
        world.hear(signed(Query(id="q", what=what, reply_to=OWN_TOPIC, tenant=GUESSER)))
        seen.append(await world.answered())
    assert seen[0] == seen[1]
    assert seen[0]["q"] != {}


@pytest.mark.parametrize("pattern", ["acme-tuned", "their*", "x" * 64, "*"])
async def test_a_right_by_any_name_shows_the_model(pattern: str) -> None:
    """Name, alias, identity; `*` all."""
    world = Desks(models=[pattern])
    catalog_of(world, alone=False)
    world.hear(signed(Query(id="q", what="models", reply_to=OWN_TOPIC, tenant=GUESSER)))
    body = (await world.answered())["q"]
    assert "acme-tuned" in [model["name"] for model in body["models"]]
    assert body["aliases"] == {"theirs": "x" * 64}
    assert body["resident"]["x" * 64] == ["d"]


async def test_rights_change_without_a_restart() -> None:
    """Models, topics of replies, the secret, the tenant itself: with the row."""
    world = Desks()
    query = Query(id="1", what="models", reply_to=OWN_TOPIC, tenant=GUESSER)
    catalog_of(world, alone=False)
    world.hear(signed(query))
    assert len((await world.answered())["1"]["models"]) == 2
    world.know(tenant(GUESSER, mac="required", models=["model"]))
    world.hear(signed(msgspec.structs.replace(query, id="2")))
    assert len((await world.answered())["2"]["models"]) == 1
    world.know(tenant(GUESSER, mac="required", reply_prefixes=["reply.ops"]))
    world.hear(signed(msgspec.structs.replace(query, id="3")))
    world.know(tenant(GUESSER, mac="required", wrapped_secret=_secret(GUESSER)))
    world.hear(signed(msgspec.structs.replace(query, id="4")))
    world.tenants.table.take(record(None, topics.TENANTS, key=GUESSER.encode()))
    world.hear(signed(msgspec.structs.replace(query, id="5")))
    assert set(await world.answered()) == {"1", "2"}


@pytest.mark.parametrize(("at", "believed"), [(9.0, True), (11.0, False)])
async def test_the_secret_before_holds_for_its_time(at: float, believed: bool) -> None:
    """By when the log took the message, also where it is read again much later."""
    old = tenant(GUESSER)
    world = Desks(
        tenant(
            OTHER, mac="required", wrapped_secret=_secret(OTHER), previous_secret=tenant(OTHER).wrapped_secret,
            previous_key_id=old.key_id, previous_until=NOW + 10.0,
        )
    )  # fmt: skip
    world.submit(OTHER, "k0", "embed")
    world.clock.at += 9000.0
    cancel = signed(Cancel(tenant=OTHER, job_id=job_id(OTHER, "k0"), at=NOW + at))
    world.handler.restored_control(record(encode(cancel), topics.CONTROL, at=NOW + at))
    assert _verdicts(world, OTHER) == (["cancelled"] if believed else [""])


COMMANDS = [
    ModelCommand(id="c", what="load", model="m", at=NOW, reply_to=OPERATORS_TOPIC),
    Drain(device="d", at=NOW, id="c", reply_to=OPERATORS_TOPIC),
    Query(id="c", what="jobs", reply_to=OPERATORS_TOPIC),
]


@pytest.mark.parametrize("message", COMMANDS, ids=lambda message: type(message).__name__)
@pytest.mark.parametrize("how", ["unsigned", "tenant", "control", "another system", "changed"])
async def test_only_operators_command(message: Any, how: str) -> None:
    """Without their MAC, under a tenant's secret or the scheduler's own key: nothing happens, and the reply says why."""
    if isinstance(message, Drain) and how == "control":
        return  # the scheduler says drains again, under its own key
    world = Desks()
    catalog_of(world, alone=True)
    made = {
        "unsigned": lambda: message,
        "tenant": lambda: signed(message),
        "control": lambda: msgspec.structs.replace(message, mac=as_scheduler(KEYS, message).mac[:32]),
        "another system": lambda: as_operator(Keyring.memory(), message),
        "changed": lambda: msgspec.structs.replace(as_operator(KEYS, message), id="d"),
    }[how]()
    world.hear(made)
    assert set((await world.answered(OPERATORS_TOPIC)).values()) == {"operator_only"}
    assert world.desk.drains.names() == []
    control = Place(topics.CONTROL, 0)
    assert (await world.ctx.log.ends([control]))[control] == 0


@pytest.mark.parametrize("message", COMMANDS, ids=lambda message: type(message).__name__)
@pytest.mark.parametrize("how", ["unsigned", "stale", "tenant"])
async def test_a_forged_command_is_not_answered_where_tenants_listen(message: Any, how: str) -> None:
    """Nobody has words that are not for it put into a tenant's topic, under the id of a question of its own, say."""
    world = Desks()
    for topic in TENANTS_TOPICS:
        sent = msgspec.structs.replace(message, reply_to=topic)
        if how == "stale" and not isinstance(message, Query):
            sent = as_operator(KEYS, msgspec.structs.replace(sent, at=NOW - FRESH_SECONDS - 1.0))
        world.hear(signed(sent) if how == "tenant" else sent)
        assert await world.answered(topic) == {}
    world.hear(msgspec.structs.replace(message, reply_to=OPERATORS_TOPIC))
    assert set((await world.answered(OPERATORS_TOPIC)).values()) == {"operator_only"}


@pytest.mark.parametrize("message", COMMANDS[:2], ids=lambda message: type(message).__name__)
async def test_an_old_command_that_is_put_there_again_is_not_carried_out(message: Any) -> None:
    """Its own time is far from when the log took it."""
    world = Desks()
    catalog_of(world, alone=True)
    world.clock.at += FRESH_SECONDS + 1.0
    world.hear(as_operator(KEYS, message))
    assert set((await world.answered(OPERATORS_TOPIC)).values()) == {"operator_only"}
    assert world.desk.drains.names() == []


async def test_a_command_that_comes_twice_is_carried_out_once() -> None:
    """It is replied to each time: its sender may not have heard the first reply."""
    world = Desks()
    catalog_of(world, alone=True)
    drain = as_operator(KEYS, COMMANDS[1])
    world.hear(drain)
    await world.answered(OPERATORS_TOPIC)
    world.hear(as_operator(KEYS, Drain(device="d", at=NOW + 1.0, undo=True)))
    world.hear(drain)
    assert set(await world.answered(OPERATORS_TOPIC)) == {"c"}
    assert world.desk.drains.names() == []
    place = Place(OPERATORS_TOPIC, 0)
    assert (await world.ctx.log.ends([place]))[place] == 2


@pytest.mark.parametrize("own", [True, False])
async def test_only_the_scheduler_s_fences_are_read_again(own: bool) -> None:
    """A forged one would give up a device that lives."""
    world = Desks()
    fence = as_scheduler(KEYS if own else Keyring.memory(), Fence(device="d", node="n", incarnation=3, pid=11, at=NOW))
    world.handler.restored_control(record(encode(fence), topics.CONTROL, at=NOW))
    catalog_of(world, alone=True)
    assert (world.desk.fleet.get("d") is None) == own


async def test_an_erased_tenant_s_query_is_an_error() -> None:
    """It was asked before the row went."""
    world = Desks()
    world.hear(signed(Query(id="q", what="jobs", reply_to=OWN_TOPIC, tenant=GUESSER)))
    world.tenants.table.take(record(None, topics.TENANTS, key=GUESSER.encode()))
    assert await world.answered() == {"q": "no_such_tenant"}
