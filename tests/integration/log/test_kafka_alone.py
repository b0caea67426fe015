"""What only Kafka has: prefixes, configurations, open transactions of others, brokers that are away."""

from __future__ import annotations

import asyncio
import socket

import pytest
from aiokafka import AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.errors import InvalidTransactionTimeout

from llmos.infra.log.kafka import KafkaLog, deliveries
from llmos.infra.log.kafka.clients import stop_producer
from llmos.infra.log.port import Commit, Out, Place, TopicSpec, Transactor, Unwritable
from llmos.infra.log.topics import ensure_topics
from llmos.infra.settings import Settings
from llmos.infra.settings.tree import Kafka
from llmos.schemas import topics
from llmos.schemas.errors import Ambiguous, BadSetting, Fenced, LayoutMismatch, Unreachable
from llmos.schemas.topics import TABLE
from tests.kit.log_bench import A0, collect, everything, outs, spec, values


def free_port() -> int:
    """A port nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


async def test_a_broker_that_is_away_is_named() -> None:
    """The error names address, setting and problem, after the time that the settings allow."""
    address = f"127.0.0.1:{free_port()}"
    with pytest.raises(Unreachable, match=r"kafka\.bootstrap.*Unable to bootstrap") as away:
        await KafkaLog.connect(Kafka(bootstrap=address, connect_seconds=0.3), "one")
    assert away.value.values["address"] == address


async def test_no_address_is_a_bad_setting() -> None:
    """Nothing is tried."""
    with pytest.raises(BadSetting, match="bootstrap"):
        await KafkaLog.connect(Kafka(), "one")


async def test_prefixes_keep_systems_apart(settings: Settings) -> None:
    """Two systems on one broker: same names of topics, groups and transactors, nothing shared."""
    one, two = [
        await KafkaLog.connect(
            settings.kafka.model_copy(update={"topic_prefix": f"{settings.kafka.topic_prefix}{name}."}), name
        )
        for name in ("one", "two")
    ]
    for log in (one, two):
        await log.ensure([spec()])
    first = await one.transactor("t")
    second = await two.transactor("t")
    await first.transact({A0: outs("one")})
    await second.transact({A0: outs("two")})
    reader = one.reader("g")
    reader.assign({A0: 0})
    assert values(await collect(reader, 1)) == ["one"]
    await reader.commit({A0: Commit(1, "one")})
    assert await two.committed("g", [A0]) == {A0: None}
    assert values(await everything(two, A0)) == ["two"]
    for log in (one, two):
        await log.close()


async def test_an_open_transaction_holds_readers_back_until_its_successor_starts(settings: Settings) -> None:
    """Readers stop at it, `ends` does not; a new transactor of the name aborts it, and the position passes over."""
    log = await KafkaLog.connect(settings.kafka, "one")
    await log.ensure([spec()])
    await log.emit(A0, outs("before"))
    dead = AIOKafkaProducer(
        bootstrap_servers=settings.kafka.bootstrap, transactional_id=f"{settings.kafka.topic_prefix}t"
    )
    await dead.start()
    await dead.begin_transaction()
    await dead.send_and_wait(f"{settings.kafka.topic_prefix}a", b"open", partition=0)
    await log.emit(A0, outs("behind"))
    reader = log.reader()
    reader.assign({A0: 0})
    assert values(await collect(reader, 1)) == ["before"]
    assert await reader.read(0.2) == {}
    assert reader.position(A0) == 1
    assert await log.ends([A0]) == {A0: 3}
    successor = await log.transactor("t")
    assert values(await everything(log, A0)) == ["before", "behind"]
    assert values(await collect(reader, 1)) == ["behind"]
    await reader.close()
    await successor.close()
    await dead.stop()
    await log.close()


@pytest.mark.parametrize("topic", [topics.REQUESTS["standard"], topics.CONTROL, topics.work_topic("cpu-0")])
async def test_a_strangers_open_transaction_holds_nobody_up(settings: Settings, topic: str) -> None:
    """What we do not write in transactions is read as it lies, the stranger's record too, and its markers passed over."""
    log = await KafkaLog.connect(settings.kafka, "one")
    place = Place(topic, 0)
    await log.ensure([spec(topic, 1), spec(topics.USAGE, 1)])
    stranger = AIOKafkaProducer(
        bootstrap_servers=settings.kafka.bootstrap, transactional_id=f"{settings.kafka.topic_prefix}stranger"
    )
    await stranger.start()
    await stranger.begin_transaction()
    await stranger.send_and_wait(f"{settings.kafka.topic_prefix}{topic}", b"open", partition=0)
    await log.emit(place, outs("behind"))
    reader = log.reader()
    reader.assign({place: 0, Place(topics.USAGE, 0): 0})
    assert values(await collect(reader, 2)) == ["open", "behind"]
    await stranger.abort_transaction()
    await log.emit(place, outs("later"))
    ours = await log.transactor("t")
    await ours.transact({Place(topics.USAGE, 0): outs("receipt")})
    assert sorted(values(await collect(reader, 2))) == ["later", "receipt"]
    assert await reader.read(0.5) == {}
    assert [reader.position(place), await log.ends([place])] == [4, {place: 4}]
    await reader.close()
    await stranger.stop()
    await log.close()


async def test_transactions_that_strangers_may_open_end_soon(settings: Settings) -> None:
    """The embedded broker takes none that may stay open for longer than ours."""
    stranger = AIOKafkaProducer(
        bootstrap_servers=settings.kafka.bootstrap,
        transactional_id="stranger",
        transaction_timeout_ms=round(settings.kafka.request_seconds * 2000) + 1,
    )
    with pytest.raises(InvalidTransactionTimeout):
        await stranger.start()
    await stop_producer(stranger)


@pytest.mark.parametrize("noticed", [True, False], ids=["seen to be missing", "late"])
async def test_a_reply_topic_that_hangs_costs_its_copies_only(
    settings: Settings, noticed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its transaction is undone in seconds and told; the transactor goes on, without it and with it once it is back."""
    log = await KafkaLog.connect(settings.kafka, "one")
    results, usage, trap, other = (Place(topic, 0) for topic in (topics.RESULTS, topics.USAGE, "reply.trap", "reply.x"))
    await log.ensure([spec(place.topic, 1) for place in (results, usage, trap, other)])
    wire = f"{settings.kafka.topic_prefix}reply.trap"
    transactor = await log.transactor("t")
    await transactor.transact({place: outs("0") for place in (results, usage, trap, other)})
    admin = AIOKafkaAdminClient(bootstrap_servers=settings.kafka.bootstrap)
    await admin.start()
    await admin.delete_topics([wire])
    await admin.close()
    if not noticed:
        monkeypatch.setattr(deliveries, "_missing", _none_missing)
    with pytest.raises(Unwritable) as refused:
        await transactor.transact({place: outs("lost") for place in (results, usage, trap, other)})
    # While a transaction names a topic that is gone, the broker lets no other topic into it.
    suspects = {place: refusal.whole for place, refusal in refused.value.refusals.items()}
    assert suspects == ({trap: True} if noticed else {trap: False, other: False})
    await transactor.transact({place: outs("1") for place in (results, usage, other)})
    await log.ensure([spec("reply.trap", 1)])
    await _until_taken(transactor, trap)
    for place in (results, usage, other):
        assert values(await everything(log, place)) == ["0", "1"]
    assert values(await everything(log, trap)) == ["again"]
    await log.close()


async def _none_missing(places: object, queries: object) -> list[Place]:
    return []


async def _until_taken(transactor: Transactor, place: Place) -> None:
    """A topic that was just made may refuse for a moment."""
    async with asyncio.timeout(60):
        while True:
            try:
                await transactor.transact({place: outs("again")})
            except Unwritable:
                continue
            return


async def test_a_write_without_an_answer_is_ambiguous(settings: Settings) -> None:
    """After `request_seconds`; from then on nothing is sent any more, not even to a place that is well."""
    log = await KafkaLog.connect(settings.kafka.model_copy(update={"request_seconds": 0.5}), "one")
    await log.ensure([spec()])
    with pytest.raises(Ambiguous, match=r"0\.5 s"):
        await log.emit(Place("missing", 0), outs("0"))
    with pytest.raises(Ambiguous):
        await log.emit(A0, outs("0"))
    with pytest.raises(Ambiguous):
        await log.ends([Place("missing", 0)])
    assert await everything(log, A0) == []
    await log.close()


async def test_closing_twice_is_harmless_and_reading_afterwards_is_an_error(settings: Settings) -> None:
    """Close is for `finally`; a closed reader says so."""
    log = await KafkaLog.connect(settings.kafka, "one")
    await log.ensure([spec()])
    reader = log.reader()
    reader.assign({A0: 0})
    await reader.read(0.01)
    await reader.close()
    with pytest.raises(Ambiguous):
        await reader.read(0.01)
    await log.close()
    await log.close()
    with pytest.raises(Ambiguous):
        await log.emit(A0, outs("0"))


async def test_the_table_is_made_as_it_says(settings: Settings) -> None:
    """Every topic exists with its partitions, retention, time stamps and size; a second start changes nothing."""
    log = await KafkaLog.connect(settings.kafka, "one")
    await ensure_topics(log, settings)
    await ensure_topics(log, settings)
    admin = AIOKafkaAdminClient(bootstrap_servers=settings.kafka.bootstrap)
    await admin.start()
    names = [topic.name for topic in TABLE if "<" not in topic.name]
    resources = [ConfigResource(ConfigResourceType.TOPIC, settings.kafka.topic_prefix + name) for name in names]
    (answer,) = await admin.describe_configs(resources)
    await admin.close()
    found = {
        resource[3].removeprefix(settings.kafka.topic_prefix): {entry[0]: entry[1] for entry in resource[4]}
        for resource in answer.resources
    }
    for topic in TABLE:
        if topic.name not in found:
            continue
        config = found[topic.name]
        wanted = settings.kafka.partitions if topic.partitions == "N" else 1
        assert await log.partitions(topic.name) == wanted
        assert int(config["max.message.bytes"]) >= topic.record_bytes
        assert config["message.timestamp.type"] == ("LogAppendTime" if topic.append_time else "CreateTime")
        if topic.retention_seconds is None:
            assert config["cleanup.policy"] == "compact"
        else:
            assert config["cleanup.policy"] == "delete"
            assert int(config["retention.ms"]) == topic.retention_seconds * 1000
    assert len(found) == len(names)
    await log.close()


async def test_another_number_of_partitions_is_refused(settings: Settings) -> None:
    """N is fixed at creation; nothing is made by a start with another one."""
    log = await KafkaLog.connect(settings.kafka, "one")
    await log.ensure([TopicSpec("sealed", 3, 3600.0, append_time=True, record_bytes=1000)])
    with pytest.raises(LayoutMismatch, match=r"sealed.*3 partitions"):
        await ensure_topics(log, settings)
    assert await log.partitions("usage") is None
    await log.close()


async def test_a_cluster_too_small_for_the_replication_factor_is_a_bad_setting(settings: Settings) -> None:
    """The setting is named, with what the cluster said."""
    log = await KafkaLog.connect(settings.kafka.model_copy(update={"replication_factor": 3}), "one")
    with pytest.raises(BadSetting, match=r"kafka\.replication_factor"):
        await log.ensure([spec()])
    await log.close()


async def test_many_transactions_and_emits_side_by_side(settings: Settings) -> None:
    """Under load every record is read once, in the order of the offsets told, each transaction whole."""
    log = await KafkaLog.connect(settings.kafka, "one")
    await log.ensure([spec()])
    pair = [await log.transactor(name) for name in ("t-0", "t-1")]
    told: dict[int, str] = {}

    async def transact() -> None:
        for turn in range(20):
            batch = [f"t{turn}:{i}" for i in range(5)]
            first = (await pair[turn % 2].transact({A0: outs(*batch)}))[A0]
            told.update(enumerate(batch, first))

    async def emit(name: int) -> None:
        for turn in range(20):
            told[await log.emit(A0, outs(f"e{name}:{turn}"))] = f"e{name}:{turn}"

    await asyncio.gather(transact(), *(emit(name) for name in range(5)))
    found = await everything(log, A0)
    assert {record.offset: (record.value or b"").decode() for record in found} == told
    await log.close()


async def test_a_replaced_producer_notices_who_came_between(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a refusal the name is initialised anew; whoever was initialised since the abort makes that `Fenced`."""
    log = await KafkaLog.connect(settings.kafka, "one")
    await log.ensure([spec(record_bytes=1000)])
    older = await log.transactor("t")

    async def stop_slowly(producer: object) -> None:
        monkeypatch.undo()
        await (await log.transactor("t")).transact({A0: outs("between")})
        await stop_producer(producer)

    monkeypatch.setattr("llmos.infra.log.kafka.transactor.stop_producer", stop_slowly)
    with pytest.raises(Fenced):
        await older.transact({A0: [Out(None, bytes(200_000))]})
    with pytest.raises(Ambiguous):
        await older.transact({A0: outs("zombie")})
    assert values(await everything(log, A0)) == ["between"]
    await log.close()
