"""What tests of stages and services share: a context on the log in memory, and messages with sensible fields."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec

from llmos.infra.crypto.keyring import Keyring
from llmos.infra.crypto.rows import sealed_row
from llmos.infra.crypto.secrets import wrap_secret
from llmos.infra.ledger.memory import MemoryLedger
from llmos.infra.log.memory import Faults, MemoryBroker
from llmos.infra.log.port import Clock, Place, Record
from llmos.infra.log.topics import specs
from llmos.infra.runtime.context import Context
from llmos.infra.settings import Settings, load
from llmos.infra.simulation import VirtualClock, run
from llmos.pipelines.kinds import kind_named
from llmos.pipelines.kinds.parts import seal_job
from llmos.schemas.catalog import Tenant
from llmos.schemas.ids import job_id
from llmos.schemas.job import Head, Origin
from llmos.schemas.sealed import SEALED, Job

PARTITIONS = 2
NOW = 1_700_000_000.0
SECRET = b"s" * 32
KEYS = Keyring.memory()


class HandClock:
    """A clock that a test sets."""

    def __init__(self, at: float = NOW) -> None:
        self.at = at

    def now(self) -> float:
        """What was set."""
        return self.at


class CountingHealth:
    """Counts what a service says."""

    def __init__(self) -> None:
        self.is_ready = False
        self.turns: Counter[str] = Counter()

    def progress(self, loop: str) -> None:
        """One more turn of this loop."""
        self.turns[loop] += 1

    def ready(self, what: str = "") -> None:
        """Start-up is over."""
        self.is_ready = True


def configured(**settings: Any) -> Settings:
    """Settings that name no broker."""
    return load(kafka={"partitions": PARTITIONS}, **settings)


def context(clock: Clock, settings: Settings, broker: MemoryBroker | None = None, service: str = "test") -> Context:
    """A service's context on a log in memory with all topics."""
    broker = broker or MemoryBroker(clock)
    broker.create(specs(settings))
    return Context(
        service=service,
        settings=settings,
        log=broker.connect(service),
        ledger=MemoryLedger(clock),
        keyring=KEYS,
        clock=clock,
        health=CountingHealth(),
        stop=asyncio.Event(),
    )


class Bench:
    """A broker in virtual time, and contexts on it."""

    def __init__(self, settings: Settings, faults: Faults | None) -> None:
        self.settings = settings
        self.clock = VirtualClock(asyncio.get_running_loop())
        self.broker = MemoryBroker(self.clock, faults=faults, request_seconds=4.0, transaction_seconds=4.0)
        self.broker.create(specs(settings))

    def context(self, service: str = "test") -> Context:
        """A new life of a service."""
        return context(self.clock, self.settings, self.broker, service)

    def values(self, topic: str, partition: int = 0) -> list[bytes]:
        """What readers see on a partition, in order."""
        found = self.broker.dump(topic)[partition]
        return [stored.record.value or b"" for stored in found if stored.state in ("plain", "committed")]


def on_bench(
    main: Callable[[Bench], Awaitable[None]], faults: Faults | None = None, settings: Settings | None = None
) -> None:
    """Runs `main` in virtual time on an empty system."""
    settings = settings or configured()

    async def go() -> None:
        await main(Bench(settings, faults))

    run(go)


def tenant(name: str = "demo", **fields: Any) -> Tenant:
    """A tenant whose secret is `SECRET`."""
    key_id, wrapped = wrap_secret(KEYS, name, SECRET)
    values: dict[str, Any] = {"plaintext": "allow", "mac": "optional", "wrapped_secret": wrapped, "key_id": key_id}
    return sealed_row(KEYS, Tenant(name=name, **(values | fields)))


def origin(offset: int = 0, partition: int = 0, topic: str = "requests") -> Origin:
    """Where a submission came from."""
    return Origin(topic, partition, offset)


def head(key: str = "k", offset: int = 0, **fields: Any) -> Head:
    """The head of an echo job."""
    values: dict[str, Any] = {
        "job_id": job_id("demo", key),
        "tenant": "demo",
        "request_id": key,
        "origin": origin(offset),
        "lane": "standard",
        "kind": "echo",
        "timeout": 100.0,
        "submitted_at": NOW,
        "sealed_at": NOW,
    }
    return Head(**(values | fields))


def job(head: Head, *bodies: Any) -> Job:
    """A sealed job; each of `bodies` is the input of a part."""
    kind = kind_named(head.kind)
    plans = []
    for body in bodies:
        (plan,) = kind.plan(body, lambda texts: [1] * len(texts), 1024)
        plans.append(plan._replace(first_item=sum(earlier.items for earlier in plans)))
    head = msgspec.structs.replace(head, parts=len(plans), items=sum(plan.items for plan in plans))
    sealed: Job = SEALED.decode(seal_job(KEYS, head, plans, bytes(32)))
    return sealed


def record(
    value: bytes | None,
    topic: str = "requests",
    partition: int = 0,
    offset: int = 0,
    key: bytes | None = b"key",
    headers: tuple[tuple[str, bytes], ...] = (),
    at: float = NOW,
) -> Record:
    """A record as a reader gives it."""
    return Record(Place(topic, partition), offset, at, key, value, headers)
