"""Tenants in a whole system in virtual time: rights that change while it runs, and what one learns of another."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest
import structlog

from llmos.cli.tenant_rows import remove_tenant, write_tenants
from llmos.cli.tenants import Made, changed, new_tenant, with_new_secret
from llmos.client import Client
from llmos.client.errors import DeadLettered, NoAnswer, NoReply, NoSuchJob
from llmos.infra.crypto.credentials import Credentials, public_keys
from llmos.infra.log.memory import MemoryLog, RandomFaults
from llmos.infra.log.port import Out, Place
from llmos.infra.simulation import run
from llmos.schemas.base import JSON
from llmos.schemas.ids import job_id
from llmos.schemas.results import Answer
from tests.kit.world import World

# Time is virtual and nothing else runs on the loop: what blocks it, as reading the settings does, delays nobody.
pytestmark = pytest.mark.may_block

OTHER, GUESSER = "acme", "globex"
PATIENCE = 8.0
"""How long somebody waits for what must not come, in virtual seconds."""


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    """The events of simulated services are nobody's business."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(50))
    yield
    structlog.reset_defaults()


class Town:
    """A world with strict tenants, and the operators' hand on them."""

    def __init__(self, *names: str) -> None:
        self.world = World(7, faults=RandomFaults(delay=0.002))
        self.log: MemoryLog = self.world.broker.connect("client")
        self.made = {name: self._new(name) for name in names}

    def _new(self, name: str) -> Made:
        return new_tenant(name, {}, self.world.keyring, public_keys(self.world.keyring), self.world.clock.now())

    async def begin(self) -> None:
        """The services run; the world's own tenants are gone, but for these."""
        await self.world.begin()
        for name in ("demo", "acme", "globex"):
            if name not in self.made:
                await remove_tenant(self.log, name)
        rows = await write_tenants(self.log, self.world.keyring, [made.tenant for made in self.made.values()])
        self.made = {row.name: self.made[row.name]._replace(tenant=row) for row in rows}
        self.world.breaks = 0.0
        self.world.start_all()

    async def set(self, name: str, **changes: Any) -> None:
        """As `llmos tenants set`; the services follow within a moment."""
        await self._put(self.made[name]._replace(tenant=changed(self.made[name].tenant, changes)))

    async def rotate(self, name: str, grace: float) -> None:
        """As `llmos tenants rotate-secret`."""
        before, keys = self.made[name], self.world.keyring
        made = with_new_secret(
            before.tenant, before.credentials, keys, public_keys(keys), self.world.clock.now(), grace
        )
        await self._put(made)

    async def _put(self, made: Made) -> None:
        (row,) = await write_tenants(self.log, self.world.keyring, [made.tenant])
        self.made[row.name] = made._replace(tenant=row)
        await asyncio.sleep(1.0)

    def client(self, name: str, credentials: Credentials | None = None) -> Client:
        return Client.over(self.log, credentials=credentials or self.made[name].credentials, now=self.world.clock.now)

    async def end(self) -> None:
        await self.world.end()
        assert self.world.unexpected == []
        assert {process.lives for process in self.world.processes.values()} == {1}


async def ask(client: Client, **more: Any) -> Answer:
    return await client.result(await client.submit("echo", {"text": "hello"}, **more), timeout=60.0)


def code(answer: Answer) -> str:
    return answer.error.code if answer.error is not None else answer.status


def test_rights_and_secrets_change_without_a_restart() -> None:
    """Kinds, lanes, topics, the secret with its grace, the tenant itself; no service ended meanwhile."""

    async def main() -> None:
        town = Town(OTHER)
        await town.begin()
        async with town.client(OTHER) as client:
            assert code(await ask(client)) == "completed"
            await town.set(OTHER, kinds=["embed"])
            assert code(await ask(client)) == "not_allowed"
            await town.set(OTHER, kinds=[], lanes=["batch"])
            assert code(await ask(client)) == "not_allowed"
            assert code(await ask(client, lane="batch")) == "completed"
            await town.set(OTHER, lanes=[])
            assert code(await ask(client, clear=True)) == "plaintext_forbidden"
            await town.set(OTHER, plaintext="allow")
            assert code(await ask(client, clear=True)) == "completed"
            await town.rotate(OTHER, grace=600.0)
            assert code(await ask(client)) == "completed"
            async with town.client(OTHER) as fresh:
                assert code(await ask(fresh)) == "completed"
                await town.rotate(OTHER, grace=0.0)
                with pytest.raises(DeadLettered):
                    await ask(fresh)
            async with town.client(OTHER) as last:
                assert code(await ask(last)) == "completed"
                await remove_tenant(town.log, OTHER)
                await asyncio.sleep(1.0)
                with pytest.raises(DeadLettered):
                    await ask(last)
        await town.end()

    run(main)


async def _guess(town: Town) -> list[Any]:
    """What the guesser sees when it tries all that it may know of the other: the same ids and keys, its jobs' ids, its topics,
    its name."""
    seen: list[Any] = []
    async with town.client(GUESSER) as client:
        for name in ("first", "second", "third"):
            theirs = job_id(OTHER, name)
            seen.append(code(await ask(client, request_id=name)))
            seen.append(code(await ask(client, idempotency_key=name)))
            for what in ("job", "explain"):
                seen.append(await client.query(what, job=theirs.hex()))  # type: ignore[arg-type]
            await client.cancel(theirs.hex())
            seen.append(await _failed(client.look(theirs.hex()), NoSuchJob))
            seen.append(await _failed(client.result(theirs.hex(), timeout=PATIENCE), NoAnswer))
            for place in range(6):
                # Offsets tell how many records others put on a topic; whose they are, and what, they do not.
                reference = f"{theirs.hex()}@requests:{place % 3}:{place // 3}"
                answer = await client.peek(reference)
                assert answer is None or answer.tenant == GUESSER
        seen.append(await client.query("jobs"))
        status = await client.query("status")
        seen += [status.get(name) for name in ("live", "waiting", "dispatched", "held")]
    forged = msgspec.structs.replace(town.made[GUESSER].credentials, tenant=OTHER)
    async with town.client(OTHER, forged) as liar:
        seen.append(await _failed(ask(liar, request_id="lie"), DeadLettered))
        seen.append(await _failed(liar.query("jobs", timeout=PATIENCE), NoReply))
        await liar.cancel(job_id(OTHER, "first").hex())
    return seen


async def _failed(what: Any, error: type[Exception]) -> str:
    try:
        return f"it gave {await what}"
    except error as problem:
        return type(problem).__name__


async def _others(town: Town, ended: asyncio.Event) -> None:
    """The other tenant, whose jobs come and go until the guesser is done; all of them end well."""
    async with town.client(OTHER) as client:
        for name in ("first", "second"):
            assert code(await ask(client, request_id=name, idempotency_key=name)) == "completed"
        third = await client.submit("echo", {"text": "third"}, request_id="third")
        answer = await client.result(third, timeout=60.0)
        assert [output.text for output in client.outputs(answer)] == ["third"]  # type: ignore[union-attr]
        while not ended.is_set():
            assert code(await ask(client)) == "completed"
            await asyncio.sleep(0.5)


def test_who_guesses_everything_learns_and_changes_nothing() -> None:
    """What it sees is what it would see if the other were not there, and the other's jobs are as they would be."""

    seen: list[Any] = []

    async def main() -> None:
        for alone in (True, False):
            town = Town(GUESSER) if alone else Town(GUESSER, OTHER)
            await town.begin()
            ended = asyncio.Event()
            others = None if alone else asyncio.create_task(_others(town, ended))
            await asyncio.sleep(5.0)
            if alone:
                # There is no such tenant at all in this world: its name is as good as any.
                town.made[OTHER] = town.made[GUESSER]
            seen.append(await _guess(town))
            ended.set()
            if others is not None:
                await others
            await town.end()

    run(main)
    assert seen[0] == seen[1]
    assert not any(str(entry).startswith("it gave") for entry in seen[0])


def test_topics_of_another_are_refused() -> None:
    """For answers, with the prefixes that are its own; for replies there is silence."""

    async def main() -> None:
        town = Town(GUESSER, OTHER)
        await town.begin()
        await town.set(GUESSER, plaintext="allow", mac="optional")
        request = {
            "type": "request/1", "request_id": "r", "tenant": GUESSER, "kind": "echo", "input": {"text": "x"},
            "reply_to": f"reply.{OTHER}.answers",
        }  # fmt: skip
        out = Out(None, msgspec.json.encode(request), (("content-type", JSON.encode()),))
        await town.log.emit(Place("requests", 0), [out])
        async with town.client(GUESSER) as client:
            answer = await client.result(job_id(GUESSER, "r").hex(), timeout=60.0)
        assert code(answer) == "reply_topic_forbidden"
        assert OTHER not in msgspec.json.encode(answer.error).decode().replace(f"reply.{OTHER}.answers", "")
        await town.end()

    run(main)
